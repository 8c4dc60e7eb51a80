"""Host memory while a sharded checkpoint is loaded: how far it rises above the weights themselves.

Command: ``python experiments/benchmarks/bench_loading.py [--gigabytes 2] [--dtype bfloat16] [--vocabulary 32000]``
(half a minute, twice the disk).

Writes a synthetic Llama in bfloat16 as Hugging Face shards of 400 MB into a temporary folder, loads it in a fresh
process and samples that process's anonymous memory, which on a CPU holds the weights too. What is above the weights and
above what the process held before loading is the price of loading; the largest stacked leaf is the bound.

Expected: less than 100 MB above 2 GB of weights, where the largest stacked leaf is 470 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

D, F, HEADS = 2048, 8192, 16
PER_LAYER = 4 * D * D + 3 * D * F

CHILD = """
import json, sys, threading, time
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
import jax, jstrace
jax.block_until_ready(jax.numpy.zeros(3) + 1)
before, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
model = jstrace.load(sys.argv[1], dtype=sys.argv[2])
seconds = time.perf_counter() - start
done = True
thread.join()
leaves = jax.tree.leaves(model)
print(json.dumps({
    "weights": sum(leaf.nbytes for leaf in leaves),
    "largest_leaf": max(leaf.nbytes for leaf in leaves),
    "above_weights": peak - before - sum(leaf.nbytes for leaf in leaves),
    "seconds": seconds,
}))
"""


def write_checkpoint(folder: Path, n_layers: int, vocabulary: int) -> None:
    """Random bfloat16 weights, a few layers to a shard."""
    fields = {
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": D, "intermediate_size": F,
        "num_hidden_layers": n_layers, "num_attention_heads": HEADS, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields))
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return (0.02 * rng.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)

    matrices = {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D)}
    places: dict[str, str] = {}
    shards = [{"model.embed_tokens.weight": draw(vocabulary, D), "model.norm.weight": draw(D)}]
    for layer in range(n_layers):
        name = f"model.layers.{layer}."
        shard = {f"{name}self_attn.{x}_proj.weight": draw(*shape) for x, shape in matrices.items()}
        shard |= {f"{name}mlp.{x}_proj.weight": draw(F, D) for x in ("gate", "up")}
        shard |= {f"{name}mlp.down_proj.weight": draw(D, F)}
        shard |= {f"{name}{x}_layernorm.weight": draw(D) for x in ("input", "post_attention")}
        shards.append(shard)
    for number, shard in enumerate(shards):
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file)
        places |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def main() -> None:
    """Write, load in a fresh process, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--vocabulary", type=int, default=32000, help="a large one makes the embedding the largest")
    options = parser.parse_args()
    n_layers = max(1, round((options.gigabytes * 1e9 / 2 - options.vocabulary * D) / PER_LAYER))
    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(Path(name), n_layers, options.vocabulary)
        command = [sys.executable, "-c", CHILD, name, options.dtype]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    print(f"weights {found['weights'] / 1e9:.2f} GB, largest stacked leaf {found['largest_leaf'] / 1e6:.0f} MB")
    print(f"peak above the weights {found['above_weights'] / 1e6:.0f} MB; {found['seconds']:.1f} s")
    print(json.dumps({"benchmark": "loading", "dtype": options.dtype, "layers": n_layers, **found}))


if __name__ == "__main__":
    main()
