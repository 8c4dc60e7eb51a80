"""Orders that spend operations rather than edges: does a trace keep more for the same FLOPs?

Command: ``python experiments/flops_order.py DATA.tsv OUT`` (SmolLM2 in float32, mean ablation; two minutes on two CPU
cores).

The scores of ``rounds`` are changed before the search: attention edges go towards the best edge of their row (all
heads and sources of a target in a layer, which share a query and a way back), by a share of the way; MLP edges, each of
which costs an MLP, are moved down by a number of cuts. It writes ``tv.csv``: mean TV where a pass that computes only
what the trace keeps takes 30% to 90% of the full pass's operations, between sizes by interpolation. The last line is
JSON.

Expected: rows half together and MLPs two cuts later have less TV at every share; see experiments/results/flops-order.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import texts_of, written
from jstrace.models import EdgeTree, Model

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ORDERS = {
    "rounds": (0.0, 0.0),
    "rows together, a quarter": (0.25, 0.0),
    "rows together, half": (0.5, 0.0),
    "rows together": (1.0, 0.0),
    "MLPs two cuts later": (0.0, 2.0),
    "rows together, half; MLPs two cuts later": (0.5, 2.0),
}
"""How far attention edges go towards the best of their row, and by how many cuts MLP edges go down."""


def changed(scores: EdgeTree, together: float, later: float) -> EdgeTree:
    """Scores of one input, with slots that are no edge as they were."""
    attn, mlp = np.asarray(scores.attn, np.float32), np.asarray(scores.mlp, np.float32)
    row = attn.max(axis=(1, 3), keepdims=True)
    spread = np.where(attn >= 0, attn + together * (row - attn) * (1 - 1e-3), attn)  # in a row the order stays
    return EdgeTree(
        scores.residual_attn, spread, scores.residual_mlp, np.where(mlp >= 0, np.maximum(mlp - later, 0), mlp)
    )


def tv_at(shares: tuple[float, ...], flops: np.ndarray, tv: np.ndarray) -> np.ndarray:
    """TV at shares of the full pass's operations; that of the smallest trace below what it costs."""
    return np.interp(shares, flops / flops[-1], tv)


def curves(model: Model, text: str) -> dict[str, np.ndarray]:
    """TV at each share by every order."""
    base = jstrace.trace(model, text, score="rounds", replace="mean")
    made = {
        name: jstrace.Trace.from_scores(model, base.tokens, changed(base.scores, *how), score="rounds", replace="mean")
        for name, how in ORDERS.items()
    }
    return {name: tv_at(SHARES, trace.flops(), jstrace.evaluate(model, trace).tv) for name, trace in made.items()}


def main() -> None:
    """Trace, evaluate, write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[*range(400, 406)])
    options = parser.parse_args()
    jstrace.enable_cache()
    model, texts = jstrace.load("smollm2"), texts_of(options.data)
    measured = [curves(model, texts[row]) for row in options.rows]
    rows, told = [], f"{options.rows[0]}-{options.rows[-1]}"
    for name in ORDERS:
        means = np.mean([curve[name] for curve in measured], axis=0)
        rows += [
            {"rows": told, "order": name, "flops": share, "tv": f"{tv:.4f}"}
            for share, tv in zip(SHARES, means, strict=True)
        ]
        print(f"{name:42}", " ".join(f"{tv:.2f}" for tv in means), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    written(options.out / "tv.csv", rows)
    print(json.dumps({"rows": options.rows, "orders": len(ORDERS)}))


if __name__ == "__main__":
    main()
