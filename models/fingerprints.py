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

from jstrace.models import platforms
from jstrace.models.config import ModelConfig
from jstrace.models.decoder import Decoder
from jstrace.models.stacks import taken

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
    sums = jax.device_get(_checksums([leaf for _, leaf in named], dtype))
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


@functools.partial(jax.jit, static_argnums=1)
def _checksums(leaves: list[Array], dtype: jnp.dtype | None) -> list[Array]:
    """Those of all weights in one program, of which few take long to compile or to find on disk."""
    return [_checksum(leaf, leaf.dtype if dtype is None else dtype) for leaf in leaves]


def _checksum(leaf: Array, dtype: jnp.dtype) -> Array:
    """Two sums modulo 2^32 over the bits of an array, weighted by position; integers, so in any order."""
    n_parts = platforms.form(None, cpu=_n_parts(leaf.shape), gpu=1, tpu=1)
    if n_parts == 1:
        return _sums(leaf, dtype, 0)
    n_rows = leaf.shape[0] // n_parts

    parts = leaf.reshape(n_parts, n_rows, *leaf.shape[1:])

    def add(place: Array, total: Array) -> Array:
        return total + _sums(taken(parts, place), dtype, place * n_rows)

    return jax.lax.fori_loop(0, n_parts, add, jnp.zeros(2, jnp.uint32))


def _n_parts(shape: Sequence[int]) -> int:
    """Into how many equal parts the first axis goes: a CPU sums all at once in four arrays of that size."""
    if not shape:
        return 1
    wanted = math.prod(shape) / _PART
    return next((n for n in range(1, _MOST_PARTS) if n >= wanted and shape[0] % n == 0), 1)


def _sums(leaf: Array, dtype: jnp.dtype, first: Array | int) -> Array:
    """Of rows that lie from ``first`` on."""
    leaf = leaf.astype(dtype)
    kind = jnp.uint32 if leaf.dtype.itemsize == 4 else jnp.uint16
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        place = place * jnp.uint32(0x9E3779B1) + (along + jnp.uint32(first) if axis == 0 else along)
    mixed = (bits ^ (place * jnp.uint32(0x85EBCA6B))) * jnp.uint32(0xC2B2AE35)
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)])
