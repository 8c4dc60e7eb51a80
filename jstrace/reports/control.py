"""Selectivity: how much nearer traces come to the model's own prediction than to those of other inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jstrace.method.conditions import Case
from jstrace.method.graph.sizes import most_selective
from jstrace.reports.drawing import COLORS, DASHES, ROW, SIZE_LABEL, grid_of, legend_above, log_sizes, panel_title
from jstrace.reports.exhibit import Picture, Rows, ablated_in, each_run
from jstrace.reports.results import Results
from jstrace.reports.statistics import FEW, interval_words, means_of


class ControlCurves(NamedTuple):
    """How much nearer a curve comes to the own prediction than to foreign ones: means over inputs, ``[Z + 1]`` each."""

    own: np.ndarray
    """TV from the model's own prediction,"""
    foreign: np.ndarray
    """and from other inputs' predictions under the traces of a score that was told those."""
    selectivity: np.ndarray
    """The second less the first,"""
    low: np.ndarray
    high: np.ndarray
    """with its 95% bootstrap interval over inputs; NaN of few."""
    n: int
    """Inputs with a control."""
    peak: int
    """The index of the size where it is largest, of those up to half of the edges."""


def selectivity(run: Results, case: Case) -> ControlCurves:
    """The control of one of ``Results.controlled``, over the inputs that have it."""
    own, foreign = run.curve(case, "tv"), run.curve(case, "foreign_tv")
    known = np.isfinite(foreign).all(axis=1)
    own, foreign, clusters = own[known], foreign[known], run.clusters[known]
    mean, low, high = means_of(foreign - own, clusters, most=1)
    peak = most_selective(run.plan.sizes, mean)
    return ControlCurves(own.mean(axis=0), foreign.mean(axis=0), mean, low, high, len(np.unique(clusters)), peak)


def columns(run: Results, case: Case) -> dict[str, Any]:
    """Of the table of curves, where a curve has a control."""
    if case not in run.controlled:
        return {}
    curve = selectivity(run, case)
    means = {"foreign_tv_mean": curve.foreign, "selectivity_mean": curve.selectivity}
    return means | {"selectivity_low": curve.low, "selectivity_high": curve.high}


def picture(run: Results) -> Picture:
    """Own and foreign curves."""
    caption = (
        f"TV from the model's own prediction; TV from what {run.plan.selectivity} other inputs predict, under"
        " traces of the same score told that; and selectivity, the second less the first: 1 where a mask reaches"
        " the own prediction alone, 0 where it reaches any. Means over inputs; band: 95% bootstrap interval, from"
        f" {FEW} inputs on. Dot: where it is largest, of sizes up to half of the edges:"
        f" {'; '.join(_peak(run, case) for case in run.controlled)}."
    )
    return Picture("computation, or the capacity of a mask?", caption, _draw, ablated_in(run.controlled))


def _peak(run: Results, case: Case) -> str:
    curve = selectivity(run, case)
    k = curve.peak
    interval = interval_words(curve.low[k], curve.high[k])
    return f"{case.name} {curve.selectivity[k]:.2f}{interval} at {100 * run.sizes[k]:g}% of the edges (n = {curve.n})"


def _draw(run: Results) -> Figure:
    count = len(run.controlled)
    across = min(count, 2)
    rows = -(-count // across)
    figure, grid = grid_of(across, rows=rows, height=0.7 + ROW * rows, sharey=True)
    for axes, case in zip(grid.ravel(), run.controlled, strict=False):
        curve = selectivity(run, case)
        axes.plot(run.sizes, curve.own, DASHES[1], color=COLORS[0], label="TV, own prediction")
        axes.plot(run.sizes, curve.foreign, DASHES[3], color=COLORS[1], label="TV, foreign predictions")
        axes.fill_between(run.sizes, curve.low, curve.high, color=COLORS[2], alpha=0.2, linewidth=0)
        axes.plot(run.sizes, curve.selectivity, color=COLORS[2], label="selectivity")
        axes.plot(run.sizes[curve.peak], curve.selectivity[curve.peak], "o", color=COLORS[2], markersize=3)
        log_sizes(axes, run.sizes)
        axes.set_title(f"{case.source.name}\n{panel_title(case)}")
    grid[0, 0].set_ylim(top=1.02)
    for axes in grid.ravel()[count:]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("TV, and its difference")
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    legend_above(figure, 2)
    return figure


@each_run
def selectivities(run: Results) -> Rows:
    """Of every curve with a control the size where it is most selective, and what it is there."""
    for case in run.controlled:
        curve = selectivity(run, case)
        numbers = {"own_tv": curve.own, "foreign_tv": curve.foreign, "selectivity": curve.selectivity}
        numbers |= {"low": curve.low, "high": curve.high}
        row = {"condition": case.name, "n": curve.n, "peak_size": run.sizes[curve.peak]}
        yield row | {name: values[curve.peak] for name, values in numbers.items()}
