"""Edge scores of an input by name: measured in one clean pass, from passes of their own, or random."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jstrace.method.conditions import COUNTERFACTUAL, Source
from jstrace.method.graph import full_graph
from jstrace.method.measure.metrics import Metric
from jstrace.method.naming import GRADIENTS, RANDOM, SCORE_NAMES, takes_passes, traits_of
from jstrace.method.questions import NOTHING, Question
from jstrace.method.scores.drawn import input_key, random_node_scores, random_scores
from jstrace.method.scores.fitted import Fitted, Fitting
from jstrace.method.scores.gradients import Gradient, GradientScore, Integrated, Pass, RelP, ShareTimesGradient
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.linear import Coefficients
from jstrace.method.scores.measured import MEASURES, Together, normalised
from jstrace.method.scores.rounds import Rounds
from jstrace.method.search.ordering import NO_SCORE, marked
from jstrace.models import Decoder, EdgeTree, InputError, Replacement, Score, clean_forward, hidden_states
from jstrace.models.platforms import usual_promotion

assert (*MEASURES, *RANDOM, *GRADIENTS) == SCORE_NAMES
SCORES: dict[str, Callable[[], GradientScore]] = {
    "gradient": Gradient,
    "integrated": Integrated,
    "l1*gradient": ShareTimesGradient,
    "rounds": Rounds,
    "steady-rounds": functools.partial(Rounds, cuts=10, walks=4, name="steady-rounds"),
    "relp": RelP,
    "l1*relp": functools.partial(RelP, ShareTimesGradient(), "l1*relp"),
    "fitted": Fitted,
}
"""Scores that run passes of their own, by name; "learned" is a scorer's, which the model decides."""

assert {*SCORES, "learned"} == {*GRADIENTS}


_NONE: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class _Unfilled:
    """A scorer without its numbers: what a program is compiled for, so that scorers of one shape share it."""

    features: str

    def edge_scores(self, forward: Pass) -> EdgeTree:
        raise NotImplementedError  # it is filled inside of the program


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Filled:
    """Inside a program: a scorer whose numbers are arrays of it."""

    features: str
    coefficients: Coefficients

    edge_scores = Scorer.edge_scores


def unfilled(score: Any) -> tuple[Any, Coefficients | None]:
    """A score as programs are compiled for it, and the coefficients they are given: of a scorer, or a fit's start."""
    if type(score) is Scorer:  # others may score otherwise
        return _Unfilled(score.features), score.coefficients
    if type(score) is Fitted and type(score.start) is Scorer:
        return dataclasses.replace(score, start=_Unfilled(score.start.features)), score.start.coefficients
    return score, None


def filled(score: Any, coefficients: Coefficients | None) -> Any:
    """What ``unfilled`` was given, inside a program."""
    if coefficients is None:
        return score
    if isinstance(score, _Unfilled):
        return _Filled(score.features, coefficients)
    return dataclasses.replace(score, start=_Filled(score.start.features, coefficients))


def edge_scores(
    model: Decoder,
    tokens: Int[Array, "T"],
    length: Int[Array, ""] | int,
    *,
    score: str | Score | GradientScore,
    seed: Int[Array, ""] | int,
    replace: Replacement | None = None,
    metric: Metric | None = None,
) -> EdgeTree:
    """Scores of every edge, float32; NaN in slots that are no edge.

    Args:
      model: the decoder.
      tokens: token ids; those from ``length`` on are padding.
      length: number of true tokens.
      score: one of ``SCORE_NAMES``, or what measures edges; static.
      seed: of random scores, which the tokens go into, too, and of what fits draw.
      replace: what ablated edges carry while gradients are taken; nothing by default.
      metric: what gradients are taken of; by default the prediction.
    """
    replacements = {} if replace is None else {"own": replace}
    scoring = Source(score, replace="zero" if replace is None else "own").scoring
    options: dict[str, Any] = {"seed": seed, "replacements": replacements, "question": Question(metric=metric)}
    (scores,) = several_scores(model, tokens, length, scorings=(scoring,), **options)
    with jax.debug_nans(False):  # here NaN is the answer
        return jax.tree.map(lambda score: jnp.where(score == NO_SCORE, jnp.nan, score), scores)


@usual_promotion()
def several_scores(
    model: Decoder,
    tokens: Int[Array, "T"],
    length: Int[Array, ""] | int,
    *,
    scorings: tuple[tuple[Any, str], ...],
    seed: Int[Array, ""] | int,
    replacements: Mapping[str, Replacement],
    others: Mapping[str, Int[Array, "N"]] = _NONE,
    question: Question = NOTHING,
    fitting: Fitting | None = None,
) -> tuple[EdgeTree, ...]:
    """Scores of several kinds, float32; ``NO_SCORE`` in slots that are no edge.

    Those that measure edges come all from one clean pass.

    Args:
      model, tokens, length, seed: as in ``edge_scores``.
      scorings: ``Source.scoring`` of each: scores with the names of what ablated edges carry; static.
      replacements: by those names; "zero" is none.
      others: by those names, tokens of other texts, where scores draw replacements from their states.
      question: what scores from gradients keep or ask in the place of the model's own prediction.
      fitting: of a single ``Fitted``, all of whose steps are done.
    """
    slots = full_graph.edge_slots(model.config, tokens.shape[0], length, n_outputs=question.n_outputs)
    kinds = dict.fromkeys(kind for kind, _ in scorings if kind not in RANDOM and not takes_passes(kind))
    measured = {kind: MEASURES[kind] if isinstance(kind, str) else kind for kind in kinds}
    values: dict[Any, EdgeTree] = {}
    if measured:
        together = Together(tuple(measured.values()))
        magnitudes = clean_forward(model, tokens, together, length=length).magnitudes  # type: ignore[arg-type]
        for index, (kind, own) in enumerate(measured.items()):
            tree = EdgeTree(**{name: several[index] for name, several in magnitudes.items()})
            shares = traits_of(own).shares
            values[kind, "zero"] = normalised(tree, parallel=model.config.parallel) if shares else tree
    passed = passes(model, tokens, length, seed, replacements, others, question)
    for kind, replace in scorings:
        if kind == "random":
            values[kind, replace] = random_scores(slots, input_key(seed, tokens, length))
        elif kind == "random-nodes":
            key = input_key(seed, tokens, length)
            values[kind, replace] = random_node_scores(slots, key, parallel=model.config.parallel)
        elif takes_passes(kind):
            if kind == "learned":
                raise InputError("score learned is jstrace.trace's, which knows the model; here give a Scorer")
            score: Any = SCORES[kind]() if isinstance(kind, str) else kind
            one_pass = passed(replace)
            scores = score.edge_scores(one_pass) if fitting is None else score.finish(one_pass, fitting)
            if not isinstance(scores, EdgeTree):
                raise InputError(f"edge_scores gave {type(scores).__name__}, expected an EdgeTree like its slots()")
            scores.check("edge_scores", model.config, tokens.shape[0])
            values[kind, replace] = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), scores)
    return tuple(marked(values[scoring], slots) for scoring in scorings)


def passes(
    model: Decoder,
    tokens: Int[Array, "T"],
    length: Int[Array, ""] | int,
    seed: Int[Array, ""] | int,
    replacements: Mapping[str, Replacement],
    others: Mapping[str, Int[Array, "N"]],
    question: Question,
) -> Callable[[str], Pass]:
    """What scores from gradients are given, by the name of what ablated edges carry, of ``several_scores``."""
    if question.counterfactual is not None:
        replacements = {**replacements, COUNTERFACTUAL: hidden_states(model, question.counterfactual, length=length)}

    def under(replace: str) -> Pass:
        carried, drawn = replacements.get(replace), others.get(replace)
        asked = question.metric, question.answer
        return Pass(model, tokens, length, carried, question.target, drawn, seed, *asked)

    return under
