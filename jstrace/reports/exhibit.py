"""What an exhibit is: a topic of a report with its figure and its words, its table, or both."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jstrace.method.conditions import ABLATIONS, COUNTERFACTUAL, REPLACEMENTS, Case
from jstrace.reports.results import Results

NOT_ABLATED = "Nothing is ablated here: it shows the traces themselves."
SUMMARY, ADDED, DETAIL = range(3)
"""Where tables stand: those of a few numbers, those that only some runs have, and those of many rows."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    title: str
    caption: str
    draw: Callable[..., Figure]
    """Of a run, which ``exhibits.pictures`` gives."""
    ablated: str = ""
    """Which edges were ablated, as the page says it; by default all modes of a run, under its first replacement."""
    n: int | None = None
    """Clusters of inputs that it is of, where they are not those of all valid inputs."""
    chance: bool = False
    """Whether it has thin lines of random traces, where the run has some,"""
    steady: bool = False
    """and dark bands of its repetitions."""
    kind: str = ""
    """Its exhibit,"""
    number: int | None = None
    """and its run, from 1, where a report has figures of several."""

    @property
    def name(self) -> str:
        """Of its files."""
        return self.kind if self.number is None else f"{self.kind}-{self.number}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its words."""

    name: str
    title: str
    compute: Callable[[], pa.Table]


def usable(runs: Sequence[Results]) -> list[Results]:
    """The runs with valid inputs."""
    return [run for run in runs if run.valid.num_rows]


def those(has: Callable[[Results], Any]) -> Callable[[Sequence[Results]], list[Results]]:
    """The usable runs that have something."""
    return lambda runs: [run for run in usable(runs) if has(run)]


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A topic of a report."""

    name: str
    """Of its files."""
    figure: Picture | Callable[[Results], Picture | None] | None = None
    """Of each run, or none where the run lacks the numbers;"""
    compared: Callable[[Sequence[Results]], Picture | None] | None = None
    """and of several runs together."""
    table: Callable[[Sequence[Results]], pa.Table] | None = None
    title: str = ""
    """Of the table."""
    shelf: int = SUMMARY
    of: Callable[[Sequence[Results]], Sequence[Results]] = usable
    """The runs that the table and the figures are of; there are none without any."""
    whole: bool = False
    """Whether it is of all variants of a run with pairs, rather than of the first."""
    file: str = ""
    """Of the table, where it is not called like the figure."""


# --- tables ---------------------------------------------------------------------------------------------------------

Rows = Iterable[dict[str, Any]]
"""Each a row of a table; or as many as it has arrays ``[N]`` among its values, with the others in all of them."""


def table_of(rows: Rows, columns: Sequence[str] = ()) -> pa.Table:
    """A table of these columns and all that any row has; null where a row lacks one."""
    records = [row for block in rows for row in _single(block)]
    names = dict.fromkeys([*columns, *itertools.chain.from_iterable(records)])
    return pa.table({name: [row.get(name) for row in records] for name in names})


def _single(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not any(isinstance(value, np.ndarray) for value in block.values()):
        yield block
        return
    values = (value if isinstance(value, np.ndarray) else itertools.repeat(value) for value in block.values())
    for cells in zip(*values, strict=False):
        yield dict(zip(block, cells, strict=True))


def each_run(rows: Callable[[Results], Rows]) -> Callable[[Sequence[Results]], pa.Table]:
    """The table of runs that has these rows of each, after the model's label."""
    return lambda runs: table_of({"model": run.label} | row for run in runs for row in rows(run))


def each_case(rows: Callable[[Results, Case], Rows]) -> Callable[[Sequence[Results]], pa.Table]:
    """The same, of each curve that has a density."""
    return each_run(
        lambda run: ({"condition": case.name} | row for case in run.with_density for row in rows(run, case))
    )


def each_source(rows: Callable[[Results, str], Rows]) -> Callable[[Sequence[Results]], pa.Table]:
    """The same, of each kind of traces."""
    return each_run(lambda run: ({"source": source} | row for source in run.sources for row in rows(run, source)))


_DIGITS = 4
"""Of numbers whose uncertainty is not known, and at most."""


def certain(value: Any, spread: float | None = None) -> str:
    """A number as a table prints it: up to the place of the first digit of its uncertainty, and to four digits at most.

    0.183 with an uncertainty of 0.02 is 0.18, with one of 0.004 it is 0.183.

    Args:
      value: a number, a text, or None.
      spread: half of its interval, or its standard deviation over repetitions; None or NaN where that is not known.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if not isinstance(value, float):
        return str(value)
    rounded = f"{value:.{_DIGITS}g}"
    if spread is None or not math.isfinite(spread) or spread <= 0 or not math.isfinite(value):
        return rounded
    places = -math.floor(math.log10(spread))
    if places >= _DIGITS - 1 - (math.floor(math.log10(abs(value))) if value else 0):
        return rounded
    return f"{round(value, places) + 0.0:.{max(0, places)}f}"


def cells(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The cells of a table's rows.

    The uncertainty of a column ``x`` is the larger of ``x_std`` and half of the interval in the two columns that end in
    ``low`` and ``high`` and follow it, whose bounds are printed like it.
    """
    intervals: dict[str, tuple[str, str, str]] = {}  # of a column that has one or is a bound of one: whose, and bounds
    for owner, low, high in zip(names, names[1:], names[2:], strict=False):
        if low.endswith("low") and high == f"{low[:-3]}high":
            intervals |= dict.fromkeys((owner, low, high), (owner, low, high))
    return [[certain(row[name], _spread(row, name, intervals)) for name in names] for row in rows]


def _spread(row: dict[str, Any], name: str, intervals: dict[str, tuple[str, str, str]]) -> float | None:
    owner, *bounds = intervals.get(name, (name,))
    ends = [row[bound] for bound in bounds]
    widths = [row.get(f"{owner}_std"), None if None in ends or not ends else (ends[1] - ends[0]) / 2]
    return max((width for width in widths if width is not None and math.isfinite(width)), default=None)


# --- words ----------------------------------------------------------------------------------------------------------

_ABLATED = {"all": "all edges", "residual+mlp": "residual and MLP edges only (residual+mlp)"}
_CARRIED = {
    "zero": "nothing (zero)",
    "mean": "means over reference texts (mean)",
    "resample": "the states of other texts (resample)",
    "counterfactual": "the states of each text's counterfactual (counterfactual)",
}


def ablated(ablations: Sequence[str], replacements: Sequence[str]) -> str:
    """What a figure ablates, and what ablated edges carry in it where that is not nothing."""
    edges = ", beside it ".join(_ABLATED[name] for name in ablations)
    return f"Ablated: {edges}{alone(ablations)}.{carried(replacements)}"


def ablated_in(cases: Sequence[Case]) -> str:
    """The same of a figure of these cases."""
    conditions = [case.condition for case in cases]
    return ablated(*(list(dict.fromkeys(getattr(cond, name) for cond in conditions)) for name in ("ablate", "replace")))


def modes_of(runs: Sequence[Results]) -> tuple[list[str], list[str]]:
    """The ablations and the replacements that any run has."""
    ablations = [name for name in ABLATIONS if any(name in run.ablations for run in runs)]
    return ablations, [
        name for name in (*REPLACEMENTS, COUNTERFACTUAL) if any(name in run.plan.replacements for run in runs)
    ]


def carried(replacements: Sequence[str]) -> str:
    """What ablated edges carry, where that is not nothing."""
    names = ", beside it ".join(_CARRIED[name] for name in replacements)
    return "" if list(replacements) == ["zero"] else f" Ablated edges carry {names}."


def alone(ablations: Sequence[str]) -> str:
    """That there is one mode of ablation only."""
    return "" if len(ablations) > 1 else "; there is no other mode to show beside it"


def counted(runs: Sequence[Results]) -> str:
    """How many clusters of valid inputs runs have."""
    counts = [run.n for run in runs]
    return f"n = {counts[0]}." if len(set(counts)) == 1 else f"n = {min(counts)} to {max(counts)}."
