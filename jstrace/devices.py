"""Meshes of devices: inputs and sizes over ``data``, weights over ``model``, on one host or on many.

Every device of the ``data`` axis runs its own inputs, or its own sizes where there are fewer inputs than devices, on
its own rows (``jax.shard_map``), so nothing of the size of weights or strata crosses that axis; along ``model`` the
compiler divides the work by the sharding of the weights.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jstrace.models import Decoder, InputError, make_mesh

Result = TypeVar("Result")
INPUTS, SIZES = "inputs", "sizes"
"""What the ``data`` axis is divided into for one call."""

_ALL = -1


def mesh_of(decoder: Decoder) -> Mesh | None:
    """The mesh that a decoder's weights were loaded onto, or None for a single device."""
    sharding = decoder.embed[...].sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None
    assert isinstance(sharding.mesh, Mesh)
    return sharding.mesh


def n_data(mesh: Mesh | None) -> int:
    """Devices along ``data``."""
    return 1 if mesh is None else mesh.shape.get("data", 1)


def divided(mesh: Mesh, n_inputs: int) -> Mesh:
    """The same devices with the ``data`` axis as one of inputs, as far as they divide, and one of sizes."""
    data, model = n_data(mesh), mesh.shape["model"]
    over_inputs = math.gcd(n_inputs, data)
    return Mesh(mesh.devices.reshape(over_inputs, data // over_inputs, model), (INPUTS, SIZES, "model"))


def over_inputs(
    function: Callable[..., Any], mesh: Mesh | None, n_inputs: int, *, whole: bool = False
) -> Callable[..., Any]:
    """``function(decoder or nothing, batch, ...) -> batch`` run by every device on its own inputs.

    Arguments are divided along their first axis, but for decoders, which are whole along ``data``. With ``whole`` the
    devices along ``model`` all do the same, rather than divide what has no heads or widths to divide.
    """
    if mesh is None:
        return function

    def run(*arguments: Any) -> Any:
        specs = tuple(PartitionSpec() if isinstance(a, Decoder) else PartitionSpec(INPUTS) for a in arguments)
        return manual(function, divided(mesh, n_inputs), specs, PartitionSpec(INPUTS), whole=whole)(*arguments)

    return run


def manual(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any, *, whole: bool = False
) -> Callable[..., Any]:
    """``jax.shard_map`` over inputs and sizes of a divided mesh; ``model`` is left to the compiler, or repeats them."""
    names = {INPUTS, SIZES} | ({"model"} if whole else set())
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=names, check_vma=False)


def placed(tree: Any, mesh: Mesh | None) -> Any:
    """A batch from the host, the same on every host, onto the devices that will work on it."""
    if mesh is None:
        return tree

    def one(leaf: np.ndarray) -> jax.Array:
        sharding = NamedSharding(divided(mesh, leaf.shape[0]), PartitionSpec(INPUTS))
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(one, tree)


def fetched(tree: Any) -> Any:
    """Batches on the host; with several hosts every one of them gets the whole, an input at a time."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    def one(leaf: jax.Array) -> np.ndarray:
        rows = (multihost_utils.process_allgather(_row(leaf, index), tiled=True) for index in range(leaf.shape[0]))
        return np.stack(list(rows))

    return jax.tree.map(one, tree)


@jax.jit
def _row(leaf: jax.Array, index: int) -> jax.Array:
    return leaf[index]


def agreed(number: int) -> int:
    """The least of all hosts' numbers: they must run the same programs."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(number)).min())


def either(mask: np.ndarray) -> np.ndarray:
    """Where any host's mask, of a shape that is the same on all, is true."""
    if jax.process_count() == 1:
        return mask
    from jax.experimental import multihost_utils

    return np.asarray(np.any(multihost_utils.process_allgather(mask), axis=0))


def together(step: Callable[[], Result]) -> Result:
    """The step's result; where it fails on one host, every host raises, rather than wait for that one.

    Raises:
      InputError: the step failed elsewhere; here its own error is raised.
    """
    if jax.process_count() == 1:
        return step()
    failure: Exception | None = None
    try:
        result = step()
    except Exception as error:  # whatever it is, the others must hear of it
        failure = error
    if either(np.asarray(failure is not None)):
        raise failure or InputError("another host failed; its own message says why")
    return result


def check_agreed(what: object) -> None:
    """Refuse, on every host, to go on where hosts were asked for different things: their numbers would mix.

    Raises:
      InputError: ``repr(what)`` is not the same on all hosts.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    mark = np.frombuffer(hashlib.sha256(repr(what).encode()).digest()[:8], np.uint32)
    if len(np.unique(multihost_utils.process_allgather(mark), axis=0)) > 1:
        raise InputError("the hosts were given different inputs or options; every one must run the same command")


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


def start_distributed() -> bool:
    """Join the other hosts: for the same command on every host of a TPU pod or of a GPU cluster.

    Call it before anything else of JAX. TPU pods, Slurm, Open MPI and Kubernetes are recognised by
    ``jax.distributed.initialize``; elsewhere set JAX_COORDINATOR_ADDRESS (host:port of the first process),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Returns:
      Whether this is the first process, the one to print and to write files.

    Raises:
      InputError: no cluster is recognised and the variables are not set, or the hosts do not find each other.
    """
    n_processes, process_id = _given_processes()
    try:
        jax.distributed.initialize(num_processes=n_processes, process_id=process_id)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the hosts did not start together ({reason}); outside TPU pods, Slurm and Open MPI set"
            " JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error
    return jax.process_index() == 0


def _given_processes() -> tuple[int | None, int | None]:
    """How many processes there are and which this is, as far as the environment says; its errors are fatal in JAX."""
    address, count, number = (
        os.environ.get(f"JAX_{name}") for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
    )
    if address is not None and not re.fullmatch(r".+:\d{1,5}", address):
        raise InputError(f"JAX_COORDINATOR_ADDRESS is {address!r}, expected host:port of the first process")
    if count is None and number is None:
        return None, None
    if address is None:
        raise InputError("JAX_NUM_PROCESSES and JAX_PROCESS_ID go with JAX_COORDINATOR_ADDRESS, which is not set")
    if not (_is_count(count) and _is_count(number) and int(number or 0) < int(count or 0)):
        raise InputError(
            f"JAX_NUM_PROCESSES is {count!r} and JAX_PROCESS_ID is {number!r}, expected numbers such as 2 and 0 or 1"
        )
    return int(count or 0), int(number or 0)


def _is_count(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdigit() and len(text) < 7
