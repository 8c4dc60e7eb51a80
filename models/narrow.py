"""Weights of a byte or half a byte a number while a model runs, with scales that make them wide.

A ``Narrow`` stands in the place of a weight's array. A pass makes one layer's weights wide at a time, so that memory
holds all weights narrow and a single layer in the dtype of the residual stream.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int8, UInt8

from jstrace.errors import InputError
from jstrace.models.platforms import computed_wide, form, over_layers
from jstrace.models.streamed import Streamed

INT8, INT4, STORED = "int8", "int4", "stored"
NARROW = (INT8, INT4, STORED)
"""Ways to store weights in fewer bytes than the dtype has: with a scale for each output, with one for each group of
inputs, and in the blocks that a file has."""

GROUP = 32
"""Inputs that share a scale of int4, or the most of them that divide the axis."""
_LARGEST = 127
"""Of values; -128 is not used, so that a weight and its negative are stored alike."""
_LEAST = -8
"""Of the values of int4, which the largest number of a group becomes, whatever its sign is."""
AT_ONCE = 2**25
"""Numbers of a vocabulary's matrix that are wide at once."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Narrow:
    """A weight as ``values * scale + least``; as a pytree it may also hold shapes, shardings or a single layer.

    With ``axis`` its inputs are in groups: that axis is two, of groups and within them, in all three arrays.
    """

    values: Int8[Array, "*N"] | UInt8[Array, "*N"]
    """Of uint8 each holds two numbers: the lower half one of a group's first half, the upper one of its second."""
    scale: Float32[Array, "*M"]
    """With length 1 on the axes over which it is the same."""
    least: Float32[Array, "*M"] | None
    """Of some blocks of files."""
    dtype: jnp.dtype = dataclasses.field(metadata={"static": True})
    """Of the wide weight."""
    way: str = dataclasses.field(metadata={"static": True})
    """One of ``NARROW``."""
    axis: int | None = dataclasses.field(default=None, metadata={"static": True})
    """Counted from the end of the weight's axes, so that it is the same in a layer and in a stack."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        shape = self.values.shape
        if self.axis is None:
            return shape
        at, halves = len(shape) - 1 + self.axis, 2 if self.values.dtype == jnp.uint8 else 1
        return (*shape[:at], halves * shape[at] * shape[at + 1], *shape[at + 2 :])

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Of the values."""
        return self.values.sharding

    def __getitem__(self, index: Any) -> Narrow:
        """Part of the leading axis, still narrow; all of it for ``...``, as ``nnx.Param`` asks."""
        return self if index is Ellipsis else jax.tree.map(lambda leaf: leaf[index], self)


def is_narrow(leaf: Any) -> bool:
    """Whether it is a ``Narrow``, or ``Streamed``: where a tree's leaves end."""
    return isinstance(leaf, Narrow | Streamed)


def widened(weight: Array | Narrow | Streamed) -> Array:
    """The array that a weight stands for: its own, one that is read, or ``values * scale + least``.

    That is computed in float32 and rounded to the weight's dtype.
    """
    if isinstance(weight, Streamed):
        return weight.wide()
    if not isinstance(weight, Narrow):
        return weight
    values = _numbers(weight) if weight.values.dtype == jnp.uint8 else weight.values
    wide = values.astype(jnp.float32) * weight.scale
    wide = wide if weight.least is None else wide + weight.least
    wide = wide.reshape(weight.shape).astype(weight.dtype)
    # XLA's CPU backend would leave out the rounding, and multiply in float32.
    rounds = form(None, cpu=weight.dtype.itemsize < jnp.dtype(jnp.float32).itemsize, gpu=False, tpu=False)
    return jax.lax.optimization_barrier(wide) if rounds else wide


def _numbers(weight: Narrow) -> Int8[Array, "*N"]:
    """What is packed in bytes, within each group."""
    assert weight.axis is not None
    at = weight.values.ndim + weight.axis
    both = jnp.expand_dims(weight.values, at)
    shifts = jnp.asarray([0, 4], jnp.uint8).reshape(2, *[1] * (weight.values.ndim - at))
    halves = ((both >> shifts) & 15).astype(jnp.int8) + jnp.int8(_LEAST)
    return halves.reshape(*halves.shape[:at], -1, *halves.shape[at + 2 :])


def in_range(weight: Narrow) -> Bool[Array, ""]:
    """Whether every number that it may stand for is finite in its dtype."""
    largest = _LARGEST + 1 if weight.way == STORED else _LARGEST  # blocks of files may hold -128
    most = -_LEAST if weight.values.dtype == jnp.uint8 else largest
    bound = most * jnp.abs(weight.scale)
    bound = bound if weight.least is None else bound + jnp.abs(weight.least)
    return jnp.isfinite(bound.astype(weight.dtype)).all()


def rows_product(contract: Callable[..., Array], x: Float[Array, "D"], rows: Array | Narrow) -> Float32[Array, "V"]:
    """Products of a vector with each row of a matrix, in float32; rows that become wide do so some at a time.

    Those are narrow ones and, on a CPU, halves: it multiplies them in float32.
    """
    n_parts = parts_of_rows(*rows.shape)
    if not isinstance(rows, Narrow) and (n_parts == 1 or not computed_wide(rows)):
        return contract("d,vd->v", x, rows, out=jnp.float32)
    wide = x.astype(jnp.float32)  # or gradients of every part of halves would be rounded before they are added

    def some(start: None, inputs: tuple[Array | Narrow]) -> tuple[None, Float32[Array, "R"]]:
        (part,) = inputs
        if not isinstance(part, Narrow):
            return start, contract("d,vd->v", wide, part.astype(jnp.float32))
        if part.axis is not None:
            return start, contract("d,vd->v", x, widened(part), out=jnp.float32)
        return start, contract("d,vd->v", x, part.values.astype(x.dtype), out=jnp.float32) * part.scale[:, 0]

    parts = jax.tree.map(lambda leaf: leaf.reshape(n_parts, -1, *leaf.shape[1:]), rows)
    # Computed again for gradients, or a backward pass would keep the wide rows.
    return over_layers(some, None, parts, remat=True)[1].reshape(-1)


def parts_of_rows(n_rows: int, width: int) -> int:
    """In how many equal parts the rows of a matrix become wide; one where a few do not divide them."""
    fewest = -(-n_rows * width // AT_ONCE)
    return next((n for n in range(fewest, 8 * fewest + 1) if n_rows % n == 0), 1)


def narrowed(weight: Float[Array, "*N"], summed: tuple[int, ...], dtype: jnp.dtype, way: str) -> Narrow:
    """A weight as int8, or as int4 where the last of the ``summed`` axes is even; ``dtype`` is what it widens to.

    The scale of int8 is the largest number over the ``summed`` axes by 127: zeros have scale zero, and a number is off
    by at most half of its scale. Those of int4 are of groups along the last of these axes.
    """
    wide, axis = weight.astype(jnp.float32), summed[-1] - weight.ndim
    group = math.gcd(weight.shape[axis], GROUP)
    if way == INT4 and group % 2 == 0:
        return _grouped(wide, axis, group, dtype)
    scale = jnp.max(jnp.abs(wide), axis=summed, keepdims=True) * jnp.float32(1 / _LARGEST)
    values = jnp.clip(jnp.round(_ratio(wide, scale)), -_LARGEST, _LARGEST).astype(jnp.int8)
    return Narrow(values, scale, None, dtype, INT8)


def _grouped(wide: Float32[Array, "*N"], axis: int, size: int, dtype: jnp.dtype) -> Narrow:
    """As int4: the number of a group that is furthest from zero becomes -8."""
    at = wide.ndim + axis
    wide = wide.reshape(*wide.shape[:at], -1, size, *wide.shape[at + 1 :])
    most, least = jnp.max(wide, axis=at + 1, keepdims=True), jnp.min(wide, axis=at + 1, keepdims=True)
    scale = jnp.where(most > -least, most, least) * jnp.float32(1 / _LEAST)
    values = jnp.clip(jnp.round(_ratio(wide, scale)), _LEAST, -_LEAST - 1)
    first, second = jnp.split((values - _LEAST).astype(jnp.uint8), 2, axis=at + 1)
    return Narrow(first | second << 4, scale, None, dtype, INT4, axis)


def _ratio(wide: Array, scale: Array) -> Array:
    return wide / jnp.where(scale == 0, 1, scale)


def axes_of(blank: Narrow, axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """For each array of a weight, in the order of leaves, what is said of the weight's axes; None where it has none."""
    whole = list(axes)
    if blank.axis is not None:
        whole.insert(len(whole) + blank.axis + 1, None)
    return [
        tuple(None if size == 1 else said for said, size in zip(whole, leaf.shape, strict=True))
        for leaf in jax.tree.leaves(blank)
    ]


def narrow_place(place: Any, blank: Narrow) -> Narrow:
    """Where the arrays of ``blank`` go, from the sharding of the weight: a scale is whole where it is the same.

    Raises:
      InputError: groups that do not divide over a mesh.
    """
    if not isinstance(place, NamedSharding):
        return jax.tree.map(lambda _: place, blank)
    names = (*place.spec, *[None] * (len(blank.shape) - len(place.spec)))
    specs, tree = axes_of(blank, names), jax.tree.structure(blank)
    for name, size in zip(specs[0], blank.values.shape, strict=True):
        if name is not None and size % place.mesh.shape[name]:
            raise InputError(f"mesh {name}={place.mesh.shape[name]} does not divide {size} groups of weights")
    return jax.tree.unflatten(tree, [NamedSharding(place.mesh, PartitionSpec(*spec)) for spec in specs])
