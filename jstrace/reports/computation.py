"""What traces cost: floating-point operations of a pass that computes only what they keep (section 5 of the method)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jstrace.reports.drawing import TV_LABEL, each_ablation, legend_above, line, look_of
from jstrace.reports.exhibit import Picture, Rows, each_case
from jstrace.reports.results import Results
from jstrace.reports.statistics import for_good, quartile_columns, quartiles

CLOSE = 0.1
"""A TV that is called close."""


def has(run: Results) -> bool:
    """Whether the run knows them: those of earlier versions do not."""
    return "flops" in run.curves.column_names


def share(run: Results, case: Any) -> np.ndarray:
    """Operations of every trace as a share of the full graph's: float64 ``[N, Z + 1]``."""
    flops = run.curve(case, "flops")
    return flops / flops[:, -1:]


def picture(run: Results) -> Picture | None:
    """TV against the share of operations, where the run knows it."""
    return _PICTURE if has(run) else None


def _draw(run: Results) -> Figure:
    """Medians of both, at every size."""

    def draw(axes: Any, ablate: str, replace: str) -> None:
        words = "{:.0f}% of the operations: TV {:.3f}"
        for number, case in enumerate(run.under(ablate, replace)):
            cost = 100 * np.median(share(run, case), axis=0)
            look = look_of(number) | {"who": f"{case.source.name}, ", "label": case.source.name}
            line(axes, cost, np.median(run.curve(case, "tv"), axis=0), words, marker="o", markersize=1.5, **look)
        axes.set(xlim=(0, 102), ylim=(-0.02, 1.02))

    figure = each_ablation(
        run.ablations, draw, replacements=run.plan.replacements[:1], ylabel=TV_LABEL,
        xlabel="floating-point operations (% of the full graph's)",
    )  # fmt: skip
    legend_above(figure, 2)
    return figure


_PICTURE = Picture(
    "how much computation brings the prediction back",
    "TV against the operations of a pass that computes only what a trace keeps, as a share of those of the full graph;"
    " medians over inputs, a dot for each size. A share of the edges is not that share of the computation: a layer's"
    " rows are computed for one edge as for all.",
    _draw,
)


@each_case
def table(run: Results, case: Any) -> Rows:
    """Quartiles of the share by size, and of what it takes to come within a TV of 0.1 for good."""
    cost, tv = share(run, case), run.curve(case, "tv")
    enough = np.take_along_axis(cost, for_good(tv <= CLOSE)[:, None], axis=1)[:, 0]
    row = {"size": run.sizes, "n": run.n} | quartile_columns("flops_share", quartiles(cost))
    yield row | {f"flops_share_within_tv_{CLOSE:g}_median": np.median(enough)}
