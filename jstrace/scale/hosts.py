"""Several hosts that run the same command: how they start, talk, agree, and fail together.

Words between hosts go through JAX's coordinator: no device takes part, so none has to finish what it computes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # there is no public way to the coordinator's table; Orbax goes this way, too

from jstrace.models import InputError

_SLICE_MS = 10_000
"""How long to wait for a host at a time, so that signals are seen; JAX ends the process where the host is gone."""
ENDING = 5.0
"""Seconds in which JAX ends a process that has lost the coordinator: so long nothing else is said."""
_calls = itertools.count()


def client() -> Any:
    """The connection to the coordinator, of a process that has joined others."""
    return distributed.global_state.client


def exchanged(own: bytes) -> list[bytes]:
    """What every host brings to this call, in the order of hosts: all of them make the same calls.

    Raises:
      InputError: the coordinator is gone.
    """
    number, me, table = next(_calls), jax.process_index(), client()
    try:
        table.key_value_set_bytes(f"jstrace/said/{number}/{me}", own)
        messages = [own if host == me else _awaited(table, number, host) for host in range(jax.process_count())]
        if number:  # all have read the last call's, as they are in this one
            table.key_value_delete(f"jstrace/said/{number - 1}/{me}")
    except jax.errors.JaxRuntimeError as error:
        time.sleep(ENDING)
        raise InputError("the first host cannot be reached") from error
    return messages


def _awaited(table: Any, number: int, host: int) -> bytes:
    while True:
        try:
            return bytes(table.blocking_key_value_get_bytes(f"jstrace/said/{number}/{host}", _SLICE_MS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


Result = TypeVar("Result")

_LOST = (
    *("gloo", "nccl", "peer", "socket", "connect", "coordination", "heartbeat"),
    *("unavailable", "deadline", "timed out", "timeout", "aborted", "rendezvous"),
)
"""What errors of hosts that cannot reach each other say, in lower case."""
HEARTBEAT = 30
"""Seconds without a sign of life after which a host counts as ended."""


def start_distributed() -> bool:
    """Join the other hosts: for the same command on every host of a TPU pod or of a GPU cluster.

    Call it before anything else of JAX. TPU pods, Slurm, Open MPI and Kubernetes are recognised by
    ``jax.distributed.initialize``; elsewhere set JAX_COORDINATOR_ADDRESS (host:port of the first process),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. All must start within 50 seconds, or as many as JSTRACE_START_TIMEOUT says. A
    host that ends before the others, or cannot be reached for half a minute, ends all of them: JAX aborts the process.

    Returns:
      Whether this is the first process, the one to print and to write files.

    Raises:
      InputError: no cluster is recognised and the variables are not set, or the hosts do not find each other.
    """
    n_processes, process_id = _given_processes()
    try:
        jax.distributed.initialize(num_processes=n_processes, process_id=process_id, **_patience())
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the hosts did not start together ({reason}); outside TPU pods, Slurm and Open MPI set"
            " JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error
    return jax.process_index() == 0


def _patience() -> dict[str, Any]:
    """Seconds that hosts wait for each other: to start, for a sign of life, and for the others' end."""
    given = os.environ.get("JSTRACE_START_TIMEOUT", "50")
    if not (_is_count(given) and int(given)):
        raise InputError(f"JSTRACE_START_TIMEOUT is {given!r}, expected seconds such as 300")
    return {
        "initialization_timeout": int(given),
        "heartbeat_timeout_seconds": HEARTBEAT,
        "shutdown_timeout_seconds": 40,
    }


def lost_others(error: Exception) -> bool:
    """Whether an error may be that of hosts which lost each other in a computation: of a network, or a deadline."""
    words = str(error).lower()
    of_network = any(word in words for word in _LOST)
    return isinstance(error, jax.errors.JaxRuntimeError) and client() is not None and of_network


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
    return number if jax.process_count() == 1 else min(int(reply) for reply in exchanged(str(number).encode()))


def gathered(own: bytes) -> list[bytes]:
    """What every host brings to this call, in the order of hosts."""
    return [own] if jax.process_count() == 1 else exchanged(own)


def either(mask: np.ndarray) -> np.ndarray:
    """Where any host's mask, of a shape that is the same on all, is true."""
    if jax.process_count() == 1:
        return mask
    masks = [np.frombuffer(each, np.bool_) for each in exchanged(np.asarray(mask, np.bool_).tobytes())]
    return np.logical_or.reduce(masks).reshape(mask.shape)


def together(step: Callable[[], Result]) -> Result:
    """The step's result; where it fails or is stopped on one host, every host raises, rather than wait for it.

    So it does where a host is interrupted while it waits for the others; between steps see ``interrupts_agreed``.

    Raises:
      InputError: the step failed elsewhere, or was interrupted there; here its own error is raised, whatever it is.
    """
    if jax.process_count() == 1:
        return step()
    failure: BaseException | None = None
    try:
        result = step()
    except BaseException as error:  # whatever it is, Ctrl-C and exits too, the others must hear of it
        failure = error
    with _interrupts_held() as held:
        ended = [failure is not None, isinstance(failure, KeyboardInterrupt)]
        failed, interrupted = either(np.asarray(ended)).tolist()
        here = bool(held)
        interrupted |= bool(either(np.asarray(here)))  # while waiting for the slowest; this time none waits
    if failure is not None:
        raise failure
    if here:  # now do what Ctrl-C would have done
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, None)
        raise KeyboardInterrupt
    if interrupted:
        raise InputError("another host was interrupted, so this one stops, too")
    if failed:
        raise InputError("another host failed; its own message says why")
    return result


class Interrupts:
    """Ctrl-C on several hosts, which is only noted; all of them ask at the same points."""

    def __init__(self, held: list[int] | None) -> None:
        """``held``: those noted here; None on one host, which is interrupted as ever."""
        self._held = held

    def asked(self) -> bool:
        """Whether any host was interrupted."""
        return self._held is not None and bool(either(np.asarray(bool(self._held))))

    def stop_if_asked(self) -> None:
        """KeyboardInterrupt on a host that was interrupted, ``InputError`` on the others."""

        def stop() -> None:
            if self._held:
                raise KeyboardInterrupt

        if self._held is not None:
            together(stop)


@contextlib.contextmanager
def interrupts_agreed() -> Iterator[Interrupts]:
    """A Ctrl-C only noted inside, until every host stops at once; all ask at one point.

    A host that left a computation in the middle would strand the others in it. A second Ctrl-C does so all the same,
    for those who do not want to wait. One host is interrupted as ever.

    Yields:
      What to ask.
    """
    if jax.process_count() == 1:
        yield Interrupts(None)
        return
    with _interrupts_held(once=True) as held:
        yield Interrupts(held)


@contextlib.contextmanager
def _interrupts_held(*, once: bool = False) -> Iterator[list[int]]:
    """Ctrl-C only noted, in the list, while hosts need each other: one that left would strand the rest.

    One that comes after they have agreed is for the handler that stood there before, whose turn it is again.

    Args:
      once: let the second through.
    """
    held: list[int] = []
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(before):
        yield held  # a handler that is not Python's, or a thread that may set none
        return

    def note(number: int, _: object) -> None:
        if once and held:
            raise KeyboardInterrupt
        held.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def check_agreed(what: object) -> None:
    """Refuse, on every host, to go on where hosts were asked for different things: their numbers would mix.

    Raises:
      InputError: ``repr(what)`` is not the same on all hosts.
    """
    if jax.process_count() == 1:
        return
    if len(set(exchanged(hashlib.sha256(repr(what).encode()).digest()))) > 1:
        raise InputError("the hosts were given different inputs or options; every one must run the same command")
