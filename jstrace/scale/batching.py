"""Token counts rounded up to buckets and inputs grouped into batches, so that few shapes are compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np

from jstrace.scale.memory import out_of_memory

Result = TypeVar("Result")


def bucket(n_tokens: int) -> int:
    """The padded token count: 8, 16, then steps of 16 up to 128, of an eighth to a quarter of it beyond."""
    if n_tokens <= 16:
        return 8 if n_tokens <= 8 else 16
    step = 16 if n_tokens <= 128 else 1 << (n_tokens - 1).bit_length() - 3
    return -(-n_tokens // step) * step


def in_batches(
    lengths: Mapping[int, int],
    most: Callable[[int], int],
    run: Callable[[list[int], int], list[Result]],
    *,
    n_devices: int = 1,
) -> Iterator[tuple[list[int], list[Result]]]:
    """Run inputs of one bucket together; when memory runs out, fewer of them.

    Args:
      lengths: tokens of each input, by its index.
      most: from a bucket to the number of inputs of one call on each device.
      run: from indices of inputs and the rows of the compiled call, of which the others are padding, to their results.
      n_devices: that inputs are divided over.

    Yields:
      Indices of inputs with their results.
    """
    groups: dict[int, list[int]] = {}
    for index, length in lengths.items():
        groups.setdefault(bucket(length), []).append(index)
    for width, left in groups.items():
        size = n_devices * most(width)
        while left:
            members = left[:size]
            n_rows = call_rows(len(members), n_devices)
            try:
                results = run(members, n_rows)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                # Other hosts would wait in the call that failed here, so with several of them there is no second try.
                if len(members) == 1 or jax.process_count() > 1 or not out_of_memory(error):
                    raise
                size = _fewer(n_rows, n_devices)
                warnings.warn(
                    f"out of memory with {len(members)} inputs of {width} tokens in one call; going on with {size}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            yield members, results
            left = left[len(members) :]


def call_rows(n_inputs: int, n_devices: int) -> int:
    """Rows of the call for so many inputs: few shapes, and as few rows for the busiest device as can be.

    On one device the next power of two; otherwise equally many for each device, or for fewer inputs than devices a
    divisor of their number, so that the devices of one input share its sizes.
    """
    if n_inputs >= n_devices:
        each = -(-n_inputs // n_devices)
        return n_devices * (1 << (each - 1).bit_length())
    return next(n for n in range(n_inputs, n_devices + 1) if n_devices % n == 0)


def _fewer(n_rows: int, n_devices: int) -> int:
    """Half as many inputs on each device; one in all where each had one."""
    each = n_rows // n_devices
    return n_devices * (each // 2) if each > 1 else 1


def padded(rows: Sequence[np.ndarray], width: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of token ids as int32 ``[n_rows, width]`` with their lengths; rows of padding have one token."""
    tokens, lengths = np.zeros((n_rows, width), np.int32), np.ones(n_rows, np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], lengths[index] = row, len(row)
    return tokens, lengths


def filled(rows: Sequence[np.ndarray], n_rows: int, value: int = 0) -> np.ndarray:
    """Equal rows stacked to ``[n_rows, ...]``, rows of padding holding ``value``."""
    out = np.full((n_rows, *rows[0].shape), value, rows[0].dtype)
    out[: len(rows)] = rows
    return out
