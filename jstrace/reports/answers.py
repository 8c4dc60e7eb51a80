"""Answers: how much of the lead of one answer over its rival traces recover (section 9 of the method)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jstrace.reports.drawing import each_ablation, line, log_sizes, look_of
from jstrace.reports.exhibit import Picture, Rows, each_case
from jstrace.reports.results import Results
from jstrace.reports.statistics import quartile_columns, quartiles


def has(run: Results) -> bool:
    """Whether any valid input of the run has an answer whose metric differs between the empty and the full graph."""
    return "metric_recovered" in run.curves.column_names and any(len(recovered(run, case)) for case in run.with_density)


def recovered(run: Results, case: Any) -> np.ndarray:
    """The share of the metric's difference that traces have, of the inputs that have an answer: ``[N, Z + 1]``."""
    values = run.curve(case, "metric_recovered")
    return values[np.isfinite(values).all(axis=1)]


def picture(_: Results) -> Picture:
    """What is recovered by size."""
    caption = (
        "The metric of each input (logit of its answer less that of its rival, or the answer's log-probability): 0 is"
        " its value with every edge ablated, 1 that of the full graph. Median and quartiles over inputs that have an"
        " answer."
    )
    return Picture("how fast the answer comes back", caption, _draw)


def _draw(run: Results) -> Figure:
    def draw(axes: Any, ablate: str, replace: str) -> None:
        words = "size {:g}: {:.2f} recovered, quartiles {:.2f} and {:.2f}"
        for number, case in enumerate(run.under(ablate, replace)):
            if len(values := recovered(run, case)):
                low, middle, high = quartiles(values)
                line(axes, run.sizes, middle, words, around=(low, high), **look_of(number, case.source.name))
        log_sizes(axes, run.sizes)

    label = "recovered share of the answer's lead"
    return each_ablation(run.ablations, draw, replacements=run.plan.replacements[:1], ylabel=label, legend=2)


@each_case
def table(run: Results, case: Any) -> Rows:
    """Quartiles of what is recovered by size."""
    shares = recovered(run, case)
    if len(shares):
        yield {"size": run.sizes, "n": len(shares)} | quartile_columns("recovered", quartiles(shares))
