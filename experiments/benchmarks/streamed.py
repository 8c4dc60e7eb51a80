"""Qwen2.5-14B's shape read from disk a layer at a time: seconds, bytes read and memory of traces and an evaluation.

    python experiments/benchmarks/streamed.py FOLDER [--layers 4] [--dtype float32] [--out FILE]

FOLDER gets random weights in bfloat16, one file a layer (30 GB with all 48 layers), and is used as it is when it is
there already. Each step starts with nothing of the files in memory, and is run twice, as the first time compiles.
Beside its seconds stand how far the resident memory rose at most and what came from the disk.

On two cores (experiments/results/streamed-cpu.json), compiled: 64 seconds for the trace by l1, 129 by gradients and 364
for the evaluation, after 208 to load and hash. Of 29.5 GB of weights 3.1 stay in memory; the process held at most 5.0,
8.1 (gradients take the output head as float32) and 5.3 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

import jstrace
from experiments.benchmarks.eight_b import N_TOKENS, Steps
from experiments.benchmarks.timing import record
from jstrace.loading import describe
from jstrace.models import ModelConfig, weight_bytes

SHAPE = "random:qwen2.5-14b"
_DRAWN = 2**22
"""Random numbers that matrices repeat, each from another place on."""


def write(folder: Path, config: ModelConfig) -> None:
    """A Hugging Face folder of the shape, of which one layer is in memory at a time."""
    block = (0.02 * np.random.default_rng(0).standard_normal(_DRAWN, np.float32)).astype(jnp.bfloat16)
    d, f, heads, kv = config.d_model, config.d_mlp, config.n_heads, config.n_kv_heads
    files: dict[str, str] = {}

    def save(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
        drawn = {}
        for number, (tensor, shape) in enumerate(shapes.items()):
            norm = tensor.endswith("norm.weight")
            numbers = np.resize(np.roll(block, 7919 * (len(files) + number)), shape)
            drawn[tensor] = np.ones_like(numbers) if norm else numbers
        save_file(drawn, folder / name)
        forget(folder / name)
        files.update(dict.fromkeys(shapes, name))

    folder.mkdir(parents=True)
    whole: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, d), "model.norm.weight": (d,)}
    whole |= {} if config.tied_head else {"lm_head.weight": (config.vocab_size, d)}
    save("outside.safetensors", whole)
    widths = {"q": heads, "k": kv, "v": kv}
    for layer in range(config.n_layers):
        at = f"model.layers.{layer}."
        shapes: dict[str, tuple[int, ...]] = {}
        shapes |= {f"{at}self_attn.{name}_proj.weight": (n * config.head_dim, d) for name, n in widths.items()}
        shapes |= {f"{at}self_attn.{name}_proj.bias": (n * config.head_dim,) for name, n in widths.items()}
        shapes |= {f"{at}self_attn.o_proj.weight": (d, heads * config.head_dim)}
        shapes |= {f"{at}mlp.{name}_proj.weight": (f, d) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (d, f)}
        shapes |= {f"{at}{name}_layernorm.weight": (d,) for name in ("input", "post_attention")}
        save(f"layer-{layer:02}.safetensors", shapes)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    fields = {
        "model_type": "qwen2", "vocab_size": config.vocab_size, "hidden_size": d, "intermediate_size": f,
        "num_hidden_layers": config.n_layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "max_position_embeddings": 32768, "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")


def forget(path: Path) -> None:
    """Have the system keep nothing of a file in memory."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_bytes() -> int:
    """That this process has had read from disks."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def main() -> None:
    """Print a line for each step, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    config, dtype, steps = describe(SHAPE), jnp.dtype(asked.dtype), Steps()
    config = config if asked.layers is None else dataclasses.replace(config, n_layers=asked.layers)
    if not asked.folder.exists():
        steps.run("write", lambda: write(asked.folder, config), again=False)

    def step(name: str, action: Callable[[], Any], *, again: bool = True) -> Any:
        for file in asked.folder.glob("*.safetensors"):
            forget(file)
        before = disk_bytes()
        made = steps.run(name, action, again=again)
        steps.found[name]["read_gb"] = (disk_bytes() - before) / 1e9
        print(f"  {steps.found[name]['read_gb']:.2f} GB read{' in both turns' if again else ''}", flush=True)
        return made

    model = step("load", lambda: jstrace.load(asked.folder, dtype=dtype, weights="streamed"), again=False)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, N_TOKENS).tolist()
    trace = step("trace l1", lambda: jstrace.trace(model, tokens))
    step("trace gradient", lambda: jstrace.trace(model, tokens, score="gradient"))
    step("evaluate", lambda: jstrace.evaluate(model, trace))
    sizes = {way or "all": weight_bytes(config, dtype.itemsize, narrow=way) for way in ("", "streamed")}
    record(
        "streamed", out=asked.out, dtype=asked.dtype, layers=config.n_layers, tokens=N_TOKENS,
        bytes_of_weights=sizes["all"], bytes_in_memory=sizes["streamed"], steps=steps.found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
