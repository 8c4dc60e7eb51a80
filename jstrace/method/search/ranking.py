"""Traces in the order of scores alone: the highest first, whether or not they hang together (section 8)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jstrace.method.conditions import FROZEN_KINDS
from jstrace.method.graph import indexing
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.method.search.ordering import marked, ordered_floats
from jstrace.models import EdgeTree


def log_ranks(scores: EdgeTree, slots: EdgeTree) -> EdgeTree:
    """-log of the share of all edges that score as high: 0 for the lowest; slots that are no edge count as lowest."""
    keys = marked(scores, slots)
    order = jnp.sort(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(keys)]))
    n_edges = sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(slots))

    def ranked(leaf: Array) -> Array:
        higher = order.size - jnp.searchsorted(order, leaf.ravel()).reshape(leaf.shape)
        return -jnp.log(jnp.minimum(higher / n_edges, 1.0))

    return jax.tree.map(ranked, keys)


def by_score(scores: EdgeTree, counts: Int[Array, "Z"], *, frozen: tuple[str, ...] = ()) -> EdgeTree:
    """Strata of one input by rank: frozen components first, then the score, then the lower edge index.

    Args:
      scores: float32; ``NO_SCORE`` in slots that are no edge.
      counts: edges of each trace, not decreasing.
      frozen: components that rank before all others.
    """
    raised = {kind for name in frozen for kind in FROZEN_KINDS[name]}
    keys = indexing.flat(EdgeTree(**{kind: ordered_floats(score) for kind, score in scores.items()}))
    first = indexing.flat(
        EdgeTree(**{kind: jnp.full(score.shape, kind in raised) for kind, score in scores.items()})
    )  # fmt: skip
    order = jnp.lexsort((~keys, ~first, keys == 0))
    rank = jnp.zeros(keys.size, jnp.int32).at[order].set(jnp.arange(keys.size, dtype=jnp.int32))
    stratum = jnp.searchsorted(counts, rank, side="right")
    return indexing.unflat(jnp.where(keys > 0, stratum, NO_EDGE).astype(jnp.uint8), scores)
