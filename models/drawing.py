"""Random weights, made on the device some rows at a time."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.models.config import ModelConfig
from jstrace.models.declared import Weight
from jstrace.models.narrow import Narrow, narrow_place, narrowed
from jstrace.models.params import by_rows, map_weights, on_one_device, shapes
from jstrace.models.platforms import usual_promotion


def random_params(
    config: ModelConfig,
    *,
    key: jax.Array,
    dtype: jnp.dtype,
    scale: float = 0.02,
    shardings: Any = None,
    narrow: str = "",
) -> dict[str, Any]:
    """Normal weights of standard deviation ``scale``, norms and biases that do nothing; made on the device.

    ``shardings`` is a tree like ``declare``'s, or None for the default device. With ``narrow`` matrices are ``Narrow``,
    and drawn in float32 whatever the dtype is.
    """
    places = on_one_device(config) if shardings is None else shardings

    def draw(name: str, weight: Weight, blank: jax.ShapeDtypeStruct, place: Any) -> Any:
        if weight.init == "normal":
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            if narrow and weight.sums:
                return _narrow_normal(own, scale, weight, blank, place, weight.way(narrow))
            return _normal(own, scale, blank.shape, blank.dtype, place)
        value = {"norm": 1 - config.norm_offset, "ones": 1}.get(weight.init, 0)
        return jnp.full(blank.shape, value, blank.dtype, device=place)

    return map_weights(draw, config, shapes(config, dtype), places, named=True)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
@usual_promotion()
def _normal(key: jax.Array, scale: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, place: Any) -> jax.Array:
    """Drawn some rows at a time: the generator's own numbers take eight times the room of what it makes."""

    def row(key: jax.Array) -> jax.Array:
        return (scale * jax.random.normal(key, shape[1:], dtype)).astype(dtype)

    return jax.lax.with_sharding_constraint(by_rows(row, jax.random.split(key, shape[0]), shape), place)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
@usual_promotion()
def _narrow_normal(
    key: jax.Array, scale: jax.Array, weight: Weight, blank: jax.ShapeDtypeStruct, place: Any, way: str
) -> Narrow:
    """The same as narrow ones, each row on its own, so that they are never all held wide."""

    def row(key: jax.Array) -> Narrow:
        wide = scale * jax.random.normal(key, blank.shape[1:], jnp.float32)
        return narrowed(wide, tuple(axis - 1 for axis in weight.summed), blank.dtype, way)

    drawn = by_rows(row, jax.random.split(key, blank.shape[0]), blank.shape)
    return jax.tree.map(jax.lax.with_sharding_constraint, drawn, narrow_place(place, drawn))
