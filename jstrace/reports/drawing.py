"""What all figures share: a column wide, in colours that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

COLUMN = 3.4
"""Inches of a journal's column, in which every figure is readable."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, blue and vermilion first."""
DASHES = ("-", "--", "-.", ":")
_STYLE: dict[str, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "legend.fontsize": 6,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "svg.hashsalt": "jstrace",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}
SIZE_LABEL = "size of the trace (share of all edges)"
TV_LABEL = "TV distance from the full graph"


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for figures made and saved inside."""
    with matplotlib.rc_context(_STYLE):
        yield


def shortened(label: str) -> str:
    """A model's name, short enough for an axis."""
    return label if len(label) <= _LABEL else f"{label[: _LABEL // 2 - 1]}…{label[-_LABEL // 2 :]}"


_LABEL = 26


def grid_of(count: int, *, height: float = 2.1, rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of so many panels in a row, and its axes ``[rows, count]``."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, count, squeeze=False, **options))


def log_sizes(axes: Any, sizes: np.ndarray) -> None:
    """Let a panel's x axis be sizes, in powers of ten."""
    low = np.floor(np.log10(sizes[0]) + 1e-9)
    axes.set(xscale="log", xlim=(sizes[0] * 0.8, 1.25))
    powers = np.arange(low, 1)
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in powers]))
    axes.xaxis.set_major_formatter(lambda x, _: power(x))
    axes.xaxis.set_minor_locator(NullLocator())


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(x: float) -> str:
    """A power of ten in words."""
    exponent = round(np.log10(x))
    return "1" if exponent == 0 else "10" + str(exponent).translate(_RAISED)


_REMOVED = {"all": "removed: attention and MLP", "residual+mlp": "removed: MLP alone"}


ROW = 1.8
"""Inches that one more row of panels takes."""


def each_ablation(
    ablations: Sequence[str],
    draw: Callable[[Any, str, str], None],
    *,
    ylabel: str,
    replacements: Sequence[str] = ("zero",),
    xlabel: str = SIZE_LABEL,
    height: float = 2.1,
    removes: bool = False,
) -> Figure:
    """One panel for each ablation, side by side on one scale; ``removes`` says that they take the trace away.

    Each replacement has a row of them; titles name it unless there is zero alone.
    """
    rows = len(replacements)
    figure, grid = grid_of(len(ablations), rows=rows, height=height + ROW * (rows - 1), sharey=True)
    for line, replace in zip(grid, replacements, strict=True):
        for axes, ablate in zip(line, ablations, strict=True):
            draw(axes, ablate, replace)
            title = _REMOVED[ablate] if removes else f"ablated: {ablate}"
            axes.set_title(title if rows == 1 and replace == "zero" else f"{title}\nreplaced by: {replace}")
        line[0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=7)
    return figure


def legend_above(figure: Figure, columns: int) -> None:
    """One legend for the lines of all panels."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=min(len(shown), columns))


def band(
    axes: Any, x: np.ndarray, low: np.ndarray, middle: np.ndarray, high: np.ndarray, color: str, **line: Any
) -> None:
    """A line with what lies around it."""
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(x, middle, color=color, **line)
