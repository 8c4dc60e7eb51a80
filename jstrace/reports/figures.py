"""The paper's figures from runs, through matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jstrace.method.conditions import Case
from jstrace.reports import statistics
from jstrace.reports.drawing import (
    COLORS,
    DASHES,
    ROW,
    SIZE_LABEL,
    TV_LABEL,
    each_ablation,
    grid_of,
    legend_above,
    log_sizes,
    power,
)
from jstrace.reports.drawing import COLUMN as COLUMN
from jstrace.reports.drawing import shortened as shortened
from jstrace.reports.drawing import style as style
from jstrace.reports.inlined import note
from jstrace.reports.networks import Sample, networks
from jstrace.reports.results import Results


def _ablated(case: Case) -> str:
    """What panels say of a case."""
    ablate, replace = case.condition.ablate, case.condition.replace
    return f"ablated: {ablate}" + ("" if replace == "zero" else f"\nreplaced by: {replace}")


def _band(axes: Any, sizes: np.ndarray, values: np.ndarray, color: str, label: str | None, dash: str = "-") -> None:
    low, middle, high = statistics.quartiles(values)
    axes.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(sizes, middle, dash, color=color, label=label)
    name = f"{label}, " if label else ""
    rows = zip(sizes, middle, low, high, strict=True)
    words = (f"{name}size {size:g}: TV {m:.3f}, quartiles {a:.3f} and {b:.3f}" for size, m, a, b in rows)
    note(axes, sizes, middle, words)


def _phases(axes: Any) -> None:
    start, end = statistics.CONSTRUCTION
    axes.axvspan(start, end, color="0.5", alpha=0.12, linewidth=0)
    axes.plot([statistics.CORE] * 2, [-0.02, 1.0], color="0.4", linewidth=0.6, linestyle=":")
    for x, text in ((np.sqrt(start * end), "construction"), (np.sqrt(end), "refinement")):
        axes.text(x, 1.03, text, ha="center", va="bottom", fontsize=5.5, color="0.3", clip_on=True)


def curve(run: Results) -> Figure:
    """TV against size, median and quartiles, the two phases marked (Fig. 3)."""

    def draw(axes: Any, ablate: str, replace: str) -> None:
        _band(axes, run.sizes, run.curve(run.plan.case(ablate, replace=replace), "tv"), COLORS[0], None)
        log_sizes(axes, run.sizes)
        _phases(axes)
        axes.set_ylim(-0.02, 1.12)

    return each_ablation(run.ablations, draw, replacements=run.plan.replacements[:1], ylabel=TV_LABEL)


def compared(run: Results, kinds: Sequence[tuple[Case, str]]) -> Figure:
    """TV against size of several cases with their labels; a panel for each ablation and each replacement."""
    figure = _compared(run, kinds, height=2.35)
    legend_above(figure, 3)
    return figure


def replacements(run: Results) -> Figure:
    """TV against size of the first traces under each replacement; a panel for each ablation."""
    lines = [(run.plan.case(replace=name), name) for name in run.plan.replacements]

    def draw(axes: Any, ablate: str, _: str) -> None:
        _draw_lines(axes, run, [(case.under(ablate), label) for case, label in lines])

    figure = each_ablation(run.ablations, draw, ylabel=TV_LABEL, height=2.35)
    legend_above(figure, 3)
    return figure


def necessity(run: Results) -> Figure:
    """TV without the attention and MLP edges of the trace (Fig. 7)."""
    label = "size of the trace removed (share of all edges)"
    return _compared(run, [(run.plan.baseline("inverse"), "")], xlabel=label, removes=True)


def _compared(run: Results, kinds: Sequence[tuple[Case, str]], **options: Any) -> Figure:
    def draw(axes: Any, ablate: str, replace: str) -> None:
        _draw_lines(axes, run, [(run.plan.replaced(case.under(ablate), replace), label) for case, label in kinds])

    ablations, replacements = panels_of(run, kinds)
    return each_ablation(ablations, draw, replacements=replacements, ylabel=TV_LABEL, **options)


def _draw_lines(axes: Any, run: Results, lines: Sequence[tuple[Case, str]]) -> None:
    for number, (case, label) in enumerate(lines):
        color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
        _band(axes, run.sizes, run.curve(case, "tv"), color, label, dash)
    log_sizes(axes, run.sizes)
    axes.set_ylim(-0.02, 1.02)


def ablations_of(run: Results, kinds: Sequence[tuple[Case, str]]) -> tuple[str, ...]:
    """The ablations under which a run has all these cases."""
    return panels_of(run, kinds)[0]


def panels_of(run: Results, kinds: Sequence[tuple[Case, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ablations and the replacements under which a run has all these cases."""
    found = [
        (ablate, replace)
        for ablate in run.ablations
        for replace in run.plan.replacements
        if all(run.plan.replaced(case.under(ablate), replace) in run.cases for case, _ in kinds)
    ]
    ablations, replacements = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True))
    return ablations, replacements


def selectivity(run: Results) -> Figure:
    """TV from the own and from foreign predictions and their difference; a panel for each curve that has both."""
    count = len(run.controlled)
    columns = min(count, 2)
    rows = -(-count // columns)
    figure, grid = grid_of(columns, rows=rows, height=0.7 + ROW * rows, sharey=True)
    for axes, case in zip(grid.ravel(), run.controlled, strict=False):
        found = statistics.selectivity(run, case)
        axes.plot(run.sizes, found.own, DASHES[1], color=COLORS[0], label="TV, own prediction")
        axes.plot(run.sizes, found.foreign, DASHES[3], color=COLORS[1], label="TV, foreign predictions")
        axes.fill_between(run.sizes, found.low, found.high, color=COLORS[2], alpha=0.2, linewidth=0)
        axes.plot(run.sizes, found.selectivity, color=COLORS[2], label="selectivity")
        axes.plot(run.sizes[found.peak], found.selectivity[found.peak], "o", color=COLORS[2], markersize=3)
        log_sizes(axes, run.sizes)
        axes.set_title(f"{case.source.name}\n{_ablated(case)}")
    grid[0, 0].set_ylim(top=1.02)
    for axes in grid.ravel()[count:]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("TV, and its difference")
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    legend_above(figure, 2)
    return figure


def nucleus(run: Results) -> Figure:
    """The size that each nucleus level needs, median and quartiles."""
    levels = [100 * level for level in run.manifest["nucleus_levels"]]

    def draw(axes: Any, ablate: str, replace: str) -> None:
        needed = statistics.nucleus_sizes(run, run.plan.case(ablate, replace=replace))
        low, middle, high = np.percentile(needed, (25, 50, 75), axis=0, method="nearest")
        axes.fill_between(levels, low, high, color=COLORS[0], alpha=0.2, linewidth=0)
        axes.plot(levels, middle, marker="o", markersize=2.5, color=COLORS[0])
        rows = zip(levels, middle, low, high, strict=True)
        words = (f"{n:g}% of the mass: from size {m:g} on, quartiles {a:g} and {b:g}" for n, m, a, b in rows)
        note(axes, levels, middle, words)
        axes.set(yscale="log", xlim=(0, 101))
        axes.yaxis.set_major_formatter(lambda y, _: power(y))
        axes.yaxis.set_minor_locator(NullLocator())

    return each_ablation(
        run.ablations, draw, replacements=run.plan.replacements[:1], ylabel="size from which on it is recovered",
        xlabel="nucleus (% of the probability mass)",
    )  # fmt: skip


def core(run: Results) -> Figure:
    """Cumulative share of edges held by the top fraction of components, a line for each of some sizes (Fig. 4)."""
    figure, grid = grid_of(1, height=2.6)
    axes = grid[0, 0]
    fractions, held = statistics.concentration(run, run.source)
    wanted = [k for k, size in enumerate(run.sizes) if np.isclose(np.log10(size) % 1, 0) and np.isfinite(held[k]).all()]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(wanted)))
    for number, k in enumerate(wanted):
        axes.plot(100 * fractions, 100 * held[k], DASHES[number % 4], color=colors[number], label=power(run.sizes[k]))
        shares = zip(100 * fractions, 100 * held[k], strict=True)
        words = [f"size {run.sizes[k]:g}: {share:.1f}% of the components hold {edges:.1f}%" for share, edges in shares]
        note(axes, 100 * fractions, 100 * held[k], words)
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=0.6)
    axes.set(
        xlabel="components, those with most edges first (%)", ylabel="edges held (%)", xlim=(0, 100), ylim=(0, 101)
    )
    axes.legend(title="size", title_fontsize=6, loc="lower right")
    return figure


def makeup(run: Results) -> Figure:
    """Type and layer make-up of traces against size (Fig. 5)."""
    made = statistics.makeup(run, run.source)
    figure, grid = grid_of(2, height=2.45, sharey=True)
    depth = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, 4))
    left, right = grid[0]
    names = ("residual", "attention", "MLP")
    stacks = (
        (left, made.types, names, (COLORS[0], COLORS[1], COLORS[2]), "edge type"),
        (right, made.quarters, ("first", "second", "third", "last"), depth, "quarter of the layers"),
    )
    for axes, shares, labels, colors, title in stacks:
        known = np.isfinite(shares).all(axis=-1)
        axes.stackplot(run.sizes[known], 100 * shares[known].T, labels=labels, colors=colors, linewidth=0, alpha=0.9)
        for name, tops, share in zip(labels, np.cumsum(shares[known], axis=1).T, shares[known].T, strict=True):
            sizes = run.sizes[known]
            words = [f"size {size:g}: {name} {100 * one:.1f}%" for size, one in zip(sizes, share, strict=True)]
            note(axes, sizes, 100 * tops, words)
        log_sizes(axes, run.sizes)
        axes.set(ylim=(0, 100))
        axes.set_axisbelow(False)
        axes.legend(
            title=title, title_fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2,
            columnspacing=0.8, handlelength=1.0,
        )  # fmt: skip
    left.set_ylabel("edges of the trace (%)")
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    return figure


def hubs(run: Results, chosen: Sample) -> Figure:
    """Inequality of nodes, modularity, and what communities span, against size; median and quartiles."""
    found = networks(run, chosen)
    figure, grid = grid_of(3, height=2.1, sharey=True)
    panels = (
        ("hubs: Gini over nodes", {"degree": found.degree, "betweenness": found.betweenness}),
        ("modularity", {"communities": found.modularity}),
        ("a community has", {"of the levels": found.levels, "of the tokens": found.tokens}),
    )
    for axes, (title, lines) in zip(grid[0], panels, strict=True):
        for number, (label, values) in enumerate(lines.items()):
            known = np.isfinite(values).any(axis=0)
            low, middle, high = np.nanpercentile(values[:, known], (25, 50, 75), axis=0)
            color, dash = COLORS[number], DASHES[number]
            axes.fill_between(found.sizes[known], low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(found.sizes[known], middle, dash, color=color, label=label, marker="o", markersize=2)
        log_sizes(axes, found.sizes)
        axes.set(ylim=(-0.02, 1.02), title=title)
        if len(lines) > 1:
            axes.legend(loc="upper left", fontsize=5)
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    return figure


_NOTED_DOTS = 200
"""Inputs up to which each dot has its values to point at."""
_PREDICTOR_LABELS = {
    "entropy": "entropy (nats)",
    "loss": "loss (nats)",
    "frequency": "count of top token\nin the corpus",
}


def correlation(run: Results) -> Figure:
    """Density against entropy, loss and frequency (Fig. 8), a row of panels for each ablation."""
    figure, grid = grid_of(
        3, rows=len(run.ablations), height=0.6 + 1.35 * len(run.ablations), sharey="row", sharex="col"
    )
    for line, ablate in zip(grid, run.ablations, strict=True):
        density = run.density(run.plan.case(ablate))
        for axes, (name, label) in zip(line, _PREDICTOR_LABELS.items(), strict=True):
            values = run.column(statistics.PREDICTORS[name])
            _scatter(axes, values, density, log=name == "frequency")
            inputs = zip(run.valid["input"].to_pylist(), density, values, strict=True)
            words = [f"input {index}: density {own:.3f}, {name} {value:.4g}" for index, own, value in inputs]
            if len(words) <= _NOTED_DOTS:
                note(axes, values, density, words)
            if ablate == run.ablations[-1]:
                axes.set_xlabel(label)
        line[0].set_ylabel(f"density\nablated: {ablate}")
    if run.plan.replacements[0] != "zero":
        figure.suptitle(f"replaced by: {run.plan.replacements[0]}", fontsize=7)
    return figure


def _scatter(axes: Any, x: np.ndarray, density: np.ndarray, *, log: bool) -> None:
    found = statistics.spearman(density, x)
    axes.plot(x, density, "o", markersize=1.6, alpha=0.45, markeredgewidth=0, color=COLORS[0], rasterized=True)
    if log:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, 1.0, 1e2, 1e4, 1e6]))
        axes.xaxis.set_major_formatter(lambda value, _: "0" if value < 0.5 else power(value))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.5, 2 * max(1.0, np.nanmax(x, initial=1.0)))
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
    rho = f"ρ = {found.rho:.2f}{interval}\n" if np.isfinite(found.rho) else ""
    axes.set_title(f"{rho}n = {found.n}", fontsize=5)  # above the panel, where it covers no point


def all_models(runs: Sequence[Results], ablations: Sequence[str], replacements: Sequence[str] = ("zero",)) -> Figure:
    """Median TV against size of every model (Figs. 3 and 10)."""

    def draw(axes: Any, ablate: str, replace: str) -> None:
        for number, run in enumerate(runs):
            case = run.plan.case(ablate, replace=replace)
            if case in run.cases:
                middle = np.median(run.curve(case, "tv"), axis=0)
                dash = DASHES[number // len(COLORS) % len(DASHES)]
                axes.plot(run.sizes, middle, dash, color=COLORS[number % len(COLORS)], label=shortened(run.label))
                pairs = zip(run.sizes, middle, strict=True)
                note(axes, run.sizes, middle, [f"{run.label}, size {size:g}: median TV {tv:.3f}" for size, tv in pairs])
        log_sizes(axes, runs[0].sizes)
        axes.set_ylim(-0.02, 1.02)

    figure = each_ablation(ablations, draw, replacements=replacements, ylabel=TV_LABEL, height=2.5)
    legend_above(figure, 2)
    return figure


def between_models(runs: Sequence[Results], cases: Sequence[Case]) -> Figure:
    """Spearman's correlation of density between models on shared inputs (Fig. 9), a panel for each case."""
    count, panels = len(runs), len(cases)
    figure, grid = grid_of(1, rows=panels, height=1.7 + (0.2 + 0.25 * count) * panels)
    for number, (axes, case) in enumerate(zip(grid.ravel(), cases, strict=True)):
        rho = np.asarray([[cell.rho for cell in row] for row in statistics.between_models(runs, case)])
        image = axes.imshow(rho, vmin=-1, vmax=1, cmap="PuOr", aspect="auto")
        for (i, j), value in np.ndenumerate(rho):
            text = "–" if np.isnan(value) else f"{value:.2f}".replace("0.", ".")
            axes.text(j, i, text, ha="center", va="center", fontsize=5.5, color="w" if abs(value) > 0.6 else "k")
        names = [shortened(run.label) for run in runs]
        axes.set_xticks(range(count), names if number == panels - 1 else [""] * count, rotation=60, ha="right")
        axes.set_yticks(range(count), names)
        axes.grid(visible=False)
        axes.set_title(_ablated(case))
    label = "Spearman's ρ of density"
    figure.colorbar(image, ax=grid.ravel().tolist(), label=label, shrink=0.8, location="top", aspect=30)
    return figure
