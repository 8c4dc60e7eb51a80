"""How steady scores are: TV of the same trace with weights that differ by rounding.

Command: ``python experiments/steadiness.py DATA.tsv OUT`` (SmolLM2 in float32; some forty minutes on two CPU cores).

Twenty prompts of 4 to 17 tokens and twelve passages of a file of texts are traced under means, and as often again as
``--repeats`` says with weights times (1 + 1e-6 N(0, 1)). It writes ``noise.csv``: by texts, score and size the mean of
TV, the mean over texts of its standard deviation over the repetitions, and the largest. The last line is JSON.

Expected: rounds move by some .02 on passages from 2% of the edges on, and by more on prompts and at 1%.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import texts_of, written
from experiments.pairs import PROMPTS

SIZES = (0.002, 0.004, 0.006, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4)
SCORES: dict[str, Any] = {
    "rounds": "rounds",
    "steady-rounds": "steady-rounds",
    "rounds, four walks of five cuts": jstrace.Rounds(cuts=5, walks=4),
    "rounds, free above a floor": jstrace.Rounds(floor=0.003, nested=False),
    "learned": "learned",
    "gradient": "gradient",
}
OTHERS = (
    "When Mary and John went to the store, John gave a drink to",
    "The French word for house is",
    "Two plus two equals",
    "Once upon a time there was a",
    "The first president of the United States was",
    "She opened the door and saw a",
    "My favourite colour is",
    "In the middle of the night the phone",
)
ROWS = range(400, 412)
"""Passages by which ``rounds`` were not tuned; ``steady-rounds`` were chosen by four of them."""


def main() -> None:
    """Trace, evaluate, write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=["rounds", "steady-rounds"])
    options = parser.parse_args()
    jstrace.enable_cache()
    model, passages = jstrace.load("smollm2"), texts_of(options.data)
    groups = {"prompts": [*(prompts.clean for prompts in PROMPTS), *OTHERS]}
    groups |= {"passages": [passages[row] for row in ROWS if row < len(passages)]}
    rows: list[dict[str, Any]] = []
    for group, texts in groups.items():
        for name in options.scores:
            started = time.perf_counter()
            how = {"score": SCORES[name], "sizes": SIZES, "replace": "mean", "repeats": options.repeats}
            results = jstrace.evaluate(model, jstrace.trace(model, texts, **how))
            seconds = (time.perf_counter() - started) / len(texts) / (1 + options.repeats)
            tv, std = (np.asarray([getattr(one, field) for one in results]) for field in ("tv", "tv_std"))
            rows += [
                {"texts": group, "n": len(texts), "score": name, "size": size, "tv": tv[:, k].mean(),
                 "std": std[:, k].mean(), "largest_std": std[:, k].max(), "seconds": seconds}
                for k, size in enumerate(SIZES)
            ]  # fmt: skip
            print(group, name, " ".join(f"{row['tv']:.3f}±{row['std']:.3f}" for row in rows[-len(SIZES) :]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    written(options.out / "noise.csv", rows)
    print(json.dumps({"rows": len(rows), "repeats": options.repeats, "model": "smollm2"}))


if __name__ == "__main__":
    main()
