"""Compilation: programs of the same size whatever the number of layers, and what keeping them saves the next start.

Command: ``python experiments/benchmarks/bench_compile.py`` (about two minutes on two CPU cores; needs no torch).

The first part compiles the three stages for one shape with 24 and with 96 layers and counts the instructions of the
programs. The second starts ``jstrace trace`` twice in processes of their own with an empty folder of kept programs, and
a third time with keeping switched off. The last line is JSON.

Expected: equal counts of instructions, but for a few in extraction, whose pool grows with the graph; the second start
saves the compilation and keeps imports, reading the model and running.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.benchmarks.stages import blank_batch
from experiments.benchmarks.timing import record
from jstrace.loading import cache_folder, describe

TEXT = "The capital of France is"
LAYERS = (24, 96)


def instructions(n_layers: int, n_tokens: int = 16) -> dict[str, Any]:
    """HLO instructions of each stage's compiled program, and the seconds that compiling took."""
    config = dataclasses.replace(describe("smollm2"), n_layers=n_layers)
    start = time.perf_counter()
    found = blank_batch(config, 1, n_tokens, jnp.dtype("float32")).compiled()
    seconds = time.perf_counter() - start
    counts = {name: (program.as_text() or "").count(" = ") for name, program in found.items()}
    return {"instructions": counts, "seconds": {"all stages": seconds}}


def start_seconds(cache: Path, **environment: str) -> float:
    """Wall time of one ``jstrace trace`` from the start of its process."""
    code = "import sys; from jstrace.cli import main; sys.argv = ['jstrace', 'trace', sys.argv[1]]; main()"
    shared = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, TEXT],
        check=True,
        stdout=subprocess.DEVNULL,
        env=shared | {"JSTRACE_CACHE": str(cache)} | environment,
    )
    return time.perf_counter() - start


def starts() -> dict[str, float]:
    """First and second start with kept programs, and one without keeping; the model is on disk already."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        describe("smollm2")  # fetches the model, if need be
        for file in cache_folder().iterdir():
            if file.is_file():
                shutil.copy(file, cache / file.name)
        found = {"first": start_seconds(cache), "second": start_seconds(cache)}
        kept = [file.stat().st_size for file in (cache / "programs").iterdir() if file.is_file()]
        without = start_seconds(cache, JAX_ENABLE_COMPILATION_CACHE="false")
        return found | {"not kept": without, "kept_files": len(kept), "kept_mb": sum(kept) / 1e6}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    programs: dict[int, dict[str, Any]] = {n: instructions(n) for n in LAYERS}
    for n_layers, found in programs.items():
        print(
            f"{n_layers} layers: instructions {found['instructions']},"
            f" compiled in {found['seconds']['all stages']:.1f} s"
        )
    process = starts()
    print(
        f"jstrace trace: first start {process['first']:.1f} s, second {process['second']:.1f} s, without keeping"
        f" {process['not kept']:.1f} s; {process['kept_files']} programs, {process['kept_mb']:.1f} MB"
    )
    record("compile", out=options.out, layers=programs, starts=process)


if __name__ == "__main__":
    main()
