"""Where the time of a start goes: ``jstrace trace TEXT`` of a model, for the first time and again.

    python experiments/benchmarks/bench_start.py [--model smollm2] [--repeats 5]

The first start has a cache folder that holds the downloaded model alone; the second all that the first kept. Each is a
process of its own. The parts are timed in one more process, in the order of a start.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Timed = TypeVar("Timed")

TEXT = "The capital of France is"

_PARTS = """
import json, sys, time
times, last = {}, time.perf_counter()
def part(name):
    global last
    now = time.perf_counter()
    times[name], last = now - last, now
import jax
part("import jax")
import jstrace.loading, jstrace.pipeline.tracing, jstrace.pipeline.evaluating, jstrace.show.tables
part("import jstrace, flax and others")
from jstrace.scale.programs import keep_programs
keep_programs(jstrace.loading.cache_folder() / "programs")
model = jstrace.load(sys.argv[1], say=lambda text: None)
part("load")
model.fingerprint()
part("fingerprint")
trace = jstrace.trace(model, sys.argv[2])
part("trace: programs and run")
result = jstrace.evaluate(model, trace)
part("evaluate: programs and run")
jstrace.evaluate(model, jstrace.trace(model, sys.argv[2]))
part("both again, compiled")
print(json.dumps(times))
"""


def command_seconds(model: str, cache: Path) -> float:
    """Seconds of one ``jstrace trace``, from start to end."""
    command = [sys.executable, "-m", "jstrace.cli", "trace", TEXT, "--model", model]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment(cache))
    return time.perf_counter() - start


def part_seconds(model: str, cache: Path) -> dict[str, float]:
    """Seconds of each part of a start."""
    command = [sys.executable, "-c", _PARTS, model, TEXT]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(cache))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment(cache: Path) -> dict[str, str]:
    """This process's, with another cache folder and without a user's own of JAX."""
    own = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return own | {"JSTRACE_CACHE": str(cache)}


def downloaded(model: str, cache: Path) -> None:
    """A cache folder as it is after the download."""
    from jstrace.convert.default_model import ALIAS, default_model

    if model == ALIAS:
        shutil.copy2(default_model(print), cache)


def measured(model: str, repeats: int) -> dict[str, Any]:
    """First and second starts, medians of ``repeats``; parts of both."""
    whole = [_both(model, command_seconds) for _ in range(repeats)]
    parts = [_both(model, part_seconds) for _ in range(repeats)]
    (first, second), (parts_first, parts_second) = zip(*whole, strict=True), zip(*parts, strict=True)
    return {
        "model": model,
        "repeats": repeats,
        "first": statistics.median(first),
        "second": statistics.median(second),
        "parts_first": _medians(list(parts_first)),
        "parts_second": _medians(list(parts_second)),
    }


def _both(model: str, timed: Callable[[str, Path], Timed]) -> tuple[Timed, Timed]:
    """The first start and the second, with a cache folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        downloaded(model, Path(folder))
        return timed(model, Path(folder)), timed(model, Path(folder))


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = measured(options.model, options.repeats)
    print(f"| seconds, medians of {options.repeats} | first start | second |\n|---|---|---|")
    print(f"| `jstrace trace`, whole command | {found['first']:.2f} | {found['second']:.2f} |")
    for name, seconds in found["parts_first"].items():
        print(f"| {name} | {seconds:.2f} | {found['parts_second'][name]:.2f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
