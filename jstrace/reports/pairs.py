"""Pairs of texts: what an alteration does to density and to curves, compared within each pair."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from jstrace.method.conditions import Case
from jstrace.reports import chance
from jstrace.reports.drawing import COLORS, DASHES, grid_of, legend_above, line, log_sizes, note, shortened
from jstrace.reports.exhibit import Picture, Rows, each_run
from jstrace.reports.results import Results
from jstrace.reports.statistics import FEW, cluster_means, compared_at, mean_of, means_of
from jstrace.show.text import printable


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Valid inputs of two variants, side by side: indices ``[N]`` of each pair's two."""

    variant: str
    against: str
    """The variant that comes first in the data."""
    ours: np.ndarray
    theirs: np.ndarray
    clusters: np.ndarray
    """Which pair each is of ``[N]``: along generated text a pair is compared at every step."""

    @property
    def n(self) -> int:
        """How many pairs there are."""
        return len(np.unique(self.clusters))


def pairs_of(run: Results) -> list[Pairs]:
    """Every variant against the first one, over the pairs of which both are valid; those of none are left out.

    Along generated text each step is compared with the same step.
    """
    if "pair" not in run.valid.column_names:
        return []
    columns = [run.valid[name].to_pylist() for name in ("pair", "variant")]
    steps = run.column("step").tolist() if run.generates else [0.0] * run.valid.num_rows
    rows = enumerate(zip(*columns, steps, strict=True))
    places = {((pair, step), variant): place for place, (pair, variant, step) in rows if pair is not None}
    variants = [name for name in dict.fromkeys(run.inputs["variant"].to_pylist()) if name is not None]
    pairs = []
    for variant in variants[1:]:
        both = [which for which, name in places if name == variant and (which, variants[0]) in places]
        ours, theirs = (np.asarray([places[which, name] for which in both], int) for name in (variant, variants[0]))
        pairs += [Pairs(variant, variants[0], ours, theirs, run.clusters[ours])] if both else []
    return pairs


@each_run
def table(run: Results) -> Rows:
    """Differences of density and of TV at some sizes, of every condition and variant, with intervals and tests."""
    for pairs in pairs_of(run):
        for case in run.with_density:
            for measure, values in _measures(run, case):
                row = {"condition": case.name, "variant": pairs.variant, "against": pairs.against, "measure": measure}
                compared = _compared(*_sides(pairs, values))
                yield row | compared | _random(run, case, pairs, measure, compared)


def _measures(run: Results, case: Case) -> Iterator[tuple[str, np.ndarray]]:
    yield "density", run.density(case)
    for k in compared_at(run.sizes):
        yield f"TV at {100 * run.sizes[k]:g}%", run.curve(case, "tv")[:, k]


def _sides(pairs: Pairs, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number of each valid input as one of each pair's two variants: ``[P]`` each."""
    ours, theirs = (cluster_means(values[at], pairs.clusters) for at in (pairs.ours, pairs.theirs))
    return ours, theirs


def _random(run: Results, case: Case, pairs: Pairs, measure: str, interval: dict[str, Any]) -> dict[str, Any]:
    """The mean difference that random traces have between the variants, and whether the interval holds it."""
    differences = {}
    for name, other in chance.cases(run, case).items():
        ours, theirs = _sides(pairs, dict(_measures(run, other))[measure])
        differences[name] = float(np.mean(ours - theirs))
    columns = {chance.named(name, "difference"): value for name, value in differences.items()}
    return columns | chance.held([(interval["low"], interval["high"], value) for value in differences.values()])


def _compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | int]:
    """Medians, the mean difference with its interval, and the two tests, as columns; of one number a pair ``[N]``."""
    gap = ours - theirs
    mean = mean_of(gap)
    told = {"n": len(gap), "median": float(np.median(ours)), "median_against": float(np.median(theirs))}
    told |= {"difference": mean.mean, "low": mean.low, "high": mean.high, "higher": int(np.sum(gap > 0))}
    return told | {"sign_p": sign_p(gap), "wilcoxon_p": wilcoxon_p(gap)}


def sign_p(gap: np.ndarray) -> float:
    """Two-sided p of the sign test; differences of zero are left out, and of no other it is NaN."""
    n = int(np.sum(gap != 0))
    return float(stats.binomtest(int(np.sum(gap > 0)), n).pvalue) if n else np.nan


def wilcoxon_p(gap: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; NaN where no difference is other than zero."""
    gap = gap[gap != 0]
    if not len(gap):
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that its approximation is one, of few pairs with ties
        return float(stats.wilcoxon(gap).pvalue)


def picture(run: Results) -> Picture:
    """What altering texts does."""
    pairs = pairs_of(run)
    told = "; ".join(f"{pair.variant}, {pair.n}" for pair in pairs)
    caption = (
        f"Texts altered on purpose against the {pairs[0].against} of their pair. Left: a dot for each pair, above"
        " the line where the altered text is denser. Right: mean difference of TV at each size, band: 95%"
        f" bootstrap interval, from {FEW} pairs on. Pairs of which both are valid: {told}. Tests are in"
        " the table, as many as it has lines."
    )
    return Picture("what altering a text does", caption, _draw)


def _draw(run: Results) -> Figure:
    name = shortened(printable(pairs_of(run)[0].against))
    made, grid = grid_of(2, rows=len(run.ablations), height=0.8 + 1.7 * len(run.ablations))
    for (left, right), ablate in zip(grid, run.ablations, strict=True):
        case = run.plan.case(ablate)
        for number, pairs in enumerate(pairs_of(run)):
            _drawn(left, right, run, case, pairs, number)
        ends = left.get_xlim(), left.get_ylim()
        span = min(low for low, _ in ends), max(high for _, high in ends)
        left.plot(span, span, color="0.6", linewidth=0.6)
        left.set(xlim=span, ylim=span, xlabel=f"density, {name}", ylabel="density, altered")
        right.axhline(0, color="0.5", linewidth=0.6)
        log_sizes(right, run.sizes)
        right.set(xlabel="size of the trace", ylabel=f"TV less that of {name}")
        for axes in (left, right):
            axes.set_title(f"ablated: {ablate}")
    legend_above(made, 3)
    return made


def _drawn(left: Any, right: Any, run: Results, case: Case, pairs: Pairs, number: int) -> None:
    color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
    density, gap = run.density(case), run.curve(case, "tv")[pairs.ours] - run.curve(case, "tv")[pairs.theirs]
    dots = {"markersize": 2, "alpha": 0.6, "markeredgewidth": 0, "color": color}
    x, y = density[pairs.theirs], density[pairs.ours]
    left.plot(x, y, "o", **dots)
    names = [None if name is None else printable(name) for name in run.valid["pair"].to_pylist()]
    against, variant, told = printable(pairs.against), printable(pairs.variant), zip(pairs.theirs, x, y, strict=True)
    note(left, x, y, [f"pair {names[at]}: {against} {a:.3f}, {variant} {b:.3f}" for at, a, b in told])
    mean, low, high = means_of(gap, pairs.clusters)
    look = {"linestyle": dash, "label": f"{shortened(variant)} (n = {pairs.n})", "who": f"{variant}, "}
    line(right, run.sizes, mean, "size {:g}: {:+.3f}", around=(low, high), color=color, **look)
