"""``jstrace.trace``: from texts or token ids to traces (sections 2 and 3 of the method)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, overload

from jstrace.method.conditions import (
    NO_GRADIENTS,
    Source,
    checked_frozen,
    checked_order,
    checked_score,
    checked_seed,
    name_of,
    takes_passes,
)
from jstrace.method.graph.sizes import SIZES, checked_sizes, counts
from jstrace.method.scores.gradients import GradientScore
from jstrace.models import InputError, Model, Score
from jstrace.pipeline.ask import Ask
from jstrace.pipeline.driver import Driver
from jstrace.pipeline.inputs import Tokens, checked_model, listed, log_targets, token_ids, token_texts, whole_text
from jstrace.pipeline.records import Input, Invalid, Outcome
from jstrace.pipeline.replacing import Reference, Replace, Replacing, named
from jstrace.pipeline.trace import Trace
from jstrace.scale import meshes

CHUNK = 64
"""Inputs for each device along ``data`` that a stream reads at once."""

Progress = Callable[[int, int], None]


@overload
def trace(  # type: ignore[overload-overlap]
    model: Model, inputs: Tokens, *, score: str | Score | GradientScore = ..., sizes: Sequence[float] = ...,
    frozen: Sequence[str] = ..., order: str = ..., replace: Replace = ..., score_replace: Replace = ...,
    reference: Reference = ..., seed: int = ..., target: Any = ..., progress: Progress | None = ...,
) -> Trace: ...  # fmt: skip
@overload
def trace(
    model: Model, inputs: Sequence[Tokens], *, score: str | Score = ..., sizes: Sequence[float] = ...,
    frozen: Sequence[str] = ..., order: str = ..., replace: Replace = ..., score_replace: Replace = ...,
    reference: Reference = ..., seed: int = ..., target: Any = ..., progress: Progress | None = ...,
) -> list[Trace]: ...  # fmt: skip
@overload
def trace(
    model: Model, inputs: Sequence[Tokens], *, score: str | Score = ..., sizes: Sequence[float] = ...,
    frozen: Sequence[str] = ..., order: str = ..., replace: Replace = ..., score_replace: Replace = ...,
    reference: Reference = ..., seed: int = ..., target: Any = ..., on_invalid: Literal["keep"],
    progress: Progress | None = ...,
) -> list[Trace | Invalid]: ...  # fmt: skip
def trace(
    model: Model,
    inputs: Tokens | Sequence[Tokens],
    *,
    score: str | Score | GradientScore = "l1",
    sizes: Sequence[float] = SIZES,
    frozen: Sequence[str] = (),
    order: str = "best-first",
    replace: Replace = None,
    score_replace: Replace = None,
    reference: Reference = None,
    seed: int = 0,
    target: Any = None,
    on_invalid: str = "raise",
    progress: Progress | None = None,
) -> Trace | Invalid | list[Trace] | list[Trace | Invalid]:
    """Trace one input or a list of them: the nested sub-graphs that best-first search keeps at each size.

    Args:
      model: from ``jstrace.load``.
      inputs: a text, or token ids; a list of either gives a list of traces, computed in batches.
      score: the edge score: "l1" (the paper's), "l2", "ifr", "cosine" or "random"; from gradients in the mask
        "gradient", "integrated", "l1*gradient" or "rounds" (section 8 of the method), which keep far more of a
        prediction and cost 3 to 60 times as much; "learned", by the scorer that comes with jstrace for its default
        model; "fitted" to the input itself (``jstrace.fit_trace``: 280 passes forward and back); or one of your own
        (``jstrace.Scorer``, ``jstrace.Score``, ``jstrace.GradientScore``).
      sizes: fractions of all edges, strictly increasing, at most 254.
      frozen: components that rank before all others: any of "residual", "attention", "mlp".
      order: "best-first" from the output, so that every trace hangs together, or "score": the highest scores alone.
      replace: what ablated edges carry: "zero" (the default), "mean" (over the reference that comes with jstrace),
        "resample" (other texts' states) or a ``jstrace.Replacement``. Scores from gradients are taken under it (the
        others do not read it), and ``jstrace.evaluate`` evaluates the trace under it.
      score_replace: for two of them: what ablated edges carry while gradients are taken, where that is not ``replace``.
      reference: texts or token ids that "mean" and "resample" are made of, instead of those that come with jstrace.
      seed: of random scores, of which every input has a draw of its own, and of what fits draw.
      target: probabilities ``[V]`` of another prediction than the model's own, that scores from gradients are to keep:
        the control of ``jstrace.selectivity``; one for each input, None where it is the model's own. The score
        of a trace with a target ends in "-to-target".
      on_invalid: "raise", or "keep": an input that cannot be traced gives a ``jstrace.Invalid`` with the reason, in its
        place, and the others are traced.
      progress: called with the number of inputs done and in all.

    Raises:
      InputError: an input without tokens or with ids outside the vocabulary, or arguments that make no sense.
    """
    single, rows = listed(model, inputs)
    under = replace, score_replace, reference
    tracer = Tracer.of(model, score, sizes, frozen, order, under, seed, on_invalid)
    targets = log_targets(model, target, len(rows), single=single)
    told = any(one is not None for one in targets)
    if told and not takes_passes(tracer.driver.ask.sources[0].score):
        raise InputError("target is for scores from gradients; the others do not look at the prediction")
    found = tracer.run(rows, (lambda _: "") if single else (lambda index: f"input {index}: "), progress, targets)
    return found[0] if single else found


def trace_iter(
    model: Model,
    inputs: Iterable[Tokens],
    *,
    score: str | Score | GradientScore = "l1",
    sizes: Sequence[float] = SIZES,
    frozen: Sequence[str] = (),
    order: str = "best-first",
    replace: Replace = None,
    score_replace: Replace = None,
    reference: Reference = None,
    seed: int = 0,
    on_invalid: str = "raise",
    chunk: int | None = None,
) -> Iterator[Trace | Invalid]:
    """The traces of many inputs, in their order, computed as they are asked for: ``trace`` with bounded memory.

    Args:
      model, score, sizes, frozen, order, replace, score_replace, reference, seed, on_invalid: as in ``trace``.
      inputs: any iterable of texts or token ids; ``chunk`` of them are read at once.
      chunk: inputs that are traced together, 64 for each device by default; so many traces are held.

    Raises:
      InputError: as ``trace``; an input that raises ends the stream.
    """
    checked_model(model)
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise InputError(f"expected an iterable of texts or token ids, got {type(inputs).__name__}")
    under = replace, score_replace, reference
    tracer = Tracer.of(model, score, sizes, frozen, order, under, seed, on_invalid)
    return _stream(tracer, iter(inputs), chunk_size(model, chunk))


def _stream(tracer: Tracer, left: Iterator[Tokens], size: int) -> Iterator[Trace | Invalid]:
    start = 0
    while rows := list(itertools.islice(left, size)):
        yield from tracer.run(rows, lambda index, start=start: f"input {start + index}: ")  # type: ignore[misc]
        start += len(rows)


def chunk_size(model: Model, chunk: Any) -> int:
    """Inputs that a stream reads at once."""
    if chunk is None:
        return CHUNK * meshes.n_data(model.mesh)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise InputError(f"chunk = {chunk!r}, expected a number of inputs")
    return chunk


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

    @staticmethod
    def of(
        model: Model,
        score: Any,
        sizes: Sequence[float],
        frozen: Sequence[str],
        order: str,
        under: tuple[Replace, Replace, Reference],
        seed: int,
        on_invalid: str,
    ) -> Tracer:
        """With everything checked; ``under`` are what ablated edges carry, also in scores, and reference texts."""
        kind, first, (replace, scored, texts) = checked_score(score), checked_frozen(frozen), under
        name, replacing = named(model, replace, texts)
        mark = replacing.mark(name)
        if takes_passes(kind):
            score_name, replacing = (name, replacing) if scored is None else named(model, scored, texts)
            _check_read(replacing, texts, said=replace is not None or scored is not None)
            mark = mark if name != "zero" else replacing.mark(score_name)
        elif scored is not None:
            raise InputError(NO_GRADIENTS)
        else:
            score_name, replacing = name, Replacing(model)
        source = Source(kind, first, checked_order(order), score_name)
        ask = Ask((source,), (), checked_sizes(sizes), checked_seed(seed), keep_scores=True)
        driver = Driver(model, ask, replacing=replacing)
        return Tracer(driver, keeps_invalid(on_invalid), model.fingerprint(), name, mark)

    def run(
        self,
        rows: Sequence[Tokens],
        where: Callable[[int], str],
        progress: Progress | None = None,
        targets: Sequence[Any] | None = None,
    ) -> list[Trace | Invalid]:
        """A trace for every input, in their order; ``targets`` are other predictions to keep than the model's own."""
        found: dict[int, Trace | Invalid] = {}
        inputs: dict[int, Input] = {}
        for index, row in enumerate(rows):
            try:
                ids = token_ids(self.driver.model, row, where(index))
                inputs[index] = Input(ids, target=None if targets is None else targets[index])
            except InputError as error:
                if not self.keep:
                    raise
                found[index] = Invalid(str(error), error=error)
        for batch in self.driver.batches(inputs):
            for index, outcome in batch.items():
                if isinstance(outcome, Invalid) and not self.keep:
                    raise outcome.as_error(where(index))
                told = inputs[index].target is not None
                found[index] = outcome if isinstance(outcome, Invalid) else self._assembled(outcome, told)
            if progress is not None:
                progress(len(found), len(rows))
        return [found[index] for index in range(len(rows))]

    def _assembled(self, found: Outcome, to_target: bool) -> Trace:
        model, ask = self.driver.model, self.driver.ask
        (source,), (strata,) = ask.sources, found.strata
        assert found.scores is not None
        return Trace(
            tokens=found.tokens,
            token_texts=token_texts(model, found.tokens),
            text=whole_text(model, found.tokens),
            config=model.config,
            n_edges=found.n_edges,
            sizes=ask.sizes,
            counts=counts(ask.sizes, found.n_edges),
            scores=found.scores,
            strata=strata,
            score=name_of(source.score) + ("-to-target" if to_target else ""),
            frozen=source.frozen,
            order=source.order,
            replace=self.replace,
            score_replace=source.scoring[1] if takes_passes(source.score) else "",
            reference=self.reference,
            seed=ask.seed,
            model_fingerprint=self.mark,
        )


def _check_read(replacing: Replacing, texts: Reference, *, said: bool) -> None:
    """Refuse what scores from gradients cannot be taken under, and texts where nothing is said to be made of them.

    Raises:
      InputError: several replacements, or texts and no replacement.
    """
    if len(replacing.own) > 1:
        raise InputError("gradients are taken under one replacement; several are for evaluate")
    if texts is not None and not said:
        raise InputError(
            "reference has texts for replace mean or resample: say which, as ablated edges carry zero else"
        )
