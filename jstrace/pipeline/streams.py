"""``jstrace.trace_iter`` and ``jstrace.evaluate_iter``: many inputs, computed as they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jstrace.method.graph.sizes import SIZES
from jstrace.method.scores.gradients import GradientScore
from jstrace.models import InputError, Model, Score
from jstrace.pipeline.carrying import How, Under
from jstrace.pipeline.evaluating import checked_traces, evaluated
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.inputs import Tokens, checked_model
from jstrace.pipeline.pairs import Questions
from jstrace.pipeline.records import Invalid
from jstrace.pipeline.replacing import Reference, Replace
from jstrace.pipeline.trace import Trace
from jstrace.pipeline.tracing import Tracer, keeps_invalid
from jstrace.scale import meshes

CHUNK = 64
"""Inputs for each device along ``data`` that a stream reads at once."""


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

    Examples:
      >>> [len(one.tokens) for one in jstrace.trace_iter(model, [text, other])]
      [7, 7]

    Raises:
      InputError: as ``trace``; an input that raises ends the stream.
    """
    checked_model(model)
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise InputError(f"expected an iterable of texts or token ids, got {type(inputs).__name__}")
    under = Under(replace, score_replace, reference)
    tracer = Tracer.of(model, score, sizes, frozen, order, under, seed, on_invalid)
    return _traced_stream(tracer, iter(inputs), chunk_size(model, chunk))


def _traced_stream(tracer: Tracer, left: Iterator[Tokens], size: int) -> Iterator[Trace | Invalid]:
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


def evaluate_iter(
    model: Model,
    traces: Iterable[Trace | Invalid],
    *,
    ablate: str = "all",
    pre_softmax: bool = False,
    inverse: bool = False,
    replace: Replace = None,
    reference: Reference = None,
    on_invalid: str = "raise",
    chunk: int | None = None,
) -> Iterator[tuple[Trace | Invalid, Evaluation | Invalid]]:
    """Each trace with its evaluation, in their order, computed as they are asked for: for streams of ``trace_iter``.

    Args:
      model, ablate, pre_softmax, inverse, replace, reference, on_invalid: as in ``evaluate``.
      traces: any iterable of traces; ``chunk`` of them are read at once.
      chunk: traces that are evaluated together, 64 for each device by default.

    Examples:
      >>> traces = jstrace.trace_iter(model, [text, other])
      >>> [found.tv.shape for one, found in jstrace.evaluate_iter(model, traces)]
      [(27,), (27,)]
    """
    checked_model(model)
    how = How.of(model, ablate, pre_softmax, inverse, (replace, reference))
    return _evaluated_stream(
        model, iter(checked_traces(traces)), how, keeps_invalid(on_invalid), chunk_size(model, chunk)
    )


def _evaluated_stream(
    model: Model, left: Iterator[Trace | Invalid], how: How, keep: bool, size: int
) -> Iterator[tuple[Trace | Invalid, Evaluation | Invalid]]:
    start = 0
    while rows := list(itertools.islice(left, size)):
        nothing = Questions.of(model, len(rows), single=False)
        evaluations = evaluated(model, rows, how, [None] * len(rows), nothing, keep, None, start=start)
        yield from zip(rows, evaluations, strict=True)
        start += len(rows)
