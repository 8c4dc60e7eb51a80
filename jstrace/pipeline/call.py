"""One call: a batch of inputs through the stages that an ask names, as what waits for its results."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from jstrace.method.conditions import Source
from jstrace.method.graph import full_graph, sizes
from jstrace.method.graph.composition import composed
from jstrace.method.graph.counting import Counts
from jstrace.method.measure.metrics import OwnMetric, described
from jstrace.method.questions import Question
from jstrace.method.scores.fitted import Fitted, Fitting
from jstrace.method.scores.scoring import unfilled
from jstrace.method.search.ordering import without_marks
from jstrace.models import EDGE_KINDS, AnyArray, EdgeTree, InputError
from jstrace.pipeline import masked, stages
from jstrace.pipeline.evaluation import evaluation_of
from jstrace.pipeline.records import Input, Invalid, Outcome
from jstrace.pipeline.resolved import Resolved
from jstrace.scale import batching, meshes
from jstrace.scale.batching import cropped, widened
from jstrace.scale.programs import compile_seconds

OnSteps = Callable[[float], None]
"""Called while fits run, with the share of their steps that is done."""
Outcomes = tuple[list[Outcome | Invalid], Mapping[str, float]]
"""What came of every input of a call, and the seconds that scores took by their names, where that is to be known."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Batch:
    """Inputs of one bucket on the devices, with rows of padding."""

    tokens: Int[AnyArray, "B T"]
    lengths: Int[AnyArray, "B"]
    cuts: Int[AnyArray, "B Z"]
    """Edges of each trace."""
    next_tokens: Int[AnyArray, "B"]
    questions: Question


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Results:
    """What a batch comes to, on the devices and then on the host."""

    strata: tuple[EdgeTree, ...]
    """Of every source."""
    scores: EdgeTree | None = None
    """Of the first source, where the ask keeps them."""
    finite: AnyArray | None = None
    """Whether scores are: bool ``[B, 4, L]``, by kind of edge and layer."""
    measured: tuple[masked.BatchResult, ...] = ()
    counts: tuple[Counts, ...] = ()


def start(
    resolved: Resolved, members: Sequence[Input], n_rows: int, on_steps: OnSteps | None
) -> Callable[[], Outcomes]:
    """A batch on its way through its stages, as what waits for its results and fetches them.

    Of its arrays only those that will be fetched stay on the devices. Steps of fits are waited for.
    """
    ask, config, mesh = resolved.ask, resolved.model.config, resolved.model.mesh
    width = batching.bucket(len(members[0].tokens))
    n_edges = [full_graph.n_edges(config, len(each.tokens), each.question.n_outputs) for each in members]
    batch = _placed(resolved, members, n_edges, width, n_rows)
    if ask.sources:
        traced, seconds = _traced(resolved, batch, width, on_steps)
    else:
        traced, seconds = _Results(meshes.placed(_given_strata(members, width, n_rows), mesh)), {}
    measured = () if not ask.cases else masked.evaluate_batch(
        resolved.model.decoder, batch.tokens, batch.lengths, traced.strata, batch.next_tokens, resolved.stacks(width),
        batch.questions, n_sizes=len(ask.sizes), cases=ask.numbered, mesh=mesh,
    )  # fmt: skip
    counts = () if not ask.compose else stages.compose_batch(
        traced.strata, n_sizes=len(ask.sizes), config=config, mesh=mesh
    )  # fmt: skip
    strata = traced.strata if ask.sources and ask.keep_strata else ()
    leaving = meshes.leaving(dataclasses.replace(traced, strata=strata, measured=measured, counts=counts))
    return functools.partial(_waited, resolved, members, n_edges, leaving, seconds)


def _placed(resolved: Resolved, members: Sequence[Input], n_edges: Sequence[int], width: int, n_rows: int) -> _Batch:
    """Inputs padded to one batch, on the devices."""
    mesh = resolved.model.mesh
    tokens, lengths = batching.padded([member.tokens for member in members], width, n_rows)
    cuts = batching.filled([sizes.counts(resolved.ask.sizes, count) for count in n_edges], n_rows)
    next_tokens = batching.filled([np.asarray(member.next_token or 0, np.int32) for member in members], n_rows)
    questions = Question.stacked([member.question for member in members], width, n_rows)
    return _Batch(*meshes.placed((tokens, lengths, cuts, next_tokens, questions), mesh))


def _given_strata(members: Sequence[Input], width: int, n_rows: int) -> tuple[EdgeTree, ...]:
    """The strata that the inputs came with, padded to one batch."""
    wide = [tuple(widened(tree, width, np.uint8(sizes.NO_EDGE)) for tree in member.strata) for member in members]
    return jax.tree.map(lambda *leaves: batching.filled(leaves, n_rows, sizes.NO_EDGE), *wide)


def _traced(
    resolved: Resolved, batch: _Batch, width: int, on_steps: OnSteps | None
) -> tuple[_Results, dict[str, float]]:
    """Strata of every source and what else scores come to, with the seconds that these took."""
    ask, mesh = resolved.ask, resolved.model.mesh
    states, streams = resolved.carried(width)
    inputs = (resolved.model.decoder, batch.tokens, batch.lengths, ask.seed)
    how: dict[str, Any] = {"replacements": states, "others": streams, "questions": batch.questions, "mesh": mesh}
    fits = [scoring.fit for scoring in resolved.scorings if scoring.fit is not None]
    told = _Told(sum(fit.steps + fit.polish for fit in fits), on_steps)
    scores: dict[tuple[Any, str], EdgeTree] = {}
    finite: list[jax.Array] = []
    seconds: dict[str, float] = {}
    for program in resolved.programs:
        kinds, learned = zip(*(unfilled(scoring.fit or scoring.score) for scoring in program), strict=True)
        scorings = tuple(zip(kinds, (scoring.number for scoring in program), strict=True))
        run = functools.partial(stages.score_batch, *inputs, scorings=scorings, learned=learned, **how)
        if (fit := program[0].fit) is not None:
            asked = {"scoring": scorings[0], "learned": learned[0], **how}
            part, advance = (functools.partial(f, *inputs, **asked) for f in (stages.fit_batch, stages.advance_batch))
            run = functools.partial(_fitted, fit, part, advance, run, told)
        if resolved.timed:
            (trees, good), seconds[" and ".join(dict.fromkeys(scoring.name for scoring in program))] = _timed(run)
        else:
            trees, good = run()
        scores |= {scoring.asked: tree for scoring, tree in zip(program, trees, strict=True)}
        finite.append(good)
    first = scores[ask.sources[0].scoring] if ask.keep_scores else None
    return _Results(_searched(resolved, batch, scores), first, functools.reduce(operator.and_, finite)), seconds


_PARTS = 20
"""Of the steps of a fit, each of which is waited for."""


@dataclasses.dataclass
class _Told:
    """Tells how far all fits of a call are."""

    total: int
    """Their steps."""
    on_steps: OnSteps | None
    done: int = 0

    def add(self, steps: int) -> None:
        """So many are done."""
        self.done += steps
        if self.on_steps is not None:
            self.on_steps(self.done / self.total)


def _fitted(
    fit: Fitted, part: Callable[..., Fitting], advance: Callable[..., Fitting], score: Callable[..., Any], told: _Told
) -> Any:
    """Scores after all steps of a fit."""
    several = -(-(fit.steps + fit.polish) // _PARTS)
    state = part(part="begin")
    for polishes, stretch in enumerate((fit.steps, fit.polish)):
        state = part(state, part="turn") if polishes and stretch else state
        for first in range(0, stretch, several):
            stop = min(first + several, stretch)
            state = jax.block_until_ready(advance(state, (first, stop), part="advance"))
            told.add(stop - first)
    return score(fitting=state)


def _searched(resolved: Resolved, batch: _Batch, scores: Mapping[tuple[Any, str], EdgeTree]) -> tuple[EdgeTree, ...]:
    """Strata of every source, those first beside which others are drawn."""
    options: dict[str, Any] = {"parallel": resolved.model.config.parallel, "mesh": resolved.model.mesh}
    options |= {"n_outputs": batch.questions.n_outputs}
    strata: dict[Source, EdgeTree] = {}
    for source in sorted(resolved.ask.sources, key=lambda source: source.beside is not None):
        score = scores[source.scoring]
        if source.beside is None:
            how: dict[str, Any] = {"frozen": source.frozen, "signed": source.signed, "order": source.order}
            strata[source] = stages.extract_batch(score, batch.cuts, batch.lengths, **how, **options)
        else:
            beside, n_sizes = strata[source.beside], len(resolved.ask.sizes)
            strata[source] = stages.proportional_batch(score, beside, batch.lengths, n_sizes=n_sizes, **options)
    return tuple(strata[source] for source in resolved.ask.sources)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a program gives, waited for, and the seconds that it took without tracing and compiling."""
    with compile_seconds() as compiled:
        began = time.perf_counter()
        arrays = jax.block_until_ready(run())
        return arrays, max(0.0, time.perf_counter() - began - compiled())


def _waited(
    resolved: Resolved,
    members: Sequence[Input],
    n_edges: Sequence[int],
    leaving: _Results,
    seconds: Mapping[str, float],
) -> Outcomes:
    """What came of a batch, once it is on the host."""
    host = meshes.fetched(leaving)
    outcomes = [
        _not_finite(resolved, host.finite[index], member)
        if host.finite is not None and not host.finite[index].all()
        else _outcome_or_not(resolved, host, index, member, n_edges[index])
        for index, member in enumerate(members)
    ]
    return outcomes, seconds


def _not_finite(resolved: Resolved, finite: Bool[np.ndarray, "4 L"], member: Input) -> Invalid:
    """The first place where scores are not."""
    layer, kind = map(int, np.argwhere(~finite.T)[0])
    where = f" at {EDGE_KINDS[kind]} of layer {layer}; try dtype float32"
    passes = any(scoring.passes for scoring in resolved.scorings)
    what = "scores" if passes else "the forward pass"
    metric = member.question.metric
    if passes and isinstance(metric, OwnMetric):
        where += f", or a metric whose gradient is finite, as that of {described(metric)} may not be"
    return Invalid(f"{what} over {len(member.tokens)} tokens {'are' if passes else 'is'} not finite", where)


def _outcome_or_not(resolved: Resolved, host: _Results, index: int, member: Input, n_edges: int) -> Outcome | Invalid:
    """The results of one input of a batch, or why it has none: a metric of one's own that is not finite."""
    try:
        return _outcome(resolved, host, index, member, n_edges)
    except InputError as error:
        return Invalid(str(error), error=error)


def _outcome(resolved: Resolved, host: _Results, index: int, member: Input, n_edges: int) -> Outcome:
    """The results of one input of a batch."""
    length, ask, tokenizer = len(member.tokens), resolved.ask, resolved.model.tokenizer
    word = None if tokenizer is None else tokenizer.token
    evaluations = tuple(
        evaluation_of(
            measured, index, member.sizes or ask.sizes, case.condition, with_next=member.next_token is not None,
            question=member.question, word=word,
        )
        for case, measured in zip(ask.cases, host.measured, strict=True)
    )  # fmt: skip
    strata = tuple(cropped(tree, index, length) for tree in host.strata) or member.strata
    scores = None if host.scores is None else without_marks(cropped(host.scores, index, length))
    made = functools.partial(composed, config=resolved.model.config, n_outputs=member.question.n_outputs)
    compositions = tuple(made(jax.tree.map(lambda leaf: leaf[index], counts)) for counts in host.counts)
    return Outcome(member.tokens, n_edges, strata, evaluations, scores, compositions)
