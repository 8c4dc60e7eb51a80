"""Where parameters live on a mesh of devices: tensor-parallel over ``model``, the same on every slice of ``data``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jstrace.errors import InputError
from jstrace.models.config import ModelConfig
from jstrace.models.decoder import Decoder
from jstrace.models.params import Weight, axis_sizes, map_weights

DATA, MODEL = "data", "model"
RULES: Mapping[str, str] = {"H": MODEL, "K": MODEL, "F": MODEL, "V": MODEL}
"""The axes of weights that are divided over a mesh axis; the others are whole on every device."""
_OPTIONAL = ("K", "V")
"""Axes that stay whole where they do not divide: few key/value heads, odd vocabularies."""


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
    """The sharding of every parameter, as a tree like ``models.params.declare``'s.

    Raises:
      InputError: the mesh has no axis ``model``, or heads or MLP width do not divide over it.
    """
    check_mesh(config, mesh)
    mesh = Mesh(mesh.devices, mesh.axis_names)  # explicit axis types are not for models that leave sharding to XLA
    sizes = axis_sizes(config)
    over = {axis: name for axis, name in RULES.items() if sizes[axis] % mesh.shape[name] == 0}

    def one(weight: Weight) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(over.get(axis) for axis in weight.axes)))

    return map_weights(one, config)


def weight_bytes(config: ModelConfig, itemsize: int, over: int = 1) -> int:
    """Bytes of weights on each device of a mesh with ``model`` of this size, as ``param_shardings`` divides them."""
    sizes = axis_sizes(config)

    def one(weight: Weight) -> int:
        divided = any(axis in RULES and sizes[axis] % over == 0 for axis in weight.axes)
        return itemsize * math.prod(sizes[axis] for axis in weight.axes) // (over if divided else 1)

    return sum(jax.tree.leaves(map_weights(one, config)))


def mesh_of(decoder: Decoder) -> Mesh | None:
    """The mesh that a decoder's weights were loaded onto, or None for a single device."""
    sharding = decoder.embed[...].sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None
    assert isinstance(sharding.mesh, Mesh)
    return sharding.mesh


def check_mesh(config: ModelConfig, mesh: Mesh) -> None:
    """Refuse a mesh over which the weights do not divide, with the sizes that would."""
    if not isinstance(mesh, Mesh):
        raise InputError(f"mesh = {mesh!r}: expected a mesh of jstrace.make_mesh")
    if tuple(mesh.axis_names) not in ((DATA, MODEL), (MODEL,)):
        raise InputError(
            f"mesh axes {mesh.axis_names}: expected {DATA!r} and {MODEL!r} in that order; see jstrace.make_mesh"
        )
    _check_distinct(mesh.devices.ravel().tolist())
    sizes, over = axis_sizes(config), mesh.shape[MODEL]
    needed = [axis for axis in RULES if axis not in _OPTIONAL]
    wrong = {axis: sizes[axis] for axis in needed if sizes[axis] % over}
    if wrong:
        common = math.gcd(*(sizes[axis] for axis in needed))
        fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        shown = ", ".join(f"{_WORDS[axis]} {size}" for axis, size in wrong.items())
        raise InputError(f"mesh model={over} does not divide {shown}; sizes that would: {fits}")


_WORDS = {"H": "query heads", "F": "MLP width"}
