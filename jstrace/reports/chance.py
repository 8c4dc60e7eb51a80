"""What random traces of the same size have: chance, beside every curve, make-up and correlation that a run shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jstrace.method.conditions import Case, Condition, Source
from jstrace.method.naming import RANDOM
from jstrace.method.plans import in_column
from jstrace.reports.results import Results
from jstrace.reports.statistics import Correlation, means_of, rho, spearman

HELD = "as_random"
"""The column that says whether the interval of a row holds what random traces have: then the row claims nothing."""
LOOK: dict[str, Any] = {"color": "0.45", "linewidth": 0.6}
"""Of their lines in figures."""


def cases(run: Results, case: Case) -> dict[str, Case]:
    """The curves of random traces under the condition of a case, by their sources' names; none beside a random one."""
    return {} if case.source.score in RANDOM else under(run, case.condition, [case.source])


def under(run: Results, condition: Condition, traced: Sequence[Source]) -> dict[str, Case]:
    """The curves of random traces under a condition, by their sources' names: those drawn beside none of ``traced``
    are left out."""
    drawn = (case for case in run.cases if case.source.score in RANDOM and case.condition == condition)
    return {case.source.name: case for case in drawn if case.source.beside in (None, *traced)}


def sources(run: Results, source: str = "") -> tuple[str, ...]:
    """The random kinds of traces of a run; beside a ``source`` not those drawn beside another, and none where it is
    random itself."""
    drawn = {kind.name: kind.beside for kind in run.plan.sources if kind.score in RANDOM}
    beside = [name for name, other in drawn.items() if not source or other is None or other.name == source]
    return () if source in drawn else tuple(beside)


def words(run: Results) -> str:
    """What a caption says of them."""
    return f" Thin lines: random traces of the same size ({', '.join(sources(run))})." if sources(run) else ""


def named(source: str, column: str) -> str:
    """What a column of random traces is called: ``random_baseline_tv_median``."""
    return f"{in_column(source)}_{column}"


def held(claims: Sequence[tuple[Any, Any, Any]]) -> dict[str, Any]:
    """The column ``HELD``, of the bounds of intervals and the value that random traces have in each: True where any
    interval holds its value, None where nothing is known. Numbers are single ones, or ``[K]``; no claim, no column."""
    if not claims:
        return {}
    inside = [(low <= value) & (value <= high) for low, high, value in claims]
    known = [np.isfinite(low) & np.isfinite(high) & np.isfinite(value) for low, high, value in claims]
    return {HELD: np.where(np.any(known, axis=0), np.any(inside, axis=0), np.asarray(None))[()]}


def gaps(
    run: Results, case: Case, name: str, values: Callable[[Case], np.ndarray], *, most: float = np.inf
) -> dict[str, Any]:
    """Columns of a measure ``[N]`` or ``[N, K]`` of cases: medians of random traces, and the gap from them.

    The gap is the mean over inputs of the case's value less that of random traces, with its interval, which ends at
    the ``most`` that it can be.
    """
    columns: dict[str, Any] = {}
    claims = []
    for source, other in cases(run, case).items():
        theirs = values(other)
        gap = (values(case) - theirs).reshape(len(theirs), -1)
        shape = theirs.shape[1:]
        mean, low, high = (np.reshape(bound, shape)[()] for bound in means_of(gap, run.clusters, most=most))
        numbers = {"median": np.median(theirs, axis=0), "gap": mean, "gap_low": low, "gap_high": high}
        columns |= {named(source, f"{name}_{column}"): number for column, number in numbers.items()}
        claims.append((low, high, np.zeros_like(mean)))
    return columns | held(claims)


def rhos(run: Results, case: Case, of: Callable[[Case], np.ndarray], other: np.ndarray) -> dict[str, float]:
    """Spearman's rho of a measure of random traces ``[N]`` with other numbers: what their order shows, by source."""
    return {source: rho(of(drawn), other) for source, drawn in cases(run, case).items()}


def correlated(own: Correlation, random: dict[str, float]) -> dict[str, Any]:
    """Columns of a correlation and of ``rhos`` beside it, and whether its interval holds any of them."""
    columns = {named(source, "rho"): value for source, value in random.items()}
    return own._asdict() | columns | held([(own.low, own.high, value) for value in random.values()])


def correlation(run: Results, case: Case, of: Callable[[Case], np.ndarray], other: np.ndarray) -> dict[str, Any]:
    """Columns of Spearman's rho of a measure of a case ``[N]`` with other numbers, beside that of random traces."""
    return correlated(spearman(of(case), other, run.clusters), rhos(run, case, of, other))
