"""Where weights lie on a mesh of devices: tensor-parallel over ``model``, and the same on every slice of ``data``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jstrace.errors import InputError
from jstrace.models.config import ModelConfig
from jstrace.models.declared import Weight, axis_sizes
from jstrace.models.narrow import Narrow, axes_of, parts_of_rows
from jstrace.models.params import map_weights, shapes

DATA, MODEL = "data", "model"
_MUST_DIVIDE = {"H": "query heads", "F": "MLP width"}
"""Axes of weights that are divided over ``model``, in words;"""
_MAY_DIVIDE = ("K", "V", "U")
"""and those that stay whole where they do not divide: few key/value heads, odd vocabularies, the MLP beside experts.
All others are whole. Of experts each is divided, so that all devices have work whichever are chosen."""


def make_mesh(*, data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of ``data * model`` devices: inputs are divided over ``data``, weights over ``model``.

    On several slices of TPUs every group along ``model`` lies within one of them, and ``data`` is divided equally.

    Examples:
      >>> mesh = jstrace.make_mesh(data=1, model=1)
      >>> jstrace.load("my-model", mesh=mesh).config == model.config
      True

    Raises:
      InputError: sizes that are not positive, need more devices than there are, leave out a host, or do not divide over
        slices.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (data, model)):
        raise InputError(f"mesh data={data!r}, model={model!r}: expected positive sizes")
    pool = list(jax.devices() if devices is None else devices)
    if data * model > len(pool):
        raise InputError(f"mesh data={data}, model={model} needs {data * model} devices, there are {len(pool)}")
    pool = _chosen(pool, data, model)
    _check_distinct(pool)
    _check_hosts(pool, f"mesh data={data}, model={model}")
    return Mesh(np.asarray(pool).reshape(data, model), (DATA, MODEL))


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

    def sharding_of(weight: Weight) -> NamedSharding:
        divided = _divided(weight, mesh.shape[MODEL])
        return NamedSharding(mesh, PartitionSpec(*(MODEL if axis in divided else None for axis in weight.axes)))

    return map_weights(sharding_of, config)


def weight_bytes(config: ModelConfig, itemsize: int, over: int = 1, *, narrow: str = "") -> int:
    """Bytes of weights on each device of a mesh with ``model`` of this size, as ``param_shardings`` divides them.

    With ``narrow`` they are those of values and scales. What files store in blocks counts as int8.
    """
    wide = jnp.dtype("float32" if itemsize == 4 else "bfloat16")

    def bytes_of(weight: Weight, blank: Any) -> int:
        axes = axes_of(blank, weight.axes) if isinstance(blank, Narrow) else [weight.axes]
        leaves, divided = zip(jax.tree.leaves(blank), axes, strict=True), _divided(weight, over)
        return sum(leaf.size * leaf.dtype.itemsize // (over if divided & {*own} else 1) for leaf, own in leaves)

    return sum(jax.tree.leaves(map_weights(bytes_of, config, shapes(config, wide, narrow=narrow))))


def widened_bytes(config: ModelConfig, itemsize: int, over: int = 1) -> int:
    """Bytes, on each device, of what a pass makes wide at once of narrow weights: a layer, and rows of the head."""

    def wide(weight: Weight) -> int:
        return _bytes(weight, itemsize, over, without="L") if weight.sums else 0

    nbytes = map_weights(wide, config)
    stacks = nbytes["layers"].values() if config.forms else [nbytes["layers"]]
    head = int(nbytes["embed"]) // parts_of_rows(config.vocab_size, config.d_model)
    return max(sum(stack.values()) for stack in stacks) + head


def _bytes(weight: Weight, each: int, over: int, *, without: str = "") -> int:
    """Of a device's part of a weight, or of one of it without some axes, with so many bytes a number."""
    sizes = {axis: size for axis, size in zip(weight.axes, weight.shape, strict=True) if axis not in without}
    return each * math.prod(sizes.values()) // (over if _divided(weight, over) & sizes.keys() else 1)


def _divided(weight: Weight, over: int) -> set[str]:
    """The axes that are divided."""
    sizes = zip(weight.axes, weight.shape, strict=True)
    return {axis for axis, size in sizes if axis in (*_MUST_DIVIDE, *_MAY_DIVIDE) and size % over == 0}


def divisible(config: ModelConfig) -> dict[str, int]:
    """Of every axis that has to be divided the greatest size that divides it in all layers."""
    # Zero, which any size divides, for heads that are not there, as the width is of an MLP that is not.
    forms = [axis_sizes(form) | ({"H": 0} if form.mixer == "none" else {}) for form in config.layer_forms]
    return {axis: math.gcd(*(sizes[axis] for sizes in forms)) for axis in _MUST_DIVIDE}


def _check_mesh(config: ModelConfig, mesh: Mesh) -> None:
    """Refuse a mesh over which the weights do not divide, with the sizes that would."""
    if not isinstance(mesh, Mesh):
        raise InputError(f"mesh = {mesh!r}: expected a mesh of jstrace.make_mesh")
    if tuple(mesh.axis_names) not in ((DATA, MODEL), (MODEL,)):
        raise InputError(
            f"mesh axes {mesh.axis_names}: expected {DATA!r} and {MODEL!r} in that order; see jstrace.make_mesh"
        )
    _check_distinct(mesh.devices.ravel().tolist())
    sizes, over = divisible(config), mesh.shape[MODEL]
    wrong = [f"{word} {sizes[axis]}" for axis, word in _MUST_DIVIDE.items() if sizes[axis] % over]
    if wrong:
        common = math.gcd(*sizes.values())
        fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise InputError(f"mesh model={over} does not divide {', '.join(wrong)}; sizes that would: {fits}")
