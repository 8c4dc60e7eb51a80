"""Token counts rounded up to buckets and inputs grouped into batches, so that few shapes are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BATCH = 4
"""Inputs in one compiled call, where there are several of a bucket."""

_LONG = 256
"""Tokens from which inputs run one at a time: their edges fill memory well enough alone."""


def bucket(n_tokens: int) -> int:
    """The padded token count: 8, 16, then steps of 16 up to 128, of an eighth to a quarter of it beyond."""
    if n_tokens <= 16:
        return 8 if n_tokens <= 8 else 16
    step = 16 if n_tokens <= 128 else 1 << (n_tokens - 1).bit_length() - 3
    return -(-n_tokens // step) * step


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of inputs to be run together: of one bucket, at most ``BATCH``."""
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(bucket(length), []).append(index)
    for width, members in groups.items():
        size = BATCH if width < _LONG else 1
        yield from (members[start : start + size] for start in range(0, len(members), size))


def batch_size(n_inputs: int) -> int:
    """Rows of the compiled call for so many inputs: one, or ``BATCH``, the rest being padding."""
    return 1 if n_inputs == 1 else BATCH


def padded(rows: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of token ids as int32 ``[B, width]`` with their lengths ``[B]``; rows of padding have one token."""
    tokens, lengths = np.zeros((batch_size(len(rows)), width), np.int32), np.ones(batch_size(len(rows)), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], lengths[index] = row, len(row)
    return tokens, lengths


def filled(rows: Sequence[np.ndarray], value: int = 0) -> np.ndarray:
    """Equal rows stacked to ``[B, ...]``, rows of padding holding ``value``."""
    out = np.full((batch_size(len(rows)), *rows[0].shape), value, rows[0].dtype)
    out[: len(rows)] = rows
    return out
