"""A short hash that tells models apart."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jstrace.models.decoder import Decoder


def fingerprint(decoder: Decoder, dtype: jnp.dtype | None = None) -> str:
    """A short hash of config, dtype and every weight; the same model gives the same one on any mesh.

    It reads every weight once; ``Model.fingerprint`` remembers it. With ``dtype`` it is that of the weights cast to it.
    """
    digest = hashlib.sha256(repr(dataclasses.asdict(decoder.config)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(decoder):
        kind = leaf.dtype if dtype is None else dtype
        digest.update(f"{jax.tree_util.keystr(path)} {kind} {leaf.shape}".encode())
        digest.update(bytes(_checksum(leaf, kind).tobytes()))
    return digest.hexdigest()[:16]


@functools.partial(jax.jit, static_argnums=1)
def _checksum(leaf: Array, dtype: jnp.dtype) -> Array:
    """Two sums modulo 2^32 over the bits of an array, weighted by position; integers, so in any order."""
    leaf = leaf.astype(dtype)
    kind = jnp.uint32 if leaf.dtype.itemsize == 4 else jnp.uint16
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        place = place * jnp.uint32(0x9E3779B1) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    mixed = (bits ^ (place * jnp.uint32(0x85EBCA6B))) * jnp.uint32(0xC2B2AE35)
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)])
