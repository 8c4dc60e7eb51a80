"""Curves of TV beside each other: baselines, scores, orders, replacements (Figs. 6 and 7)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from jstrace.method.conditions import Case
from jstrace.reports import computation
from jstrace.reports.curves import Lines, draw_lines
from jstrace.reports.drawing import TV_LABEL, each_ablation
from jstrace.reports.exhibit import Picture, ablated, alone, carried
from jstrace.reports.results import Results


def random(run: Results) -> Picture | None:
    """The baselines of random scores."""
    told = {
        "random": "residual and MLP edges first, through best-first extraction",
        "random-proportional": "as many edges of each kind as the traces hold, connected",
    }
    asked = [name for name in told if name in run.plan.baselines]
    if not asked:
        return None
    caption = f"Random scores: {'; '.join(f'{name}, {told[name]}' for name in asked)}."
    lines = [_own(run), *((run.plan.baseline(name), name) for name in asked)]
    return _compared(run, "against random traces (Fig. 6)", caption, lines, chance=False)


def necessity(run: Results) -> Picture | None:
    """What the graph predicts without the trace."""
    if "inverse" not in run.plan.baselines:
        return None
    removed = {"all": "the attention and MLP edges", "residual+mlp": "the MLP edges alone"}
    told = (
        f"Removed: {', beside it '.join(f'{removed[name]} of the trace ({name})' for name in run.ablations)};"
        f" all others are kept, residual edges always{alone(run.ablations)}.{carried(run.plan.replacements)}"
    )
    draw = functools.partial(
        _panels, lines=[(run.plan.baseline("inverse"), "")], removes=True,
        xlabel="size of the trace removed (share of all edges)",
    )  # fmt: skip
    caption = "TV of the graph without them against the size of the trace."
    if "random-inverse" in run.plan.baselines:
        caption += " Thin lines: as much is removed of random traces."
    return Picture("necessity (Fig. 7)", caption, draw, told, steady=True)


def pre_softmax(run: Results) -> Picture | None:
    """Masks before the softmax."""
    if "pre-softmax" not in run.plan.baselines:
        return None
    caption = "Attention masks that enter the softmax, against those that follow it; with residual+mlp there are none."
    lines = [_own(run), (run.plan.baseline("pre-softmax"), "before the softmax")]
    return _compared(run, "masks before the softmax", caption, lines)


def score(run: Results) -> Picture | None:
    """Edge scores."""
    if len(run.plan.scores) < 2:
        return None
    lines = _named(run, (run.plan.case(score=kind) for kind in run.plan.scores))
    return _compared(run, "edge scores compared", "The same extraction by other scores.", lines)


def order(run: Results) -> Picture | None:
    """Ways from scores to traces."""
    plan = run.plan
    if len(plan.orders) < 2:
        return None
    caption = "As many edges found from the output on, so that traces stay connected, and by score, wherever they are."
    cases = (plan.case("all", kind, order=order) for kind in plan.scores for order in plan.orders)
    return _compared(run, "best-first search against ranks alone", caption, _named(run, cases))


def replace(run: Results) -> Picture | None:
    """The first traces under each replacement; a panel for each ablation."""
    plan = run.plan
    if len(plan.replacements) < 2:
        return None
    lines = [(plan.case(replace=name), name) for name in plan.replacements]
    same = len({case.source for case, _ in lines}) == 1
    caption = (
        f"{'The same traces' if same else 'Traces scored under it'} ({plan.label(plan.case().source)}) under each"
        " replacement."
    )

    def draw(run: Results) -> Figure:
        def panel(axes: Any, ablate: str, _: str) -> None:
            draw_lines(axes, run, [(case.under(ablate), label) for case, label in lines])

        xlabel = computation.label(run)
        return each_ablation(run.ablations, panel, ylabel=TV_LABEL, xlabel=xlabel, height=2.35, legend=3)

    return Picture(
        "what ablated edges carry", caption, draw, ablated(run.ablations, plan.replacements), chance=True, steady=True
    )


def _own(run: Results) -> tuple[Case, str]:
    return run.plan.case(), f"s-Trace ({run.plan.label(run.plan.case().source)})"


def _named(run: Results, cases: Iterable[Case]) -> Lines:
    return [(case, run.plan.label(case.source)) for case in cases]


def _compared(run: Results, title: str, caption: str, lines: Lines, *, chance: bool = True) -> Picture:
    draw = functools.partial(_panels, lines=lines, height=2.35, legend=3)
    return Picture(title, caption, draw, ablated(*_panels_of(run, lines)), chance=chance, steady=True)


def _panels_of(run: Results, lines: Lines) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ablations and the replacements under which a run has all these cases."""
    pairs = [
        (ablate, replace)
        for ablate in run.ablations
        for replace in run.plan.replacements
        if all(run.plan.replaced(case.under(ablate), replace) in run.cases for case, _ in lines)
    ]
    ablations, replacements = (tuple(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    return ablations, replacements


def _panels(run: Results, lines: Lines, **options: Any) -> Figure:
    def draw(axes: Any, ablate: str, replace: str) -> None:
        draw_lines(axes, run, [(run.plan.replaced(case.under(ablate), replace), label) for case, label in lines])

    ablations, replacements = _panels_of(run, lines)
    options = {"xlabel": computation.label(run)} | options
    return each_ablation(ablations, draw, replacements=replacements, ylabel=TV_LABEL, **options)
