"""Figures as parts of a page: SVG that its content security policy lets be, with values to point at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib.figure import Figure

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
