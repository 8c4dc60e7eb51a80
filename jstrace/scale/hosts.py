"""Several hosts that run the same command: how they start, agree, and fail together."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from jstrace.models import InputError

Result = TypeVar("Result")


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
