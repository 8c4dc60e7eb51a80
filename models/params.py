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
from jstrace.models.narrow import INT8, Narrow, narrow_place, narrowed
from jstrace.models.platforms import usual_promotion

Params = Mapping[str, Any]
"""Nested dict of arrays: ``embed``, ``head`` (untied only), ``final_norm`` (with norms), ``layers`` with its stacks.

Matrices may be ``Narrow`` in the place of arrays."""


_DRAWN_AT_ONCE = 2**24


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declaration of one weight; ``axes`` name its dimensions with the letters of ``models.edges``."""

    axes: tuple[str, ...]
    init: str = "normal"
    """``normal``, ``zeros`` for biases and shifts, or ``norm`` for what makes a norm the identity."""
    sums: str = ""
    """Axes that a product with the weight sums over; empty for what is never ``Narrow``."""

    @property
    def summed(self) -> tuple[int, ...]:
        """The numbers of these axes."""
        return tuple(self.axes.index(axis) for axis in self.sums)

    def way(self, narrow: str) -> str:
        """How it is stored where weights are narrow: vocabularies are never int4, of which logits would tell most."""
        return INT8 if self.axes[0] == "V" else narrow


def declare(config: ModelConfig) -> dict[str, Any]:
    """Every weight that ``config`` calls for, as a nested dict of ``Weight``."""
    layers = {name: Weight(("L", "D", heads, "d"), sums="D") for name, heads in zip("qkv", "HKK", strict=True)}
    layers |= {"o": Weight(("L", "H", "d", "D"), sums="Hd")} | _mlps(config) | _norms(config) | _biases(config)
    layers |= {"sink": Weight(("L", "H"))} if config.sinks else {}
    if config.activation == "xielu":
        layers |= {name: Weight(("L",), "zeros") for name in ("alpha_p", "alpha_n", "beta", "eps")}
    weights: dict[str, Any] = {"embed": Weight(("V", "D"), sums="D"), "layers": layers}
    if config.learned_positions:
        weights["positions"] = Weight(("P", "D"))
    weights |= _norm(config, "final_norm", ("D",))
    if not config.tied_head:
        weights["head"] = Weight(("V", "D"), sums="D")
    if config.head_bias:
        weights["head_bias"] = Weight(("V",), "zeros")
    return weights


def _mlps(config: ModelConfig) -> dict[str, Weight]:
    """Of the MLP, or of the experts, their router, and the MLP beside them."""
    lead, into = _into_mlp(config)
    found: dict[str, tuple[str, ...]] = {**dict.fromkeys(into, (*lead, "D", "F")), "down": (*lead, "F", "D")}
    if config.d_shared:
        found |= {f"shared_{name}": ("L", "D", "U") for name in into} | {"shared_down": ("L", "U", "D")}
    weights = {name: Weight(axes, sums=axes[-2]) for name, axes in found.items()}
    weights |= {"router": Weight(("L", "D", "X"))} if config.n_experts else {}
    return weights | ({"shared_scale": Weight(("L", "D"))} if config.d_shared and config.shared_gate else {})


def _into_mlp(config: ModelConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Leading axes of the weights of MLPs, and the names of those that read the state."""
    return ("L", "X") if config.n_experts else ("L",), ("up", "gate") if config.gated_mlp else ("up",)


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
    if config.norm == "none":
        return {}
    shift = {f"{name}_shift": Weight(axes, "zeros")} if config.norm == "layer" else {}
    return {name: Weight(axes, "norm"), **shift}


def _biases(config: ModelConfig) -> dict[str, Weight]:
    found: dict[str, tuple[str, ...]] = {}
    if config.qkv_bias:
        found |= {"q_bias": ("L", "H", "d"), "k_bias": ("L", "K", "d"), "v_bias": ("L", "K", "d")}
    if config.o_bias:
        found["o_bias"] = ("L", "D")
    if config.mlp_bias:
        lead, into = _into_mlp(config)
        found |= {f"{name}_bias": (*lead, "F") for name in into} | {"down_bias": (*lead, "D")}
    if config.router_bias or config.router == "sigmoid":
        found["router_bias"] = ("L", "X")
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
        "X": config.n_experts,
        "U": config.d_shared,
        "V": config.vocab_size,
        "P": config.max_positions,
    }


def shapes(config: ModelConfig, dtype: jnp.dtype, *, narrow: str = "") -> dict[str, Any]:
    """``jax.ShapeDtypeStruct`` of every weight, without allocating any; in ``Narrow`` of a way that is asked for."""
    sizes = axis_sizes(config)

    def shape(weight: Weight) -> Any:
        blank = jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in weight.axes), dtype)
        if not (narrow and weight.sums):
            return blank
        own = weight.way(narrow)
        return jax.eval_shape(functools.partial(narrowed, summed=weight.summed, dtype=dtype, way=own), blank)

    return map_weights(shape, config)


def narrow_places(config: ModelConfig, places: Any, dtype: jnp.dtype, narrow: str) -> dict[str, Any]:
    """Shardings of weights as those of their values and scales, where ``narrow_params`` makes them ``Narrow``."""

    def one(weight: Weight, place: Any, blank: Any) -> Any:
        return narrow_place(place, blank) if weight.sums else place

    return map_weights(one, config, places, shapes(config, dtype, narrow=narrow))


def narrow_params(config: ModelConfig, params: dict[str, Any], dtype: jnp.dtype, narrow: str) -> dict[str, Any]:
    """Weights with their matrices as ``Narrow``, which widen to ``dtype``; all others are left as they are.

    ``params`` is emptied, so that no more than one of the wide matrices need be held beside the narrow ones.
    """
    found: dict[str, Any] = {}
    for name, declared in declare(config).items():
        if isinstance(declared, Weight):
            found[name] = _narrow_leaf(params.pop(name), declared, dtype, narrow)
        else:
            own = params[name]
            found[name] = {inner: _narrow_leaf(own.pop(inner), one, dtype, narrow) for inner, one in declared.items()}
    return found


def _narrow_leaf(leaf: jax.Array, declared: Weight, dtype: jnp.dtype, narrow: str) -> Any:
    if not declared.sums:
        return leaf
    found = _narrow_rows(leaf, declared.summed, dtype, declared.way(narrow))
    return jax.device_put(found, narrow_place(leaf.sharding, found))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
@usual_promotion()
def _narrow_rows(leaf: jax.Array, summed: tuple[int, ...], dtype: jnp.dtype, way: str) -> Narrow:
    """Some rows of the first axis, such as a layer, at a time."""

    def row(one: jax.Array) -> Narrow:
        return narrowed(one, tuple(axis - 1 for axis in summed), dtype, way)

    rows_at_once = max(1, _DRAWN_AT_ONCE // math.prod(leaf.shape[1:]))
    return jax.lax.map(row, leaf, batch_size=min(rows_at_once, leaf.shape[0]))


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
        return jnp.full(blank.shape, 1 - config.norm_offset if weight.init == "norm" else 0, blank.dtype, device=place)

    return map_weights(draw, config, shapes(config, dtype), places, named=True)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
@usual_promotion()
def _normal(key: jax.Array, scale: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, place: Any) -> jax.Array:
    """Drawn some rows at a time: the generator's own numbers take eight times the room of what it makes."""

    def row(key: jax.Array) -> jax.Array:
        return (scale * jax.random.normal(key, shape[1:], dtype)).astype(dtype)

    return jax.lax.with_sharding_constraint(_row_by_row(row, key, shape), place)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
@usual_promotion()
def _narrow_normal(
    key: jax.Array, scale: jax.Array, weight: Weight, blank: jax.ShapeDtypeStruct, place: Any, way: str
) -> Narrow:
    """The same as narrow ones, each row on its own, so that they are never all held wide."""

    def row(key: jax.Array) -> Narrow:
        wide = scale * jax.random.normal(key, blank.shape[1:], jnp.float32)
        return narrowed(wide, tuple(axis - 1 for axis in weight.summed), blank.dtype, way)

    found = _row_by_row(row, key, blank.shape)
    return jax.tree.map(jax.lax.with_sharding_constraint, found, narrow_place(place, found))


def _row_by_row(row: Callable[[jax.Array], Any], key: jax.Array, shape: tuple[int, ...]) -> Any:
    rows_at_once = max(1, _DRAWN_AT_ONCE // math.prod(shape[1:]))
    return jax.lax.map(row, jax.random.split(key, shape[0]), batch_size=min(rows_at_once, shape[0]))
