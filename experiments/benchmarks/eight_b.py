"""Llama-3.1-8B's shape as int8 on a small machine: memory and seconds of loading, traces and evaluation.

    python experiments/benchmarks/eight_b.py [--weights int4] [--layers 4] [--dtype bfloat16] [--out FILE]

Random weights, which are made narrow, and 50 random tokens. Each step says how far the process's resident memory rose
at most, and its seconds, which compile the first time. Beside them stand what the processor must multiply at the
measured rate of its products, and what it must read at the measured rate of a copy.

On two cores (experiments/results/eight-b-cpu.json): weights of 8.04 GB, at most 12.3 GB while they are made and 9.9 GB
from then on; 14 seconds for the trace by l1, 27 by gradient, 61 for the evaluation. A test run stood beside the rates
and the first two steps: by itself the machine copied 5.2 GB and multiplied 207 GFLOP a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import jstrace
from experiments.benchmarks import cost_model
from experiments.benchmarks.timing import matrix_rate, record, timed
from jstrace.loading import describe
from jstrace.method.graph.sizes import SIZES
from jstrace.models import Decoder, Model, ModelConfig, shapes
from jstrace.models.narrow import Narrow
from jstrace.pipeline import Trace

SHAPE, N_TOKENS = "random:llama-3.1-8b", 50


def resident(line: str) -> int:
    """Bytes of the process, now (``VmRSS``) or at most since the last step (``VmHWM``)."""
    fields = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(field.split()[1]) for field in fields if field.startswith(line))


class Steps:
    """What each step takes."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    def run(self, name: str, step: Callable[[], Any], *, again: bool = True) -> Any:
        """Run a step, once more if its first time compiles, and print what both took."""
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest number starts anew
        clock, processor = [], []
        for _ in range(1 + again):
            start, worked = time.perf_counter(), time.process_time()
            made = step()
            jax.block_until_ready(jax.tree.leaves(made))
            clock.append(time.perf_counter() - start)
            processor.append(time.process_time() - worked)
        self.found[name] = {
            "first": clock[0], "seconds": clock[-1], "first_processor_s": processor[0], "processor_s": processor[-1],
            "peak_gb": resident("VmHWM") / 1e9, "left_gb": resident("VmRSS") / 1e9,
        }  # fmt: skip
        print(name, {key: round(number, 2) for key, number in self.found[name].items()}, flush=True)
        return made


def rates(dtype: jnp.dtype) -> dict[str, float]:
    """Bytes a second of a copy of 256 MB, read and written, and FLOP/s of products of matrices."""
    block = jnp.zeros(2**26, jnp.float32)
    copied = timed(lambda: block + 1)["min"]
    return {"bytes_per_s": 2 * 2**28 / copied, "flops_per_s": matrix_rate(dtype, 1024, repeats=5)}


def floors(config: ModelConfig, trace: Trace, n_bytes: int, rate: dict[str, float]) -> dict[str, dict[str, float]]:
    """Seconds of each step's products, and of reading the weights once for each pass over them."""
    clean, n_sizes = cost_model.score_flops(config, N_TOKENS), len(SIZES)
    live = cost_model.evaluate_flops(config, N_TOKENS, n_sizes, cost_model.live_of([trace]))
    found = {"trace l1": (clean, 1), "trace gradient": (4 * clean, 3), "evaluate": (live, 1)}
    return {
        name: {"products": flops / rate["flops_per_s"], "weights": passes * n_bytes / rate["bytes_per_s"]}
        for name, (flops, passes) in found.items()
    }


def drawn(config: ModelConfig, dtype: jnp.dtype, weights: str) -> Model:
    """Uniform random bytes for values, with scales that make them as large as usual; norms that do nothing."""
    rng = np.random.default_rng(0)

    def leaf(blank: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(blank.dtype, jnp.integer):
            return jnp.asarray(np.frombuffer(rng.bytes(blank.size), blank.dtype).reshape(blank.shape))
        return jnp.full(blank.shape, 1, blank.dtype)

    def one(blank: Any) -> Any:
        if not isinstance(blank, Narrow):
            return leaf(blank)
        deviation = 4.6 if blank.values.dtype == jnp.uint8 else 74.0
        return dataclasses.replace(jax.tree.map(leaf, blank), scale=jnp.full(blank.scale.shape, 0.02 / deviation))

    blanks = shapes(config, dtype, narrow=weights)
    return Model(Decoder(config, jax.tree.map(one, blanks, is_leaf=lambda blank: isinstance(blank, Narrow))))


def main() -> None:
    """Print a line for each step, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    config, dtype = describe(SHAPE), jnp.dtype(asked.dtype)
    config = config if asked.layers is None else dataclasses.replace(config, n_layers=asked.layers)
    rate, steps = rates(dtype), Steps()
    print(rate, flush=True)

    model = steps.run("load", lambda: drawn(config, dtype, asked.weights), again=False)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, N_TOKENS).tolist()
    found = steps.run("trace l1", lambda: jstrace.trace(model, tokens))
    steps.run("trace gradient", lambda: jstrace.trace(model, tokens, score="gradient"))
    steps.run("evaluate", lambda: jstrace.evaluate(model, found))
    record(
        "eight_b", out=asked.out, weights=asked.weights, dtype=asked.dtype, layers=config.n_layers, tokens=N_TOKENS,
        bytes_of_weights=n_bytes, rates=rate, steps=steps.found, floors=floors(config, found, n_bytes, rate),
    )  # fmt: skip


if __name__ == "__main__":
    main()
