"""The smallest trace that keeps a prediction, to the edge: sizes between those of a trace (section 5 of the method)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool

from jstrace.method.graph.sizes import percent
from jstrace.models import EdgeTree, InputError, Model
from jstrace.models.edges import ByValue
from jstrace.pipeline.evaluating import evaluate
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.searching import searched
from jstrace.pipeline.trace import Trace


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a trace is to keep."""

    tv: float | None = None
    """TV from the full graph's prediction, at most."""
    top_token: bool = False
    """Whether the top token is to be the full graph's."""

    def met(self, evaluation: Evaluation) -> Bool[np.ndarray, "Z1"]:
        """Of every row, whether it keeps that."""
        close = np.ones(len(evaluation.tv), bool) if self.tv is None else evaluation.tv <= self.tv
        return close & evaluation.agreement if self.top_token else close


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Smallest(ByValue):
    """A trace of the size at which a goal is first met.

    Examples:
      >>> found = jstrace.smallest(model, trace, tv=0.1)
      >>> found.tv <= 0.1
      True
    """

    trace: Trace
    """With sizes of its own, of which it is one."""
    evaluation: Evaluation
    """Of that."""
    index: int
    """Which of its sizes: Z is the full graph."""

    @property
    def edges(self) -> int:
        """How many edges it has."""
        return int([*self.trace.counts, self.trace.n_edges][self.index])

    @property
    def share(self) -> float:
        """Of all edges."""
        return self.edges / self.trace.n_edges

    @property
    def mask(self) -> EdgeTree:
        """Its bool mask."""
        return self.trace.mask(self.index)

    @property
    def tv(self) -> float:
        """TV from the full graph's prediction."""
        return float(self.evaluation.tv[self.index])

    @property
    def top_token(self) -> int:
        """Its most probable token."""
        return int(self.evaluation.top_token[self.index])

    def __repr__(self) -> str:
        """Short."""
        return f"Smallest({self.edges:,} of {self.trace.n_edges:,} edges ({percent(self.share)}), TV {self.tv:.3f})"


def smallest(
    model: Model,
    trace: Trace,
    *,
    tv: float | None = 0.1,
    top_token: bool = False,
    evaluation: Evaluation | None = None,
) -> Smallest:
    """The smallest trace within a TV of the full graph's prediction, that keeps its top token, or both.

    Sizes between those of the trace are evaluated, 26 in one call of the program that is there. TV does not fall
    evenly: what is found is the first of the sizes that were tried, and a smaller one in between may do, too.

    Args:
      model: the model that the trace came from.
      trace: of one input; its order is what is followed.
      tv: TV at most; None for any.
      top_token: whether the top token has to be the full graph's.
      evaluation: of the trace, where it is there already.

    Examples:
      >>> found = jstrace.smallest(model, trace, tv=None, top_token=True)
      >>> found.top_token == int(evaluation.full_tokens[0])
      True

    Raises:
      InputError: neither a TV nor the top token is asked for, or as ``jstrace.evaluate``.
    """
    if tv is None and not top_token:
        raise InputError("smallest: give tv, the distance from the prediction, or top_token=True")
    if tv is not None and (isinstance(tv, bool) or not isinstance(tv, Real) or not 0 <= tv <= 1):
        raise InputError(f"tv = {tv!r:.60}, expected 0 to 1")
    if not isinstance(trace, Trace):
        raise InputError(f"smallest takes one trace, got {type(trace).__name__}")
    known = evaluate(model, trace) if evaluation is None else evaluation
    _check_of(known, trace)
    return all_smallest(model, trace, known, [Goal(tv, top_token)])[0]


def _check_of(evaluation: Evaluation, trace: Trace) -> None:
    """Refuse an evaluation whose rows those of new sizes would not be measured as.

    Raises:
      InputError: it is of other sizes, under another replacement, inverse, or against a target.
    """
    alike = evaluation.sizes == trace.sizes and evaluation.replace == trace.replace
    if not alike or evaluation.inverse or evaluation.targeted:
        raise InputError(
            "evaluation: expected what jstrace.evaluate(model, trace) gives of this trace, or leave it out"
        )


def all_smallest(
    model: Model,
    trace: Trace,
    evaluation: Evaluation,
    goals: Sequence[Goal],
    *,
    turns: int | None = None,
    **judged: Any,
) -> list[Smallest]:
    """For each goal the smallest trace that meets it; they share the evaluations of new sizes.

    Args:
      model, trace, evaluation: of the trace.
      goals: what is to be kept.
      turns: evaluations at most; by default as many as divide every gap to single edges (4 of 26 sizes and one goal, up
        to half a million edges).
      judged: more of the options that the evaluation was made with.
    """
    if turns is None:
        each = max(1, len(trace.sizes) // len(goals))
        turns = math.ceil(math.log(trace.n_edges, each + 1)) * math.ceil(len(goals) / len(trace.sizes))
    known = [(trace, evaluation)]
    asked: dict[str, Any] = {"ablate": evaluation.ablate, "pre_softmax": evaluation.pre_softmax} | judged
    for _ in range(turns):
        gaps = [gap for gap in (_gap(known, goal) for goal in goals) if gap[1] - gap[0] > 1]
        if not gaps:
            break
        counts = _between(gaps, trace, len(trace.sizes))
        finer = resized(trace, counts)
        known.append((finer, evaluate(model, finer, **asked)))  # what the first evaluation was asked, this is, too
    return [_first(known, goal) for goal in goals]


def _rows(known: Sequence[tuple[Trace, Evaluation]], goal: Goal) -> list[tuple[int, bool, int, int]]:
    """Edges of every trace so far, whether it meets the goal, and where it is."""
    return [
        (int(count), bool(met), at, k)
        for at, (trace, evaluation) in enumerate(known)
        for k, (count, met) in enumerate(zip([*trace.counts, trace.n_edges], goal.met(evaluation), strict=True))
    ]


def _first(known: Sequence[tuple[Trace, Evaluation]], goal: Goal) -> Smallest:
    """The smallest that meets it; the full graph always does."""
    every = sorted(_rows(known, goal))
    _, _, at, k = next((row for row in every if row[1]), every[-1])
    return Smallest(*known[at], k)


def _gap(known: Sequence[tuple[Trace, Evaluation]], goal: Goal) -> tuple[int, int]:
    """The largest size before the smallest that meets it, and that size."""
    rows = _rows(known, goal)
    high = min((count for count, met, _, _ in rows if met), default=max(rows)[0])
    return max((count for count, _, _, _ in rows if count < high), default=0), high


def _between(gaps: Sequence[tuple[int, int]], trace: Trace, n_sizes: int) -> list[int]:
    """``n_sizes`` numbers of edges, as evenly inside of the gaps as they can be, and others where these are narrow."""
    each, chosen = max(1, n_sizes // len(gaps)), set[int]()
    for low, high in gaps:
        chosen |= {int(x) for x in np.linspace(low, high, min(each, high - low - 1) + 2).round()[1:-1]}
    spare = (count for count in range(1, trace.n_edges) if count not in chosen)
    ordered = sorted(chosen)[:n_sizes]
    while len(ordered) < n_sizes and (extra := next(spare, None)) is not None:
        ordered.append(extra)
    return sorted(ordered)


def resized(trace: Trace, counts: Sequence[int]) -> Trace:
    """The same order cut at other numbers of edges, increasing."""
    cuts = np.asarray(counts, np.int32)
    strata = searched(trace.scores, cuts, trace.config, trace.frozen, trace.order, trace.n_outputs)
    sizes = tuple(((cuts + 0.5) / trace.n_edges).tolist())  # whose floor is the count, whatever is rounded
    return dataclasses.replace(trace, sizes=sizes, counts=cuts, strata=strata, repeated=())
