"""The weights of a decoder: each declared once, with its shape; layers stacked on a leading axis."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.models.config import ModelConfig
from jstrace.models.promotion import usual_promotion

Params = Mapping[str, Any]
"""Nested dict of arrays: ``embed``, ``final_norm``, ``head`` (untied only) and ``layers`` with a dict of stacks."""


_DRAWN_AT_ONCE = 2**24


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declaration of one weight; ``axes`` name its dimensions with the letters of ``models.edges``."""

    axes: tuple[str, ...]
    init: str = "normal"
    """``normal``, ``zeros`` for biases and shifts, or ``norm`` for what makes a norm the identity."""


def declare(config: ModelConfig) -> dict[str, Any]:
    """Every weight that ``config`` calls for, as a nested dict of ``Weight``."""
    layers = {
        "q": Weight(("L", "D", "H", "d")),
        "k": Weight(("L", "D", "K", "d")),
        "v": Weight(("L", "D", "K", "d")),
        "o": Weight(("L", "H", "d", "D")),
        "up": Weight(("L", "D", "F")),
        "down": Weight(("L", "F", "D")),
    }
    if config.gated_mlp:
        layers["gate"] = Weight(("L", "D", "F"))
    layers |= _norms(config) | _biases(config)
    weights: dict[str, Any] = {"embed": Weight(("V", "D")), "layers": layers}
    if config.learned_positions:
        weights["positions"] = Weight(("P", "D"))
    weights |= _norm(config, "final_norm", ("D",))
    if not config.tied_head:
        weights["head"] = Weight(("V", "D"))
    return weights


def _norms(config: ModelConfig) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    for sub_layer in ("attn", "mlp"):
        if config.pre_norm:
            found |= _norm(config, f"{sub_layer}_norm", ("L", "D"))
        if config.post_norm:
            found |= _norm(config, f"{sub_layer}_post_norm", ("L", "D"))
    if config.qk_norm != "none":
        whole = config.qk_norm == "full"
        found["q_norm"] = Weight(("L", "H", "d") if whole else ("L", "d"), "norm")
        found["k_norm"] = Weight(("L", "K", "d") if whole else ("L", "d"), "norm")
    return found


def _norm(config: ModelConfig, name: str, axes: tuple[str, ...]) -> dict[str, Weight]:
    shift = {f"{name}_shift": Weight(axes, "zeros")} if config.norm == "layer" else {}
    return {name: Weight(axes, "norm"), **shift}


def _biases(config: ModelConfig) -> dict[str, Weight]:
    found: dict[str, tuple[str, ...]] = {}
    if config.qkv_bias:
        found |= {"q_bias": ("L", "H", "d"), "k_bias": ("L", "K", "d"), "v_bias": ("L", "K", "d")}
    if config.o_bias:
        found["o_bias"] = ("L", "D")
    if config.mlp_bias:
        found |= {"gate_bias": ("L", "F")} if config.gated_mlp else {}
        found |= {"up_bias": ("L", "F"), "down_bias": ("L", "D")}
    return {name: Weight(axes, "zeros") for name, axes in found.items()}


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Length of every axis letter that a weight can have."""
    return {
        "L": config.n_layers,
        "D": config.d_model,
        "H": config.n_heads,
        "K": config.n_kv_heads,
        "d": config.head_dim,
        "F": config.d_mlp,
        "V": config.vocab_size,
        "P": config.max_positions,
    }


def shapes(config: ModelConfig, dtype: jnp.dtype) -> dict[str, Any]:
    """``jax.ShapeDtypeStruct`` of every weight, without allocating any."""
    sizes = axis_sizes(config)

    def shape(weight: Weight) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in weight.axes), dtype)

    return map_weights(shape, config)


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


def random_params(
    config: ModelConfig, *, key: jax.Array, dtype: jnp.dtype, scale: float = 0.02, shardings: Any = None
) -> dict[str, Any]:
    """Normal weights of standard deviation ``scale``, norms and biases that do nothing; made on the device.

    ``shardings`` is a tree like ``declare``'s, or None for the default device.
    """
    places = on_one_device(config) if shardings is None else shardings

    def draw(name: str, weight: Weight, blank: jax.ShapeDtypeStruct, place: Any) -> jax.Array:
        if weight.init == "normal":
            return _normal(jax.random.fold_in(key, zlib.crc32(name.encode())), scale, blank.shape, blank.dtype, place)
        return jnp.full(blank.shape, 1 - config.norm_offset if weight.init == "norm" else 0, blank.dtype, device=place)

    return map_weights(draw, config, shapes(config, dtype), places, named=True)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
@usual_promotion()
def _normal(key: jax.Array, scale: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, place: Any) -> jax.Array:
    """Drawn some rows at a time: the generator's own numbers take eight times the room of what it makes."""

    def row(key: jax.Array) -> jax.Array:
        return (scale * jax.random.normal(key, shape[1:], dtype)).astype(dtype)

    rows_at_once = max(1, _DRAWN_AT_ONCE // math.prod(shape[1:]))
    values = jax.lax.map(row, jax.random.split(key, shape[0]), batch_size=min(rows_at_once, shape[0]))
    return jax.lax.with_sharding_constraint(values, place)
