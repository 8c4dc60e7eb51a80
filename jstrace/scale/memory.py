"""How many inputs one compiled call takes, by what pays and by the memory that is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jstrace.models import Decoder
from jstrace.models.memory import free_memory, whole_memory
from jstrace.scale.hosts import agreed

_SHARE = 0.8
"""Of the free memory that a batch may be planned for."""
ALL_SIZES = 27
"""Masks of an input in its evaluation."""
_TOKENS = 640
"""Tokens in one call of an accelerator, each of them a row under each of 27 sizes: some 16,000 rows, of which eight
inputs reach 55% of the matrix rate of an H200 (experiments/results/benchmarks/README.md)."""
_OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "bad_alloc", "cannot allocate memory")
"""What errors of XLA (INTERNAL on a CPU), of its threads and of the system say, in lower case."""
ON_A_CPU = 1
"""Inputs of one call on a CPU: what comes of an input then depends on nothing beside it, to the bit, and lists of any
length run the programs of one input. Four in a call take 0.6 to 0.8 of the time at 14 tokens, 0.8 to 0.97 at 50."""
_INPUTS = 16
_MOST = 64
"""Inputs of a call that holds few masks of each: what a stop in the middle of it costs."""


def free_bytes(device: jax.Device) -> int | None:
    """What may still be allocated: on the device, or for a CPU by this process; None where nothing tells."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return free_memory() if device.platform == "cpu" else None


def total_bytes(device: jax.Device) -> int | None:
    """What can be allocated at most: of the device, or of what this process may have, with swap; None if not known."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return whole_memory() if device.platform == "cpu" else None


def room_of_all(decoder: Decoder, of: Callable[[jax.Device], int | None]) -> int | None:
    """``free_bytes`` or ``total_bytes`` of all devices that hold the model, if each has what the least here has."""
    sharding = decoder.embed[...].sharding
    rooms = [(device, of(device)) for device in sharding.addressable_devices]
    known = [number for _, number in rooms if number is not None]
    if not known:
        return None
    shared = len(rooms) if rooms[0][0].platform == "cpu" else 1  # devices of one machine's memory
    return min(known) * len(sharding.device_set) // shared


def batch_inputs(
    decoder: Decoder, width: int, bytes_each: int, *, shared: int = 0, n_masks: int = ALL_SIZES, alone: bool = False
) -> int:
    """Inputs for one call on each device: a power of two, at most what pays and what memory holds, at least one.

    The same on every host. A copy of one layer's weights is left room for, and ``shared`` bytes of a call. With fewer
    masks of an input than an evaluation has (``n_masks`` at a time), an accelerator takes more inputs: its rows are
    what keeps it busy.
    ``alone`` says that a CPU takes one in any case (long fits, of which a stop should cost one).
    """
    if next(iter(decoder.embed[...].sharding.addressable_devices)).platform == "cpu":
        most = 1 if alone else ON_A_CPU
    else:
        more = ALL_SIZES / n_masks
        most = int(min(_INPUTS * more, _MOST, _TOKENS * more // width))
    if (room := _plannable(decoder)) is not None:
        most = min(most, (room - shared) // bytes_each)
    return agreed(1 << (max(1, most).bit_length() - 1))


def holds(decoder: Decoder, n_bytes: int) -> bool:
    """Whether so many bytes may be planned for on each device, beside what is there; the same on every host."""
    room = _plannable(decoder)
    return bool(agreed(int(room is None or n_bytes <= room)))


def _plannable(decoder: Any) -> int | None:
    """Bytes of each device for calls; None where nothing tells."""
    devices = sorted(decoder.embed[...].sharding.addressable_devices, key=lambda device: device.id)
    free = [number for number in map(free_bytes, devices) if number is not None]
    if not free:
        return None
    shared = len(devices) if devices[0].platform == "cpu" else 1  # devices of one machine's memory
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(decoder.layers)) // decoder.config.n_layers
    return int(_SHARE * min(free)) // shared - weights


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device, whatever the error is called."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)
