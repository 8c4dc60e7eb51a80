"""Traces as networks, and what networks have a name for: degrees, betweenness, PageRank, communities, modularity.

All but ``communities`` is numpy, and equals networkx on ``trace.to_networkx(k)`` in a fraction of its time: edges go
from one level to the next, so all paths between two nodes are shortest ones, and a product of matrices counts a level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

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
    pairs = []
    for level, counts in _steps(strata, k, parallel):
        target, source = np.nonzero(counts)
        pairs.append((level * n_tokens + source, (level + 1) * n_tokens + target, counts[target, source]))
    source, target, count = (np.concatenate(column) for column in zip(*pairs, strict=True))
    nodes, places = np.unique(np.concatenate([source, target]), return_inverse=True)
    source, target = np.split(places.reshape(-1), 2)
    return Network(n_tokens, n_levels, nodes // n_tokens, nodes % n_tokens, source, target, count)


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


SOURCES = 5_000
"""Sources of paths that ``betweenness`` takes at most, unless it is told another number."""
_DAMPING = 0.85
_TURNS, _CLOSE = 1000, 1e-12
_TOGETHER = 256
"""Sources that are counted at a time."""


def degrees(network: Network) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Edges into each node and out of it, every head counted apart. Exact."""
    n = network.n_nodes
    into, out = (np.bincount(ends, network.count, n) for ends in (network.target, network.source))
    return into.astype(np.int64), out.astype(np.int64)


def pagerank(network: Network, *, backward: bool = False) -> Float[np.ndarray, "N"]:
    """PageRank with damping 0.85; a pair of nodes weighs as many edges as join it. Exact up to 1e-12; it sums to 1.

    Args:
      network: of a trace.
      backward: against the edges: a walk from the output towards the embeddings, high where much is read from.
        Otherwise along them: high where much arrives, most of all at the output.
    """
    n = network.n_nodes
    if n == 0:
        return np.zeros(0)
    source, target = network.source, network.target
    if backward:
        source, target = target, source
    leaving = np.bincount(source, network.count, n)
    share, ends = network.count / leaving[source], leaving == 0
    rank = np.full(n, 1 / n)
    for _ in range(_TURNS):
        arrived = np.bincount(target, rank[source] * share, n) + rank[ends].sum() / n
        old, rank = rank, _DAMPING * arrived + (1 - _DAMPING) / n
        if np.abs(rank - old).sum() < _CLOSE:
            break
    return rank / rank.sum()


# --- betweenness ----------------------------------------------------------------------------------------------------


def betweenness(network: Network, *, sources: int = SOURCES, seed: int = 0) -> tuple[Float[np.ndarray, "N"], int]:
    """The share of the paths between two other nodes that lead through a node, summed over all pairs of nodes.

    It is divided by (N - 1)(N - 2), so from 0 to 1. Edges that join the same two nodes make one path.

    Args:
      network: of a trace.
      sources: of paths. A network with no more nodes is counted whole, which is exact; of a larger one so many nodes
        are drawn without replacement, and their sum is scaled up.
      seed: of the draw.

    Returns:
      Betweenness of each node, and how many sources it was counted from: N where it is exact.

    Raises:
      InputError: fewer than one source.
    """
    if sources < 1:
        raise InputError(f"sources = {sources}, expected at least 1")
    n = network.n_nodes
    drawn = np.arange(n)
    if n > sources:
        drawn = np.sort(np.random.default_rng(seed).choice(n, sources, replace=False))
    totals, steps = np.zeros((network.n_levels, network.n_tokens)), _matrices(network)
    for start in range(0, len(drawn), _TOGETHER):
        some = drawn[start : start + _TOGETHER]  # in the order of their levels, before which nothing is reached
        first = int(network.level[some[0]])
        if first == network.n_levels - 1:
            break  # from the output nothing is reached
        totals[first:] += _dependencies(steps[first:], network.level[some] - first, network.position[some])
    scale = n / max(1, len(drawn)) / max(1, (n - 1) * (n - 2))
    return totals[network.level, network.position] * scale, len(drawn)


def _matrices(network: Network) -> list[np.ndarray]:
    """Whether a pair is joined, from each level to the next: ``[T, T]`` (source, target), or its diagonal ``[T]``."""
    starts = network.level[network.source]
    matrices = []
    for level in range(network.n_levels - 1):
        here = starts == level
        source, target = (network.position[ends[here]] for ends in (network.source, network.target))
        straight = np.array_equal(source, target)
        step = np.zeros(network.n_tokens if straight else (network.n_tokens, network.n_tokens))
        step[source if straight else (source, target)] = 1.0
        matrices.append(step)
    return matrices


def _dependencies(steps: list[np.ndarray], level: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Brandes' sums over the paths from some nodes, for all levels from that of the first of them: ``[levels, T]``.

    Paths of every source are counted relative to the most of a level, as their number grows beyond any float.
    """
    n_tokens = steps[0].shape[0]
    paths, most = [_starting(0, level, position, n_tokens)], []
    for number, step in enumerate(steps, 1):
        reached = _through(paths[-1], step)
        most.append(reached.max(axis=1, keepdims=True))
        most[-1][most[-1] == 0] = 1.0
        paths.append(reached / most[-1] + _starting(number, level, position, n_tokens))
    sums, after = np.zeros((len(steps) + 1, n_tokens)), np.zeros_like(paths[-1])
    for number in range(len(steps) - 1, 0, -1):
        later = paths[number + 1] * most[number]
        each = np.divide(1 + after, later, out=np.zeros_like(later), where=later > 0)
        after = paths[number] * _through(each, steps[number].T)
        sums[number] = after[level < number].sum(axis=0)
    return sums


def _starting(number: int, level: np.ndarray, position: np.ndarray, n_tokens: int) -> np.ndarray:
    """One path to each source that is of this level."""
    paths = np.zeros((len(level), n_tokens))
    here = np.flatnonzero(level == number)
    paths[here, position[here]] = 1.0
    return paths


def _through(rows: np.ndarray, step: np.ndarray) -> np.ndarray:
    return rows * step if step.ndim == 1 else rows @ step


# --- communities ----------------------------------------------------------------------------------------------------


def communities(network: Network, *, seed: int = 0) -> Int[np.ndarray, "N"]:
    """The community of each node by Louvain's method, which is a heuristic: other seeds find others. Needs networkx.

    Directions are left out, and a pair of nodes weighs as many edges as join it.

    Args:
      network: of a trace.
      seed: of the order in which nodes are visited.

    Returns:
      Numbers from 0, the community with most nodes first, ties by their first node.

    Raises:
      InputError: networkx is missing.
    """
    try:
        import networkx
    except ImportError as error:
        raise InputError("communities need networkx: pip install 'jstrace[analysis]'") from error
    graph: Any = networkx.Graph()
    graph.add_nodes_from(range(network.n_nodes))
    graph.add_weighted_edges_from(
        zip(*(getattr(network, name).tolist() for name in ("source", "target", "count")), strict=True)
    )
    groups = networkx.community.louvain_communities(graph, seed=seed) if network.n_nodes else ()
    labels = np.zeros(network.n_nodes, np.int64)
    for number, group in enumerate(sorted(map(sorted, groups), key=lambda group: (-len(group), group[0]))):
        labels[group] = number
    return labels


def modularity(network: Network, community: Int[np.ndarray, "N"]) -> float:
    """How many more edges lie inside communities than by chance, as a share of all: from -1/2 to 1; NaN of no edges.

    Args:
      network: of a trace, whose directions are left out.
      community: of each node, from 0.
    """
    if network.n_edges == 0:
        return float("nan")
    of_source, of_target = community[network.source], community[network.target]
    inside = network.count[of_source == of_target].sum() / network.n_edges
    ends = np.bincount(np.concatenate([of_source, of_target]), np.tile(network.count, 2))
    return float(inside - ((ends / (2 * network.n_edges)) ** 2).sum())
