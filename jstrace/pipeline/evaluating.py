"""``jstrace.evaluate``: traces, or masks of one's own, through the masked forwards (sections 4 to 6 of the method)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from jstrace.method.conditions import Case, Condition, Source
from jstrace.method.questions import Question
from jstrace.models import AnyArray, EdgeTree, InputError, Model
from jstrace.pipeline.carrying import How
from jstrace.pipeline.coherence import check
from jstrace.pipeline.driver import Driver
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.inputs import Tokens, checked_model, listed, token_ids, with_weights
from jstrace.pipeline.own_masks import checked_masks, evaluate_masks
from jstrace.pipeline.pairs import Questions
from jstrace.pipeline.progress import Progress, Report, reported
from jstrace.pipeline.records import Ask, Input, Invalid
from jstrace.pipeline.replacing import Reference, Replace
from jstrace.pipeline.trace import Trace
from jstrace.pipeline.tracing import keeps_invalid

Traces = Sequence[Trace] | Sequence[Trace | Invalid]


class EvaluateOptions(TypedDict, total=False):
    """The options of ``evaluate``, for traces and for masks."""

    ablate: str
    pre_softmax: bool
    replace: Replace
    counterfactual: Any
    metric: Any
    reference: Reference
    next_token: Any


class TraceEvaluateOptions(EvaluateOptions, total=False):
    """Those that are for traces alone."""

    inverse: bool
    target: Any
    progress: Progress | None


@overload
def evaluate(model: Model, traces: Trace, **options: Unpack[TraceEvaluateOptions]) -> Evaluation: ...
@overload
def evaluate(model: Model, traces: Sequence[Trace], **options: Unpack[TraceEvaluateOptions]) -> list[Evaluation]: ...
@overload
def evaluate(
    model: Model, traces: Traces, *, on_invalid: Literal["keep"], **options: Unpack[TraceEvaluateOptions]
) -> list[Evaluation | Invalid]: ...
@overload
def evaluate(
    model: Model, traces: Trace | Tokens, *, masks: EdgeTree, **options: Unpack[EvaluateOptions]
) -> Evaluation: ...
def evaluate(
    model: Model,
    traces: Trace | Traces | Tokens,
    *,
    masks: EdgeTree | None = None,
    ablate: str = "all",
    pre_softmax: bool = False,
    inverse: bool = False,
    replace: Replace = None,
    counterfactual: Tokens | Sequence[Tokens] | None = None,
    metric: Any = None,
    reference: Reference = None,
    next_token: int | Sequence[int | None] | AnyArray | None = None,
    target: Any = None,
    on_invalid: str = "raise",
    progress: Progress | None = None,
) -> Evaluation | Invalid | list[Evaluation] | list[Evaluation | Invalid]:
    """Run every trace as a masked forward and measure how much of the prediction it keeps.

    Args:
      model: the model that the traces came from.
      traces: one trace, or a list of traces of the same sizes, evaluated in batches; with ``masks`` the text, token ids
        or trace whose tokens the masks are for.
      masks: masks of one's own in the place of a trace's, with a leading axis of N: bool, or floats in [0, 1]. The
        rows of the result are theirs, in their order, and that of the full graph.
      ablate: "all" masks every edge; "residual+mlp" leaves all attention edges in place.
      pre_softmax: attention masks enter the softmax instead of following it.
      inverse: remove the attention and MLP edges of each trace instead of keeping them.
      replace: what ablated edges carry (section 8 of the method), by default what each trace says (``Trace.replace``;
        "zero" for masks of token ids): nothing ("zero"), "mean" or "resample" of the reference that comes with jstrace,
        a ``jstrace.Replacement``, or several of them: TV, KL, entropy and surprisal are then means over them, a nucleus
        is recovered where it is under all, and top tokens are the first one's.
      counterfactual: ablated edges carry the states of this prompt of as many tokens, one for each trace, as in
        ``jstrace.trace``; by default what each trace says (``Trace.counterfactual``).
      metric: what is asked of every prediction beside how close it is, as in ``jstrace.trace``
        (``Evaluation.metric``, ``recovered``), by default what the trace's scores asked; "kl" asks nothing more.
      reference: texts or token ids that "mean" and "resample" are made of, instead of those that come with jstrace; the
        same as of the traces, where these were made with texts of your own.
      next_token: the true next token (one for each trace, None where it is not known), for surprisal and rank.
      target: probabilities ``[V]`` of another prediction, one for each trace, that all rows are measured against in the
        place of the full graph's: that of ``jstrace.fit_trace(target=)``; None where it is the model's own. Such an
        evaluation says so (``Evaluation.targeted``), and has no density.
      on_invalid: "raise", or "keep": a trace that cannot be evaluated gives a ``jstrace.Invalid`` with the reason, in
        its place, as does what ``trace(on_invalid="keep")`` could not trace.
      progress: as in ``jstrace.trace``.

    Examples:
      >>> evaluation = jstrace.evaluate(model, trace, replace=means)
      >>> evaluation.tv.shape
      (27,)

    Raises:
      InputError: a trace of another model's shape, or arguments that make no sense.
    """
    checked_model(model)
    keep = keeps_invalid(on_invalid)
    how = How.of(model, ablate, pre_softmax, inverse, (replace, reference), paired=counterfactual is not None)
    asked: dict[str, Any] = {"target": target, "counterfactual": counterfactual, "metric": metric}
    if masks is not None:
        if keep or progress is not None:
            raise InputError("on_invalid and progress are for lists of traces; masks are of one input")
        if target is not None:
            raise InputError("target is for traces, not for masks of one's own")
        questions = Questions.of(model, 1, single=True, **asked)
        return _of_masks(model, traces, masks, how, next_token, questions)
    single = isinstance(traces, Trace)
    rows = [traces] if isinstance(traces, Trace) else list(checked_traces(traces))
    true_next = _checked_next(model, len(rows), next_token)
    questions = Questions.of(model, len(rows), single=single, **asked)
    with reported(progress, "evaluating") as report:
        evaluations = evaluated(model, rows, how, true_next, questions, keep, report)
    return evaluations[0] if single else evaluations


def evaluated(
    model: Model, rows: Sequence[Any], how: How, true_next: Sequence[int | None], questions: Questions, keep: bool,
    report: Report | None, start: int | None = None,
) -> list[Evaluation | Invalid]:  # fmt: skip
    """An evaluation of every trace, in their order; in a stream the first of them has the number ``start``."""
    results: dict[int, Evaluation | Invalid] = {}

    def put(index: int, outcome: Evaluation | Invalid) -> None:
        if isinstance(outcome, Invalid) and not keep:
            raise outcome.as_error("" if start is None and len(rows) == 1 else f"trace {(start or 0) + index}: ")
        results[index] = outcome

    kinds: dict[tuple[int, Condition], dict[int, Input]] = {}  # programs depend on the number of sizes alone
    for index, row in enumerate(rows):
        known = row if isinstance(row, Invalid) else _known(model, row, how, questions, index)
        if isinstance(known, Invalid):
            put(index, known)
        else:
            condition, question = known
            row_input = Input(row.tokens, _next(question, true_next[index]), (row.strata,), tuple(row.sizes), question)
            kinds.setdefault((len(row.sizes), condition), {})[index] = row_input
    for (_, condition), alike in sorted(kinds.items(), key=lambda item: item[0][0]):
        ask = Ask((), (Case(Source("given"), condition),), alike[min(alike)].sizes or ())
        for batch in Driver(model, ask, replacing=how.replacing).batches(alike):
            for index, outcome in batch.items():
                put(index, outcome if isinstance(outcome, Invalid) else _told(outcome.evaluations[0], rows[index]))
            if report is not None:
                report(len(results), len(rows))
    again = [(i, strata) for i, each in results.items() if isinstance(each, Evaluation) for strata in rows[i].repeated]
    if again:
        places = [index for index, _ in again]
        traces = [dataclasses.replace(rows[index], strata=strata, repeated=()) for index, strata in again]
        asked = questions.at(places)
        repeated = evaluated(model, traces, how, [true_next[index] for index in places], asked, keep=True, report=None)
        for index in dict.fromkeys(places):
            own = [each for place, each in zip(places, repeated, strict=True) if place == index]
            results[index] = _banded(results[index], own)
    return [results[index] for index in range(len(rows))]


def _banded(evaluation: Any, repeated: Sequence[Evaluation | Invalid]) -> Evaluation:
    """With the curves of the trace's repetitions, where at least two have one, as a deviation is of several."""
    curves = [repeat.tv for repeat in repeated if isinstance(repeat, Evaluation) and repeat.valid]
    return dataclasses.replace(evaluation, tv_repeats=np.stack(curves)) if len(curves) > 1 else evaluation


def _told(evaluation: Evaluation, trace: Trace) -> Evaluation:
    """With what its trace was scored under."""
    return dataclasses.replace(evaluation, score_replace=trace.score_replace)


def _of_masks(
    model: Model, tokens: Any, masks: EdgeTree, how: How, next_token: Any, questions: Questions
) -> Evaluation:
    """An evaluation of masks of one's own."""
    condition, replacing = how.condition, how.replacing
    if condition.inverse:
        raise InputError("inverse is for traces; invert the masks")
    if isinstance(tokens, Trace):
        _check_origin(model, tokens)
        condition, ids = how.under(tokens), token_ids(model, tokens.tokens)
    else:
        single, rows = listed(model, tokens)
        if not single:
            raise InputError("with masks evaluate takes one input: a text, its token ids or a trace of it")
        ids = token_ids(model, rows[0])
    stack = checked_masks(model, masks, len(ids))
    replacing.check(len(ids), [condition.replace])
    trace = tokens if isinstance(tokens, Trace) else None
    question = questions.about(0, ids, "", trace).under(condition.replace)
    true_next = _next(question, _checked_next(model, 1, next_token)[0])
    evaluation = evaluate_masks(model, ids, stack, condition, replacing, true_next, question)
    return _told(evaluation, tokens) if isinstance(tokens, Trace) else evaluation


def checked_traces(traces: Any) -> Iterable[Any]:
    """What can be gone through, or an ``InputError``."""
    if isinstance(traces, str | bytes | Trace) or not isinstance(traces, Iterable):
        raise InputError(f"expected traces, got {type(traces).__name__}")
    return traces


def _checked_next(model: Model, n_rows: int, next_token: Any) -> list[int | None]:
    if next_token is None:
        return [None] * n_rows
    several = isinstance(next_token, Sequence) or np.ndim(next_token) > 0
    given: list[Any] = list(next_token) if several else [next_token]
    known = [token for token in given if token is not None]
    whole = all(np.ndim(token) == 0 and np.issubdtype(np.asarray(token).dtype, np.integer) for token in known)
    if len(given) != n_rows or not whole or isinstance(next_token, bytes | bytearray):
        raise InputError(f"next_token: expected {n_rows} token ids, one for each trace, got {next_token!r}")
    wrong = [token for token in known if not 0 <= token < model.config.vocab_size]
    if wrong:
        raise InputError(f"next_token {wrong[0]} is outside the vocabulary of {model.config.vocab_size}")
    return [None if token is None else int(token) for token in given]


def _next(question: Question, token: int | None) -> int | None:
    """The next token, which an answer has already."""
    if question.answer is not None and token is not None:
        raise InputError("next_token: the trace has an answer, which surprisal and rank are of")
    return token


def _known(model: Model, row: Any, how: How, questions: Questions, index: int) -> tuple[Condition, Question] | Invalid:
    """How a trace is evaluated and what is asked of it, or why it cannot be with this model."""
    try:
        _check_origin(model, row)
        condition = how.under(row)
        return condition, questions.about(index, row.tokens, "", row).under(condition.replace)
    except InputError as error:
        return Invalid(str(error), error=error)


def _check_origin(model: Model, row: Any) -> None:
    """Refuse traces of other models. A trace with an empty fingerprint may come from any model of the same shape."""
    if not isinstance(row, Trace):
        raise InputError(f"expected a trace or a list of traces, got {type(row).__name__}")
    row.strata.check("strata", model.config, len(row.tokens), hint=": another model's trace")
    if int(row.tokens.max()) >= model.config.vocab_size:
        raise InputError("the trace has tokens outside this model's vocabulary: another model's trace")
    if row.model_fingerprint and row.model_fingerprint != model.fingerprint():
        raise InputError(
            f"the trace was made with model {with_weights(row.model_fingerprint, row.weights)}, this is"
            f" {with_weights(model.fingerprint(), model.weights)}; to evaluate it here all the same, use"
            '  dataclasses.replace(trace, model_fingerprint="")'
        )
    check(row, "the trace does not hold together: ", exact=False)
