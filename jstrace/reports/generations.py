"""Density along generated text: of the prediction that each token was taken from."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jstrace.method.conditions import Case
from jstrace.reports import chance
from jstrace.reports.drawing import COLORS, grid_of, line, note, shortened
from jstrace.reports.exhibit import Picture, Rows, each_case
from jstrace.reports.results import Results
from jstrace.reports.statistics import Mean, interval_words, mean_of, quartile_columns, quartiles, rho

MOST_LINES, FEW_LINES, _MOST_WORDS = 60, 4, 24
"""Rows that have a line each; rows from which on they have quartiles; tokens that one row's axis names."""


def along(run: Results, values: np.ndarray) -> np.ndarray:
    """A number of each valid input, by rows of the data and steps: ``[R, N]``, NaN where an input is not valid."""
    rows, places = np.unique(run.column("row"), return_inverse=True)
    grid = np.full((len(rows), run.generates), np.nan)
    grid[places, run.column("step").astype(int)] = values
    return grid


def within_rows(run: Results, case: Case, column: str) -> Mean:
    """Mean over rows of Spearman's rho of density with a column along the row, with its bootstrap interval."""
    pairs = zip(along(run, run.density(case)), along(run, run.column(column)), strict=True)
    rhos = np.asarray([rho(density, other) for density, other in pairs])
    return mean_of(rhos[np.isfinite(rhos)])


def picture(run: Results) -> Picture:
    """Density and probability along the text."""
    case = run.plan.case(run.ablations[0])
    columns = {"how far it is from the prompt": "step", "its probability": "generated_prob"}
    told = [f"{_words_of(run, case, column)} with {name}" for name, column in columns.items()]
    caption = (
        "Density of the prediction that each generated token was taken from, and the model's own probability of"
        f" it. A line for each row, at most {MOST_LINES}; from {FEW_LINES} rows on their"
        f" median and quartiles. Spearman's ρ of density ({case.name}) within a row, mean over rows:"
        f" {'; '.join(told)}. Later predictions have more tokens, and more edges, before them."
    )
    return Picture("density along generated text", caption, _draw, chance=True)


def _medians(rows: np.ndarray) -> np.ndarray:
    """Medians of ``[R, N]`` over the rows that are known, NaN where none is."""
    return np.asarray([np.median(known) if len(known := step[np.isfinite(step)]) else np.nan for step in rows.T])


def _words_of(run: Results, case: Case, column: str) -> str:
    """The correlation within rows, and beside it that of random traces."""
    corr = within_rows(run, case, column)
    random = {name: within_rows(run, other, column) for name, other in chance.cases(run, case).items()}
    told = [f"n = {corr.n}", *(f"{name}: {theirs.mean:.2f}" for name, theirs in random.items() if theirs.n)]
    return f"{corr.mean:.2f}{interval_words(corr.low, corr.high)} ({'; '.join(told)})" if corr.n else "not defined"


def _draw(run: Results) -> Figure:
    cases = [run.plan.case(ablate) for ablate in run.ablations]
    made, grid = grid_of(1, rows=len(cases) + 1, height=1.0 + 1.35 * (len(cases) + 1), sharex=True)
    for axes, case in zip(grid[:-1, 0], cases, strict=True):
        _rows(axes, run, run.density(case), COLORS[0], "density")
        for random in chance.cases(run, case).values():
            axes.plot(np.arange(1, run.generates + 1), _medians(along(run, run.density(random))), **chance.LOOK)
        axes.set(title=f"ablated: {case.condition.ablate}", ylabel="density")
    last = grid[-1, 0]
    _rows(last, run, run.column("generated_prob"), COLORS[1], "probability")
    last.set(ylabel="probability\nof the token", ylim=(-0.02, 1.02))
    words = _words(run)
    if words:
        last.set_xticks(range(1, len(words) + 1), words, rotation=60, ha="right", fontsize=5.5)
        last.set_xlabel("generated token")
    else:
        last.xaxis.set_major_locator(MaxNLocator(integer=True))
        last.set_xlabel("generated token, from the prompt on")
    return made


def _rows(axes: Any, run: Results, values: np.ndarray, color: str, name: str) -> None:
    rows = along(run, values)
    steps = np.arange(1, run.generates + 1)
    several = len(rows) >= FEW_LINES
    look: dict[str, Any] = {"color": "0.6", "linewidth": 0.5} if several else {"color": color}
    for row in rows[:MOST_LINES]:
        axes.plot(steps, row, marker="o", markersize=1, **look)
    known = np.isfinite(rows).any(axis=0)
    low, middle, high = np.nanpercentile(rows[:, known], (25, 50, 75), axis=0)
    words = f"token {{}}: {name} {{:.3f}}"
    if several:
        words += ", quartiles {:.3f} and {:.3f}"
        line(axes, steps[known], middle, words, around=(low, high), color=color)
    else:
        note(axes, steps[known], middle, [words.format(*at) for at in zip(steps[known], middle, strict=True)])


def _words(run: Results) -> list[str]:
    """The generated tokens, where they are those of one row and few."""
    rows = run.column("row")
    if len(np.unique(rows)) != 1 or not 0 < run.generates <= _MOST_WORDS or run.valid.num_rows != run.generates:
        return []
    return [shortened(repr(word)[1:-1]) if word.strip(" ") else "␣" for word in run.valid["generated_text"].to_pylist()]


@each_case
def table(run: Results, case: Case) -> Rows:
    """Density, probability and entropy at each step, over rows."""
    numbers = run.density(case), run.column("generated_prob"), run.column("entropy")
    random = {name: _medians(along(run, run.density(other))) for name, other in chance.cases(run, case).items()}
    for step, (density, prob, entropy) in enumerate(np.stack([along(run, col) for col in numbers]).T.swapaxes(1, 2)):
        known = np.isfinite(density)
        if known.any():
            row = {"step": step, "n": int(known.sum()), **quartile_columns("density", quartiles(density[known]))}
            row |= {chance.named(name, "density_median"): medians[step] for name, medians in random.items()}
            yield row | {"prob_mean": prob[known].mean(), "entropy_mean": entropy[known].mean()}
