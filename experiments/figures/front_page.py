"""The curve of the first page: twelve pairs of prompts by score, with intervals.

Command: ``python experiments/figures/front_page.py`` (seconds) writes docs/pairs-curve.png, and a dark one beside it
from experiments/results/pairs/curves.csv, which ``experiments/pairs.py`` writes.

Expected: rounds of the metric are near TV .1 at 4% of the edges, where a random order keeps nothing of the prediction.
"""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jstrace.method.graph.sizes import percent

CURVES = Path(__file__).parents[1] / "results" / "pairs" / "curves.csv"
DOCS = Path(__file__).parents[2] / "docs"
PICTURES = {"default": "pairs-curve.png", "dark_background": "pairs-curve-dark.png"}
"""By the style that they are drawn in."""
GROUNDS = {"default": "#ffffff", "dark_background": "#161616"}
SCORES = {
    "random": ("random order", {"default": "#767676", "dark_background": "#a5a5a5"}, (0, (1, 1)), (0.06, 0.75)),
    "l1": ("l1, the paper's score", {"default": "#D55E00", "dark_background": "#f0a030"}, (0, (5, 2)), (0.021, 0.42)),
    "rounds of the metric": (
        "rounds of the\nlogit difference",
        {"default": "#0072B2", "dark_background": "#56b4e9"},
        "solid",
        (0.0016, 0.3),
    ),
}
"""Scores that are drawn, by their names in the table: label, colour by style, dashes, where the label stands."""


def main() -> None:
    """Draw the picture for pages on white and on black."""
    for background, name in PICTURES.items():
        with style.context(background):
            draw(DOCS / name, background)


def draw(path: Path, background: str) -> None:
    """Means and 95% intervals over pairs."""
    with CURVES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7.2, 3.4), layout="constrained", facecolor=GROUNDS[background])
    axes = figure.subplots(subplot_kw={"facecolor": GROUNDS[background]})
    for name, (label, colours, dashes, place) in SCORES.items():
        colour = colours[background]
        own = [row for row in rows if row["score"] == name]
        sizes, tv, low, high = ([float(row[key]) for row in own] for key in ("size", "tv", "tv_low", "tv_high"))
        axes.plot(sizes, tv, color=colour, linestyle=dashes, linewidth=1.8)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.text(*place, label, color=colour)
    axes.set(xscale="log", ylim=(0, 1), xlim=(sizes[0], sizes[-1]))
    axes.set_xlabel("edges kept (share of all)")
    axes.set_ylabel("TV from the model's prediction")
    axes.set_xticks([0.001, 0.01, 0.1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: percent(size)))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
