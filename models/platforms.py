"""What differs from one kind of device, and from one setting of JAX, to another: chosen here and nowhere else.

All forms of a computation give the same. Processors and GPUs are good at scatters and sorts, TPUs at neither: there a
sort of a vocabulary takes half a minute to compile. Promotion and draws are JAX's defaults, whatever the caller asks of
other code: a seed means the same draws everywhere.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from jstrace.errors import InputError

PLATFORMS = ("cpu", "gpu", "tpu")
GENERATOR = "threefry2x32"

Form = TypeVar("Form")
Carry = TypeVar("Carry")
Stack = TypeVar("Stack")


def form(platform: str | None, *, cpu: Form, gpu: Form, tpu: Form) -> Form:
    """The form for a platform, one of ``PLATFORMS``, or where it is None for JAX's default one.

    It is asked for while a program is traced, when nothing says yet for which devices: who compiles for others than the
    default ones passes a platform, or assumes one.

    Raises:
      InputError: no such platform.
    """
    forms = {"cpu": cpu, "gpu": gpu, "tpu": tpu}
    name = platform or _assumed.get() or jax.default_backend()
    if name not in forms:
        raise InputError(f"platform {name!r}, expected one of {', '.join(PLATFORMS)}")
    return forms[name]


@contextlib.contextmanager
def assumed(platform: str | None) -> Iterator[None]:
    """Trace for a platform, where no other is passed; None for JAX's default one.

    What ``jax.jit`` has traced before, of the same shapes, it does not trace again.
    """
    token = _assumed.set(platform)
    try:
        yield
    finally:
        _assumed.reset(token)


_assumed: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """JAX's default rules, also where ``jax_numpy_rank_promotion`` or ``jax_numpy_dtype_promotion`` are stricter.

    Those flags are for finding faults in the code that sets them. Draws, too, are those of JAX's defaults, so that a
    seed means the same under ``jax_threefry_partitionable=False``. What is compiled or called from elsewhere is
    decorated with this, which covers all that runs inside it: derivatives, batches, and other libraries, too.
    """
    promotion = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with promotion[0], promotion[1], jax.threefry_partitionable(True):
        yield


def seeded(seed: Int[Array, ""] | int) -> Array:
    """The key of a seed."""
    return jax.random.key(seed, impl=GENERATOR)


def wrapped(data: UInt32[Array, "*B 2"]) -> Array:
    """Keys from their data (``jax.random.key_data``)."""
    return jax.random.wrap_key_data(data, impl=GENERATOR)


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
      layers: weights, stacked on a leading axis, all of one dtype but for those that are ``Narrow`` or ``Streamed``.
      *others: whatever else has that axis.
      remat: compute what happens within a layer again for the backward pass. Where weights are narrow or streamed
        that is done anyway, or the wide ones of all layers would be kept for it.
    """
    if not computed_wide(layers):
        remat = remat or _narrow(layers)
        return jax.lax.scan(jax.checkpoint(step) if remat else step, start, (layers, *others))

    def indexed(carry: Carry, inputs: tuple[Any, ...]) -> tuple[Carry, Any]:
        place, *rest = inputs
        return step(carry, (taken(layers, place), *rest))

    places = jnp.arange(jax.tree.leaves(layers)[0].shape[0])
    return jax.lax.scan(again(indexed, layers, remat=remat), start, (places, *others))


def again(step: Callable[..., Any], stacks: Any, *, remat: bool) -> Callable[..., Any]:
    """A step that takes its weights from stacks by itself: the backward pass takes them again, and keeps no copies.

    With ``remat``, or where weights are narrow or streamed, it computes all of the step again.
    """
    return jax.checkpoint(step, policy=None if remat or _narrow(stacks) else _kept)


def _narrow(stacks: Any) -> bool:
    """Whether some hold integers: narrow values, or the numbers of layers on disk."""
    return any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(stacks))


def _kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a backward pass keeps what a layer computed: all but the layer's weights, which would be stacked anew."""
    return primitive.name not in ("optimization_barrier", "dynamic_slice", "squeeze")


def computed_wide(weights: Any) -> bool:
    """Whether XLA would compute in float32 copies of them: its CPU backend has few products of what is narrower."""
    floats = [leaf.dtype for leaf in jax.tree.leaves(weights) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    halves = any(dtype.itemsize < jnp.dtype(jnp.float32).itemsize for dtype in floats)
    return form(None, cpu=halves, gpu=False, tpu=False)


def entry(stacks: Stack, place: jax.Array) -> Stack:
    """What stacks of one dtype hold at a place of their first axis, inside a loop."""
    if computed_wide(stacks):
        return taken(stacks, place)
    slices: Stack = jax.tree.map(lambda stack: jax.lax.dynamic_index_in_dim(stack, place, keepdims=False), stacks)
    return slices


def taken(stacks: Stack, place: jax.Array) -> Stack:
    """What stacks hold at a place of their first axis, inside a loop, as XLA's CPU backend must be told to take it.

    The first barrier lets the stacks depend on the place, or all of them would be copied before the loop; the second
    keeps the slice as narrow as it is, or products of it would be float32's.
    """
    stacks, place = jax.lax.optimization_barrier((stacks, place))
    views = jax.tree.map(lambda stack: jax.lax.dynamic_index_in_dim(stack, place, keepdims=False), stacks)
    slices: Stack = jax.lax.optimization_barrier(views)
    return slices
