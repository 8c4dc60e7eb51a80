"""``jstrace.learn`` and its control: traces fitted to inputs, and to predictions that are not theirs (section 8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import Float

from jstrace.method.conditions import checked_seed
from jstrace.method.gradients import GradientScore
from jstrace.method.learning import Fitted
from jstrace.method.scoring import SCORES
from jstrace.method.sizes import SIZES
from jstrace.models import AnyArray, InputError, Model
from jstrace.pipeline.evaluating import evaluate
from jstrace.pipeline.inputs import Tokens, listed, log_targets, tokenised
from jstrace.pipeline.replacing import Reference, Replace
from jstrace.pipeline.scorers import known_to
from jstrace.pipeline.trace import Trace
from jstrace.pipeline.tracing import Progress, Tracer

_OPTIONS = ("steps", "smallest", "seed", "start", "order")
"""Of ``learn`` that ``selectivity`` hands on."""


@overload
def learn(  # type: ignore[overload-overlap]
    model: Model, inputs: Tokens, *, replace: Replace = ..., reference: Reference = ..., sizes: Sequence[float] = ...,
    steps: int = ..., smallest: float = ..., seed: int = ..., start: str | GradientScore | None = ...,
    target: Float[AnyArray, "V"] | None = ..., order: str = ..., progress: Progress | None = ...,
) -> Trace: ...  # fmt: skip
@overload
def learn(
    model: Model, inputs: Sequence[Tokens], *, replace: Replace = ..., reference: Reference = ...,
    sizes: Sequence[float] = ..., steps: int = ..., smallest: float = ..., seed: int = ...,
    start: str | GradientScore | None = ..., target: Sequence[Float[AnyArray, "V"]] | None = ..., order: str = ...,
    progress: Progress | None = ...,
) -> list[Trace]: ...  # fmt: skip
def learn(
    model: Model,
    inputs: Tokens | Sequence[Tokens],
    *,
    replace: Replace = "mean",
    reference: Reference = None,
    sizes: Sequence[float] = SIZES,
    steps: int = 100,
    smallest: float = 0.005,
    seed: int = 0,
    start: str | GradientScore | None = None,
    target: Any = None,
    order: str = "best-first",
    progress: Progress | None = None,
) -> Trace | list[Trace]:
    """Traces of edge scores fitted by gradient to each input, nested over all sizes: importance "fitted".

    A fit finds far smaller traces than any score, and with them the question whether it found the input's computation
    or made one out of a mask's capacity: ask the same fit for another text's prediction (``target``), and see how far
    it gets (``jstrace.selectivity``).

    Args:
      model: from ``jstrace.load``.
      inputs: a text, or token ids; a list of either gives a list of traces.
      replace: what ablated edges carry: "mean", "zero", "resample" (states of other places of the reference, drawn
        anew at every step) or a ``jstrace.Replacement``.
      reference: texts or token ids that "mean" and "resample" are made of, instead of those that come with jstrace.
      sizes: of the traces.
      steps: of Adam, each with masks of two sizes: two forward and two backward passes.
      smallest: least size, a share of all edges, that is fitted; smaller ones take their order from it.
      seed: of all draws.
      start: the score that the fit begins at: a name as in ``jstrace.trace``, a ``jstrace.GradientScore`` such as a
        ``jstrace.Scorer``; by default ten rounds.
      target: probabilities ``[V]`` of another prediction to fit to than the model's own; for a list of inputs one each.
      order: as in ``jstrace.trace``.
      progress: called with the number of inputs done and in all.

    Raises:
      InputError: as ``jstrace.trace``; a target that is no distribution over the model's vocabulary; or a start of
        another model.
    """
    single, rows = listed(model, inputs)
    options: dict[str, Any] = {} if start is None else {"start": _started(model, start)}
    name = "fitted" if target is None else "fitted-foreign"
    score = Fitted(steps=steps, smallest=smallest, name=name, **options)
    targets = log_targets(model, target, len(rows), single=single)
    tracer = Tracer.of(model, score, sizes, (), order, (replace, reference), checked_seed(seed), "raise")
    found = tracer.run(rows, (lambda _: "") if single else (lambda index: f"input {index}: "), progress, targets)
    traces = [one for one in found if isinstance(one, Trace)]
    return traces[0] if single else traces


def _started(model: Model, start: Any) -> Any:
    """A score that needs passes of its own, known to the model."""
    if isinstance(start, str):
        names = [*(name for name in SCORES if name != "fitted"), "learned"]
        if start not in names:
            raise InputError(f"start = {start!r}, expected one of {', '.join(names)}, or a jstrace.GradientScore")
        return known_to(model, start) if start == "learned" else SCORES[start]()
    return known_to(model, start)


@dataclasses.dataclass(frozen=True)
class Selectivity:
    """How far a fit gets towards its input's own prediction, and towards others: by size, ``[Z + 1]`` each."""

    sizes: tuple[float, ...]
    own: Float[np.ndarray, "Z1"]
    """TV from the model's own prediction under the trace fitted to it."""
    foreign: Float[np.ndarray, "N Z1"]
    """TV from each foreign target under the trace fitted to that."""

    @property
    def selectivity(self) -> np.ndarray:
        """Mean TV of the foreign targets less that of the own: 1 where only the own is reached, 0 where all are."""
        return np.asarray(self.foreign.mean(axis=0) - self.own)

    @property
    def peak(self) -> float:
        """The size, a share of all edges, where it is largest."""
        return float(self.sizes[int(np.argmax(self.selectivity[:-1]))])


def selectivity(
    model: Model,
    text: Tokens,
    others: Sequence[Tokens],
    *,
    replace: Replace = "mean",
    reference: Reference = None,
    sizes: Sequence[float] = SIZES,
    progress: Progress | None = None,
    **options: Any,
) -> Selectivity:
    """The control of a fitted trace: the same fit to other texts' predictions, as control tasks do for probes.

    A mask with many edges can make a text predict what it does not predict; where the own prediction is reached at a
    size and foreign ones are not, the trace says something of the input.

    Args:
      model: from ``jstrace.load``.
      text: a text, or token ids.
      others: texts whose predictions are the foreign targets, at least one.
      replace, reference, sizes: as in ``learn``, for fits and evaluations.
      progress: called with the number of fits done and in all.
      options: more of ``learn``: steps, smallest, seed, start, order.

    Raises:
      InputError: as ``learn``.
    """
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise InputError(f"selectivity knows no {unknown[0]}; beside replace and sizes it takes {', '.join(_OPTIONS)}")
    single, own = tokenised(model, text)
    if not single:
        raise InputError("selectivity takes one input: a text or its token ids")
    ids = [*own, *tokenised(model, others)[1]]
    if len(ids) < 2:
        raise InputError("others: at least one text, whose prediction is the foreign target")
    if any(np.array_equal(ids[0], other) for other in ids[1:]):
        raise InputError("others: the text itself is among them, whose prediction is not foreign")
    predictions = [np.asarray(jax.nn.softmax(model(row, model.full_mask(len(row))))) for row in ids]
    how: dict[str, Any] = {"replace": replace, "reference": reference}
    curves = []
    for index, prediction in enumerate(predictions):
        target = prediction if index else None
        trace = learn(model, ids[0], sizes=sizes, target=target, **how, **options)
        curves.append(evaluate(model, trace, target=target, **how).tv)
        if progress is not None:
            progress(index + 1, len(ids))
    return Selectivity(tuple(trace.sizes), curves[0], np.stack(curves[1:]))
