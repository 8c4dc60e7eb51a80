"""Traces fitted to one input, and the control: the same fits told other texts' predictions.

Command: ``python experiments/fitted_traces.py DATA.tsv OUT --rows 2 --foreign 21,33`` (SmolLM2 in float32: about two
minutes a fit on two CPU cores). Fits that ``fits.jsonl`` in OUT already has are not made again, so it goes on where it
was stopped.

For each of the first rows of a file of texts it fits a trace under means, traces under means to the predictions of
the foreign rows, one under states drawn from rows 200 to 259, and one under nothing; and measures their TV from what
they were fitted to. OUT gets ``fits.jsonl``, ``curves.csv`` (means over rows) and ``selectivity.png``. The last line
is JSON.

Expected: under means a TV of about 0.15 at 0.5% of the edges, and foreign predictions reached from a few percent on.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from jstrace.models import Model

SIZES = (0.002, 0.005, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4)
UNSEEN = (300, 310, 320, 330, 340)
"""Rows whose states no fit has seen."""
DRAWN = slice(200, 260)
KINDS: dict[str, dict[str, Any]] = {
    "means": {"steps": 100},
    "random": {"replace": "resample", "steps": 120, "smallest": 0.01},
    "zeros": {"replace": "zero", "steps": 150, "smallest": 0.02},
}
JUDGES = {"means": ("mean", "five", "zero"), "random": ("five", "mean"), "zeros": ("zero", "mean")}


def texts_of(path: Path) -> list[str]:
    """The texts of a tab-separated file."""
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]


def unseen(model: Model, texts: list[str], n_tokens: int) -> list[jstrace.Replacement]:
    """States of texts that no fit has seen, filled up with those that follow them."""
    assert model.tokenizer is not None
    found = []
    for row in UNSEEN:
        joined = " ".join(texts[row : row + 8])
        found.append(jstrace.resample_replacement(model, model.tokenizer.encode(joined)[:n_tokens]))
    return found


def prediction(model: Model, text: str) -> np.ndarray:
    """Probabilities of the next token."""
    assert model.tokenizer is not None
    ids = np.asarray(model.tokenizer.encode(text))
    return np.asarray(jax.nn.softmax(model(ids, model.full_mask(len(ids)))), np.float64)


def fits(model: Model, texts: list[str], row: int, foreign: list[int], done: set[tuple[str, int]]) -> Iterator[Any]:
    """Records of one row that are not there yet."""
    wanted: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]]
    wanted = {kind: (None, options, JUDGES[kind]) for kind, options in KINDS.items()}
    for index, other in enumerate(foreign):
        wanted[f"foreign{index}"] = (prediction(model, texts[other]), KINDS["means"], ("mean",))
    for kind, (target, options, judges) in wanted.items():
        if (kind, row) in done:
            continue
        given = dict(options) | ({"reference": texts[DRAWN]} if kind == "random" else {})
        start = time.perf_counter()
        trace = jstrace.learn(model, texts[row], sizes=SIZES, target=target, **given)
        seconds = time.perf_counter() - start
        for judge in judges:
            replace = unseen(model, texts, len(trace.tokens)) if judge == "five" else judge
            tv = jstrace.evaluate(model, trace, replace=replace, target=target).tv[:-1]
            yield {"kind": kind, "row": row, "judge": judge, "tv": np.round(tv, 4).tolist(), "seconds": seconds}


def curves(records: list[dict[str, Any]]) -> dict[tuple[str, str], list[list[float]]]:
    """TV by size of every row, by kind of fit and judge; foreign targets together."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for one in records:
        kind = "foreign" if one["kind"].startswith("foreign") else one["kind"]
        found.setdefault((kind, one["judge"]), []).append([float(tv) for tv in one["tv"]])
    return found


def write(folder: Path, found: dict[tuple[str, str], list[list[float]]]) -> None:
    """The table, and the figure of own and foreign TV with their difference."""
    with (folder / "curves.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["fit", "judged under", "fits", *(f"{size:g}" for size in SIZES)])
        for (kind, judge), rows in sorted(found.items()):
            writer.writerow([kind, judge, len(rows), *np.mean(rows, axis=0).round(4).tolist()])
    own, foreign = (np.asarray(found[kind, "mean"]) for kind in ("means", "foreign"))
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for curves_of, color, label in (
        (own, "#0072b2", "own prediction"),
        (foreign, "#d55e00", "another text's prediction"),
    ):
        for row in curves_of:
            axes.plot(SIZES, row, color=color, alpha=0.3, linewidth=1)
        axes.plot(SIZES, curves_of.mean(axis=0), color=color, marker="o", label=label)
    axes.plot(SIZES, foreign.mean(axis=0) - own.mean(axis=0), color="black", linestyle="--", label="selectivity")
    axes.set(xscale="log", xlabel="edges kept, share of all", ylabel="TV from what was fitted to", ylim=(0, 1))
    axes.legend(frameon=False)
    figure.savefig(folder / "selectivity.png", dpi=150)


def main() -> None:
    """Fit what is missing, and draw what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--foreign", default="21,33,45", help="rows whose predictions are foreign targets")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "fits.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    texts, model = texts_of(asked.data), jstrace.load("smollm2")
    done = {(one["kind"], one["row"]) for one in records}
    with path.open("a") as stream:
        for row in range(asked.rows):
            for one in fits(model, texts, row, [int(other) for other in asked.foreign.split(",")], done):
                records.append(one)
                stream.write(json.dumps(one) + "\n")
                stream.flush()
    found = curves(records)
    write(asked.out, found)
    print(json.dumps({f"{kind} under {judge}": len(rows) for (kind, judge), rows in found.items()}))


if __name__ == "__main__":
    main()
