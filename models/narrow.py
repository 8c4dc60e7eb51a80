"""Weights of one byte a number while a model runs: int8, with a float32 scale for each output of a product.

A ``Narrow`` stands in the place of a weight's array. A pass makes one layer's weights wide at a time, so that memory
holds all weights as int8 and a single layer in the dtype of the residual stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int8

from jstrace.models.platforms import form

INT8 = "int8"
NARROW = (INT8,)
"""Ways to store weights in fewer bytes than the dtype has."""

_LARGEST = 127
"""Of values; -128 is not used, so that a weight and its negative are stored alike."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Narrow:
    """A weight as ``values * scale``; as a pytree it may also hold shapes, shardings or a single layer."""

    values: Int8[Array, "*N"]
    scale: Float32[Array, "*M"]
    """With length 1 on the axes that a product sums over, and the same axes as the values else."""
    dtype: jnp.dtype = dataclasses.field(metadata={"static": True})
    """Of the wide weight."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.values.shape

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Of the values."""
        return self.values.sharding

    def __getitem__(self, index: Any) -> Narrow:
        """Part of the leading axis, still narrow; all of it for ``...``, as ``nnx.Param`` asks."""
        return self if index is Ellipsis else Narrow(self.values[index], self.scale[index], self.dtype)


def widened(weight: Array | Narrow) -> Array:
    """The array that a weight stands for: its own, or ``values * scale`` in float32, rounded to its dtype."""
    if not isinstance(weight, Narrow):
        return weight
    wide = (weight.values.astype(jnp.float32) * weight.scale).astype(weight.dtype)
    # XLA's CPU backend would leave out the rounding, and multiply in float32.
    rounds = form(None, cpu=weight.dtype.itemsize < jnp.dtype(jnp.float32).itemsize, gpu=False, tpu=False)
    return jax.lax.optimization_barrier(wide) if rounds else wide


def in_range(weight: Narrow) -> Bool[Array, ""]:
    """Whether every number that it stands for is finite in its dtype."""
    return jnp.isfinite((weight.scale * _LARGEST).astype(weight.dtype)).all()


def rows_product(contract: Callable[..., Array], x: Float[Array, "D"], rows: Array | Narrow) -> Float32[Array, "V"]:
    """Products of a vector with each row of a matrix, in float32."""
    if not isinstance(rows, Narrow):
        return contract("d,vd->v", x, rows, out=jnp.float32)
    return contract("d,vd->v", x, rows.values.astype(x.dtype), out=jnp.float32) * rows.scale[:, 0]


def narrowed(weight: Float[Array, "*N"], summed: tuple[int, ...], dtype: jnp.dtype) -> Narrow:
    """A weight as int8, its scale the largest number over the ``summed`` axes by 127, in float32.

    Zeros have scale zero, and a number is off by at most half of its scale. ``dtype`` is what it widens to.
    """
    wide = weight.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=summed, keepdims=True) * jnp.float32(1 / _LARGEST)
    ratio = wide / jnp.where(scale > 0, scale, 1)
    return Narrow(jnp.clip(jnp.round(ratio), -_LARGEST, _LARGEST).astype(jnp.int8), scale, dtype)


def narrow_place(place: Any, summed: tuple[int, ...], dtype: jnp.dtype) -> Narrow:
    """Where values and scale go, from the sharding of the weight: a scale is whole where the weight is summed over."""
    if not isinstance(place, NamedSharding):
        return Narrow(place, place, dtype)
    spec = PartitionSpec(*(None if axis in summed else name for axis, name in enumerate(place.spec)))
    values: Any = place
    scale: Any = NamedSharding(place.mesh, spec)
    return Narrow(values, scale, dtype)
