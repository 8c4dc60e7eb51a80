"""One pass over layers whose weights are stacked: ``jax.lax.scan``, in the form that each kind of device wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jstrace.models import platforms

Carry = TypeVar("Carry")
Stack = TypeVar("Stack")


def over_layers(
    step: Callable[[Carry, tuple[Any, ...]], tuple[Carry, Any]],
    start: Carry,
    layers: Stack,
    *others: Any,
    remat: bool = False,
) -> tuple[Carry, Any]:
    """``jax.lax.scan`` of ``step(carry, (layer, *others of the layer))``.

    Args:
      step: from what the layers before it gave to what it gives, and what is kept of the layer.
      start: what the first layer takes.
      layers: weights, stacked on a leading axis, all of one dtype.
      *others: whatever else has that axis.
      remat: compute what happens within a layer again for the backward pass.
    """
    if not _widened(layers):
        return jax.lax.scan(jax.checkpoint(step) if remat else step, start, (layers, *others))

    def indexed(carry: Carry, inputs: tuple[Any, ...]) -> tuple[Carry, Any]:
        place, *rest = inputs
        return step(carry, (taken(layers, place), *rest))

    places = jnp.arange(jax.tree.leaves(layers)[0].shape[0])
    again = jax.checkpoint(indexed, policy=None if remat else _kept)
    return jax.lax.scan(again, start, (places, *others))


def _kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a backward pass keeps what a layer computed: all but the layer's weights, which would be stacked anew."""
    return primitive.name not in ("optimization_barrier", "dynamic_slice", "squeeze")


def _widened(layers: Any) -> bool:
    """Whether XLA would compute in float32 copies of the stacks: its CPU backend slices nothing narrower than that."""
    narrow = jax.tree.leaves(layers)[0].dtype.itemsize < jnp.dtype(jnp.float32).itemsize
    return platforms.form(None, cpu=narrow, gpu=False, tpu=False)


def taken(stacks: Stack, place: jax.Array) -> Stack:
    """What stacks hold at a place of their first axis, inside a loop, as XLA's CPU backend must be told to take it.

    The first barrier lets the stacks depend on the place, or all of them would be copied before the loop; the second
    keeps the slice as narrow as it is, or products of it would be float32's.
    """
    stacks, place = jax.lax.optimization_barrier((stacks, place))
    one = jax.tree.map(lambda stack: jax.lax.dynamic_index_in_dim(stack, place, keepdims=False), stacks)
    found: Stack = jax.lax.optimization_barrier(one)
    return found
