"""Words between hosts through JAX's coordinator: no device takes part, so none has to finish what it computes first."""

from __future__ import annotations

import itertools
import time
from typing import Any

import jax
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
