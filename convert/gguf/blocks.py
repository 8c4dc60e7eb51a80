"""Blocks of GGUF files as integers with their scales, which are not rounded anew: what ``weights="stored"`` holds.

The layouts of blocks are those of ggml; what the integers stand for is what ``gguf.dequantize`` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from jstrace.convert.stored import Blocks, Form

_ROWS = 2**22
"""Bytes of blocks that are taken apart at once."""

_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Of blocks ``[N, bytes]`` the integers ``[N, groups, size]``, and float32 scales and offsets ``[N, groups]``."""


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """A float16 of every block, ``[N, 1]``."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray, size: int) -> np.ndarray:
    """Of runs of bytes: the lower halves of a run before its upper ones, ``[N, groups, size]``."""
    runs = packed.reshape(len(packed), -1, 1, size)
    return (runs >> np.asarray([0, 4], np.uint8)[:, None] & 15).reshape(len(packed), -1, size)


def _bits(packed: np.ndarray, size: int) -> np.ndarray:
    """The bits of bytes as integers, the lowest first, ``[N, groups, size]``."""
    return np.unpackbits(packed, axis=-1, bitorder="little").reshape(len(packed), -1, size)


def _q8_0(blocks: np.ndarray) -> _Parts:
    return blocks[:, None, 2:].view(np.int8), _half(blocks, 0), None


def _q4_0(blocks: np.ndarray) -> _Parts:
    return _nibbles(blocks[:, 2:], 16).reshape(-1, 1, 32).astype(np.int8) - 8, _half(blocks, 0), None


def _q4_1(blocks: np.ndarray) -> _Parts:
    return _lowered(_nibbles(blocks[:, 4:], 16).reshape(-1, 1, 32), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: np.ndarray) -> _Parts:
    values = _nibbles(blocks[:, 6:], 16).reshape(-1, 1, 32) | _bits(blocks[:, 2:6], 32) << 4
    return values.astype(np.int8) - 16, _half(blocks, 0), None


def _q5_1(blocks: np.ndarray) -> _Parts:
    values = _nibbles(blocks[:, 8:], 16).reshape(-1, 1, 32) | _bits(blocks[:, 4:8], 32) << 4
    return values.astype(np.int8), _half(blocks, 0), _half(blocks, 2)


def _q4_k(blocks: np.ndarray) -> _Parts:
    return _lowered(_nibbles(blocks[:, 16:], 32), *_six_bits(blocks))


def _q5_k(blocks: np.ndarray) -> _Parts:
    high = _bits(blocks[:, 16:48], 8).transpose(0, 2, 1)  # of a byte every bit belongs to another group
    scale, least = _six_bits(blocks)
    return (_nibbles(blocks[:, 48:], 32) | high << 4).astype(np.int8), scale, least


def _q6_k(blocks: np.ndarray) -> _Parts:
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.asarray([0, 4], np.uint8)[:, None] & 15
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.asarray([0, 2, 4, 6], np.uint8)[:, None] & 3
    values = low.reshape(-1, 2, 4, 32) | high << 4
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return values.reshape(-1, 16, 16).astype(np.int8) - 32, scale, None


def _lowered(values: np.ndarray, scale: np.ndarray, least: np.ndarray) -> _Parts:
    """Integers from 0 to 15 as those from -8 to 7."""
    return values.astype(np.int8) - 8, scale, least + 8 * scale


def _six_bits(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and offsets of the eight groups of a block, of six bits each, times the block's own."""
    first, second, both = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([first & 63, (both & 15) | (first >> 6) << 4], axis=-1)
    offsets = np.concatenate([second & 63, (both >> 4) | (second >> 6) << 4], axis=-1)
    return _half(blocks, 0) * scales.astype(np.float32), -_half(blocks, 2) * offsets.astype(np.float32)


BLOCKS: Mapping[str, tuple[Form, Callable[[np.ndarray], _Parts]]] = {
    "Q8_0": (Form(32, packed=False, offset=False), _q8_0),
    "Q4_0": (Form(32, packed=True, offset=False), _q4_0),
    "Q4_1": (Form(32, packed=True, offset=True), _q4_1),
    "Q5_0": (Form(32, packed=False, offset=False), _q5_0),
    "Q5_1": (Form(32, packed=False, offset=True), _q5_1),
    "Q4_K": (Form(32, packed=True, offset=True), _q4_k),
    "Q5_K": (Form(32, packed=False, offset=True), _q5_k),
    "Q6_K": (Form(16, packed=False, offset=False), _q6_k),
}
"""By the name of a quantisation: its groups, and what takes its blocks apart."""


def taken_apart(data: np.ndarray, kind: str, block_bytes: int) -> Blocks:
    """Bytes ``[*rows, bytes]`` of blocks as integers with scales, some rows at a time."""
    form, read = BLOCKS[kind]
    rows = data.reshape(-1, data.shape[-1])
    n_groups = data.shape[-1] // block_bytes * read(np.zeros((1, block_bytes), np.uint8))[0].shape[1]
    lead = (len(rows), n_groups)
    blocks = Blocks(
        np.empty((*lead, form.size), np.int8),
        np.empty((*lead, 1), np.float32),
        np.empty((*lead, 1), np.float32) if form.offset else None,
    )
    step = max(1, _ROWS // data.shape[-1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        with np.errstate(invalid="ignore"):  # damaged scales are refused where they are known to be finite or not
            values, scale, least = read(rows[part].reshape(-1, block_bytes))
        blocks.values[part] = values.reshape(-1, n_groups, form.size)
        blocks.scale[part] = scale.reshape(-1, n_groups, 1)
        if blocks.least is not None and least is not None:
            blocks.least[part] = least.reshape(-1, n_groups, 1)
    return blocks.reshaped(*data.shape[:-1])
