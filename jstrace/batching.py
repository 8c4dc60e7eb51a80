"""Token counts rounded up to buckets and inputs grouped into batches, so that few shapes are compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np

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
) -> Iterator[tuple[list[int], list[Result]]]:
    """Run inputs of one bucket together; when memory runs out, fewer of them.

    Args:
      lengths: tokens of each input, by its index.
      most: from a bucket to the number of inputs of one call.
      run: from indices of inputs and the rows of the compiled call (one, or the call's full number, so that few shapes
        are compiled) to the inputs' results.

    Yields:
      Indices of inputs with their results.
    """
    groups: dict[int, list[int]] = {}
    for index, length in lengths.items():
        groups.setdefault(bucket(length), []).append(index)
    for width, left in groups.items():
        size = most(width)
        while left:
            members = left[:size]
            n_rows = 1 if len(members) == 1 else size
            try:
                results = run(members, n_rows)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if n_rows == 1 or not out_of_memory(error):
                    raise
                size = n_rows // 2
                warnings.warn(
                    f"out of memory with {n_rows} inputs of {width} tokens in one call; going on with {size}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            yield members, results
            left = left[size:]


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the host or on a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


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
