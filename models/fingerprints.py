"""Short hashes that tell models apart, and those that earlier versions of jstrace gave the same models."""

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

from jstrace.models.config import ModelConfig
from jstrace.models.decoder import Decoder
from jstrace.models.platforms import taken, usual_promotion

_PART = 2**24
"""Numbers, about, whose bits a CPU sums at once,"""
_MOST_PARTS = 4096
"""in so many parts of an array at most."""
_PREFIX = "2-"
"""Of the hashes of today, so that nobody takes one for another."""

_FIRST_FIELDS = (
    *("family", "vocab_size", "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_mlp", "norm_eps"),
    *("rope_theta", "rope_divisors", "tied_head", "max_positions", "norm", "norm_offset", "pre_norm", "post_norm"),
    *("qk_norm", "qkv_bias", "o_bias", "mlp_bias", "gated_mlp", "activation", "parallel", "learned_positions"),
    *("rotary_dim", "rope_magnitude", "rope_long_divisors", "rope_switch", "window", "global_layers"),
    *("local_rope_theta", "embed_scale", "query_scale", "attn_softcap", "logit_softcap"),
)
"""Fields of the config when all of them were hashed, in their order; never to be changed."""


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """What a model is called in files: its fingerprint of today, and those under which earlier versions knew it."""

    current: str
    earlier: tuple[str, ...] = ()

    @property
    def every(self) -> tuple[str, ...]:
        """All of them, that of today first."""
        return (self.current, *self.earlier)

    def __contains__(self, mark: object) -> bool:
        """Whether a mark found on disk is this model's."""
        return mark in self.every


def fingerprints(decoder: Decoder, dtype: jnp.dtype | None = None) -> Fingerprints:
    """Short hashes of config, dtype and every weight; the same model gives the same ones on any mesh.

    They read every weight once; ``Model.fingerprint`` remembers them. With ``dtype`` they are those of the weights cast
    to it. Of the config only fields that differ from their defaults count, so that a new one changes no hash, and
    weights go by their names in ``Decoder.params``.
    """
    named = jax.tree_util.tree_leaves_with_path(decoder.params())
    leaves = [leaf for _, leaf in named]
    with jax.ensure_compile_time_eval():  # weights that a transformation closes over are known inside it
        sums = jax.device_get(_checksums(leaves, dtype, tuple(map(_parts_of, leaves))))
    found = [_Digest.of(path, leaf, dtype, own) for (path, leaf), own in zip(named, sums, strict=True)]
    return Fingerprints(_current(decoder.config, found), _first(decoder.config, found))


def fingerprint(decoder: Decoder, dtype: jnp.dtype | None = None) -> str:
    """The hash of today, alone."""
    return fingerprints(decoder, dtype).current


@dataclasses.dataclass(frozen=True)
class _Digest:
    """What of one weight goes into a hash."""

    name: str
    kind: str
    """Dtype and shape."""
    sums: bytes

    @staticmethod
    def of(path: Any, leaf: Array, dtype: jnp.dtype | None, sums: Any) -> _Digest:
        kind = leaf.dtype if dtype is None else dtype
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return _Digest(name, f"{kind} {leaf.shape}", np.asarray(sums).tobytes())


def _current(config: ModelConfig, weights: Sequence[_Digest]) -> str:
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    given = {name: value for name, value in dataclasses.asdict(config).items() if value != usual[name]}
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    for weight in sorted(weights, key=lambda weight: weight.name):
        digest.update(f"\n{weight.name} {weight.kind}\n".encode() + weight.sums)
    return _PREFIX + digest.hexdigest()[:16]


def _first(config: ModelConfig, weights: Sequence[_Digest]) -> tuple[str, ...]:
    """The hash of version 0.1: of every field's ``repr`` and of Flax's names; none where a later field has a say."""
    fields = dataclasses.fields(config)
    if any(getattr(config, field.name) != field.default for field in fields if field.name not in _FIRST_FIELDS):
        return ()
    digest = hashlib.sha256(repr({name: getattr(config, name) for name in _FIRST_FIELDS}).encode())
    for weight in sorted(weights, key=lambda weight: weight.name):
        digest.update(f".{weight.name}.value {weight.kind}".encode() + weight.sums)
    return (digest.hexdigest()[:16],)


@functools.partial(jax.jit, static_argnums=(1, 2))
@usual_promotion()
def _checksums(leaves: list[Array], dtype: jnp.dtype | None, n_parts: tuple[int, ...]) -> list[Array]:
    """Those of all weights in one program, of which few take long to compile or to find on disk."""
    return [_checksum(leaf, leaf.dtype if dtype is None else dtype, n) for leaf, n in zip(leaves, n_parts, strict=True)]


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
    kind = jnp.uint32 if leaf.dtype.itemsize == 4 else jnp.uint16
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    others = [jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) for axis in range(1, leaf.ndim)]
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for along in (*(row.reshape(-1, *[1] * (leaf.ndim - 1)) for row in rows), *others):
        place = place * jnp.uint32(0x9E3779B1) + along
    mixed = (bits ^ (place * jnp.uint32(0x85EBCA6B))) * jnp.uint32(0xC2B2AE35)
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)])
