"""Curves of TV against the size (Figs. 3 and 10), and what density, the area under them, goes with (Fig. 8)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jstrace.method.conditions import Case
from jstrace.method.graph.sizes import percent
from jstrace.reports import chance, computation, control, steady
from jstrace.reports.drawing import COLORS, DASHES, TV_LABEL, each_ablation, grid_of, line, look_of, note, power
from jstrace.reports.exhibit import Picture, Rows, each_case, each_run
from jstrace.reports.results import Results
from jstrace.reports.statistics import Correlation, for_good, interval_words, quartile_columns, quartiles, spearman

CONSTRUCTION = (1e-4, 1e-2)
"""Sizes of the construction phase; refinement follows it."""
CORE = 1e-3
"""The size of the core that the paper describes, 0.1% of all edges."""
Lines = Sequence[tuple[Case, str]]
"""Cases with their labels."""


def _draw_tv(run: Results) -> Figure:
    def draw(axes: Any, ablate: str, replace: str) -> None:
        draw_lines(axes, run, [(run.plan.case(ablate, replace=replace), "")])
        if run.axis != "edges":
            return
        start, end = CONSTRUCTION
        axes.axvspan(start, end, color="0.5", alpha=0.12, linewidth=0)
        axes.plot([CORE] * 2, [-0.02, 1.0], color="0.4", linewidth=0.6, linestyle=":")
        for x, text in ((np.sqrt(start * end), "construction"), (np.sqrt(end), "refinement")):
            axes.text(x, 1.03, text, ha="center", va="bottom", fontsize=5.5, color="0.3", clip_on=True)
        axes.set_ylim(-0.02, 1.12)

    return each_ablation(
        run.ablations, draw, replacements=run.plan.replacements[:1], ylabel=TV_LABEL, xlabel=computation.label(run)
    )


def tv(run: Results) -> Picture:
    """The curve of the run's own traces."""
    caption = (
        "TV distance between the prediction of the trace and that of the full graph; line: median over inputs, band:"
        " quartiles."
    )
    if run.axis == "edges":
        caption += " Grey: the construction phase, 1e-4 to 1e-2; then refinement. Dotted: the core, 0.1% of the edges."
    return Picture("how fast the prediction comes back (Figs. 3 and 10)", caption, _draw_tv, chance=True, steady=True)


def _draw_nucleus(run: Results) -> Figure:
    levels = np.asarray([100 * level for level in run.manifest["nucleus_levels"]])

    def draw(axes: Any, ablate: str, replace: str) -> None:
        low, middle, high = _nearest(nucleus_sizes(run, run.plan.case(ablate, replace=replace)))
        words = "{:g}% of the mass: from size {:g} on, quartiles {:g} and {:g}"
        line(axes, levels, middle, words, around=(low, high), color=COLORS[0], marker="o", markersize=2.5)
        axes.set(yscale="log", xlim=(0, 101))
        axes.yaxis.set_major_formatter(lambda y, _: percent(y))
        axes.yaxis.set_minor_locator(NullLocator())

    return each_ablation(
        run.ablations, draw, replacements=run.plan.replacements[:1], ylabel="size from which on it is recovered",
        xlabel="nucleus (% of the probability mass)",
    )  # fmt: skip


NUCLEUS = Picture(
    "the size that each nucleus needs",
    "The least size from which on the nucleus (the shortest list of most probable tokens with so much mass) is the"
    " same ordered list as in the full graph; median and quartiles; 1 is the full graph.",
    _draw_nucleus,
)


def nucleus_sizes(run: Results, case: Case) -> np.ndarray:
    """The least size from which on each nucleus stays recovered, in order: float64 ``[N, Q]``; 1 is the full graph."""
    recovered = run.nucleus(case)
    recovered[:, -1] = True  # the full graph's own, whatever rounding says
    return run.sizes[for_good(recovered)]


def _nearest(needed: np.ndarray) -> np.ndarray:
    return np.percentile(needed, (25, 50, 75), axis=0, method="nearest")


def draw_lines(axes: Any, run: Results, lines: Lines) -> None:
    """Quartiles of TV of each case, the band of repetitions, and medians of random traces under the same conditions."""
    words = "size {:g}: TV {:.3f}, quartiles {:.3f} and {:.3f}"
    drawn = [computation.places(run, case) for case, _ in lines]
    for number, ((case, label), x) in enumerate(zip(lines, drawn, strict=True)):
        low, middle, high = quartiles(run.curve(case, "tv"))
        look = look_of(number, label)
        line(axes, x, middle, words, around=(low, high), at=run.sizes, **look)
        steady.draw(axes, run, case, x, look["color"])
    cases = [case for case, _ in lines]
    for number, condition in enumerate(dict.fromkeys(case.condition for case in cases)):
        for name, other in chance.under(run, condition, [case.source for case in cases]).items():
            if other not in cases:
                look = chance.LOOK | {"linestyle": DASHES[number % len(DASHES)], "who": f"{name}, "}
                middle = np.median(run.curve(other, "tv"), axis=0)
                line(axes, computation.places(run, other), middle, "size {:g}: TV {:.3f}", at=run.sizes, **look)
    computation.log_axis(axes, run, drawn, inverse=any(case.condition.inverse for case in cases))
    axes.set_ylim(-0.02, 1.02)


# --- tables ---------------------------------------------------------------------------------------------------------


@each_run
def curves(run: Results) -> Rows:
    """Of every condition and size the quartiles of TV, and means of what else is measured.

    ``ablatable_kept`` is the share of what the condition may ablate that is in the trace, by which models compare.
    """
    for case in run.cases:
        columns = {"condition": case.name, "size": run.sizes, "n": run.n}
        columns |= {"ablatable_kept": ablatable_kept(run, case)}
        columns |= quartile_columns("tv", quartiles(run.curve(case, "tv")))
        columns |= steady.deviation(run, case, "tv_median")
        columns |= {"recovered_median": np.median(run.curve(case, "recovered"), axis=0)}
        columns |= chance.gaps(run, case, "tv", lambda other: run.curve(other, "tv"), most=1)
        means = {name: run.curve(case, name).mean(axis=0) for name in ("tv", "kl", "agreement", "entropy")}
        yield columns | {f"{name}_mean": values for name, values in means.items()} | control.columns(run, case)


def ablatable_kept(run: Results, case: Case) -> np.ndarray | None:
    """Of the edges that a case may ablate the share that traces hold, meaned over inputs: float64 ``[Z + 1]``.

    Sizes are shares of all edges. Where residual and MLP edges alone are ablated, these are some in a hundred of them,
    the fewer the more heads and tokens there are, so that a small trace may hold most of what could be ablated. Inverse
    cases have none: they take traces away.
    """
    if case.condition.inverse:
        return None
    if case.condition.ablate == "residual+mlp":
        return run.node_shares[case.source.name]
    edges = run.curve(case, "edges")
    share: np.ndarray = np.mean(edges / edges[:, -1:], axis=0)
    return share


@each_case
def phases(run: Results, case: Case) -> Rows:
    """How much of TV falls before, in and after the construction phase, in all and per decade of the size."""
    logs = np.log10(run.sizes)
    medians = {"": np.median(run.curve(case, "tv"), axis=0)}
    medians |= {name: np.median(run.curve(other, "tv"), axis=0) for name, other in chance.cases(run, case).items()}
    bounds = np.maximum((logs[0], *np.log10(CONSTRUCTION), 0.0), logs[0])
    for name, (start, end) in zip(("before", "construction", "refinement"), itertools.pairwise(bounds), strict=True):
        if end > start:
            row = {"phase": name, "from_size": 10**start, "to_size": 10**end}
            for source, middle in medians.items():
                first, last = np.interp((start, end), logs, middle)
                columns = {"tv_from": first, "tv_to": last, "fall_per_decade": (first - last) / (end - start)}
                row |= {chance.named(source, column) if source else column: value for column, value in columns.items()}
            yield row


@each_case
def densities(run: Results, case: Case) -> Rows:
    """Quartiles of density."""
    row = {"n": run.n, **quartile_columns("density", quartiles(run.density(case)))}
    row |= steady.deviation(run, case, "density_median", lambda tv: np.trapezoid(tv, np.log10(run.sizes), axis=1))
    yield row | chance.gaps(run, case, "density", run.density)


@each_case
def nuclei(run: Results, case: Case) -> Rows:
    """Quartiles of the size that each nucleus level needs, and the share of inputs that need the full graph."""
    needed = nucleus_sizes(run, case)
    row = {"level": np.asarray(run.manifest["nucleus_levels"]), "n": run.n}
    yield row | quartile_columns("size", _nearest(needed)) | {"share_full_graph": np.mean(needed == 1.0, axis=0)}


# --- what density goes with -----------------------------------------------------------------------------------------

PREDICTORS = {"entropy": "entropy", "loss": "surprisal", "frequency": "top_count", "tokens": "n_tokens"}
"""What density is correlated with (Fig. 8), and its column: the entropy of the prediction, the surprisal of the true
next token, how often the predicted token occurs in the corpus; and the length, which might stand behind any of them."""
_LABELS = {"entropy": "entropy (nats)", "loss": "loss (nats)", "frequency": "count of top token\nin the corpus"}
_NOTED_DOTS = 200
"""Inputs up to which each dot has its values to point at."""


def _draw_correlation(run: Results) -> Figure:
    rows = len(run.ablations)
    figure, grid = grid_of(3, rows=rows, height=0.6 + 1.35 * rows, sharey="row", sharex="col")
    for panels, ablate in zip(grid, run.ablations, strict=True):
        case = run.plan.case(ablate)
        density = run.density(case)
        for axes, (name, label) in zip(panels, _LABELS.items(), strict=True):
            values = run.column(PREDICTORS[name])
            random = chance.rhos(run, case, run.density, values)
            _scatter(axes, spearman(density, values, run.clusters), random, values, density, log=name == "frequency")
            inputs = zip(run.valid["input"].to_pylist(), density, values, strict=True)
            if len(values) <= _NOTED_DOTS:
                words = [f"input {index}: density {own:.3f}, {name} {value:.4g}" for index, own, value in inputs]
                note(axes, values, density, words)
            if ablate == run.ablations[-1]:
                axes.set_xlabel(label)
        panels[0].set_ylabel(f"density\nablated: {ablate}")
    if run.plan.replacements[0] != "zero":
        figure.suptitle(f"replaced by: {run.plan.replacements[0]}", fontsize=7)
    return figure


def _scatter(
    axes: Any, corr: Correlation, random: dict[str, float], x: np.ndarray, density: np.ndarray, *, log: bool
) -> None:
    """Dots, and above them, where it covers none, rho: in grey where its interval holds that of random traces."""
    axes.plot(x, density, "o", markersize=1.6, alpha=0.45, markeredgewidth=0, color=COLORS[0], rasterized=True)
    if log:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, 1.0, 1e2, 1e4, 1e6]))
        axes.xaxis.set_major_formatter(lambda value, _: "0" if value < 0.5 else power(value))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.5, 2 * max(1.0, np.nanmax(x, initial=1.0)))
    rho = f"ρ = {corr.rho:.2f}{interval_words(corr.low, corr.high)}\n" if np.isfinite(corr.rho) else ""
    told = "".join(f"\n{name}: {value:.2f}" for name, value in random.items() if np.isfinite(value))
    grey = chance.correlated(corr, random).get(chance.HELD)
    axes.set_title(f"{rho}n = {corr.n}{told}", fontsize=5, color="0.55" if grey else "k")


CORRELATION = Picture(
    "density against entropy, loss and frequency (Fig. 8)",
    "A dot for each input. Entropy of the full graph's prediction, surprisal of the true next token, and how often"
    " the predicted token occurs in the corpus. Spearman's ρ with 95% interval, from ten inputs on;"
    " where the run has random traces, theirs follows, and ρ is in grey where its interval holds it.",
    _draw_correlation,
)


@each_case
def correlations(run: Results, case: Case) -> Rows:
    """Of density, as it is and relative, with every predictor."""
    measures: dict[str, Callable[[Case], np.ndarray]]
    measures = {"density": run.density, "relative density": functools.partial(relative_density, run)}
    for measure, of in measures.items():
        for name, column in PREDICTORS.items():
            yield {"measure": measure, "with": name} | chance.correlation(run, case, of, run.column(column))


def relative_density(run: Results, case: Case) -> np.ndarray:
    """Area under TV over log10 of the size, TV as a share of that of the smallest trace: float64 ``[N]``.

    Where the smallest traces keep nothing of a prediction, TV starts at its distance from what the model predicts of no
    edge at all, which depends on the prediction's entropy. This measure has that taken out.
    """
    tv = run.curve(case, "tv")
    start = np.where(tv[:, :1] > 0, tv[:, :1], np.nan)
    return np.trapezoid(tv / start, np.log10(run.sizes), axis=1)
