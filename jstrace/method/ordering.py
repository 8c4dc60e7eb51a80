"""Floats as unsigned integers of the same order; NaN stands for slots that are no edge."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jstrace.models import form
from jstrace.models.vectorised import argsort

HIGH_BIT = np.uint32(1 << 31)
_INFINITY = np.uint32(0x7F800000)


def bits_of(score: Array) -> UInt32[Array, "*N"]:
    """All that follows is of integers: comparing floats, a processor may take the smallest for zero."""
    return jax.lax.bitcast_convert_type(score.astype(jnp.float32), jnp.uint32)


def is_none(bits: UInt32[Array, "*N"]) -> Bool[Array, "*N"]:
    """Whether bits are those of a NaN."""
    return bits << 1 > _INFINITY << 1


def unless_none(bits: UInt32[Array, "*N"], priority: UInt32[Array, "*N"]) -> UInt32[Array, "*N"]:
    """The priority, or 0 for NaN."""
    return jnp.where(is_none(bits), 0, priority)


def ordered(bits: UInt32[Array, "*N"]) -> UInt32[Array, "*N"]:
    """The bits of floats, turned so that they are ordered as the floats are, both zeros being one."""
    bits = jnp.where(bits << 1 == 0, 0, bits)
    return jnp.where(bits >> 31 == 1, ~bits, bits | HIGH_BIT)


def ordered_floats(scores: Array) -> UInt32[Array, "*N"]:
    """Floats as uint32 of the same order, at least 1; 0 for NaN."""
    bits = bits_of(scores)
    return unless_none(bits, ordered(bits))


def descending(values: Array, platform: str | None = None) -> Int[Array, "N"]:
    """The order of floats from the largest to the least, equal ones by their index; NaN last."""

    def sorted_at_once(values: Array) -> Array:
        return jnp.argsort(-values, stable=True)

    def in_stages(values: Array) -> Array:
        return argsort(~ordered_floats(values))

    return form(platform, cpu=sorted_at_once, gpu=sorted_at_once, tpu=in_stages)(values)
