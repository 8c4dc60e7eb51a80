"""How the cost of one instance grows: with tokens, with the number of sizes, with inputs in one call; SmolLM2, float32.

Command: ``python experiments/benchmarks/bench_scaling.py`` (about five minutes on two CPU cores; needs no torch).

Every stage is compiled first and then run ``--repeats`` times; tables show medians, beside them the floor that the cost
model (experiments/results/benchmarks) gives at the same run's matrix rate, with live rows counted on the trace.
The peak memory of the longest input is that of a process of its own. The last line is JSON.

Expected on a CPU: time in proportion to tokens up to some 128 and faster growth beyond, where attention's maps count;
sizes cost less than in proportion, as small traces are nearly free.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import jstrace
from experiments.benchmarks import cost_model
from experiments.benchmarks.stages import batch_of
from experiments.benchmarks.timing import matrix_rate, record, timed
from jstrace import Model
from jstrace.method.graph.sizes import SIZES

LENGTHS = (16, 32, 64, 128, 256, 512)
N_SIZES = (1, 13, 26, 52, 104)
BATCHES = (1, 2, 4, 8)
USUAL = 48
TEXT = Path(__file__).parents[2] / "LICENSE"


def row_of(model: Model, rows: list[list[int]], sizes: tuple[float, ...], rate: float, repeats: int) -> dict[str, Any]:
    """Seconds of the stages of one call, and the floor of its evaluation."""
    batch = batch_of(model.decoder, rows, sizes)
    scores = batch.score()
    strata = batch.extract(scores)
    times = {
        "score": timed(batch.score, repeats),
        "extract": timed(lambda: batch.extract(scores), repeats),
        "evaluate": timed(lambda: batch.evaluate(strata), repeats),
    }
    live = cost_model.live_of([jstrace.trace(model, rows[0], sizes=sizes)])
    flops = len(rows) * cost_model.evaluate_flops(model.config, len(rows[0]), len(sizes), live)
    return {
        "tokens": len(rows[0]),
        "sizes": len(sizes),
        "inputs": len(rows),
        "seconds": {name: found["median"] for name, found in times.items()},
        "per_input": sum(found["median"] for found in times.values()) / len(rows),
        "evaluation_floor": flops / rate,
        "live": dataclasses.asdict(live),
    }


def show(title: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Print a table, a row for each value of ``name``."""
    print(f"\n{title}\n\n| {name} | score, s | extract, s | evaluate, s | its floor, s | s an input | live MLP rows |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row['seconds'][stage]:.3f}" for stage in ("score", "extract", "evaluate")]
        cells += [f"{row['evaluation_floor']:.3f}", f"{row['per_input']:.3f}", f"{row['live']['mlp']:.0%}"]
        print(f"| {row[name]} | {' | '.join(cells)} |", flush=True)


def peak_memory(n_tokens: int) -> float:
    """Peak resident memory of tracing and evaluating one input, in GB, in a process of its own."""
    code = (
        "import sys, jstrace; m = jstrace.load('smollm2');"
        "ids = m.tokenizer.encode(open(sys.argv[1]).read())[:int(sys.argv[2])];"
        "jstrace.evaluate(m, jstrace.trace(m, ids))"
    )
    subprocess.run([sys.executable, "-c", code, str(TEXT), str(n_tokens)], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=int, default=max(LENGTHS))
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    memory = peak_memory(options.longest)
    model = jstrace.load("smollm2")
    assert model.tokenizer is not None
    ids, rate = model.tokenizer.encode(TEXT.read_text(encoding="utf-8")), matrix_rate(jnp.float32, 1024)

    def measured(rows: list[list[int]], sizes: tuple[float, ...] = SIZES) -> dict[str, Any]:
        jax.clear_caches()
        return row_of(model, rows, sizes, rate, options.repeats)

    tokens = [measured([ids[:n]]) for n in LENGTHS if n <= options.longest]
    show("Tokens (26 sizes, one input)", "tokens", tokens)
    sizes = [measured([ids[:USUAL]], tuple(np.geomspace(1e-5, 0.8, n).tolist())) for n in N_SIZES]
    show(f"Sizes ({USUAL} tokens, one input; logarithmically spaced from 1e-5 to 0.8)", "sizes", sizes)
    inputs = [measured([ids[USUAL * i : USUAL * (i + 1)] for i in range(n)]) for n in BATCHES]
    show(f"Inputs in one call ({USUAL} tokens, 26 sizes)", "inputs", inputs)
    print(f"\npeak memory with {options.longest} tokens: {memory:.2f} GB; matrix rate {rate / 1e9:.0f} GFLOP/s")
    record(
        "scaling",
        out=options.out,
        model="SmolLM2-135M-Instruct (dequantised Q4_1), float32",
        by_tokens=tokens,
        by_sizes=sizes,
        by_inputs=inputs,
        peak_memory_gb={"tokens": options.longest, "gb": memory},
        matrix_rate=rate,
    )


if __name__ == "__main__":
    main()
