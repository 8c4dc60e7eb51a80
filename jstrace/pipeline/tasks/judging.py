"""What orders of edges, or of components, keep of held-out pairs, at each size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from jstrace.method.measure.metrics import recovered
from jstrace.models import Model
from jstrace.models.edges import ByValue
from jstrace.pipeline.evaluating import evaluate
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.replacing import Replace
from jstrace.pipeline.tasks.alignment import component_mask
from jstrace.pipeline.trace import Trace

Step = Callable[[float, int], None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Judged(ByValue):
    """Held-out pairs under one order: a row for each pair, a column for each size, the full graph last."""

    metric: Float32[np.ndarray, "P Z1"]
    """logit(answer) - logit(rival)."""
    ends: Float32[np.ndarray, "P 2"]
    """The same of the empty mask and of the full graph."""
    tv: Float32[np.ndarray, "P Z1"]
    """From the full graph's prediction."""
    kept: Float32[np.ndarray, "P Z1"]
    """The share of all edges that is kept."""

    @property
    def recovered(self) -> Float32[np.ndarray, "P Z1"]:
        """(m - m(empty)) / (m(full) - m(empty)) of each pair (section 9); NaN where the two ends are the same."""
        rows = zip(self.metric, self.ends.tolist(), strict=True)
        return np.stack([recovered(values, empty, full) for values, (empty, full) in rows])

    @property
    def defined(self) -> Bool[np.ndarray, "P"]:
        """The pairs whose two ends differ, which ``mean`` and ``std`` are over."""
        return np.isfinite(self.recovered).all(axis=1)

    @property
    def faithfulness(self) -> Float32[np.ndarray, "Z1"]:
        """The same of the metric's means over pairs, as MIB has it."""
        empty, full = self.ends.mean(axis=0).tolist()
        return recovered(self.metric.mean(axis=0), empty, full)

    @property
    def accuracy(self) -> Float[np.ndarray, "Z1"]:
        """The share of pairs whose answer is ahead of its rival."""
        return (self.metric > 0).mean(axis=0)

    def mean(self) -> Float[np.ndarray, "Z1"]:
        """What is recovered, over the pairs where it is ``defined``; NaN without one."""
        return self._over_pairs(np.mean)

    def std(self) -> Float[np.ndarray, "Z1"]:
        """Its standard deviation over the same."""
        return self._over_pairs(np.std)

    def _over_pairs(self, of: Callable[..., np.ndarray]) -> Float[np.ndarray, "Z1"]:
        known = self.recovered[self.defined].astype(float)
        return of(known, axis=0) if len(known) else np.full(self.metric.shape[1], np.nan)

    @staticmethod
    def of(evaluations: Sequence[Evaluation], shares: Float[np.ndarray, "P Z1"]) -> Judged:
        """Evaluations with a metric, and the share of edges that each of their rows keeps."""
        metric = np.stack([np.asarray(evaluation.metric, np.float32) for evaluation in evaluations])
        ends = np.asarray([evaluation.metric_ends for evaluation in evaluations], np.float32)
        tv = np.stack([np.asarray(evaluation.tv, np.float32) for evaluation in evaluations])
        return Judged(metric, ends, tv, shares.astype(np.float32))


def judged_traces(model: Model, traces: Sequence[Trace], replace: Replace, step: Step | None) -> Judged:
    """Traces of held-out pairs."""
    evaluations = evaluate(model, traces, replace=replace, progress=step)
    return Judged.of(evaluations, np.asarray([[*(trace.counts / trace.n_edges), 1.0] for trace in traces]))


def judged_components(
    model: Model, traces: Sequence[Trace], components: Bool[np.ndarray, "P Z L C"], replace: Replace, step: Step | None
) -> Judged:
    """Components kept at all positions of held-out pairs, and every residual edge; of traces only what is asked."""
    evaluations = []
    for index, (trace, own) in enumerate(zip(traces, components, strict=True)):
        masks = component_mask(own, len(trace.tokens), model.config)
        evaluations.append(evaluate(model, trace, masks=masks, replace=replace))
        if step is not None:
            step(index + 1, len(traces))
    return Judged.of(evaluations, np.asarray([evaluation.row_sizes for evaluation in evaluations]))


def overlaps(some: Sequence[Trace], others: Sequence[Trace]) -> Float32[np.ndarray, "P Z"]:
    """At each size the edges that two traces share, over those of either."""
    shares = []
    for trace, other in zip(some, others, strict=True):
        sizes = range(len(trace.sizes))
        shares.append([float(trace.mask(k).overlap(other.mask(k))) for k in sizes])
    return np.asarray(shares, np.float32)


def shared_components(some: Bool[np.ndarray, "P Z L C"], other: Bool[np.ndarray, "Z L C"]) -> np.ndarray:
    """At each size the components that are in both, over those in either: float32 ``[P, Z]``; 1 of two empty sets."""
    both, either = ((join).sum(axis=(2, 3)) for join in (some & other, some | other))
    return ((both + (either == 0)) / np.maximum(either, 1)).astype(np.float32)
