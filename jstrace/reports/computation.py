"""What traces cost: floating-point operations of a pass that computes only what they keep (section 5 of the method)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jstrace.errors import InputError
from jstrace.method.conditions import Case
from jstrace.method.graph.sizes import percent
from jstrace.reports import chance
from jstrace.reports.drawing import SIZE_LABEL, TV_LABEL, each_ablation, line, log_sizes, look_of
from jstrace.reports.exhibit import Picture, Rows, each_case
from jstrace.reports.results import Results
from jstrace.reports.statistics import for_good, quartile_columns, quartiles

AXES = ("edges", "flops")
"""What figures can draw curves over: the share of the edges, or of the operations."""
CLOSE = 0.1
"""A TV that is called close."""
LEAST = 0.01
"""The share of the operations from which on density counts them."""
_TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def has(run: Results) -> bool:
    """Whether the run knows them: those of earlier versions do not."""
    return "flops" in run.curves.column_names


def over(run: Results, axis: str) -> Results:
    """The same run, whose figures draw curves over this axis.

    Raises:
      InputError: another axis, or a run that does not know operations.
    """
    if axis not in AXES:
        raise InputError(f"axis = {axis!r}, expected one of {', '.join(AXES)}")
    if axis == "flops" and not has(run):
        raise InputError(f"{run.label}: axis flops needs the column flops, which runs of earlier versions do not have")
    return dataclasses.replace(run, axis=axis)


def places(run: Results, case: Case) -> np.ndarray:
    """Where a figure draws the sizes of a curve: their shares of the edges, or the medians of those of the operations,
    which inverse curves do not have: float64 ``[Z + 1]``."""
    if run.axis == "edges" or case.condition.inverse:
        return run.sizes
    middle: np.ndarray = np.median(share(run, case), axis=0)
    return middle


def label(run: Results) -> str:
    """What a figure of curves calls its axis."""
    return SIZE_LABEL if run.axis == "edges" else "floating-point operations (share of the full graph's)"


def log_axis(axes: Any, run: Results, drawn: Sequence[np.ndarray], *, inverse: bool = False) -> None:
    """Let a panel's x axis be that of curves that are drawn at these places."""
    if run.axis == "edges" or inverse:
        log_sizes(axes, run.sizes)
        return
    least = min((x[0] for x in drawn), default=LEAST)
    axes.set(xscale="log", xlim=(least * 0.8, 1.25))
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if tick >= least * 0.8]))
    axes.xaxis.set_major_formatter(lambda x, _: percent(x))
    axes.xaxis.set_minor_locator(NullLocator())


def share(run: Results, case: Any) -> np.ndarray:
    """Operations of every trace as a share of the full graph's: float64 ``[N, Z + 1]``."""
    flops = run.curve(case, "flops")
    return flops / flops[:, -1:]


def picture(_: Results) -> Picture:
    """TV against the share of operations."""
    caption = (
        "TV against the operations of a pass that computes only what a trace keeps, as a share of those of the full"
        " graph; medians over inputs, a dot for each size. A share of the edges is not that share of the computation: a"
        " layer's rows are computed for one edge as for all."
    )
    return Picture("how much computation brings the prediction back", caption, _draw)


def _draw(run: Results) -> Figure:
    def draw(axes: Any, ablate: str, replace: str) -> None:
        words = "{:.0f}% of the operations: TV {:.3f}"
        for number, case in enumerate(run.under(ablate, replace)):
            cost = 100 * np.median(share(run, case), axis=0)
            look = look_of(number, case.source.name)
            line(axes, cost, np.median(run.curve(case, "tv"), axis=0), words, marker="o", markersize=1.5, **look)
        axes.set(xlim=(0, 102), ylim=(-0.02, 1.02))

    return each_ablation(
        run.ablations, draw, replacements=run.plan.replacements[:1], ylabel=TV_LABEL, legend=2,
        xlabel="floating-point operations (% of the full graph's)",
    )  # fmt: skip


@each_case
def table(run: Results, case: Any) -> Rows:
    """Quartiles of the share by size, and of what it takes to come within a TV of 0.1 for good."""
    cost, tv = share(run, case), run.curve(case, "tv")
    enough = np.take_along_axis(cost, for_good(tv <= CLOSE)[:, None], axis=1)[:, 0]
    row = {"size": run.sizes, "n": run.n} | quartile_columns("flops_share", quartiles(cost))
    yield row | {f"flops_share_within_tv_{CLOSE:g}_median": np.median(enough)}


def density(run: Results, case: Case) -> np.ndarray:
    """Area under TV over log10 of the share of operations, from 1% of them to all: float64 ``[N]``, 0 to 2.

    TV is linear between sizes, as in the density over edges. Below what the smallest trace costs it is that trace's, so
    that all traces are measured over the same two decades.
    """
    logs, tv, first = np.log10(share(run, case)), run.curve(case, "tv"), np.log10(LEAST)
    areas = []
    for x, y in zip(logs, tv, strict=True):
        later = x > first
        start = np.interp(first, x, y)  # the smallest trace's where that costs more
        areas.append(np.trapezoid([start, *y[later]], [first, *x[later]]))
    return np.asarray(areas)


@each_case
def densities(run: Results, case: Case) -> Rows:
    """Quartiles of the density over operations, beside that of random traces."""
    of = functools.partial(density, run)
    row = {"n": run.n, **quartile_columns("density_flops", quartiles(of(case)))}
    yield row | chance.gaps(run, case, "density_flops", of)
