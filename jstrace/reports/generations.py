"""Density along generated text: of the prediction that each token was taken from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jstrace.method.conditions import Case
from jstrace.reports import statistics
from jstrace.reports.drawing import COLORS, band, grid_of, shortened
from jstrace.reports.inlined import note
from jstrace.reports.results import Results

MOST_LINES, FEW_LINES, _MOST_WORDS = 60, 4, 24
"""Rows that have a line each; rows from which on they have quartiles; tokens that one row's axis names."""


def along(run: Results, values: np.ndarray) -> np.ndarray:
    """A number of each valid input, by rows of the data and steps: ``[R, N]``, NaN where an input is not valid."""
    rows, places = np.unique(run.column("row"), return_inverse=True)
    found = np.full((len(rows), run.generates), np.nan)
    found[places, run.column("step").astype(int)] = values
    return found


def table(runs: Sequence[Results]) -> pa.Table:
    """Density, probability and entropy at each step, over rows."""
    lines = []
    for run in runs:
        probs, entropies = (along(run, run.column(name)) for name in ("generated_prob", "entropy"))
        for case in run.with_density:
            density = along(run, run.density(case))
            for step in range(run.generates):
                known = np.isfinite(density[:, step])
                if known.any():
                    low, middle, high = statistics.quartiles(density[known, step])
                    line = {"model": run.label, "condition": case.name, "step": step, "n": int(known.sum())}
                    line |= {"density_q25": low, "density_median": middle, "density_q75": high}
                    line |= {"prob_mean": probs[known, step].mean(), "entropy_mean": entropies[known, step].mean()}
                    lines.append(line)
    return pa.Table.from_pylist(lines)


def figure(run: Results) -> Figure:
    """Density along the text under each ablation, and below it the probability of each token."""
    cases = [run.plan.case(ablate) for ablate in run.ablations]
    made, grid = grid_of(1, rows=len(cases) + 1, height=1.0 + 1.35 * (len(cases) + 1), sharex=True)
    for axes, case in zip(grid[:-1, 0], cases, strict=True):
        _drawn(axes, run, run.density(case), COLORS[0], "density")
        axes.set(title=f"ablated: {case.condition.ablate}", ylabel="density")
    last = grid[-1, 0]
    _drawn(last, run, run.column("generated_prob"), COLORS[1], "probability")
    last.set(ylabel="probability\nof the token", ylim=(-0.02, 1.02))
    words = _words(run)
    if words:
        last.set_xticks(range(1, len(words) + 1), words, rotation=60, ha="right", fontsize=5.5)
        last.set_xlabel("generated token")
    else:
        last.xaxis.set_major_locator(MaxNLocator(integer=True))
        last.set_xlabel("generated token, from the prompt on")
    return made


def _drawn(axes: Any, run: Results, values: np.ndarray, color: str, name: str) -> None:
    """A line for each row, and the median with quartiles where rows are several."""
    rows = along(run, values)
    steps = np.arange(1, run.generates + 1)
    several = len(rows) >= FEW_LINES
    look: dict[str, Any] = {"color": "0.6", "linewidth": 0.5} if several else {"color": color}
    for row in rows[:MOST_LINES]:
        axes.plot(steps, row, marker="o", markersize=1, **look)
    known = np.isfinite(rows).any(axis=0)
    low, middle, high = np.nanpercentile(rows[:, known], (25, 50, 75), axis=0)
    if several:
        band(axes, steps[known], low, middle, high, color)
    told = zip(steps[known], middle, low, high, strict=True)
    words = [f"token {step}: {name} {m:.3f}" + (f", quartiles {a:.3f} and {b:.3f}" * several) for step, m, a, b in told]
    note(axes, steps[known], middle, words)


def _words(run: Results) -> list[str]:
    """The generated tokens, where they are those of one row and few."""
    rows = run.column("row")
    if len(np.unique(rows)) != 1 or not 0 < run.generates <= _MOST_WORDS or run.valid.num_rows != run.generates:
        return []
    return [shortened(repr(word)[1:-1]) if word.strip(" ") else "␣" for word in run.valid["generated_text"].to_pylist()]


def within_rows(run: Results, case: Case, column: str) -> statistics.Mean:
    """Mean over rows of Spearman's rho of density with a column along the row, with its bootstrap interval."""
    pairs = zip(along(run, run.density(case)), along(run, run.column(column)), strict=True)
    found = np.asarray([statistics.rho(one, other) for one, other in pairs])
    return statistics.mean_of(found[np.isfinite(found)])
