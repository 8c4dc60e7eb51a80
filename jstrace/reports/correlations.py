"""What density goes with: entropy, loss and frequency (Fig. 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jstrace.method.conditions import Case
from jstrace.reports.drawing import COLORS, grid_of, note, power
from jstrace.reports.exhibit import Picture, Rows, each_case
from jstrace.reports.results import Results
from jstrace.reports.statistics import interval_words, spearman

PREDICTORS = {"entropy": "entropy", "loss": "surprisal", "frequency": "top_count", "tokens": "n_tokens"}
"""What density is correlated with (Fig. 8), and its column: the entropy of the prediction, the surprisal of the true
next token, how often the predicted token occurs in the corpus; and the length, which might stand behind any of them."""
_LABELS = {"entropy": "entropy (nats)", "loss": "loss (nats)", "frequency": "count of top token\nin the corpus"}
_NOTED_DOTS = 200
"""Inputs up to which each dot has its values to point at."""


def _draw(run: Results) -> Figure:
    """A row of panels for each ablation."""
    rows = len(run.ablations)
    figure, grid = grid_of(3, rows=rows, height=0.6 + 1.35 * rows, sharey="row", sharex="col")
    for panels, ablate in zip(grid, run.ablations, strict=True):
        density = run.density(run.plan.case(ablate))
        for axes, (name, label) in zip(panels, _LABELS.items(), strict=True):
            values = run.column(PREDICTORS[name])
            _scatter(axes, values, density, log=name == "frequency")
            inputs = zip(run.valid["input"].to_pylist(), density, values, strict=True)
            words = [f"input {index}: density {own:.3f}, {name} {value:.4g}" for index, own, value in inputs]
            if len(words) <= _NOTED_DOTS:
                note(axes, values, density, words)
            if ablate == run.ablations[-1]:
                axes.set_xlabel(label)
        panels[0].set_ylabel(f"density\nablated: {ablate}")
    if run.plan.replacements[0] != "zero":
        figure.suptitle(f"replaced by: {run.plan.replacements[0]}", fontsize=7)
    return figure


def _scatter(axes: Any, x: np.ndarray, density: np.ndarray, *, log: bool) -> None:
    found = spearman(density, x)
    axes.plot(x, density, "o", markersize=1.6, alpha=0.45, markeredgewidth=0, color=COLORS[0], rasterized=True)
    if log:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, 1.0, 1e2, 1e4, 1e6]))
        axes.xaxis.set_major_formatter(lambda value, _: "0" if value < 0.5 else power(value))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.5, 2 * max(1.0, np.nanmax(x, initial=1.0)))
    rho = f"ρ = {found.rho:.2f}{interval_words(found.low, found.high)}\n" if np.isfinite(found.rho) else ""
    axes.set_title(f"{rho}n = {found.n}", fontsize=5)  # above the panel, where it covers no point


CORRELATION = Picture(
    "density against entropy, loss and frequency (Fig. 8)",
    "A dot for each input. Entropy of the full graph's prediction, surprisal of the true next token, and how often"
    " the predicted token occurs in the corpus. Spearman's ρ with 95% bootstrap interval, from ten inputs on.",
    _draw,
)


@each_case
def correlations(run: Results, case: Case) -> Rows:
    """Of density, as it is and relative, with every predictor."""
    for measure, values in {"density": run.density(case), "relative density": relative_density(run, case)}.items():
        for name, column in PREDICTORS.items():
            yield {"measure": measure, "with": name, **spearman(values, run.column(column))._asdict()}


def relative_density(run: Results, case: Case) -> np.ndarray:
    """Area under TV over log10 of the size, TV as a share of that of the smallest trace: float64 ``[N]``.

    Where the smallest traces keep nothing of a prediction, TV starts at its distance from what the model predicts of no
    edge at all, which depends on the prediction's entropy. This measure has that taken out.
    """
    tv = run.curve(case, "tv")
    start = np.where(tv[:, :1] > 0, tv[:, :1], np.nan)
    return np.trapezoid(tv / start, np.log10(run.sizes), axis=1)
