"""Evaluation of two checkouts of jstrace in turns: compiling it, and running it on one text and on four at once.

Command: ``python experiments/benchmarks/bench_checkouts.py OLD NEW`` (folders; five to fifteen minutes on two cores).

Each checkout has a process of its own, and they take turns, so that both meet the same noise. A pair is one compilation
and one run of each shape by both; shown are medians in seconds of wall and of processor time, medians of the pairs'
ratios, and whether the two give the same bits. The last line is JSON.

Expected: ratios of 1 for equal code, within 5%.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = (
    "The closest relative of the common lobster is found on the other side of the ocean, and although the two species"
    " look very much alike, they are rarely seen in the same waters, because their ranges hardly overlap. The two"
)
INPUTS = (1, 4)


def clocked(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """A result, and the seconds that it took on the wall and on all processors together."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def work() -> None:
    """For every line that comes in, one line of seconds: the checkout is what PYTHONPATH says."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.benchmarks.stages import batch_of
    from jstrace.convert import read_checkpoint
    from jstrace.models import Decoder
    from jstrace.pipeline import masked

    jax.config.update("jax_enable_compilation_cache", False)
    checkpoint = read_checkpoint("smollm2", dtype=jnp.dtype("float32"))
    assert checkpoint.tokenizer is not None
    tokens, decoder = checkpoint.tokenizer.encode(TEXT), Decoder(checkpoint.config, checkpoint.params)
    batches = [batch_of(decoder, [tokens[n:] + tokens[:n] for n in range(inputs)]) for inputs in INPUTS]
    strata = [jax.block_until_ready(batch.extract(batch.score())) for batch in batches]
    for _ in sys.stdin:
        seconds: dict[str, dict[str, float]] = {}
        digest, programs = hashlib.sha256(), []
        for inputs, batch, edges in zip(INPUTS, batches, strata, strict=True):
            jax.clear_caches()
            given = (decoder, batch.tokens, batch.lengths, (edges,), batch.nexts)
            settings: dict[str, Any] = batch._evaluation()
            lowered, tracing = clocked(functools.partial(masked.lowered, *given, **settings))
            program, compiling = clocked(lowered.compile)
            run = functools.partial(program, *masked.program_arguments(*given, **settings)[0])
            for leaf in jax.tree.leaves(jax.block_until_ready(run())):
                digest.update(np.asarray(leaf).tobytes())
            _, running = clocked(lambda run=run: jax.block_until_ready(run()))  # type: ignore[misc]
            both = {clock: tracing[clock] + compiling[clock] for clock in tracing}
            found = {"trace and lower": tracing, "compile": compiling, "both": both, "run": running}
            seconds |= {f"{what}, {inputs}": clocks for what, clocks in found.items()}
            memory = program.memory_analysis()
            size = memory.temp_size_in_bytes / 1e6 if memory else None
            programs.append({"instructions": (program.as_text() or "").count(" = "), "temporary_mb": size})
        print(json.dumps({"seconds": seconds, "bits": digest.hexdigest(), "programs": programs}), flush=True)


def started(checkout: Path) -> subprocess.Popen[str]:
    """A process that computes with a checkout's code when told to."""
    command = [sys.executable, str(Path(__file__).resolve()), "--work"]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    return subprocess.Popen(
        command, env=environment, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """One turn of a process."""
    assert process.stdin is not None
    assert process.stdout is not None
    print("go", file=process.stdin, flush=True)
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def show(pairs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Print the table; return its numbers."""
    print("| what, inputs | clock | old, s | new, s | new / old |")
    print("|---|---|---|---|---|")
    table: dict[str, Any] = {}
    for what in pairs[0][0]["seconds"]:
        for clock in ("wall", "cpu"):
            both = [tuple(one["seconds"][what][clock] for one in pair) for pair in pairs]
            old, new = (statistics.median(column) for column in zip(*both, strict=True))
            ratio = statistics.median(b / a for a, b in both)
            table[f"{what}, {clock}"] = {"old": old, "new": new, "ratio": ratio}
            print(f"| {what} | {clock} | {old:.2f} | {new:.2f} | {ratio:.3f} |")
    return table


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    processes = [started(checkout) for checkout in (options.old, options.new)]
    pairs = []
    for n in range(options.pairs + 1):
        turn = [0, 1] if n % 2 == 0 else [1, 0]  # neither always follows the other
        found = {place: told(processes[place]) for place in turn}
        pairs.append([found[0], found[1]])
    for process in processes:
        process.communicate()
    table = show(pairs[1:])  # the first warms up
    equal = all(one["bits"] == pairs[0][0]["bits"] for pair in pairs for one in pair)
    programs = [one["programs"] for one in pairs[0]]
    print(f"the same bits: {equal}; programs of old and new for {INPUTS} inputs: {programs}")

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from experiments.benchmarks.timing import record

    record("checkouts", out=options.out, pairs=options.pairs, seconds=table, programs=programs, same_bits=equal)


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--work"] else main()
