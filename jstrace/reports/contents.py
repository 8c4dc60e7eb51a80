"""What a report shows of its runs: every figure and table with its words (section 7 of the method)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jstrace.method.conditions import ABLATIONS, REPLACEMENTS, Case, Plan
from jstrace.reports import figures, generations, geometries, networks, pairs, revisions, statistics
from jstrace.reports import tables as computed
from jstrace.reports.results import Results

NOT_ABLATED = "Nothing is ablated here: it shows the traces themselves."


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    kind: str
    number: int | None
    """Of the model, from 1, where a report has figures of several."""
    title: str
    caption: str
    ablated: str
    """Which edges were ablated, as the page says it."""
    draw: Callable[[], Figure]

    @property
    def name(self) -> str:
        """Of its files."""
        return self.kind if self.number is None else f"{self.kind}-{self.number}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its words."""

    name: str
    title: str
    compute: Callable[[], pa.Table]


def pictures(runs: Sequence[Results]) -> Iterator[Picture]:
    """Every figure that the runs have the numbers for."""
    for number, run in enumerate(runs, 1):
        yield from _of_one(run, None if len(runs) == 1 else number)
    if len(runs) > 1:
        yield from _of_all(runs)


Drawing = Callable[[Results], Figure]


def _of_one(run: Results, number: int | None) -> Iterator[Picture]:
    who, n = run.label, run.valid.num_rows
    ablated = _ablated(run.ablations, run.plan.replacements[:1])

    def picture(kind: str, title: str, caption: str, draw: Drawing, ablated: str = ablated) -> Picture:
        drawn = functools.partial(draw, run)
        return Picture(kind, number, f"{who}: {title}", f"{caption} n = {n}.", ablated, drawn)

    yield picture(
        "tv", "how fast the prediction comes back (Figs. 3 and 10)",
        "TV distance between the prediction of the trace and that of the full graph; line: median over inputs, band:"
        " quartiles. Grey: the construction phase, 1e-4 to 1e-2; then refinement. Dotted: the core, 0.1% of the edges.",
        figures.curve,
    )  # fmt: skip
    yield picture(
        "nucleus", "the size that each nucleus needs",
        "The least size from which on the nucleus (the shortest list of most probable tokens with so much mass) is the"
        " same ordered list as in the full graph; median and quartiles; 1 is the full graph.",
        figures.nucleus,
    )  # fmt: skip
    yield picture(
        "core", "stability of the core (Fig. 4)",
        "Share of the edges of all inputs' traces that the components (residual stream, MLP or head of a layer) with"
        " most of them hold; one line for each size. Grey: all components alike.",
        figures.core, NOT_ABLATED,
    )  # fmt: skip
    yield picture(
        "makeup", "what traces are made of (Figs. 5 and 11)",
        "Edges of the trace by type and by quarter of the layers, means over inputs whose trace of that size has any.",
        figures.makeup, NOT_ABLATED,
    )  # fmt: skip
    yield from _hubs(run, number)
    yield from (picture(*beside) for beside in _beside(run))
    yield from (picture(*control) for control in _control(run))
    yield from (picture(*added) for added in (*_along(run), *_altered(run)))
    yield picture(
        "correlation", "density against entropy, loss and frequency (Fig. 8)",
        "A dot for each input. Entropy of the full graph's prediction, surprisal of the true next token, and how often"
        " the predicted token occurs in the corpus. Spearman's ρ with 95% bootstrap interval, from ten inputs on.",
        figures.correlation,
    )  # fmt: skip


def _along(run: Results) -> Iterator[tuple[str, str, str, Drawing]]:
    """Generated text and geometry, where the run has them: kind, title, caption and figure."""
    if run.generates:
        case = run.plan.case(run.ablations[0])
        columns = {"how far it is from the prompt": "step", "its probability": "generated_prob"}
        told = [f"{_mean(generations.within_rows(run, case, column))} with {name}" for name, column in columns.items()]
        caption = (
            "Density of the prediction that each generated token was taken from, and the model's own probability of"
            f" it. A line for each row, at most {generations.MOST_LINES}; from {generations.FEW_LINES} rows on their"
            f" median and quartiles. Spearman's ρ of density ({case.name}) within a row, mean over rows:"
            f" {'; '.join(told)}. Later predictions have more tokens, and more edges, before them."
        )
        yield "generation", "density along generated text", caption, generations.figure
    if geometries.has(run):
        caption = (
            "Of the states of an input's tokens after each layer: intrinsic dimension (two-NN), and the mean cosine"
            " between all pairs of tokens (anisotropy); medians and quartiles over inputs. Below: Spearman's ρ of"
            f" density with them, with 95% bootstrap interval from {statistics.FEW} inputs on. Both depend on how many"
            " tokens there are."
        )
        yield "geometry", "the shape of hidden states, and density", caption, geometries.figure


def _altered(run: Results) -> Iterator[tuple[str, str, str, Drawing]]:
    """Pairs of texts, where the run has them; as ``_along``."""
    found = pairs.pairs_of(run)
    if found:
        told = "; ".join(f"{one.variant}, {len(one.ours)}" for one in found)
        caption = (
            f"Texts altered on purpose against the {found[0].against} of their pair. Left: a dot for each pair, above"
            " the line where the altered text is denser. Right: mean difference of TV at each size, band: 95%"
            f" bootstrap interval, from {statistics.FEW} pairs on. Pairs of which both are valid: {told}. Tests are in"
            " the table, as many as it has lines."
        )
        yield "paired", "what altering a text does", caption, pairs.figure


def _mean(found: statistics.Mean) -> str:
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
    return f"{found.mean:.2f}{interval} (n = {found.n})" if found.n else "not defined"


def _hubs(run: Results, number: int | None) -> Iterator[Picture]:
    """The figure of networks, where strata were saved."""
    chosen = networks.sample(run)
    if chosen is not None:
        of = f"{len(chosen.inputs)} of {run.valid.num_rows} inputs, evenly spaced over those with saved strata"
        yield Picture(
            "hubs", number, f"{run.label}: how hubs and communities change with the size",
            "Traces as networks. Left: Gini's coefficient of degree (edges in and out) and of betweenness (from at most"
            " 5,000 nodes) over nodes, 0 where all have as much. Middle: modularity of communities by Louvain's method"
            " (seed 0). Right: the share of all levels and of all tokens that a node's community has nodes of."
            f" Lines: medians, bands: quartiles. A sample: {of} and at most {networks.MOST_TOKENS} tokens, at"
            f" {len(chosen.ks)} sizes; traces of fewer than {networks.FEWEST_EDGES} edges are left out."
            f" n = {len(chosen.inputs)}.",
            NOT_ABLATED, functools.partial(figures.hubs, run, chosen),
        )  # fmt: skip


def _beside(run: Results) -> Iterator[tuple[str, str, str, Drawing, str]]:
    """Baselines and other scores, as far as the run has them: kind, title, caption, figure and what was ablated."""
    plan = run.plan
    own = (plan.case(), f"s-Trace ({plan.label(plan.case().source)})")
    if "random" in plan.baselines:
        searched = "the same" if plan.orders[0] == "best-first" else "best-first"
        yield (
            "random", "against random traces (Fig. 6)",
            f"Random scores, residual and MLP edges first, through {searched} extraction.",
            *_compared(run, [own, (plan.baseline("random"), "random")]),
        )  # fmt: skip
    if "inverse" in plan.baselines:
        removed = {"all": "the attention and MLP edges", "residual+mlp": "the MLP edges alone"}
        yield (
            "necessity", "necessity (Fig. 7)", "TV of the graph without them against the size of the trace.",
            figures.necessity,
            f"Removed: {', beside it '.join(f'{removed[name]} of the trace ({name})' for name in run.ablations)};"
            " all others are kept, residual edges always" + _alone(run.ablations) + "." + _carried(plan.replacements),
        )  # fmt: skip
    if "pre-softmax" in plan.baselines:
        yield (
            "pre-softmax", "masks before the softmax",
            "Attention masks that enter the softmax, against those that follow it; with residual+mlp there are none.",
            *_compared(run, [own, (plan.baseline("pre-softmax"), "before the softmax")]),
        )  # fmt: skip
    if len(plan.scores) > 1:
        yield (
            "score", "edge scores compared", "The same extraction by other scores.",
            *_compared(run, _named(plan, (plan.case(score=kind) for kind in plan.scores))),
        )  # fmt: skip
    if len(plan.orders) > 1:
        cases = [plan.case("all", kind, order=order) for kind in plan.scores for order in plan.orders]
        yield (
            "order", "best-first search against ranks alone",
            "As many edges found from the output on, so that traces stay connected, and by score, wherever they are.",
            *_compared(run, _named(plan, cases)),
        )  # fmt: skip
    if len(plan.replacements) > 1:
        one = plan.label(plan.case().source)
        same = len({plan.case(replace=name).source for name in plan.replacements}) == 1
        yield (
            "replace", "what ablated edges carry",
            f"{'The same traces' if same else 'Traces scored under it'} ({one}) under each replacement.",
            figures.replacements, _ablated(run.ablations, plan.replacements),
        )  # fmt: skip


def _control(run: Results) -> Iterator[tuple[str, str, str, Drawing, str]]:
    """Selectivity, where the run has any; as ``_beside``."""
    if run.controlled:
        conditions = [case.condition for case in run.controlled]
        ablations, replacements = (
            tuple(dict.fromkeys(getattr(condition, name) for condition in conditions)) for name in ("ablate", "replace")
        )
        caption = (
            f"TV from the model's own prediction; TV from what {run.plan.selectivity} other inputs predict, under"
            " traces of the same score told that; and selectivity, the second less the first: 1 where a mask reaches"
            " the own prediction alone, 0 where it reaches any. Means over inputs; band: 95% bootstrap interval, from"
            f" {statistics.FEW} inputs on. Dot: where it is largest, of sizes up to half of the edges:"
            f" {'; '.join(_peak(run, case) for case in run.controlled)}."
        )
        title, ablated = "computation, or the capacity of a mask?", _ablated(ablations, replacements)
        yield "selectivity", title, caption, figures.selectivity, ablated


def _peak(run: Results, case: Case) -> str:
    """Where a curve is most selective, in words."""
    found = statistics.selectivity(run, case)
    k = found.peak
    interval = f" [{found.low[k]:.2f}, {found.high[k]:.2f}]" if np.isfinite(found.low[k]) else ""
    return f"{case.name} {found.selectivity[k]:.2f}{interval} at {100 * run.sizes[k]:g}% of the edges (n = {found.n})"


def _compared(run: Results, kinds: Sequence[tuple[Case, str]]) -> tuple[Drawing, str]:
    """A comparison and what it ablates."""
    return functools.partial(figures.compared, kinds=kinds), _ablated(*figures.panels_of(run, kinds))


def _named(plan: Plan, cases: Iterable[Case]) -> list[tuple[Case, str]]:
    """Cases with the names of their traces."""
    return [(case, plan.label(case.source)) for case in cases]


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _of_all(runs: Sequence[Results]) -> Iterator[Picture]:
    ablations = [name for name in ABLATIONS if any(name in run.ablations for run in runs)]
    replacements = [name for name in REPLACEMENTS if any(name in run.plan.replacements for run in runs)]
    yield Picture(
        "models", None, "All models: how fast the prediction comes back (Fig. 3)",
        f"Median TV distance over each model's own valid inputs. n = {_range([run.valid.num_rows for run in runs])}.",
        _ablated(ablations, replacements), functools.partial(figures.all_models, runs, ablations, replacements),
    )  # fmt: skip
    checkpoints = revisions.revised(runs)
    if checkpoints:
        yield Picture(
            "revisions", None, "Checkpoints: density and distance along training",
            "Revisions in the order that they were given in. Left: density, median and quartiles over each one's valid"
            f" inputs. Right: median TV at some sizes. n = {_range([run.valid.num_rows for run in checkpoints])}.",
            _ablated(ablations, replacements[:1]), functools.partial(revisions.figure, checkpoints),
        )  # fmt: skip
    first = runs[0].plan
    own = [first.case(name, replace=replace) for replace in first.replacements for name in ablations]
    shared = [case for case in own if case in statistics.shared_cases(runs)]
    if shared:
        conditions = [(case.condition.ablate, case.condition.replace) for case in shared]
        yield Picture(
            "between-models", None, "All models: do they agree on which inputs are dense? (Fig. 9)",
            "Spearman's ρ of density between models, on the inputs that both have (told by their texts); n of each"
            " pair is in the table.",
            _ablated(*(list(dict.fromkeys(names)) for names in zip(*conditions, strict=True))),
            functools.partial(figures.between_models, runs, shared),
        )  # fmt: skip


_ABLATED = {"all": "all edges", "residual+mlp": "residual and MLP edges only (residual+mlp)"}


_CARRIED = {
    "zero": "nothing (zero)",
    "mean": "means over reference texts (mean)",
    "resample": "the states of other texts (resample)",
}


def _ablated(ablations: Sequence[str], replacements: Sequence[str]) -> str:
    """What a figure ablates, and what ablated edges carry in it where that is not nothing."""
    edges = ", beside it ".join(_ABLATED[name] for name in ablations)
    return f"Ablated: {edges}{_alone(ablations)}.{_carried(replacements)}"


def _carried(replacements: Sequence[str]) -> str:
    carried = ", beside it ".join(_CARRIED[name] for name in replacements)
    return "" if list(replacements) == ["zero"] else f" Ablated edges carry {carried}."


def _alone(ablations: Sequence[str]) -> str:
    return "" if len(ablations) > 1 else "; there is no other mode to show beside it"


def tables(runs: Sequence[Results], usable: Sequence[Results]) -> list[Table]:
    """Every table; ``usable`` are the runs with valid inputs."""

    def table(name: str, title: str, compute: Callable[[Sequence[Results]], pa.Table], of: Sequence[Results]) -> Table:
        return Table(name, title, functools.partial(compute, of))

    control = table("selectivity", "Where traces are most selective", computed.selectivities, usable)
    generated = [run for run in usable if run.generates]
    shaped = [run for run in usable if geometries.has(run)]
    along = table("generation", "Density along generated text", generations.table, generated)
    shapes = table("geometry", "The shape of hidden states by layer", geometries.table, shaped)
    added = [*([along] if generated else []), *([shapes] if shaped else [])]
    told = [run for run in usable if pairs.pairs_of(run)]
    checkpoints = revisions.revised(usable)
    timed = [run for run in usable if any(session.get("seconds") for session in run.manifest["sessions"])]
    added += [table("seconds", "Seconds an input, by score", computed.seconds, timed)] if timed else []
    added += [table("paired", "Altered texts against those of their pairs", pairs.table, told)] if told else []
    added += [table("revisions", "Checkpoints", revisions.table, checkpoints)] if checkpoints else []
    between = table("between-models", "Density between models (Fig. 9)", computed.model_pairs, usable)
    return [
        table("validity", "Valid and invalid inputs (Table 2)", computed.validity, runs),
        table("density", "Density", computed.densities, usable),
        *([control] if any(run.controlled for run in usable) else []),
        table("phases", "Fall of the median TV in each phase", computed.phases, usable),
        table("correlations", "Density against entropy, loss, frequency and length (Fig. 8)",
              computed.correlations, usable),
        *added,
        *([between] if len(usable) > 1 else []),
        table("nucleus", "The size that each nucleus needs", computed.nuclei, usable),
        table("core", "Share of edges held by the top components (Fig. 4)", computed.cores, usable),
        table("makeup", "Types and quarters of the depth (Fig. 5)", computed.makeups, usable),
        table("layers", "Share of every layer (Fig. 5)", computed.layers, usable),
        table("curves", "All curves (Figs. 3, 6, 7)", computed.curves, usable),
        table("inputs", "All inputs, without their texts", computed.numbers_of_inputs, runs),
    ]  # fmt: skip
