"""Meshes of devices: inputs and sizes over ``data``, weights over ``model``, on one host or on many.

Every device of the ``data`` axis runs its own inputs, or its own sizes where there are fewer inputs than devices, on
its own rows (``jax.shard_map``), so nothing of the size of weights or strata crosses that axis; along ``model`` the
compiler divides the work by the sharding of the weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jstrace.models import Decoder, InputError, make_mesh

INPUTS, SIZES = "inputs", "sizes"
"""What the ``data`` axis is divided into for one call."""

_ALL = -1


def n_data(mesh: Mesh | None) -> int:
    """Devices along ``data``."""
    return 1 if mesh is None else mesh.shape.get("data", 1)


def divided(mesh: Mesh, n_inputs: int) -> Mesh:
    """The same devices with the ``data`` axis as one of inputs, as far as they divide, and one of sizes."""
    data, model = n_data(mesh), mesh.shape["model"]
    over_inputs = math.gcd(n_inputs, data)
    return Mesh(mesh.devices.reshape(over_inputs, data // over_inputs, model), (INPUTS, SIZES, "model"))


def n_sharing(mesh: Mesh | None, n_inputs: int) -> int:
    """Devices along ``data`` that share each input's sizes in a call of so many inputs."""
    return 1 if mesh is None else divided(mesh, n_inputs).shape[SIZES]


def over_inputs(
    function: Callable[..., Any], mesh: Mesh | None, n_inputs: int, *, whole: bool = False
) -> Callable[..., Any]:
    """``function(decoder or nothing, batch, ...) -> batch`` run by every device on its own inputs.

    Arguments are divided along their first axis, but for decoders, and tuples that start with one, which are whole
    along ``data``. With ``whole`` the devices along ``model`` all do the same, rather than divide what has no heads or
    widths to divide.
    """
    if mesh is None:
        return function

    def run(*arguments: Any) -> Any:
        heads = (a[0] if isinstance(a, tuple) else a for a in arguments)
        specs = tuple(PartitionSpec() if isinstance(head, Decoder) else PartitionSpec(INPUTS) for head in heads)
        return manual(function, divided(mesh, n_inputs), specs, PartitionSpec(INPUTS), whole=whole)(*arguments)

    return run


def manual(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any, *, whole: bool = False
) -> Callable[..., Any]:
    """``jax.shard_map`` over inputs and sizes of a divided mesh; ``model`` is left to the compiler, or repeats them."""
    names = {INPUTS, SIZES} | ({"model"} if whole else set())
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=names, check_vma=False)


def whole_along_model(tree: Any) -> Any:
    """Arrays of a program on a mesh, gathered once so that every device along ``model`` has all of them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or "model" not in mesh.axis_names:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), tree)


def placed(tree: Any, mesh: Mesh | None) -> Any:
    """A batch from the host, the same on every host, onto the devices that will work on it."""
    if mesh is None:
        return tree

    def place_leaf(leaf: np.ndarray) -> jax.Array:
        sharding = NamedSharding(divided(mesh, leaf.shape[0]), PartitionSpec(INPUTS))
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place_leaf, tree)


_SMALL = 2**26
"""Bytes of an array up to which every device may hold the whole of it."""


def leaving(tree: Any) -> Any:
    """Batches that will be ``fetched``, on their way to the host while the devices go on with what is started next.

    With several hosts a small array is made whole on all of them by a program of its own, which is started here: later
    it would wait for all that was started meanwhile.
    """

    def copy_leaf(leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            leaf.copy_to_host_async()
            return leaf
        return _whole(leaf.sharding.mesh)(leaf) if leaf.nbytes <= _SMALL else leaf  # type: ignore[attr-defined]

    return jax.tree.map(copy_leaf, tree)


@functools.cache
def _whole(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, PartitionSpec()))


def fetched(tree: Any) -> Any:
    """Batches on the host; with several hosts every one of them gets the whole, large arrays an input at a time."""

    def fetch_leaf(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(jax.device_get(leaf))
        from jax.experimental import multihost_utils

        rows = (multihost_utils.process_allgather(_row(leaf, index), tiled=True) for index in range(leaf.shape[0]))
        return np.stack(list(rows))

    return jax.tree.map(fetch_leaf, tree)


@jax.jit
def _row(leaf: jax.Array, index: int) -> jax.Array:
    return leaf[index]


def parse_mesh(text: str) -> Mesh:
    """A mesh from words such as ``data=4,model=2``; ``data=all`` takes all devices that ``model`` leaves.

    Raises:
      InputError: other words, sizes that are no positive numbers, or more devices than there are.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        number = size.isascii() and size.isdigit() and len(size) < 10
        if name not in ("data", "model") or name in sizes or not (number or (name, size) == ("data", "all")):
            raise InputError(f"mesh {text!r}: expected such as data=4,model=2 or data=all,model=2")
        sizes[name] = int(size) if number else _ALL
    model = sizes.get("model", 1)
    if sizes.get("data") == _ALL:
        if model > 1 and jax.device_count() % model:
            raise InputError(f"mesh {text!r}: {jax.device_count()} devices do not divide into groups of {model}")
        sizes["data"] = jax.device_count() // max(1, model)
    return make_mesh(data=sizes.get("data", 1), model=model)
