"""The order of scores: floats as unsigned integers, the mark of slots that are no edge, and traces in that order alone.

Such traces hold the highest scores, whether or not they hang together (section 8).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jstrace.method.conditions import FROZEN_KINDS
from jstrace.method.graph import indexing
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models import EdgeTree, form
from jstrace.models.rows import argsort

HIGH_BIT = np.uint32(1 << 31)
_INFINITY = np.uint32(0x7F800000)

NO_SCORE = np.finfo(np.float32).min
"""Stands in slots that are no edge, and is no edge's score (``marked``). It is finite, so that who looks for NaN and
infinities with JAX's flags finds none but those of a fault. NaN is taken for no edge as well."""

_LEAST_SCORE = np.nextafter(NO_SCORE, np.float32(0))
_NO_SCORE_BITS = np.asarray(NO_SCORE).view(np.uint32)[()]


def marked(scores: EdgeTree, slots: EdgeTree, xp: Any = jnp) -> EdgeTree:
    """float32 scores with ``NO_SCORE`` in slots that are no edge; ``xp`` is ``jax.numpy``, or ``numpy`` on the host."""

    def mark(score: Any, slot: Any) -> Any:
        return xp.where(slot, xp.where(score == NO_SCORE, _LEAST_SCORE, score), NO_SCORE)

    return jax.tree.map(mark, scores, slots)


def is_edge(scores: Array) -> Bool[Array, "*N"]:
    """Where scores are not ``NO_SCORE``, nor NaN."""
    return ~is_none(bits_of(scores))


def bits_of(score: Array) -> UInt32[Array, "*N"]:
    """All that follows is of integers: comparing floats, a processor may take the smallest for zero."""
    return jax.lax.bitcast_convert_type(score.astype(jnp.float32), jnp.uint32)


def is_none(bits: UInt32[Array, "*N"]) -> Bool[Array, "*N"]:
    """Whether bits are those of ``NO_SCORE`` or of a NaN."""
    return (bits == _NO_SCORE_BITS) | (bits << 1 > _INFINITY << 1)


def unless_none(bits: UInt32[Array, "*N"], priority: UInt32[Array, "*N"]) -> UInt32[Array, "*N"]:
    """The priority, or 0 for what is no edge."""
    return jnp.where(is_none(bits), 0, priority)


def ordered(bits: UInt32[Array, "*N"]) -> UInt32[Array, "*N"]:
    """The bits of floats, turned so that they are ordered as the floats are, both zeros being one."""
    bits = jnp.where(bits << 1 == 0, 0, bits)
    return jnp.where(bits >> 31 == 1, ~bits, bits | HIGH_BIT)


def ordered_floats(scores: Array) -> UInt32[Array, "*N"]:
    """Floats as uint32 of the same order, at least 1; 0 for what is no edge."""
    bits = bits_of(scores)
    return unless_none(bits, ordered(bits))


def descending(values: Array, platform: str | None = None) -> Int[Array, "N"]:
    """The order of floats from the largest to the least, equal ones by their index; NaN last."""

    def sorted_at_once(values: Array) -> Array:
        return jnp.argsort(-values, stable=True)

    def in_stages(values: Array) -> Array:
        return argsort(~ordered_floats(values))

    return form(platform, cpu=sorted_at_once, gpu=sorted_at_once, tpu=in_stages)(values)


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
