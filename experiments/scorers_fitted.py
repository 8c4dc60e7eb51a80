"""Learned scorers by what they read and by the number of texts that taught them.

Command: ``python experiments/scorers_fitted.py DATA.tsv OUT`` (SmolLM2 in float32: minutes on one H100; on two CPU
cores eight seconds a text for its features and two a step).

Fits scorers to rows of a file of texts, and measures the mean TV of traces of its first rows by size, under means,
under the states of five other rows and under nothing. OUT gets ``NAME.safetensors`` for each, which is not made again,
and ``scorers.csv`` with a row for each scorer and judge.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import padded_to, texts_of, unseen, written
from jstrace.models import Model

WIDTH = 64
"""Tokens that all texts are padded to; longer ones do not teach."""
SIZES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
SCORERS: dict[str, dict[str, Any]] = {
    "rounds-8": {"texts": 8},
    "rounds-32": {"texts": 32},
    "rounds-128": {"texts": 128},
    "rounds-400": {"texts": 400},
    "rounds-400-long": {"texts": 400, "steps": 960},
    "shared-128": {"texts": 128, "shared": True},
    "gradient-128": {"texts": 128, "features": "gradient"},
    "activations-128": {"texts": 128, "features": "activations"},
}
TEACHING = (slice(400, 682), slice(60, 178))
"""Rows that teach, in the order of their use: 400 that nothing is judged on or under."""


def teach(model: Model, texts: list[str], folder: Path, names: Sequence[str]) -> None:
    """Fit the scorers that are missing."""
    rows = [text for part in TEACHING for text in texts[part]]
    assert model.tokenizer is not None
    rows = [row for row in rows if len(model.tokenizer.encode(row)) <= WIDTH]
    for name in names:
        path, given = folder / f"{name}.safetensors", dict(SCORERS[name])
        if path.exists():
            continue
        start = time.perf_counter()
        with padded_to(WIDTH):
            scorer = jstrace.train_scorer(model, rows[: given.pop("texts")], name=name, **given)
        scorer.save(path)
        print(json.dumps({"scorer": name, "seconds": round(time.perf_counter() - start, 1)}), flush=True)


def judge(model: Model, texts: list[str], folder: Path, n_rows: int) -> None:
    """Measure the scorers that are there."""
    rows = []
    for name, options in SCORERS.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            continue
        scorer = jstrace.Scorer.load(path)
        how: dict[str, Any] = {"score": scorer, "sizes": SIZES, "replace": "mean"}
        traces = [jstrace.trace(model, text, **how) for text in texts[:n_rows]]
        about = {"scorer": name, "texts": options["texts"], "numbers": scorer.coefficients.count}
        for under in ("mean", "five", "zero"):
            tv = [
                jstrace.evaluate(
                    model, one, replace=unseen(model, texts, len(one.tokens)) if under == "five" else under
                ).tv[:-1]
                for one in traces
            ]
            means = zip(map(str, SIZES), np.mean(tv, axis=0).round(4), strict=True)
            rows.append({**about, "judged under": under, **dict(means)})
            written(folder / "scorers.csv", rows)


def main() -> None:
    """Fit, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=12, help="that are measured; 0 for none")
    parser.add_argument("--scorers", nargs="*", default=list(SCORERS), choices=list(SCORERS))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    texts, model = texts_of(asked.data), jstrace.load("smollm2")
    teach(model, texts, asked.out, asked.scorers)
    if asked.rows:
        judge(model, texts, asked.out, asked.rows)


if __name__ == "__main__":
    main()
