"""Backward passes of relevance propagation: gradients that take functions for linear (section 8 of the method)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_NEAR_ZERO = 1e-6  # below, ratios are taken there


@jax.custom_jvp
def with_slope(y: Array, x: Array, slope: Array | float) -> Array:
    """``y``, whose gradient is as if it were ``slope * x`` with a constant slope."""
    del x, slope
    return y


def _sloped(dx: Array, out: Array, y: Array, x: Array, slope: Array | float) -> Array:
    del y, x
    return (slope * dx).astype(out.dtype)


with_slope.defjvps(None, _sloped, None)


def in_proportion(function: Callable[[Array], Array], x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """``function(x)``, whose gradient is as if the ratio ``function(x) / x`` were constant; at 0 its limit."""
    wide = x.astype(jnp.float32)
    near = jnp.where(jnp.abs(wide) < _NEAR_ZERO, _NEAR_ZERO, wide)
    return with_slope(function(x), x, function(near) / near)
