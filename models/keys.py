"""Keys of draws, of one generator whatever JAX's default one is set to: a seed means the same draws everywhere."""

from __future__ import annotations

import jax
from jaxtyping import Array, Int, UInt32

GENERATOR = "threefry2x32"


def seeded(seed: Int[Array, ""] | int) -> Array:
    """The key of a seed."""
    return jax.random.key(seed, impl=GENERATOR)


def wrapped(data: UInt32[Array, "*B 2"]) -> Array:
    """Keys from their data (``jax.random.key_data``)."""
    return jax.random.wrap_key_data(data, impl=GENERATOR)
