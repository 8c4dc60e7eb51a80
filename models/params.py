"""The weights of a decoder: each declared once, with its shape; layers stacked on a leading axis.

On a mesh of devices they are tensor-parallel over ``model``, and the same on every slice of ``data``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jstrace.errors import InputError
from jstrace.models.config import ModelConfig
from jstrace.models.platforms import usual_promotion

Params = Mapping[str, Any]
"""Nested dict of arrays: ``embed``, ``head`` (untied only), ``final_norm`` (with norms), ``layers`` with its stacks."""


_DRAWN_AT_ONCE = 2**24

DATA, MODEL = "data", "model"
_MUST_DIVIDE = {"H": "query heads", "F": "MLP width"}
"""Axes of weights that are divided over ``model``, in words;"""
_MAY_DIVIDE = ("K", "V", "U")
"""and those that stay whole where they do not divide: few key/value heads, odd vocabularies, the MLP beside experts.
All others are whole. Of experts each is divided, so that all devices have work whichever are chosen."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declaration of one weight; ``axes`` name its dimensions with the letters of ``models.edges``."""

    axes: tuple[str, ...]
    init: str = "normal"
    """``normal``, ``zeros`` for biases and shifts, or ``norm`` for what makes a norm the identity."""


def declare(config: ModelConfig) -> dict[str, Any]:
    """Every weight that ``config`` calls for, as a nested dict of ``Weight``."""
    layers = {name: Weight(("L", "D", heads, "d")) for name, heads in zip("qkv", "HKK", strict=True)}
    layers |= {"o": Weight(("L", "H", "d", "D"))} | _mlps(config) | _norms(config) | _biases(config)
    layers |= {"sink": Weight(("L", "H"))} if config.sinks else {}
    if config.activation == "xielu":
        layers |= {name: Weight(("L",), "zeros") for name in ("alpha_p", "alpha_n", "beta", "eps")}
    weights: dict[str, Any] = {"embed": Weight(("V", "D")), "layers": layers}
    if config.learned_positions:
        weights["positions"] = Weight(("P", "D"))
    weights |= _norm(config, "final_norm", ("D",))
    if not config.tied_head:
        weights["head"] = Weight(("V", "D"))
    if config.head_bias:
        weights["head_bias"] = Weight(("V",), "zeros")
    return weights


def _mlps(config: ModelConfig) -> dict[str, Weight]:
    """Of the MLP, or of the experts, their router, and the MLP beside them."""
    lead, into = _into_mlp(config)
    found: dict[str, tuple[str, ...]] = {**dict.fromkeys(into, (*lead, "D", "F")), "down": (*lead, "F", "D")}
    found |= {"router": ("L", "D", "X")} if config.n_experts else {}
    if config.d_shared:
        found |= {f"shared_{name}": ("L", "D", "U") for name in into} | {"shared_down": ("L", "U", "D")}
        found |= {"shared_scale": ("L", "D")} if config.shared_gate else {}
    return {name: Weight(axes) for name, axes in found.items()}


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


def make_mesh(*, data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of ``data * model`` devices: inputs are divided over ``data``, weights over ``model``.

    On several slices of TPUs every group along ``model`` lies within one of them, and ``data`` is divided equally.

    Raises:
      InputError: sizes that are not positive, need more devices than there are, leave out a host, or do not divide over
        slices.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (data, model)):
        raise InputError(f"mesh data={data!r}, model={model!r}: expected positive sizes")
    found = list(jax.devices() if devices is None else devices)
    if data * model > len(found):
        raise InputError(f"mesh data={data}, model={model} needs {data * model} devices, there are {len(found)}")
    found = _chosen(found, data, model)
    _check_distinct(found)
    _check_hosts(found, f"mesh data={data}, model={model}")
    return Mesh(np.asarray(found).reshape(data, model), (DATA, MODEL))


def _chosen(devices: Sequence[jax.Device], data: int, model: int) -> list[jax.Device]:
    """The first devices of every slice, slice after slice; where there is one slice, simply the first."""
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        # Of GPUs it is the host's number.
        number = getattr(device, "slice_index", None) if device.platform == "tpu" else None
        slices.setdefault(number or 0, []).append(device)
    each, left = divmod(data, len(slices))
    if left or each * model > min(map(len, slices.values()), default=0):
        raise InputError(
            f"mesh data={data}, model={model} does not divide over {len(slices)} slices of"
            f" {min(map(len, slices.values()))} devices: groups of model lie within a slice, data is a multiple of"
            " their number"
        )
    return [device for _, own in sorted(slices.items()) for device in own[: each * model]]


def _check_distinct(devices: Sequence[jax.Device]) -> None:
    if not devices or len(set(devices)) != len(devices):
        raise InputError(f"a mesh of {len(devices)} devices, {len(set(devices))} of them different")


def _check_hosts(devices: Sequence[jax.Device], what: str) -> None:
    """Every process takes part in every computation, so each must have a device of the mesh."""
    missing = set(range(jax.process_count())) - {device.process_index for device in devices}
    if missing:
        raise InputError(f"{what} leaves out all devices of process {min(missing)}; every host must have one of them")


def param_shardings(config: ModelConfig, mesh: Mesh) -> dict[str, Any]:
    """The sharding of every parameter, as a tree like ``declare``'s.

    Raises:
      InputError: the mesh has no axis ``model``, or heads or MLP width do not divide over it.
    """
    _check_mesh(config, mesh)
    mesh = Mesh(mesh.devices, mesh.axis_names)  # explicit axis types are not for models that leave sharding to XLA
    divided = _divided(config, mesh.shape[MODEL])

    def one(weight: Weight) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(MODEL if axis in divided else None for axis in weight.axes)))

    return map_weights(one, config)


def weight_bytes(config: ModelConfig, itemsize: int, over: int = 1) -> int:
    """Bytes of weights on each device of a mesh with ``model`` of this size, as ``param_shardings`` divides them."""
    sizes, divided = axis_sizes(config), _divided(config, over)

    def one(weight: Weight) -> int:
        whole = itemsize * math.prod(sizes[axis] for axis in weight.axes)
        return whole // (over if divided & set(weight.axes) else 1)

    return sum(jax.tree.leaves(map_weights(one, config)))


def _divided(config: ModelConfig, over: int) -> set[str]:
    sizes = axis_sizes(config)
    return {axis for axis in (*_MUST_DIVIDE, *_MAY_DIVIDE) if sizes[axis] % over == 0}


def _check_mesh(config: ModelConfig, mesh: Mesh) -> None:
    """Refuse a mesh over which the weights do not divide, with the sizes that would."""
    if not isinstance(mesh, Mesh):
        raise InputError(f"mesh = {mesh!r}: expected a mesh of jstrace.make_mesh")
    if tuple(mesh.axis_names) not in ((DATA, MODEL), (MODEL,)):
        raise InputError(
            f"mesh axes {mesh.axis_names}: expected {DATA!r} and {MODEL!r} in that order; see jstrace.make_mesh"
        )
    _check_distinct(mesh.devices.ravel().tolist())
    sizes, over = axis_sizes(config), mesh.shape[MODEL]
    wrong = [f"{word} {sizes[axis]}" for axis, word in _MUST_DIVIDE.items() if sizes[axis] % over]
    if wrong:
        common = math.gcd(*(sizes[axis] for axis in _MUST_DIVIDE))
        fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise InputError(f"mesh model={over} does not divide {', '.join(wrong)}; sizes that would: {fits}")
