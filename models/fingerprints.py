"""Short hashes that tell models apart."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jstrace.models.decoder import Decoder
from jstrace.models.narrow import Narrow, is_narrow
from jstrace.models.platforms import taken, usual_promotion
from jstrace.models.streamed import Streamed

_PART = 2**24
"""Numbers, about, whose bits a CPU sums at once,"""
_MOST_PARTS = 4096
"""in so many parts of an array at most."""
HASHES_OF_TODAY = "2-"
"""Of hashes made in this way, so that nobody takes one for another."""


def fingerprint(decoder: Decoder, dtype: jnp.dtype | None = None) -> str:
    """A short hash of config, dtype and every weight; the same model gives the same one on any mesh.

    It reads every weight once; ``Model.fingerprint`` remembers it. With ``dtype`` it is that of the weights cast to it,
    or of narrow ones that widen to it. Of the config only fields that differ from their defaults count, so that a new
    one changes no hash. Weights go by their names in ``Decoder.params``.
    """
    usual = {field.name: field.default for field in dataclasses.fields(decoder.config)}
    given = {name: value for name, value in dataclasses.asdict(decoder.config).items() if value != usual[name]}
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    arrays = [array for path, leaf in _stored(decoder) for array in _arrays(path, leaf, dtype)]
    here = [array for array in arrays if not isinstance(array[1], Streamed)]
    leaves, kinds = [leaf for _, leaf, _, _ in here], tuple(kind for _, _, kind, _ in here)
    # A compiled program runs where it is called, also within a transformation that closes over the weights.
    with jax.disable_jit(False):
        sums = jax.device_get(_checksums.lower(leaves, kinds, tuple(map(_parts_of, leaves))).compile()(leaves))
    pairs = list(zip(here, sums, strict=True))
    pairs += [(array, _streamed_sums(array[1], array[2])) for array in arrays if isinstance(array[1], Streamed)]
    for (name, leaf, _, told), own in sorted(pairs, key=lambda pair: pair[0][0]):
        digest.update(f"\n{name} {told} {leaf.shape}\n".encode() + np.asarray(own).tobytes())
    return HASHES_OF_TODAY + digest.hexdigest()[:16]


def _stored(decoder: Decoder) -> list[tuple[str, Array | Narrow | Streamed]]:
    """Weights by their names."""
    leaves = jax.tree_util.tree_leaves_with_path(decoder.params(), is_leaf=is_narrow)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _arrays(name: str, leaf: Any, dtype: jnp.dtype | None) -> list[tuple[str, Any, jnp.dtype, str]]:
    """The arrays of a weight, each with its name, the dtype that it is hashed in, and what is told of that.

    What is ``Streamed`` stands for the one that it reads.
    """
    kind = leaf.dtype if dtype is None else dtype
    if not isinstance(leaf, Narrow):
        return [(name, leaf, kind, str(kind))]
    parts = {"values": leaf.values, "scale": leaf.scale} | ({} if leaf.least is None else {"least": leaf.least})
    return [(f"{name}.{part}", array, array.dtype, f"{array.dtype} as {kind}") for part, array in parts.items()]


@functools.partial(jax.jit, static_argnums=(1, 2))
@usual_promotion()
def _checksums(leaves: list[Array], kinds: tuple[jnp.dtype, ...], n_parts: tuple[int, ...]) -> list[Array]:
    """Those of all weights in one program, of which few take long to compile or to find on disk."""
    return [_checksum(leaf, kind, n) for leaf, kind, n in zip(leaves, kinds, n_parts, strict=True)]


def _checksum(leaf: Array, dtype: jnp.dtype, n_parts: int) -> Array:
    """Two sums modulo 2^32 over the bits of an array, weighted by position; integers, so in any order and any parts."""
    if n_parts == 1:
        return _sums(leaf, dtype, [jnp.arange(n, dtype=jnp.uint32) for n in leaf.shape[:1]])
    n_rows = _rows(leaf.shape) // n_parts
    parts = leaf.reshape(n_parts, n_rows, *leaf.shape[_leading(leaf.shape) :])

    def add(place: Array, total: Array) -> Array:
        rows = place.astype(jnp.uint32) * jnp.uint32(n_rows) + jnp.arange(n_rows, dtype=jnp.uint32)
        along = [rows] if leaf.ndim < 3 else [rows // jnp.uint32(leaf.shape[1]), rows % jnp.uint32(leaf.shape[1])]
        return total + _sums(taken(parts, place), dtype, along)

    return jax.lax.fori_loop(0, n_parts, add, jnp.zeros(2, jnp.uint32))


def _streamed_sums(leaf: Streamed, dtype: jnp.dtype) -> np.ndarray:
    """The same of what is read, some rows of a layer at a time.

    Raises:
      InputError: numbers that are not finite.
    """
    total, n_rows = np.zeros(2, np.uint32), leaf.row[0] // _n_parts((1, *leaf.row))
    blank = jax.ShapeDtypeStruct((n_rows, *leaf.row[1:]), leaf.dtype)
    with jax.disable_jit(False):
        program = _sums_of_rows.lower(blank, dtype, np.uint32(0), np.uint32(0)).compile()
        for layer in range(leaf.shape[0]):
            rows = leaf.checked(layer)
            for start in range(0, len(rows), n_rows):
                total += np.asarray(program(rows[start : start + n_rows], np.uint32(layer), np.uint32(start)))
    return total


@functools.partial(jax.jit, static_argnums=1)
@usual_promotion()
def _sums_of_rows(rows: Array, dtype: jnp.dtype, layer: Array, start: Array) -> Array:
    return _sums(rows, dtype, [layer[None], start + jnp.arange(rows.shape[0], dtype=jnp.uint32)])


def _parts_of(leaf: Array) -> int:
    """Into how many parts an array goes: XLA's CPU backend sums in four arrays of the size of what it sums.

    Parts of what is divided over devices would have to be gathered.
    """
    whole = jax.default_backend() != "cpu" or len(leaf.sharding.device_set) > 1
    return 1 if whole else _n_parts(leaf.shape)


def _n_parts(shape: Sequence[int]) -> int:
    """The least number of equal parts of at most ``_PART`` numbers, or the most that there may be."""
    wanted, rows = math.prod(shape) / _PART, _rows(shape)
    possible = [n for n in range(1, min(rows, _MOST_PARTS) + 1) if rows % n == 0]
    return next((n for n in possible if n >= wanted), possible[-1])


def _leading(shape: Sequence[int]) -> int:
    """Axes that are divided as one: a layer by itself may be too large."""
    return 2 if len(shape) > 2 else 1


def _rows(shape: Sequence[int]) -> int:
    return max(1, math.prod(shape[: _leading(shape)])) if shape else 1


def _sums(leaf: Array, dtype: jnp.dtype, rows: Sequence[Array]) -> Array:
    """Of an array whose first axis has these positions: one number of each of the axes that it was made of."""
    leaf = leaf.astype(dtype)
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    others = [jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) for axis in range(1, leaf.ndim)]
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for along in (*(row.reshape(-1, *[1] * (leaf.ndim - 1)) for row in rows), *others):
        place = place * jnp.uint32(0x9E3779B1) + along
    mixed = (bits ^ (place * jnp.uint32(0x85EBCA6B))) * jnp.uint32(0xC2B2AE35)
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)])
