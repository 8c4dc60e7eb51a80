"""The weights of a decoder, as they are declared: their shapes, as narrow ones, one by one; layers stacked."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.models.config import ModelConfig
from jstrace.models.declared import Weight, declare
from jstrace.models.narrow import Narrow, narrow_place, narrowed
from jstrace.models.platforms import usual_promotion
from jstrace.models.streamed import STREAMED, blank_of

Params = Mapping[str, Any]
"""Nested dict of arrays: ``embed``, ``head`` (untied only), ``final_norm`` (with norms), ``layers`` with its stacks.

Where layers are unlike, ``layers`` has a dict of stacks for each form, by its number: ``layers.0.up`` and so on.
Matrices may be ``Narrow`` or ``Streamed`` in the place of arrays."""

AT_ONCE = 2**24
"""Numbers, about, that are drawn or made narrow at once."""


def place_of(config: ModelConfig, name: str) -> tuple[ModelConfig, tuple[int, ...]]:
    """Of a weight, by a name such as ``layers.up`` or ``layers.1.up``: its form's config, and the layers in its stack.

    One place of a weight outside the layers.
    """
    if not name.startswith("layers."):
        return config, (0,)
    number = int(name.split(".")[1]) if config.forms else 0
    return config.layer_forms[number], config.layers_of(number)


def shapes(config: ModelConfig, dtype: jnp.dtype, *, narrow: str = "") -> dict[str, Any]:
    """``jax.ShapeDtypeStruct`` of every weight, without allocating any; as leaves of a way that is asked for."""

    def shape(weight: Weight) -> Any:
        blank = jax.ShapeDtypeStruct(weight.shape, dtype)
        if not (narrow and weight.sums):
            return blank
        if narrow == STREAMED:
            return blank_of(blank) if weight.axes[0] == "L" else blank
        own = weight.way(narrow)
        return jax.eval_shape(functools.partial(narrowed, summed=weight.summed, dtype=dtype, way=own), blank)

    return map_weights(shape, config)


def narrow_places(config: ModelConfig, places: Any, dtype: jnp.dtype, narrow: str) -> dict[str, Any]:
    """Shardings of weights as those of their values and scales, where ``narrow_params`` makes them ``Narrow``."""

    def narrowed_place(weight: Weight, place: Any, blank: Any) -> Any:
        return narrow_place(place, blank) if weight.sums else place

    return map_weights(narrowed_place, config, places, shapes(config, dtype, narrow=narrow))


def narrow_params(config: ModelConfig, params: dict[str, Any], dtype: jnp.dtype, narrow: str) -> dict[str, Any]:
    """Weights with their matrices as ``Narrow``, which widen to ``dtype``; all others are left as they are.

    ``params`` is emptied, so that no more than one of the wide matrices need be held beside the narrow ones.
    """

    def inside(declared: Mapping[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        return {
            name: _narrow_leaf(params.pop(name), weight, dtype, narrow)
            if isinstance(weight, Weight)
            else inside(weight, params[name])
            for name, weight in declared.items()
        }

    return inside(declare(config), params)


def _narrow_leaf(leaf: jax.Array, declared: Weight, dtype: jnp.dtype, narrow: str) -> Any:
    if not declared.sums:
        return leaf
    packed = _narrow_rows(leaf, declared.summed, dtype, declared.way(narrow))
    return jax.device_put(packed, narrow_place(leaf.sharding, packed))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
@usual_promotion()
def _narrow_rows(leaf: jax.Array, summed: tuple[int, ...], dtype: jnp.dtype, way: str) -> Narrow:
    """Some rows of the first axis, such as a layer, at a time."""

    def row(part: jax.Array) -> Narrow:
        return narrowed(part, tuple(axis - 1 for axis in summed), dtype, way)

    return by_rows(row, leaf, leaf.shape)


def by_rows(row: Callable[[jax.Array], Any], rows: jax.Array, shape: tuple[int, ...]) -> Any:
    """``row`` of each of ``rows``, for a weight of ``shape``: as many at once as make ``AT_ONCE`` of its numbers."""
    rows_at_once = max(1, AT_ONCE // math.prod(shape[1:]))
    return jax.lax.map(row, rows, batch_size=min(rows_at_once, shape[0]))


def map_weights(function: Callable[..., Any], config: ModelConfig, *trees: Any, named: bool = False) -> dict[str, Any]:
    """``function(weight, *leaves)`` of every declared weight and the leaves in its place, as a tree like ``declare``'s.

    With ``named`` the first argument is the path, such as ``layers.up``.
    """

    def visit(path: Any, *leaves: Any) -> Any:
        return function(".".join(key.key for key in path), *leaves) if named else function(*leaves)

    tree = jax.tree_util.tree_map_with_path(
        visit, declare(config), *trees, is_leaf=lambda node: isinstance(node, Weight)
    )
    return dict(tree)


def on_one_device(config: ModelConfig) -> dict[str, Any]:
    """Shardings that put every weight onto the default device: ``jax.default_device``'s, or the first of this host."""
    here = jax.sharding.SingleDeviceSharding(_default_device())
    return map_weights(lambda _: here, config)


def _default_device() -> jax.Device:
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None or isinstance(chosen, str):  # the name of a platform
        return jax.local_devices(backend=chosen)[0]
    return chosen


def n_params(config: ModelConfig) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config, jnp.dtype("float32"))))
