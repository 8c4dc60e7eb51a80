"""The paper's figures from runs, through matplotlib: a column wide, in colours that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jstrace.method.conditions import Case
from jstrace.reports import statistics
from jstrace.reports.inlined import note
from jstrace.reports.results import Results

COLUMN = 3.4
"""Inches of a journal's column, in which every figure is readable."""
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, blue and vermilion first."""
_DASHES = ("-", "--", "-.", ":")
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
_TV = "TV distance from the full graph"


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for figures made and saved inside."""
    with matplotlib.rc_context(_STYLE):
        yield


def shortened(label: str) -> str:
    """A model's name, short enough for an axis."""
    return label if len(label) <= _LABEL else f"{label[: _LABEL // 2 - 1]}…{label[-_LABEL // 2 :]}"


_LABEL = 26


def _panels(count: int, *, height: float = 2.1, rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, count, squeeze=False, **options))


def _log_sizes(axes: Any, sizes: np.ndarray) -> None:
    low = np.floor(np.log10(sizes[0]) + 1e-9)
    axes.set(xscale="log", xlim=(sizes[0] * 0.8, 1.25))
    powers = np.arange(low, 1)
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in powers]))
    axes.xaxis.set_major_formatter(lambda x, _: _power(x))
    axes.xaxis.set_minor_locator(NullLocator())


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(x: float) -> str:
    exponent = round(np.log10(x))
    return "1" if exponent == 0 else "10" + str(exponent).translate(_RAISED)


_REMOVED = {"all": "removed: attention and MLP", "residual+mlp": "removed: MLP alone"}


_ROW = 1.8
"""Inches that one more row of panels takes."""


def _each_ablation(
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
    figure, grid = _panels(len(ablations), rows=rows, height=height + _ROW * (rows - 1), sharey=True)
    for line, replace in zip(grid, replacements, strict=True):
        for axes, ablate in zip(line, ablations, strict=True):
            draw(axes, ablate, replace)
            title = _REMOVED[ablate] if removes else f"ablated: {ablate}"
            axes.set_title(title if rows == 1 and replace == "zero" else f"{title}\nreplaced by: {replace}")
        line[0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=7)
    return figure


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
        _band(axes, run.sizes, run.curve(run.plan.case(ablate).replaced(replace), "tv"), _COLORS[0], None)
        _log_sizes(axes, run.sizes)
        _phases(axes)
        axes.set_ylim(-0.02, 1.12)

    return _each_ablation(run.ablations, draw, replacements=run.plan.replacements[:1], ylabel=_TV)


def compared(run: Results, kinds: Sequence[tuple[Case, str]]) -> Figure:
    """TV against size of several cases with their labels; a panel for each ablation and each replacement."""
    figure = _compared(run, kinds, height=2.35)
    _legend_above(figure, 3)
    return figure


def replacements(run: Results) -> Figure:
    """TV against size of the first traces under each replacement; a panel for each ablation."""
    own = run.plan.case()
    lines = [(own.replaced(name), name) for name in run.plan.replacements]

    def draw(axes: Any, ablate: str, _: str) -> None:
        _draw_lines(axes, run, [(case.under(ablate), label) for case, label in lines])

    figure = _each_ablation(run.ablations, draw, ylabel=_TV, height=2.35)
    _legend_above(figure, 3)
    return figure


def necessity(run: Results) -> Figure:
    """TV without the attention and MLP edges of the trace (Fig. 7)."""
    label = "size of the trace removed (share of all edges)"
    return _compared(run, [(run.plan.baseline("inverse"), "")], xlabel=label, removes=True)


def _compared(run: Results, kinds: Sequence[tuple[Case, str]], **options: Any) -> Figure:
    def draw(axes: Any, ablate: str, replace: str) -> None:
        _draw_lines(axes, run, [(case.under(ablate).replaced(replace), label) for case, label in kinds])

    ablations, replacements = panels_of(run, kinds)
    return _each_ablation(ablations, draw, replacements=replacements, ylabel=_TV, **options)


def _draw_lines(axes: Any, run: Results, lines: Sequence[tuple[Case, str]]) -> None:
    for number, (case, label) in enumerate(lines):
        color, dash = _COLORS[number % len(_COLORS)], _DASHES[number % len(_DASHES)]
        _band(axes, run.sizes, run.curve(case, "tv"), color, label, dash)
    _log_sizes(axes, run.sizes)
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
        if all(case.under(ablate).replaced(replace) in run.cases for case, _ in kinds)
    ]
    ablations, replacements = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True))
    return ablations, replacements


def _legend_above(figure: Figure, columns: int) -> None:
    """One legend for the lines of all panels."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=min(len(shown), columns))


def nucleus(run: Results) -> Figure:
    """The size that each nucleus level needs, median and quartiles."""
    levels = [100 * level for level in run.manifest["nucleus_levels"]]

    def draw(axes: Any, ablate: str, replace: str) -> None:
        needed = statistics.nucleus_sizes(run, run.plan.case(ablate).replaced(replace))
        low, middle, high = np.percentile(needed, (25, 50, 75), axis=0, method="nearest")
        axes.fill_between(levels, low, high, color=_COLORS[0], alpha=0.2, linewidth=0)
        axes.plot(levels, middle, marker="o", markersize=2.5, color=_COLORS[0])
        rows = zip(levels, middle, low, high, strict=True)
        words = (f"{n:g}% of the mass: from size {m:g} on, quartiles {a:g} and {b:g}" for n, m, a, b in rows)
        note(axes, levels, middle, words)
        axes.set(yscale="log", xlim=(0, 101))
        axes.yaxis.set_major_formatter(lambda y, _: _power(y))
        axes.yaxis.set_minor_locator(NullLocator())

    return _each_ablation(
        run.ablations, draw, replacements=run.plan.replacements[:1], ylabel="size from which on it is recovered",
        xlabel="nucleus (% of the probability mass)",
    )  # fmt: skip


def core(run: Results) -> Figure:
    """Cumulative share of edges held by the top fraction of components, a line for each of some sizes (Fig. 4)."""
    figure, grid = _panels(1, height=2.6)
    axes = grid[0, 0]
    fractions, held = statistics.concentration(run, run.source)
    wanted = [k for k, size in enumerate(run.sizes) if np.isclose(np.log10(size) % 1, 0) and np.isfinite(held[k]).all()]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(wanted)))
    for number, k in enumerate(wanted):
        axes.plot(100 * fractions, 100 * held[k], _DASHES[number % 4], color=colors[number], label=_power(run.sizes[k]))
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
    figure, grid = _panels(2, height=2.45, sharey=True)
    depth = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, 4))
    left, right = grid[0]
    names = ("residual", "attention", "MLP")
    stacks = (
        (left, made.types, names, (_COLORS[0], _COLORS[1], _COLORS[2]), "edge type"),
        (right, made.quarters, ("first", "second", "third", "last"), depth, "quarter of the layers"),
    )
    for axes, shares, labels, colors, title in stacks:
        known = np.isfinite(shares).all(axis=-1)
        axes.stackplot(run.sizes[known], 100 * shares[known].T, labels=labels, colors=colors, linewidth=0, alpha=0.9)
        for name, tops, share in zip(labels, np.cumsum(shares[known], axis=1).T, shares[known].T, strict=True):
            sizes = run.sizes[known]
            words = [f"size {size:g}: {name} {100 * one:.1f}%" for size, one in zip(sizes, share, strict=True)]
            note(axes, sizes, 100 * tops, words)
        _log_sizes(axes, run.sizes)
        axes.set(ylim=(0, 100))
        axes.set_axisbelow(False)
        axes.legend(
            title=title, title_fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2,
            columnspacing=0.8, handlelength=1.0,
        )  # fmt: skip
    left.set_ylabel("edges of the trace (%)")
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
    figure, grid = _panels(
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
    axes.plot(x, density, "o", markersize=1.6, alpha=0.45, markeredgewidth=0, color=_COLORS[0], rasterized=True)
    if log:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, 1.0, 1e2, 1e4, 1e6]))
        axes.xaxis.set_major_formatter(lambda value, _: "0" if value < 0.5 else _power(value))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.5, 2 * max(1.0, np.nanmax(x, initial=1.0)))
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
    rho = f"ρ = {found.rho:.2f}{interval}\n" if np.isfinite(found.rho) else ""
    axes.set_title(f"{rho}n = {found.n}", fontsize=5)  # above the panel, where it covers no point


def all_models(runs: Sequence[Results], ablations: Sequence[str], replacements: Sequence[str] = ("zero",)) -> Figure:
    """Median TV against size of every model (Figs. 3 and 10)."""

    def draw(axes: Any, ablate: str, replace: str) -> None:
        for number, run in enumerate(runs):
            case = run.plan.case(ablate).replaced(replace)
            if case in run.cases:
                middle = np.median(run.curve(case, "tv"), axis=0)
                dash = _DASHES[number // len(_COLORS) % len(_DASHES)]
                axes.plot(run.sizes, middle, dash, color=_COLORS[number % len(_COLORS)], label=shortened(run.label))
                pairs = zip(run.sizes, middle, strict=True)
                note(axes, run.sizes, middle, [f"{run.label}, size {size:g}: median TV {tv:.3f}" for size, tv in pairs])
        _log_sizes(axes, runs[0].sizes)
        axes.set_ylim(-0.02, 1.02)

    figure = _each_ablation(ablations, draw, replacements=replacements, ylabel=_TV, height=2.5)
    _legend_above(figure, 2)
    return figure


def between_models(runs: Sequence[Results], cases: Sequence[Case]) -> Figure:
    """Spearman's correlation of density between models on shared inputs (Fig. 9), a panel for each case."""
    count, panels = len(runs), len(cases)
    figure, grid = _panels(1, rows=panels, height=1.7 + (0.2 + 0.25 * count) * panels)
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
