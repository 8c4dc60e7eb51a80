"""The loading facade: a source by name to a ``Model``."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32, Int

from jstrace.convert import (
    Checkpoint,
    Header,
    Tokenizer,
    check_target,
    narrowed,
    read_checkpoint,
    read_config,
    write_native,
)
from jstrace.convert import cache_folder as cache_folder  # for entry points
from jstrace.devices import mesh_of
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError, ModelConfig, n_params

DTYPES = ("float32", "bfloat16", "float16")


class _Memo:
    """The fingerprint of the arrays last asked for; static for JAX, and equal to every other memo."""

    def __init__(self) -> None:
        self.leaves: list[weakref.ref[Array]] = []
        self.fingerprint = ""

    def holds(self, leaves: list[Array]) -> bool:
        """Whether the fingerprint is that of these very arrays."""
        return len(leaves) == len(self.leaves) and all(
            ref() is leaf for ref, leaf in zip(self.leaves, leaves, strict=True)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Memo)

    def __hash__(self) -> int:
        return 0


class Model(nnx.Module):
    """A decoder with its tokenizer: a pytree of weights, and a pure function of tokens and an edge mask.

    ``jax.jit``, ``jax.vmap`` over masks and ``jax.grad`` in the mask work with the model as an argument; closing over
    it would bake the weights into the compiled program.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer | None = None) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self._memo = _Memo()

    def fingerprint(self) -> str:
        """A short hash of config, dtype and every weight, computed on first use."""
        leaves = jax.tree.leaves(self.decoder)
        if not self._memo.holds(leaves):
            self._memo.fingerprint = fingerprint(self.decoder)
            self._memo.leaves = [weakref.ref(leaf) for leaf in leaves]
        return self._memo.fingerprint

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The mesh that the weights lie on; None for a single device."""
        return mesh_of(self.decoder)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the weights and of the residual stream."""
        return self.decoder.embed[...].dtype

    @property
    def config(self) -> ModelConfig:
        """Shape and flags of the decoder."""
        return self.decoder.config

    def __call__(self, tokens: Int[AnyArray, "T"], mask: EdgeTree, *, pre_softmax: bool = False) -> Float32[Array, "V"]:
        """Next-token logits ``[V]`` with every edge multiplied by its mask (bool, or float in [0, 1])."""
        return self.decoder(tokens, mask, pre_softmax=pre_softmax)


def load(
    source: str,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Model:
    """Load a model.

    Args:
      source: ``smollm2`` (the default model), a Hugging Face folder or hub id, a folder written by ``jstrace
        convert``, or a ``.gguf`` file; ``random:`` before one of these or before the name of one of the paper's models
        (``random:llama-3.1-8b``) makes random weights of that shape on the device.
      dtype: of the weights and the residual stream; scores, softmax and measures are float32 always.
      mesh: the devices to load onto, from ``jstrace.make_mesh``; every device reads only its own part of the weights.
      revision: of a hub id: a branch, a tag or a commit.
      say: told what takes time; standard error by default.

    Raises:
      InputError: nothing of that name, or contents that jstrace cannot compute with.
    """
    options: dict[str, Any] = {} if say is None else {"say": say}
    checkpoint = read_checkpoint(str(source), dtype=checked_dtype(dtype), mesh=mesh, revision=revision, **options)
    if checkpoint.stored is not None:
        checkpoint = _verified(checkpoint, checkpoint.stored, jnp.dtype(dtype), source)
    return Model(Decoder(checkpoint.config, checkpoint.params), checkpoint.tokenizer)


def _verified(checkpoint: Checkpoint, stored: Header, dtype: jnp.dtype, where: str) -> Checkpoint:
    """The checkpoint in the dtype wanted, its parameters hashed in the dtype in which they were stored."""
    found = fingerprint(Decoder(checkpoint.config, checkpoint.params), jnp.dtype(stored.dtype))
    if found != stored.fingerprint:
        raise InputError(f"{where}: its weights hash to {found}, expected {stored.fingerprint}; it is damaged")
    if checkpoint.params["embed"].dtype == dtype:
        return checkpoint
    return dataclasses.replace(checkpoint, params=narrowed(checkpoint.params, dtype, where))


def convert(
    source: str,
    out: str | Path,
    *,
    dtype: str = "bfloat16",
    mesh: jax.sharding.Mesh | None = None,
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Write a model as a checkpoint of jstrace's own, which loads fast and onto any mesh.

    Args:
      source, dtype, mesh, revision, say: as in ``load``; the checkpoint loads in any dtype, but holds no
        more than this one.
      out: a new folder. It appears when it is complete: a conversion that is killed leaves nothing that looks whole.

    Returns:
      The model's fingerprint, which loading checks.

    Raises:
      InputError: a source that does not load, or a folder that exists or has no room.
    """
    size = n_params(describe(source, revision=revision)) * checked_dtype(dtype).itemsize
    check_target(Path(out), size)
    model = load(source, dtype=dtype, mesh=mesh, revision=revision, say=say)
    header = Header(model.config, dtype, model.fingerprint(), str(source))
    write_native(Path(out), model.decoder.params(), model.tokenizer, header)
    return header.fingerprint


def describe(source: str, *, revision: str | None = None) -> ModelConfig:
    """The config of a source, without reading its weights; of a hub id only ``config.json`` is fetched."""
    return read_config(str(source), revision=revision)


def checked_dtype(dtype: str) -> jnp.dtype:
    """The dtype of that name, or an ``InputError`` that lists those there are."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not supported; expected one of {', '.join(DTYPES)}")
    return jnp.dtype(dtype)


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
