"""The loading facade: a source by name to a ``Model``."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jstrace.convert import Checkpoint, Header, check_target, narrowed, read_checkpoint, read_config, write_native
from jstrace.convert import cache_folder as cache_folder  # for entry points
from jstrace.convert import kept_weights as kept_weights
from jstrace.models import Decoder, InputError, Model, ModelConfig, fingerprint, n_params
from jstrace.models.fingerprints import HASHES_OF_TODAY
from jstrace.models.narrow import NARROW
from jstrace.models.params import narrow_params
from jstrace.models.streamed import STREAMED
from jstrace.scale.programs import keep_programs

DTYPES = ("float32", "bfloat16", "float16")
WAYS = (*NARROW, STREAMED)
"""Ways to store weights, where they are not arrays in the dtype."""


def load(
    source: str | os.PathLike[str],
    *,
    dtype: DTypeLike = "float32",
    weights: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
    ignore_fields: Sequence[str] = (),
) -> Model:
    """Load a model.

    Args:
      source: ``smollm2`` (the default model), a Hugging Face folder or hub id, a folder written by ``jstrace
        convert``, or a ``.gguf`` file; ``random:`` before one of these or before the name of one of the paper's models
        (``random:llama-3.1-8b``) makes random weights of that shape on the device.
      dtype: of the weights and the residual stream, by name or as such (``jnp.bfloat16``); scores, softmax and measures
        are float32 always.
      weights: "int8" stores matrices in one byte a number, with a float32 scale for each output of a product; "int4"
        in half a byte, with a scale for every 32 inputs; "stored" keeps the blocks of a GGUF file, without rounding
        them. They become ``dtype`` a layer at a time, inside each pass. "streamed" leaves matrices of layers in the
        safetensors of a Hugging Face model, from which each pass reads a layer at a time. None stores them in
        ``dtype``.
      mesh: the devices to load onto, from ``jstrace.make_mesh``; every device reads only its own part of the weights.
      revision: of a hub id: a branch, a tag or a commit.
      say: told what takes time; standard error by default.
      ignore_fields: fields of ``config.json`` that jstrace does not know and that you know to change nothing; the
        model's config, its fingerprint and every trace of it say which.

    Examples:
      >>> model = jstrace.load("my-model")  # a folder
      >>> model.config.n_layers, model.config.n_heads
      (3, 4)

    Raises:
      InputError: nothing of that name, or contents that jstrace cannot compute with.
    """
    options: dict[str, Any] = {"ignore": _field_names(ignore_fields)} | ({} if say is None else {"say": say})
    name, wanted, narrow = _named(source), checked_dtype(dtype), checked_weights(weights) or ""
    if narrow == STREAMED and mesh is not None:
        raise InputError("weights streamed are read to one device; load them without a mesh")
    checkpoint = read_checkpoint(name, dtype=wanted, mesh=mesh, revision=revision, narrow=narrow, **options)
    if checkpoint.stored is not None:
        checkpoint = _verified(checkpoint, checkpoint.stored, wanted, name, narrow=narrow)
    model = Model(Decoder(checkpoint.config, checkpoint.params), checkpoint.tokenizer)
    if checkpoint.fingerprint is not None:
        model.remember(checkpoint.fingerprint)
    if narrow == STREAMED:
        model.fingerprint()  # which looks at every number of the files, as passes do not
    return model


def _verified(checkpoint: Checkpoint, stored: Header, dtype: jnp.dtype, where: str, *, narrow: str) -> Checkpoint:
    """The checkpoint in the dtype wanted, its parameters hashed in the dtype in which they were stored."""
    digest = fingerprint(Decoder(checkpoint.config, checkpoint.params), jnp.dtype(stored.dtype))
    if stored.fingerprint != digest and stored.fingerprint.startswith(HASHES_OF_TODAY):  # those of 0.1 have no prefix
        raise InputError(f"{where}: its weights hash to {digest}, expected {stored.fingerprint}; it is damaged")
    if narrow:
        params = narrowed(narrow_params(checkpoint.config, checkpoint.params, dtype, narrow), dtype, where)
        return dataclasses.replace(checkpoint, params=params)
    if checkpoint.params["embed"].dtype == dtype:
        return dataclasses.replace(checkpoint, fingerprint=digest if jnp.dtype(stored.dtype) == dtype else None)
    return dataclasses.replace(checkpoint, params=narrowed(checkpoint.params, dtype, where))


def convert(
    source: str | os.PathLike[str],
    out: str | Path,
    *,
    dtype: DTypeLike = "bfloat16",
    mesh: jax.sharding.Mesh | None = None,
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
    ignore_fields: Sequence[str] = (),
) -> str:
    """Write a model as a checkpoint of jstrace's own, which loads fast and onto any mesh; its weights are never narrow.

    Args:
      source, dtype, mesh, revision, say, ignore_fields: as in ``load``; the checkpoint loads in any dtype, but holds no
        more than this one.
      out: a new or an empty folder. It is filled when all is complete: a conversion that is killed leaves nothing that
        looks whole.

    Returns:
      The model's fingerprint, which loading checks.

    Raises:
      InputError: a source that does not load, or a folder that holds something or has no room.
    """
    name, target, out_dtype = _named(source), Path(_named(out, "out", "a folder")), checked_dtype(dtype)
    size = n_params(describe(name, revision=revision, ignore_fields=ignore_fields)) * out_dtype.itemsize
    check_target(target, size)
    model = load(name, dtype=out_dtype, mesh=mesh, revision=revision, say=say, ignore_fields=ignore_fields)
    header = Header(model.config, out_dtype.name, model.fingerprint(), name)
    write_native(target, model.decoder.params(), model.tokenizer, header)
    return header.fingerprint


def enable_cache(folder: str | os.PathLike[str] | None = None) -> str | None:
    """Keep compiled programs on disk for later processes, as the command line does; call it once, best of all first.

    It is asked for, and no part of ``load``, as it sets JAX's own persistent cache: from here on JAX keeps every
    program of this process there that took 0.1 s to compile, those of other libraries, too, and jstrace up to 32 means
    of reference texts. Settings of JAX that are there already hold: its folder (``JAX_COMPILATION_CACHE_DIR`` or
    ``jax.config``), its bounds, or that it is switched off. Programs compiled before the call are not kept.

    Args:
      folder: where; by default that of the command line, ``programs`` in ``$JSTRACE_CACHE`` or the user's cache folder.
        JAX runs what it finds there, so others must not be able to write there. It is kept to 1 GB: those that were
        not used for longest go first, when this is called.

    Returns:
      The folder in use, as JAX has it, with a warning where it is not the one asked for; None where JAX's cache is
      switched off, or, with a warning, where the folder cannot be written.

    Examples:
      >>> folder = jstrace.enable_cache()  # before the first program

    Raises:
      InputError: a folder that is neither text nor path.
    """
    wanted = cache_folder() / "programs" if folder is None else Path(_named(folder, "folder", "a folder")).expanduser()
    in_use = keep_programs(wanted)
    if in_use is not None and folder is not None and in_use != str(wanted):
        message = f"JAX keeps compiled programs in {in_use} already, so {wanted} is not used"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return in_use


def describe(
    source: str | os.PathLike[str], *, revision: str | None = None, ignore_fields: Sequence[str] = ()
) -> ModelConfig:
    """The config of a source, without reading its weights; of a hub id only ``config.json`` is fetched.

    Raises:
      InputError: as ``load``, as far as configs, headers and the sizes of a local folder's safetensors tell.
    """
    return read_config(_named(source), revision=revision, ignore=_field_names(ignore_fields))


def _field_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of fields, or an ``InputError`` where they are no list of texts."""
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise InputError(f"ignore_fields = {given!r}, expected a list of names")
    return tuple(given)


def _named(given: Any, what: str = "source", expected: str = "a name, a hub id, a folder or a .gguf file") -> str:
    """What was given as a text, or an ``InputError`` where it is neither a text nor a path."""
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        remedy = "; it is loaded already: pass what it was loaded from" if isinstance(given, Model) else ""
        raise InputError(f"{what} is a {type(given).__name__}, expected {expected}, as text or path{remedy}")
    return text


def checked_weights(weights: Any) -> str | None:
    """How weights are stored, or an ``InputError`` that lists the ways there are."""
    if weights is not None and weights not in WAYS:
        raise InputError(f"weights {weights!r} is not supported; expected {', '.join(WAYS)}, or None for the dtype's")
    return None if weights is None else str(weights)


def checked_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype, given by name or as such, or an ``InputError`` that lists those there are."""
    try:
        kind = jnp.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind.name not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not supported; expected one of {', '.join(DTYPES)}")
    return kind
