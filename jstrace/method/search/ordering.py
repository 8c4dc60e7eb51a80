"""Floats as unsigned integers of the same order, and the mark of slots that are no edge."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

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
