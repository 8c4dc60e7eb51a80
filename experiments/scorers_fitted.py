"""Learned scorers by what they read and by the number of texts that taught them.

Command: ``python experiments/scorers_fitted.py DATA.tsv OUT.csv --rows 6`` (SmolLM2 in float32: about six minutes a
scorer on two CPU cores, and as much for the features of forty texts).

Fits scorers to texts from row 400 of a file on, and measures the mean TV of traces of its first rows by size, under
means and under the states of five other rows. ``OUT.csv`` gets a row for each scorer and judge; the scorers lie beside
it. The first of them, of forty texts, is made as what ``importance="learned"`` stands for was, but that this one drew
other places with no regard to the text's own, which six in a hundred were.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.fitted_traces import texts_of, unseen

SIZES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
SCORERS: dict[str, dict[str, Any]] = {
    "rounds-40": {"texts": 40, "features": "rounds"},
    "rounds-8": {"texts": 8, "features": "rounds"},
    "gradient-40": {"texts": 40, "features": "gradient"},
    "activations-40": {"texts": 40, "features": "activations"},
    "shared-40": {"texts": 40, "features": "rounds", "shared": True},
}
FIRST = 400
"""Row from which on texts teach."""


def main() -> None:
    """Fit and measure each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=6)
    asked = parser.parse_args()
    texts, model = texts_of(asked.data), jstrace.load("smollm2")
    with asked.out.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["scorer", "texts", "numbers", "judged under", *SIZES])
        for name, options in SCORERS.items():
            given = dict(options)
            count = given.pop("texts")
            scorer = jstrace.fit_scorer(model, texts[FIRST : FIRST + count], name=name, **given)
            scorer.save(asked.out.with_name(f"{name}.safetensors"))
            traces = [jstrace.trace(model, text, importance=scorer, sizes=SIZES) for text in texts[: asked.rows]]
            for judge in ("mean", "five"):
                tv = [
                    jstrace.evaluate(
                        model, one, replace=unseen(model, texts, len(one.tokens)) if judge == "five" else judge
                    ).tv[:-1]
                    for one in traces
                ]
                writer.writerow([name, count, scorer.coefficients.count, judge, *np.mean(tv, axis=0).round(4)])
                stream.flush()


if __name__ == "__main__":
    main()
