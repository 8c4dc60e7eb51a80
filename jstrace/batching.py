"""Token counts rounded up to buckets and inputs grouped into batches, so that few shapes are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BATCH = 4
"""Inputs in one compiled call; what is left over goes one at a time, so a bucket compiles at most twice."""


def bucket(n_tokens: int) -> int:
    """The padded token count: steps of 8 up to 64, then eighths of the next lower power of two."""
    step = max(8, 1 << max(n_tokens - 1, 1).bit_length() - 4) if n_tokens > 64 else 8
    return -(-n_tokens // step) * step


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of inputs to be run together: equal buckets, ``BATCH`` or one at a time."""
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(bucket(length), []).append(index)
    for members in groups.values():
        whole = len(members) - len(members) % BATCH
        yield from (members[start : start + BATCH] for start in range(0, whole, BATCH))
        yield from ([index] for index in members[whole:])


def padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Rows of token ids as one int32 array ``[B, width]``, zeros after their ends."""
    out = np.zeros((len(rows), width), np.int32)
    for row, tokens in zip(out, rows, strict=True):
        row[: len(tokens)] = tokens
    return out
