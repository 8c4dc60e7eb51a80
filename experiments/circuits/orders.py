"""Orders of edges, and how they compare with the truth; on the host, of one input."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jstrace.models import EdgeTree, ModelConfig
from jstrace.models.slots import edge_slots
from jstrace.pipeline.searching import searched

CUTS = 26
"""Sizes that a search is asked for. Edges between two of them count as equal, half of each pair as in order."""


def flat(tree: EdgeTree, slots: np.ndarray | None = None) -> np.ndarray:
    """The values of all edges, ``[E]``; of all slots without ``slots``."""
    values = np.concatenate([np.ravel(leaf) for _, leaf in tree.items()])
    return values if slots is None else values[slots]


def unflat(values: np.ndarray, slots: EdgeTree) -> EdgeTree:
    """A tree of the values of all edges, zero in slots that are none."""
    whole = np.zeros(flat(slots).shape, values.dtype)
    whole[flat(slots)] = values
    parts, start = {}, 0
    for name, leaf in slots.items():
        parts[name] = whole[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
    return EdgeTree(**parts)


def ranks_of_scores(scores: EdgeTree, slots: EdgeTree) -> np.ndarray:
    """The place of every edge by its score alone, ``[E]``, from 0 on; of equal ones the lower index is first."""
    order = np.argsort(-flat(scores, flat(slots)), kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def strata_of_search(
    scores: EdgeTree, slots: EdgeTree, config: ModelConfig, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best-first search: the first of the cuts that holds each edge, ``[E]``, and the cuts, ``counts`` among them."""
    n_edges = int(flat(slots).sum())
    between = np.geomspace(2, n_edges, CUTS - len(counts)).round()
    cuts = np.sort(np.append(between, counts)).astype(np.int32)
    return flat(searched(scores, cuts, config, (), "best-first"), flat(slots)).astype(np.int64), cuts


def with_connections(scores: EdgeTree, slots: EdgeTree) -> EdgeTree:
    """Scores that are raised so that best-first search follows them: the order that knows keys.

    A node whose best edge is worth more than every edge that leaves it is out of reach until a worthless one is taken,
    as where its state is read as a key alone. From the inputs on, the best edge out of every node is raised to the best
    edge into it, so that one connection is taken just before what it leads to, in the order of scores.
    """
    raised = EdgeTree(**{name: np.where(slot, getattr(scores, name), -np.inf) for name, slot in slots.items()})
    n_layers, n_tokens = raised.mlp.shape
    worth = np.full(n_tokens, -np.inf, np.float32)  # of the best edge into each node of a level
    for layer in range(n_layers):
        out = np.concatenate([raised.residual_attn[layer][None], raised.attn[layer].reshape(-1, n_tokens)])
        worth = _raise(out, worth)
        raised.residual_attn[layer] = out[0]
        raised.attn[layer] = out[1:].reshape(raised.attn[layer].shape)
        worth = np.maximum(out[0], raised.attn[layer].max((0, 2)))
        both = np.stack([raised.residual_mlp[layer], raised.mlp[layer]])
        _raise(both, worth)
        raised.residual_mlp[layer], raised.mlp[layer] = both
        worth = both.max(0)
    return jax.tree.map(lambda leaf, slot: np.where(slot, leaf, 0).astype(np.float32), raised, slots)


def _raise(out: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Raise the best of the edges out of every node, ``[N, T]`` by its source, to what the node is worth."""
    best = out.argmax(0)
    source = np.arange(out.shape[1])
    there = np.isfinite(out[best, source])
    out[best, source] = np.where(there, np.maximum(out[best, source], worth), -np.inf)
    return worth


def area(order: np.ndarray, true: np.ndarray) -> float:
    """Area under the ROC curve of an order, lower first: a true edge comes before another, ties counting half."""
    n_true = int(true.sum())
    if not 0 < n_true < len(true):
        return float("nan")
    values, inverse, counts = np.unique(order, return_inverse=True, return_counts=True)
    del values
    middle = np.cumsum(counts) - (counts - 1) / 2  # mean rank, from 1 on, of what is equal
    rank = middle[inverse]
    others = len(true) - n_true
    return float(1 - (rank[true].sum() - n_true * (n_true + 1) / 2) / (n_true * others))


def slots_of(config: ModelConfig, n_tokens: int) -> EdgeTree:
    """Which slots are edges, bool."""
    found: Any = edge_slots(config, n_tokens, n_tokens, np)
    return jax.tree.map(np.array, found)
