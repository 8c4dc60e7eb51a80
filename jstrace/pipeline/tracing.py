"""``jstrace.trace``: from texts or token ids to traces (sections 2 and 3 of the method)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from jstrace.method.conditions import Source, checked_frozen, checked_order, checked_repeats, checked_seed
from jstrace.method.graph.sizes import SIZES, checked_sizes, counts
from jstrace.method.naming import checked_score, name_of, takes_passes
from jstrace.method.questions import NOTHING, Question
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.gradients import GradientScore
from jstrace.models import InputError, Model, Score
from jstrace.pipeline.answers import continued
from jstrace.pipeline.carrying import Under
from jstrace.pipeline.driver import Driver
from jstrace.pipeline.inputs import Tokens, listed, token_ids, token_texts, whole_text
from jstrace.pipeline.pairs import Questions
from jstrace.pipeline.progress import Progress, Report, reported
from jstrace.pipeline.records import Ask, Input, Invalid, Outcome
from jstrace.pipeline.repeats import check_repeats, perturbed
from jstrace.pipeline.replacing import Reference, Replace
from jstrace.pipeline.trace import Trace


class TraceOptions(TypedDict, total=False):
    """The options of ``trace``, for one input and for many."""

    score: str | Score | GradientScore
    sizes: Sequence[float]
    frozen: Sequence[str]
    order: str
    replace: Replace
    counterfactual: Any
    metric: Any
    answer: Any
    score_replace: Replace
    reference: Reference
    seed: int
    target: Any
    repeats: int
    progress: Progress | None


@overload
def trace(  # type: ignore[overload-overlap]
    model: Model, inputs: Tokens, **options: Unpack[TraceOptions]
) -> Trace: ...
@overload
def trace(model: Model, inputs: Sequence[Tokens], **options: Unpack[TraceOptions]) -> list[Trace]: ...
@overload
def trace(
    model: Model, inputs: Sequence[Tokens], *, on_invalid: Literal["keep"], **options: Unpack[TraceOptions]
) -> list[Trace | Invalid]: ...
def trace(
    model: Model,
    inputs: Tokens | Sequence[Tokens],
    *,
    score: str | Score | GradientScore = "l1",
    sizes: Sequence[float] = SIZES,
    frozen: Sequence[str] = (),
    order: str = "best-first",
    replace: Replace = None,
    counterfactual: Tokens | Sequence[Tokens] | None = None,
    metric: Any = None,
    answer: Any = None,
    score_replace: Replace = None,
    reference: Reference = None,
    seed: int = 0,
    target: Any = None,
    repeats: int = 0,
    on_invalid: str = "raise",
    progress: Progress | None = None,
) -> Trace | Invalid | list[Trace] | list[Trace | Invalid]:
    """Trace one input or a list of them: the nested sub-graphs that best-first search keeps at each size.

    Args:
      model: from ``jstrace.load``.
      inputs: a text, or token ids; a list of either gives a list of traces, computed in batches.
      score: the edge score: "l1" (the paper's), "l2", "ifr", "cosine", "random" or "random-nodes"; from gradients in
        the mask "gradient", "integrated", ``l1*gradient``, "relp", ``l1*relp``, "rounds" or "steady-rounds" (section 8
        of the method), which keep far more of a prediction at 3 to 120 times the cost; "learned", by the scorer that
        comes with jstrace for its default model; "fitted" to the input itself (``jstrace.fit_trace``: 280 passes
        forward and back); or one of your own (``jstrace.Scorer``, ``jstrace.Score``, ``jstrace.GradientScore``).
      sizes: fractions of all edges, strictly increasing, at most 254.
      frozen: components that rank before all others: any of "residual", "attention", "mlp".
      order: "best-first" from the output, so that every trace hangs together, or "score": the highest scores alone.
      replace: what ablated edges carry: "zero" (the default), "mean" (over the reference that comes with jstrace),
        "resample" (other texts' states) or a ``jstrace.Replacement``. Scores from gradients are taken under it (the
        others do not read it), and ``jstrace.evaluate`` evaluates the trace under it.
      counterfactual: a prompt of as many tokens, or one for each input: ablated edges carry its states, in scores from
        gradients and in evaluations, so that the empty trace predicts what it predicts (section 9).
      metric: what scores from gradients are gradients of, but for fits, and what evaluations of the trace measure
        beside: "kl", how close the prediction is (the default), ``jstrace.logit_difference(" Mary", " John")``,
        ``jstrace.log_prob(" Mary")``, or a function of logits ``[V]`` that JAX can differentiate; one for all inputs,
        or a list beside them.
      answer: what the text goes on with, a text (" the city of Paris") or token ids; a list of them beside a list of
        inputs. The tokens before each of its tokens are outputs of the graph (``Trace.n_outputs``): traces keep the
        whole answer, scores from gradients are of the sum of its logits, fits keep the predictions at all outputs, and
        functions of logits are given ``[A, V]``. A counterfactual prompt goes on with it, too.
      score_replace: for two of them: what ablated edges carry while gradients are taken, where that is not ``replace``.
      reference: texts or token ids that "mean" and "resample" are made of, instead of those that come with jstrace.
      seed: of random scores, of which every input has a draw of its own, and of what fits draw.
      target: probabilities ``[V]`` of another prediction than the model's own, that scores from gradients are to keep:
        the control of ``jstrace.selectivity``; one for each input, None where it is the model's own. The score
        of a trace with a target ends in "-to-target".
      repeats: trace as often again with weights times (1 + 1e-6 N(0, 1)), at least twice: ``jstrace.evaluate`` says
        how far TV moves (``tv_std``), where scores decide by what rounding may turn.
      on_invalid: "raise", or "keep": an input that cannot be traced gives a ``jstrace.Invalid`` with the reason, in its
        place, and the others are traced.
      progress: True for a bar on standard error, or what is called with the number of inputs done and in all; while
        fits run, the number done has the share of their steps, such as 1.25.

    Examples:
      >>> trace = jstrace.trace(model, text)
      >>> trace
      Trace(7 tokens, 297 edges, 26 sizes from 0.001% to 80%, score 'l1')

    Raises:
      InputError: an input without tokens or with ids outside the vocabulary, or arguments that make no sense.
    """
    single, rows = listed(model, inputs)
    under = Under(replace, score_replace, reference, paired=counterfactual is not None)
    tracer = Tracer.of(model, score, sizes, frozen, order, under, seed, on_invalid)
    asked: dict[str, Any] = {"target": target, "counterfactual": counterfactual, "metric": metric}
    asked["answer"] = answer
    questions = Questions.of(model, len(rows), single=single, **asked)
    tracer = dataclasses.replace(tracer, repeats=checked_repeats(repeats))
    check_repeats(model, tracer.repeats)
    if questions.targeted and not takes_passes(tracer.driver.ask.sources[0].score):
        raise InputError("target is for scores from gradients; the others do not look at the prediction")
    fits = isinstance(score, Fitted) or score == "fitted"
    if questions.targeted and any(given is not None for given in questions.metrics) and not fits:
        raise InputError("target: gradients of a metric do not look at it; give target or metric, not both")
    traces = tracer.run(rows, (lambda _: "") if single else (lambda index: f"input {index}: "), progress, questions)
    return traces[0] if single else traces


def keeps_invalid(on_invalid: str) -> bool:
    """Whether inputs without results keep their places, or an ``InputError``."""
    if on_invalid not in ("raise", "keep"):
        raise InputError(f"on_invalid = {on_invalid!r}, expected raise or keep")
    return on_invalid == "keep"


@dataclasses.dataclass(frozen=True)
class Tracer:
    """Traces lists of inputs in one way; what it learns of memory lasts from one to the next."""

    driver: Driver
    keep: bool
    mark: str
    """The model's fingerprint."""
    replace: str = "zero"
    """``Trace.replace``,"""
    reference: str = ""
    """and ``Trace.reference``."""
    repeats: int = 0

    @staticmethod
    def of(
        model: Model,
        score: Any,
        sizes: Sequence[float],
        frozen: Sequence[str],
        order: str,
        under: Under,
        seed: int,
        on_invalid: str,
    ) -> Tracer:
        """With everything checked."""
        kind, first = checked_score(score), checked_frozen(frozen)
        name, score_name, replacing, mark = under.named(model, passes=takes_passes(kind))
        source = Source(kind, first, checked_order(order), score_name)
        ask = Ask((source,), (), checked_sizes(sizes), checked_seed(seed), keep_scores=True)
        driver = Driver(model, ask, replacing=replacing)
        return Tracer(driver, keeps_invalid(on_invalid), model.fingerprint(), name, mark)

    def run(
        self,
        rows: Sequence[Tokens],
        where: Callable[[int], str],
        progress: Progress | None = None,
        questions: Questions | None = None,
    ) -> list[Trace | Invalid]:
        """A trace for every input, in their order, and its repetitions."""
        with reported(progress, "tracing") as report:
            outcomes = self._once(rows, where, report, questions)
        valid = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, Trace)}
        for number in range(self.repeats):
            other = dataclasses.replace(self, driver=self.driver.on(perturbed(self.driver.model, number)))
            for index, again in enumerate(other._once(rows, where, None, questions)):
                if index in valid and isinstance(again, Trace):
                    repeated = (*valid[index].repeated, again.strata)
                    valid[index] = dataclasses.replace(valid[index], repeated=repeated)
        return [valid.get(index, outcome) for index, outcome in enumerate(outcomes)]

    def _once(
        self,
        rows: Sequence[Tokens],
        where: Callable[[int], str],
        report: Report | None,
        questions: Questions | None,
    ) -> list[Trace | Invalid]:
        traces: dict[int, Trace | Invalid] = {}
        inputs: dict[int, Input] = {}
        for index, row in enumerate(rows):
            at = "" if self.keep else where(index)  # what is kept has its place
            try:
                ids = token_ids(self.driver.model, row, at)
                question = NOTHING if questions is None else questions.about(index, ids, at)
                inputs[index] = Input(continued(ids, question.answer), question=question)
            except InputError as error:
                if not self.keep:
                    raise
                traces[index] = Invalid(str(error), error=error)
        told = None if report is None else lambda part: report(len(traces) + part, len(rows))
        for batch in self.driver.batches(inputs, told):
            for index, outcome in batch.items():
                if isinstance(outcome, Invalid) and not self.keep:
                    raise outcome.as_error(where(index))
                question = inputs[index].question
                traces[index] = outcome if isinstance(outcome, Invalid) else self._assembled(outcome, question)
            if report is not None:
                report(len(traces), len(rows))
        return [traces[index] for index in range(len(rows))]

    def _assembled(self, outcome: Outcome, question: Question) -> Trace:
        model, ask = self.driver.model, self.driver.ask
        (source,), (strata,) = ask.sources, outcome.strata
        assert outcome.scores is not None
        return Trace(
            tokens=outcome.tokens,
            token_texts=token_texts(model, outcome.tokens),
            text=whole_text(model, outcome.tokens),
            config=model.config,
            n_edges=outcome.n_edges,
            sizes=ask.sizes,
            counts=counts(ask.sizes, outcome.n_edges),
            scores=outcome.scores,
            strata=strata,
            score=name_of(source.score) + ("-to-target" if question.target is not None else ""),
            frozen=source.frozen,
            order=source.order,
            replace=self.replace,
            score_replace=source.scoring[1] if takes_passes(source.score) else "",
            reference=self.reference,
            seed=ask.seed,
            model_fingerprint=self.mark,
            weights=model.weights,
            counterfactual=question.counterfactual,
            counterfactual_texts=None
            if question.counterfactual is None
            else token_texts(model, question.counterfactual),
            metric=question.metric,
            answer=question.answer,
        )
