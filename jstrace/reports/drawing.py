"""What all figures share: a column wide, in colours that the colour-blind can tell apart, with values to point at.

In a page they are SVG that its content security policy lets be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jstrace.method.conditions import Case
from jstrace.method.graph.sizes import percent
from jstrace.show.palette import COLORS

COLUMN = 3.4
"""Inches of a journal's column, in which every figure is readable."""
DASHES = ("-", "--", "-.", ":")


def look_of(number: int, label: str = "") -> dict[str, Any]:
    """How the line of that number differs from others of its panel, and what legends and its points call it."""
    called = {"label": label, "who": f"{label}, "} if label else {}
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)], **called}


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


def style() -> AbstractContextManager[None]:
    """matplotlib's settings for figures made and saved inside."""
    return matplotlib.rc_context(_STYLE)


def shortened(label: str, most: int = 26) -> str:
    """A model's name, short enough for an axis."""
    return label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-most // 2 :]}"


def grid_of(count: int, *, height: float = 2.1, rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of so many panels in a row, and its axes ``[rows, count]``."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, count, squeeze=False, **options))


def log_sizes(axes: Any, sizes: np.ndarray) -> None:
    """Let a panel's x axis be sizes in percent, of which every second power of ten is named."""
    low = np.floor(np.log10(sizes[0]) + 1e-9)
    axes.set(xscale="log", xlim=(sizes[0] * 0.8, 1.25))
    axes.xaxis.set_major_locator(FixedLocator((10.0 ** np.arange(low, 1)).tolist()))
    axes.xaxis.set_major_formatter(lambda x, _: percent(x) if round(np.log10(x)) % 2 == 0 else "")
    axes.xaxis.set_minor_locator(NullLocator())


def power(x: float) -> str:
    """A power of ten in words."""
    exponent = round(np.log10(x))
    return "1" if exponent == 0 else "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


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
    legend: int = 0,
) -> Figure:
    """One panel for each ablation, side by side on one scale; ``removes`` says that they take the trace away.

    Each replacement has a row of them; titles name it unless there is zero alone. ``legend`` is the number of columns
    of the one above all panels.
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
    if legend:
        legend_above(figure, legend)
    return figure


def legend_above(figure: Figure, columns: int) -> None:
    """One legend for the lines of all panels."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=min(len(shown), columns))


def line(
    axes: Any,
    x: np.ndarray,
    y: np.ndarray,
    words: str = "",
    *,
    color: Any,
    around: Sequence[np.ndarray] = (),
    at: Sequence[Any] | np.ndarray | None = None,
    who: str = "",
    **look: Any,
) -> None:
    """A line, what lies around it, and what its points say.

    ``around`` is what is below and above, and ``words`` a format of a place, its height and those two, after ``who``;
    ``at`` is what words call the places, if not by their numbers.
    """
    if around:
        axes.fill_between(x, *around, color=color, alpha=0.2, linewidth=0)
    axes.plot(x, y, color=color, **look)
    if words:
        rows = zip(x if at is None else at, y, *around, strict=True)
        note(axes, x, y, [who + words.format(*row) for row in rows])


def panel_title(case: Case) -> str:
    """What a panel says of a case."""
    ablate, replace = case.condition.ablate, case.condition.replace
    return f"ablated: {ablate}" + ("" if replace == "zero" else f"\nreplaced by: {replace}")


# --- values to point at, and figures inside a page ------------------------------------------------------------------

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_MOST = 1500
"""Values that a figure has at most: those of more lines are thinned."""
_RADIUS = 3.0


def note(axes: Any, x: Any, y: Any, words: Iterable[str]) -> None:
    """Keep what is read where a figure is pointed at: a text for each point ``[N]``, in the data's coordinates."""
    figure = axes.get_figure()
    figure.noted = [*getattr(figure, "noted", ()), (axes, np.column_stack([x, y]), list(words))]


def inlined(figure: Figure, svg: bytes, name: str, title: str) -> str:
    """The SVG as an element of a page.

    Styles become attributes, as a strict policy lets no ``style`` act; ids get the figure's name, as those of all
    figures are alike; and a circle that is not seen stands for each value, with its words as its title.

    Args:
      figure: as it was saved last.
      svg: matplotlib's file of it.
      name: of the figure, unique on the page.
      title: what a screen reader says.
    """
    for prefix, space in (("", _SVG), ("xlink", _LINK)):
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(svg)
    _without_styles(root)
    _rename(root, f"{name}-")
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    looks = {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # what matplotlib's own style says of all
    root.attrib.update({"class": "drawn", "role": "img", "aria-label": title, **looks})
    values = ElementTree.SubElement(root, f"{{{_SVG}}}g", {"class": "values"})
    for x, y, words in _values(figure):
        place = {"cx": f"{x * width:.1f}", "cy": f"{(1 - y) * height:.1f}", "r": f"{_RADIUS:g}"}
        circle = ElementTree.SubElement(values, f"{{{_SVG}}}circle", place)
        ElementTree.SubElement(circle, f"{{{_SVG}}}title").text = words
    return ElementTree.tostring(root, encoding="unicode")


def _without_styles(root: ElementTree.Element) -> None:
    """Turn styles into attributes, and drop the style sheet and what is said of the file."""
    for element in root.iter():
        for child in [child for child in element if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
            element.remove(child)
        for rule in filter(str.strip, element.attrib.pop("style", "").split(";")):
            key, _, value = rule.partition(":")
            element.set(key.strip(), value.strip())


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Put the prefix before ids, and before those that are named."""
    known: set[str] = set()
    for element in root.iter():
        for key, value in [*element.attrib.items()]:
            if key == "id" and value in known:  # matplotlib defines some marks again, with the same content
                del element.attrib[key]
            elif key == "id":
                known.add(value)
                element.set(key, prefix + value)
            elif key in ("href", f"{{{_LINK}}}href") and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}"))


def _values(figure: Figure) -> Iterator[tuple[float, float, str]]:
    """Where values stand, as shares of width and height from below, and their words; those that are drawn alone."""
    noted = getattr(figure, "noted", ())
    step = max(1, -(-sum(len(words) for *_, words in noted) // _MOST))
    for axes, points, words in noted:
        low, high = figure.transFigure.inverted().transform(axes.bbox.get_points())
        places = figure.transFigure.inverted().transform(axes.transData.transform(points))
        for place, text in [*zip(places, words, strict=True)][::step]:
            if (np.isfinite(place) & (place >= low - 0.01) & (place <= high + 0.01)).all():
                yield float(place[0]), float(place[1]), text
