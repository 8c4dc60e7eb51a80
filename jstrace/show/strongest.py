"""The strongest edges of one kind, and how many attention edges each head and each source token has; numpy only."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from jstrace.method.conditions import FROZEN_KINDS
from jstrace.method.graph.composition import counted
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models import EdgeTree
from jstrace.models.edges import ByValue

if TYPE_CHECKING:
    from jstrace.method.graph.edges import Edges
    from jstrace.pipeline.evaluation import Evaluation
    from jstrace.pipeline.trace import Trace

KINDS = FROZEN_KINDS
"""The arrays of each kind of edge."""


def strongest(trace: Trace, count: int, kind: str = "all") -> Edges:
    """The edges that ``--top`` lists.

    Args:
      trace: of one input.
      count: edges at most.
      kind: of ``KINDS``: its edges that enter the smallest traces first; within a stratum those of highest score, ties
        by edge index. "all": the first that best-first search takes, highest score first.
    """
    if kind == "all":
        return trace.first_edges(count)
    kinds = KINDS[kind]
    stratum = np.concatenate([getattr(trace.strata, name).ravel() for name in kinds])
    score = np.concatenate([getattr(trace.scores, name).ravel() for name in kinds])
    held = np.cumsum(counted(stratum[None])[:NO_EDGE])
    count = min(count, int(held[-1]))
    near = np.flatnonzero(stratum <= np.searchsorted(held, count))  # few of all edges: only these are sorted
    first = near[np.lexsort((-score[near], stratum[near]))[:count]]
    edges = _edges_at(trace, kinds, first)
    return edges[np.argsort(edges.stratum, kind="stable")]


def _edges_at(trace: Trace, kinds: tuple[str, ...], places: Int[np.ndarray, "N"]) -> Edges:
    """The edges at these places of the arrays one after another, highest score first."""
    from jstrace.method.graph.edges import edges_where

    masks = {name: np.zeros(leaf.shape, bool) for name, leaf in trace.strata.items()}
    start = 0
    for name in kinds:
        end = start + masks[name].size
        masks[name].ravel()[places[(places >= start) & (places < end)] - start] = True
        start = end
    return edges_where(EdgeTree(**masks), trace.scores, trace.strata, trace.words)


@dataclasses.dataclass(frozen=True, eq=False)
class Attention(ByValue):
    """Attention edges of each head and of each source token: those of one trace, and all that there are."""

    k: int
    """Index of the trace; Z is the full graph."""
    heads: Int[np.ndarray, "L H"]
    all_heads: Int[np.ndarray, "L H"]
    sources: Int[np.ndarray, "T"]
    all_sources: Int[np.ndarray, "T"]


def attention(trace: Trace, evaluation: Evaluation) -> Attention:
    """Of the smallest trace from which on, in all larger ones too, the top token is the full graph's."""
    k = evaluation.back
    (heads, sources), (all_heads, all_sources) = (totals(trace.strata.attn <= at) for at in (k, len(trace.sizes)))
    return Attention(k, heads, all_heads, sources, all_sources)


def totals(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of attention edges that are kept, bool ``[L, H, T, S]``: those of each head, and those from each source."""
    return mask.sum((2, 3)), mask.sum((0, 1, 2))
