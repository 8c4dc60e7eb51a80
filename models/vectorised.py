"""Sorting, finding and counting without scatters and without XLA's sort: what TPUs are slow at, and slow to compile.

Each is exact, and small programs whatever the number of values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8, UInt32

_FANOUT = 128
"""Values that one is looked for among at once: the width of a TPU's vector."""

_CHUNK = 1 << 16
"""Places that are looked for at once, each with a vector of its own."""


def cumulative(counts: Int[Array, "N"]) -> Int[Array, "N"]:
    """``jnp.cumsum`` of int32."""
    n = counts.shape[0]
    rows = _cumulative_rows(_in_rows(counts))
    if rows.shape[0] == 1:
        return rows[0, :n]
    before = cumulative(rows[:, -1]) - rows[:, -1]
    return (rows + before[:, None]).reshape(-1)[:n]


def first_true(mask: Bool[Array, "N"], size: int) -> Int[Array, "M"]:
    """The places of the first ``size`` true values, in order; N where there are fewer.

    Counts of ever larger groups make a tree, which is descended to all of the places at once.
    """
    n, levels = mask.shape[0], [_cumulative_bits(_in_rows(mask))]
    while levels[-1].shape[0] > 1:
        levels.append(_cumulative_rows(_in_rows(levels[-1][:, -1].astype(jnp.int32))))

    def descended(nth: Int[Array, "C"]) -> Int[Array, "C"]:
        left, place = nth, jnp.zeros_like(nth)
        for level in reversed(levels):
            until = level.at[place].get(mode="clip").astype(jnp.int32)
            passed = until <= left[:, None]
            place = place * _FANOUT + jnp.sum(passed, axis=1, dtype=jnp.int32)
            left = left - jnp.max(jnp.where(passed, until, 0), axis=1)
        return jnp.where(nth < levels[-1][0, -1], place, n)

    chunks = -(-size // _CHUNK)
    nth = jnp.arange(chunks * -(-size // chunks), dtype=jnp.int32).reshape(chunks, -1)
    return jax.lax.map(descended, nth).reshape(-1)[:size]


def _in_rows(values: Array) -> Array:
    return jnp.pad(values, (0, -values.shape[0] % _FANOUT)).reshape(-1, _FANOUT)


def _cumulative_rows(rows: Int[Array, "R F"]) -> Int[Array, "R F"]:
    """By a sum of all values before, which the compiler never holds at once; its own scans take seconds to compile."""
    place = jnp.arange(rows.shape[1])
    return jnp.sum(jnp.where(place[:, None] <= place, rows[:, :, None], 0), axis=1)


def _cumulative_bits(rows: Bool[Array, "R F"]) -> UInt8[Array, "R F"]:
    """By a product, which counts up to 128 exactly."""
    place = jnp.arange(rows.shape[1])
    before = (place[:, None] <= place).astype(jnp.bfloat16)
    found = jnp.matmul(rows.astype(jnp.bfloat16), before, preferred_element_type=jnp.float32)
    return found.astype(jnp.uint8)


def argsort(keys: UInt32[Array, "N"]) -> Int[Array, "N"]:
    """``jnp.argsort(keys, stable=True)``: a bitonic network, one stage a turn of a loop."""
    n, bits = keys.shape[0], max(1, (keys.shape[0] - 1).bit_length())
    place = jnp.arange(1 << bits, dtype=jnp.int32)
    filled = jnp.pad(keys, (0, (1 << bits) - n), constant_values=np.uint32(0xFFFFFFFF))
    stages = [(2 << block, 1 << apart) for block in range(bits) for apart in range(block, -1, -1)]

    def stage(state: tuple[Array, Array], sizes: Array) -> tuple[tuple[Array, Array], None]:
        block, apart = sizes
        is_lower = (place & apart) == 0
        own, other = state, tuple(jnp.where(is_lower, jnp.roll(x, -apart), jnp.roll(x, apart)) for x in state)
        is_less = (own[0] < other[0]) | ((own[0] == other[0]) & (own[1] < other[1]))
        stays = is_less == (is_lower == ((place & block) == 0))
        return (jnp.where(stays, own[0], other[0]), jnp.where(stays, own[1], other[1])), None

    (_, order), _ = jax.lax.scan(stage, (filled, place), jnp.asarray(stages, jnp.int32))
    return order[:n]
