"""Tables as people read them: every number to the digits that its interval, or its band of repetitions, allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
    intervals = _intervals(names)
    return [[certain(row[name], _spread(row, name, intervals)) for name in names] for row in rows]


def _intervals(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """For each column that has an interval, or is a bound of one: the column that it is of, and its two bounds."""
    intervals: dict[str, tuple[str, str, str]] = {}
    for owner, low, high in zip(names, names[1:], names[2:], strict=False):
        if low.endswith("low") and high == f"{low[:-3]}high":
            intervals |= dict.fromkeys((owner, low, high), (owner, low, high))
    return intervals


def _spread(row: dict[str, Any], name: str, intervals: dict[str, tuple[str, str, str]]) -> float | None:
    owner, *bounds = intervals.get(name, (name,))
    ends = [row[bound] for bound in bounds]
    widths = [] if None in ends or not ends else [(ends[1] - ends[0]) / 2]
    widths += [row[f"{owner}_std"]] if row.get(f"{owner}_std") is not None else []
    return max((width for width in widths if math.isfinite(width)), default=None)
