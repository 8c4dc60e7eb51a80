"""``jstrace.fit_trace`` and its control: traces fitted to inputs, and to predictions not theirs (section 8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from jaxtyping import Float

from jstrace.errors import did_you_mean
from jstrace.method.graph.sizes import SIZES, checked_sizes, most_selective
from jstrace.method.naming import checked_score, takes_passes
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.gradients import GradientScore
from jstrace.method.scores.scoring import SCORES
from jstrace.models import InputError, Model
from jstrace.models.edges import ByValue
from jstrace.pipeline.driver import Driver
from jstrace.pipeline.evaluating import evaluate
from jstrace.pipeline.foreign import Predictions
from jstrace.pipeline.inputs import Tokens, tokenised
from jstrace.pipeline.progress import Progress
from jstrace.pipeline.records import Ask
from jstrace.pipeline.replacing import Reference, Replace
from jstrace.pipeline.scorers import known_to
from jstrace.pipeline.trace import Trace
from jstrace.pipeline.tracing import trace


class FitOptions(TypedDict, total=False):
    """The options of ``fit_trace``, for one input and for many."""

    replace: Replace
    score_replace: Replace
    reference: Reference
    sizes: Sequence[float]
    steps: int
    smallest: float
    polish: int
    seed: int
    start: str | GradientScore | None
    counterfactual: Any
    target: Any
    order: str
    progress: Progress | None


@overload
def fit_trace(  # type: ignore[overload-overlap]
    model: Model, inputs: Tokens, **options: Unpack[FitOptions]
) -> Trace: ...
@overload
def fit_trace(model: Model, inputs: Sequence[Tokens], **options: Unpack[FitOptions]) -> list[Trace]: ...
def fit_trace(
    model: Model,
    inputs: Tokens | Sequence[Tokens],
    *,
    replace: Replace = None,
    score_replace: Replace = None,
    reference: Reference = None,
    sizes: Sequence[float] = SIZES,
    steps: int = 100,
    smallest: float = 0.005,
    polish: int = 40,
    seed: int = 0,
    start: str | GradientScore | None = None,
    counterfactual: Tokens | Sequence[Tokens] | None = None,
    target: Any = None,
    order: str = "best-first",
    progress: Progress | None = None,
) -> Trace | list[Trace]:
    """Traces of edge scores fitted by gradient to each input, nested over all sizes.

    Their score is "fitted", followed by what differs from the defaults, such as "fitted-steps-200".

    A fit finds far smaller traces than any score, and with them the question whether it found the input's computation
    or made one out of a mask's capacity: ask the same fit for another text's prediction (``target``), and see how far
    it gets (``jstrace.selectivity``).

    Args:
      model: from ``jstrace.load``.
      inputs: a text, or token ids; a list of either gives a list of traces.
      replace: what ablated edges carry, in the fit and in evaluations: "zero" (the default), "mean", "resample" (in the
        fit states of other places of the reference, drawn anew at every step) or a ``jstrace.Replacement``. Fits under
        "mean" keep predictions with the fewest edges.
      score_replace: for two of them: what they carry in the fit, where that is not ``replace``.
      reference: texts or token ids that "mean" and "resample" are made of, instead of those that come with jstrace.
      sizes: of the traces.
      steps: of Adam, each with masks of two sizes: two forward and two backward passes.
      smallest: least size, a share of all edges, that is fitted; smaller ones take their order from it.
      polish: further steps, in which the first edges, five times ``smallest``, are fitted by themselves at sizes from
        half of it to four times it. 0 for none.
      seed: of all draws.
      start: the score that the fit begins at: a name as in ``jstrace.trace``, a ``jstrace.GradientScore`` such as a
        ``jstrace.Scorer``; by default ten rounds.
      counterfactual: as in ``jstrace.trace``: ablated edges carry its states in the fit and in evaluations.
      target, order: as in ``jstrace.trace``.
      progress: as in ``jstrace.trace``.

    Examples:
      >>> jstrace.fit_trace(model, text, steps=2, polish=0, start="relp").score
      'fitted-steps-2-start-relp-polish-0'

    Raises:
      InputError: as ``jstrace.trace``, or a start of another model.
    """
    started: dict[str, Any] = {} if start is None else {"start": _started(model, start)}
    score = Fitted(steps=steps, smallest=smallest, polish=polish, **started)
    options: dict[str, Any] = {"sizes": sizes, "order": order, "reference": reference, "seed": seed}
    options |= {"replace": replace, "score_replace": score_replace, "counterfactual": counterfactual}
    given: Any = inputs  # either of the two: what the overloads say of one they say of the other
    traces: Any = trace(model, given, score=score, target=target, progress=progress, **options)
    return traces


def _started(model: Model, start: Any) -> Any:
    """A score that needs passes of its own, known to the model."""
    if isinstance(start, str):
        names = [*(name for name in SCORES if name != "fitted"), "learned"]
        if start not in names:
            expected = f"one of {', '.join(names)}, or a jstrace.GradientScore{did_you_mean(start, names)}"
            raise InputError(f"start = {start!r}, expected {expected}")
        return known_to(model, start) if start == "learned" else SCORES[start]()
    return known_to(model, start)


@dataclasses.dataclass(frozen=True, eq=False)
class Selectivity(ByValue):
    """TV from the input's own prediction, and of its control from other texts' predictions, by size: ``[Z + 1]`` each.

    Two are equal where all that they hold is.

    Examples:
      >>> found = jstrace.selectivity(model, text, others, score="relp")
      >>> found.own.shape, found.foreign.shape
      ((27,), (2, 27))
    """

    sizes: tuple[float, ...]
    own: Float[np.ndarray, "Z1"]
    """TV from the model's own prediction under the trace that knows it."""
    foreign: Float[np.ndarray, "N Z1"]
    """TV from each foreign target under the trace told that."""
    told: tuple[int, ...] = ()
    """Which of the other texts those are, by their indices: those that predict another most probable token."""

    @property
    def selectivity(self) -> np.ndarray:
        """Mean TV of the foreign targets less that of the own: 1 where only the own is reached, 0 where all are."""
        return np.asarray(self.foreign.mean(axis=0) - self.own)

    @property
    def peak(self) -> float:
        """The size, a share of all edges, where it is largest, of those up to half of them: see ``CONTROLLED``."""
        return float(self.sizes[most_selective(self.sizes, self.selectivity)])


def selectivity(
    model: Model,
    text: Tokens,
    others: Sequence[Tokens],
    *,
    score: str | GradientScore = "fitted",
    replace: Replace = None,
    score_replace: Replace = None,
    reference: Reference = None,
    sizes: Sequence[float] = SIZES,
    counterfactual: Tokens | None = None,
    order: str = "best-first",
    seed: int = 0,
    progress: Progress | None = None,
) -> Selectivity:
    """The control of a score with a target: the same score, with other texts' predictions as its targets.

    A mask with many edges can produce predictions that the text does not support. If a size reaches the input's own
    prediction, and the control fails there, the trace is about the input.

    Args:
      model: from ``jstrace.load``.
      text: a text, or token ids.
      others: texts whose predictions are the foreign targets. Those that predict the text's own most probable token are
        left out, as in runs (``Selectivity.told``); at least one must be left.
      score: a score from gradients, as in ``jstrace.trace``: "fitted", a ``jstrace.Fitted`` of other steps, or
        "rounds", "learned" and others, which cannot be fitted to a target and should get nowhere.
      replace, score_replace, reference, counterfactual: as in ``jstrace.trace``, for scores and evaluations.
      sizes, order, seed: as in ``jstrace.trace``.
      progress: as in ``jstrace.trace``, of the predictions.

    Examples:
      >>> found = jstrace.selectivity(model, text, others, score="relp")
      >>> 0 < found.peak <= 0.5
      True

    Raises:
      InputError: as ``jstrace.trace``; a score that does not look at the prediction; no others, the text among them, or
        none that predicts anything else.
    """
    single, own = tokenised(model, text)
    if not single:
        raise InputError("selectivity takes one input: a text or its token ids")
    ids = [*own, *tokenised(model, others)[1]]
    if len(ids) < 2:
        raise InputError("others: at least one text, whose prediction is the foreign target")
    if any(np.array_equal(ids[0], other) for other in ids[1:]):
        raise InputError("others: the text itself is among them, whose prediction is not foreign")
    if not takes_passes(checked_score(score)):
        raise InputError("selectivity is for scores from gradients; the others do not look at the prediction")
    known, numbers = known_to(model, score), checked_sizes(sizes)
    predictions = Predictions(Driver(model, Ask((), (), numbers)), ids)
    if predictions.of(0) is None:
        raise InputError("the model's own prediction of the text is not finite; try dtype float32")
    told = predictions.foreign(0, range(1, len(ids)))
    if not told:
        raise InputError("others: each predicts the text's own most probable token; give texts that predict another")
    targets = [None, *(_probabilities(predictions.of(index)) for index in told)]
    pairs = None if counterfactual is None else [counterfactual] * len(targets)
    how: dict[str, Any] = {"replace": replace, "reference": reference, "target": targets, "counterfactual": pairs}
    given: Any = [ids[0]] * len(targets)
    how_scored: dict[str, Any] = {
        "sizes": numbers,
        "order": order,
        "seed": seed,
        "score_replace": score_replace,
        "progress": progress,
    }
    traces: Any = trace(model, given, score=known, **how, **how_scored)
    judged: Any = evaluate(model, traces, **how)
    own_tv, *foreign = (evaluation.tv for evaluation in judged)
    return Selectivity(numbers, own_tv, np.stack(foreign), tuple(index - 1 for index in told))


def _probabilities(log_probs: Float[np.ndarray, "V"] | None) -> Float[np.ndarray, "V"]:
    assert log_probs is not None, "what is foreign has a prediction"
    return np.asarray(np.exp(log_probs))
