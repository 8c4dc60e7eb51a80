"""Stacked device arrays, filled from parts of files, one layer at a time.

Every device reads the slices that it holds, one layer of one weight after another, and puts them into its stack: the
host never holds more than one layer of one weight. Narrow weights are rounded on the device, a layer at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jstrace.models.declared import Weight
from jstrace.models.narrow import Narrow, narrowed

_ROW_BYTES = 2**26

Part = Callable[[Any], np.ndarray]
"""From the slices of a weight that a device holds, or of a layer of it, to their numbers."""
Stack = TypeVar("Stack", bound=jax.Array | Narrow)


def stacked(
    part: Callable[[int], Part],
    letters: tuple[str, ...],
    weight: Weight,
    stack: Stack,
    sharding: jax.sharding.Sharding,
) -> Stack:
    """One parameter of all layers; what the file has in another order of axes is transposed on the device.

    Args:
      part: from a layer to what reads it.
      letters: the axes of a layer in the file.
      weight: what the parameter is declared as.
      stack: zeros, which are replaced.
      sharding: of the whole parameter.
    """
    axes = weight.axes
    order, sizes = tuple(letters.index(axis) for axis in axes[1:]), dict(zip(axes, stack.shape, strict=True))
    shape, place = tuple(sizes[letter] for letter in letters), _in_file_order(sharding, axes, letters)
    for index in range(stack.shape[0]):
        layer = jax.make_array_from_callback(shape, place, part(index))
        stack = _put(stack, layer, index, order, tuple(axis - 1 for axis in weight.summed))
        jax.block_until_ready(stack)  # the host's copy goes before the next one comes
    return stack


def by_rows(part: Part, matrix: Stack, sharding: jax.sharding.Sharding) -> Stack:
    """A matrix outside the layers, some rows of every device at a time: vocabularies can be the largest of all.

    ``matrix`` are zeros, which are replaced.
    """
    n_shards, place = _row_shards(sharding)
    n_rows, width = matrix.shape[0] // n_shards, matrix.shape[1]
    step = max(1, _ROW_BYTES // (width * matrix.dtype.itemsize))
    for start in range(0, n_rows, step):
        count = min(step, n_rows - start)

        def rows(index: Any, start: int = start, count: int = count) -> np.ndarray:
            first = (index[0].start or 0) * n_rows + start
            return part((slice(first, first + count), slice(0, width)))[None]

        matrix = _put_rows(matrix, jax.make_array_from_callback((n_shards, count, width), place, rows), start)
        jax.block_until_ready(matrix)
    return matrix


def _row_shards(sharding: jax.sharding.Sharding) -> tuple[int, jax.sharding.Sharding]:
    """Over how many devices the rows go, and the sharding with those on an axis of their own."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return 1, sharding
    rows, columns = sharding.spec
    spec = jax.sharding.PartitionSpec(rows, None, columns)
    return 1 if rows is None else sharding.mesh.shape[rows], jax.sharding.NamedSharding(sharding.mesh, spec)


def _in_file_order(
    sharding: jax.sharding.Sharding, axes: tuple[str, ...], letters: tuple[str, ...]
) -> jax.sharding.Sharding:
    """The sharding of one layer with the axes that the file has; layers are never divided."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    over = dict(zip(axes, sharding.spec, strict=True))
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*(over[letter] for letter in letters)))


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _put(stack: Stack, layer: jax.Array, index: int, order: tuple[int, ...], summed: tuple[int, ...]) -> Stack:
    layer = jnp.transpose(layer, order)
    own = narrowed(layer, summed, stack.dtype, stack.way) if isinstance(stack, Narrow) else layer
    return jax.tree.map(lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, index, 0), stack, own)


@functools.partial(jax.jit, donate_argnums=0)
def _put_rows(matrix: Stack, rows: jax.Array, start: int) -> Stack:
    own = narrowed(rows, (2,), matrix.dtype, matrix.way) if isinstance(matrix, Narrow) else rows
    return jax.tree.map(functools.partial(_with_rows, start), matrix, own)


def _with_rows(start: Array | int, matrix: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows of every shard from its own row ``start`` on; ``rows`` have the shards on an axis of their own."""
    if rows.shape[0] == 1:  # without a reshape, which would cost XLA's CPU backend a copy of all
        return jax.lax.dynamic_update_slice_in_dim(matrix, rows[0], start, 0)
    apart = matrix.reshape(rows.shape[0], -1, rows.shape[2])
    return jax.lax.dynamic_update_slice_in_dim(apart, rows, start, 1).reshape(matrix.shape)
