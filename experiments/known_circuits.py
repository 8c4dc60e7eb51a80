"""Which scores find a circuit that is known? Programs of written weights, every score and a fit, three replacements.

Commands (some 15 minutes of processor time, most of it compiling; the sizes may run beside one another):

    python experiments/known_circuits.py measure ROWS [--sizes small medium large]
    python experiments/known_circuits.py tables ROWS experiments/results/known-circuits
    python experiments/known_circuits.py faint

Eleven programs in sixteen graphs of 159, 747 and 5,383 edges, each with junk of no strength, of the embeddings' and of
four times that (``circuits.writing``); an edge is true if it carries what something true reads (``circuits.truth``).
``measure`` writes a file of rows for each graph and strength, and leaves those that are there; ``tables`` makes of them
the CSV files, the figure, and the tables in docs/known-circuits.md and beside the CSV files. Their last line is JSON.
``faint`` prints how many true edges have almost no score, where a score fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.circuits import tables
from experiments.circuits.measuring import Setting, faint, rows_of
from experiments.circuits.programs import PROGRAMS
from experiments.circuits.writing import SHAPES
from experiments.inputs import written

JUNK = (1.0, 0.0, 4.0)
"""Norm of the junk over that of the embeddings; fits and connected orders are made at the first one alone."""
INPUTS = {"small": 2, "medium": 2, "large": 1}
FAINT = (
    ("reverse", "medium", "integrated", "mean"),
    ("reverse", "large", "integrated", "mean"),
    ("majority", "small", "gradient", "pair"),
)
"""Where a score fails: program, size, score and replacement."""


def measure(rows: Path, sizes: list[str]) -> None:
    """A file for each program, size and strength of junk."""
    rows.mkdir(parents=True, exist_ok=True)
    settings = [
        Setting(name, program, SHAPES[size], junk)
        for junk in JUNK
        for size in sizes
        for name, program in PROGRAMS.items()
        if size in program.shapes
    ]
    for setting in settings:
        path = rows / f"{setting.name.replace(' ', '-')}-{setting.shape.name}-{setting.junk:g}.csv"
        if path.exists():
            continue
        start, count = time.perf_counter(), INPUTS[setting.shape.name]
        first = setting.junk == JUNK[0]
        found = list(rows_of(setting, count, count if first else 0, connected=first))
        written(path, found)
        print(f"{path.stem:28} {len(found):5} rows, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=("measure", "tables", "faint"))
    parser.add_argument("rows", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results" / "known-circuits")
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES))
    asked = parser.parse_args()
    if asked.command == "faint":
        for name, size, score, replace in FAINT:
            for row in faint(Setting(name, PROGRAMS[name], SHAPES[size], JUNK[0]), INPUTS[size], score, replace):
                print(json.dumps(row), flush=True)
        return
    if asked.rows is None:
        parser.error(f"{asked.command} needs ROWS, a folder of files of rows")
    if asked.command == "measure":
        jstrace.enable_cache()
        measure(asked.rows, asked.sizes)
    else:
        tables.write(asked.rows, asked.out)
    print(json.dumps({"command": asked.command, "files": len(list(asked.rows.glob("*.csv")))}))


if __name__ == "__main__":
    main()
