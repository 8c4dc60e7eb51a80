"""The nodes of a trace, and the edges that join two of them as one with their number; numpy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from jstrace.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A trace at one size: N nodes, and M pairs of a source and a target, each with the number of edges that join it.

    Several heads, or the residual stream and an MLP, may join the same two nodes. Every edge goes from one level to the
    next, so all paths between two nodes are of the same length. Nodes are in the order of level and token.
    Two are equal only if they are the same object.
    """

    n_tokens: int
    """T."""
    n_levels: int
    """Levels of the graph, reached or not: 2L + 1, or L + 1 with parallel blocks."""
    level: Int[np.ndarray, "N"]
    position: Int[np.ndarray, "N"]
    """The token of each node, from 0."""
    source: Int[np.ndarray, "M"]
    """Of each pair, as an index into the nodes; pairs are in the order of their source's level."""
    target: Int[np.ndarray, "M"]
    count: Int[np.ndarray, "M"]
    """Edges of each pair, at least 1."""

    @property
    def n_nodes(self) -> int:
        """N: ends of edges; a trace without edges has none."""
        return len(self.level)

    @property
    def n_edges(self) -> int:
        """Edges of the trace, those of the same pair counted apart."""
        return int(self.count.sum())


def network_of(strata: Any, k: int, *, parallel: bool) -> Network:
    """The network of a trace.

    Args:
      strata: an ``EdgeTree`` of uint8, or anything with its four arrays: the smallest trace that holds each edge, 255
        in slots that are no edge.
      k: index of the trace, from 0; Z is the full graph.
      parallel: whether attention and MLP read the same state, as the model's config says.

    Raises:
      InputError: an index outside 0 to 254.
    """
    if not 0 <= k < 255:
        raise InputError(f"k = {k}, expected an index from 0 to 254")
    n_layers, _, n_tokens, _ = strata.attn.shape
    n_levels = (n_layers if parallel else 2 * n_layers) + 1
    pairs = [_pairs(level * n_tokens, counts) for level, counts in _steps(strata, k, parallel)]
    source, target, count = (np.concatenate(column) for column in zip(*pairs, strict=True))
    nodes, places = np.unique(np.concatenate([source, target]), return_inverse=True)
    source, target = np.split(places.reshape(-1), 2)
    return Network(n_tokens, n_levels, nodes // n_tokens, nodes % n_tokens, source, target, count)


def _pairs(first: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources, targets and counts of the joined pairs of a step; ``first`` is the number of its first source."""
    target, source = np.nonzero(counts)
    return first + source, first + len(counts) + target, counts[target, source]


def _steps(strata: Any, k: int, parallel: bool) -> Iterator[tuple[int, np.ndarray]]:
    """From each level to the next, how many edges join a target and a source: int64 ``[T, T]``."""
    for layer in range(strata.attn.shape[0]):
        attention = (strata.attn[layer] <= k).sum(axis=0)
        past = np.diag((strata.residual_attn[layer] <= k).astype(np.int64))
        after = np.diag((strata.residual_mlp[layer] <= k).astype(np.int64) + (strata.mlp[layer] <= k))
        if parallel:
            yield layer, attention + past + after
        else:
            yield 2 * layer, attention + past
            yield 2 * layer + 1, after
