"""How steady figures are: the same over the repetitions of a run (``--repeats``), whose weights differ by rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jstrace.method.conditions import Case
from jstrace.reports.results import Results

Of = Callable[[np.ndarray], np.ndarray]
WORDS = " Dark band: the lowest and the highest median of the run's repetitions."
"""What captions of figures with ``draw`` say."""


def has(run: Results) -> bool:
    """Whether the run repeats its inputs."""
    return "tv_repeats" in run.curves.column_names


def repeated(run: Results, case: Case) -> np.ndarray:
    """TV of every repetition, of the inputs that have all of them: float64 ``[R, N, Z + 1]``."""
    told = run.rows_of(case)["tv_repeats"]
    known = np.asarray(told.is_valid().to_numpy(), bool).reshape(-1, len(run.sizes)).all(axis=1)
    rows = [row for row, there in zip(told.to_pylist(), np.repeat(known, len(run.sizes)), strict=True) if there]
    n, n_repeats = int(known.sum()), len(rows[0]) if rows else 0
    return np.moveaxis(np.asarray(rows, np.float64).reshape(n, len(run.sizes), n_repeats), -1, 0)


def figures(run: Results, case: Case, of: Of = np.asarray) -> np.ndarray:
    """The median over inputs in each repetition of what is made ``of`` TV ``[N, Z + 1]``: ``[R, ...]``; R is 0 where no
    input has repetitions."""
    return np.asarray([np.median(of(tv), axis=0) for tv in (repeated(run, case) if has(run) else ())])


def deviation(run: Results, case: Case, name: str, of: Of = np.asarray) -> dict[str, Any]:
    """The column of a median's standard deviation over repetitions, where there are some."""
    medians = figures(run, case, of)
    return {f"{name}_std": np.std(medians, axis=0, ddof=1)} if len(medians) else {}


def draw(axes: Any, run: Results, case: Case, x: np.ndarray, color: Any) -> None:
    """The band of a curve's medians over repetitions, where there are some."""
    medians = figures(run, case)
    if len(medians) and np.isfinite(medians).all():
        axes.fill_between(x, medians.min(axis=0), medians.max(axis=0), color=color, alpha=0.5, linewidth=0)
