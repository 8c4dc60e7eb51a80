"""jstrace's own checkpoints: an orbax tree of the stacked parameters with the config and the tokenizer beside it.

Written by ``jstrace convert``; loads onto any mesh in any dtype. A folder is whole or not there: everything is written
into a hidden folder beside it, which takes its name last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.convert.partials import filled, remove_abandoned
from jstrace.convert.weights import FLOATS
from jstrace.models import InputError, ModelConfig, Params, Tokenizer, shapes
from jstrace.models.narrow import Narrow, in_range, is_narrow
from jstrace.models.params import on_one_device
from jstrace.models.validation import validated

HEADER, _PARAMS, TOKENIZER = "jstrace.json", "params", "tokenizer"
_FORMAT, _VERSION = "jstrace-model", 1
_FIELDS = ("format", "version", "config", "dtype", "fingerprint", "source")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself."""

    config: ModelConfig
    dtype: str
    fingerprint: str
    source: str


def check_target(out: Path, needed: int) -> None:
    """Refuse a folder that a conversion would not write into, before the work; ``needed`` bytes at most."""
    try:
        str(out).encode()
        parent = out.resolve().parent
        occupied = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except (OSError, RuntimeError, ValueError) as error:  # a name too long or not UTF-8, a loop of links
        raise InputError(f"{out!s:.100}: cannot be written ({str(error)[:100]})") from error
    if occupied:
        raise InputError(f"{out}: exists already; convert into a new or an empty folder")
    if not parent.is_dir():
        raise InputError(f"{out}: cannot be written (there is no folder {parent})")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{out}: cannot be written (no permission)")
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise InputError(f"{out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free on that disk")


def write_native(out: Path, params: Params, tokenizer: Tokenizer | None, header: Header) -> None:
    """Write a checkpoint, all or nothing.

    Raises:
      InputError: the disk has no room for it.
    """
    from orbax.checkpoint import v1 as ocp

    target = out.resolve()
    try:
        remove_abandoned(target)
        with filled(target) as partial:
            with _quiet():
                ocp.save(partial / _PARAMS, params)
            if tokenizer is not None:
                tokenizer.save(partial / TOKENIZER)
            fields = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(header)}
            with (partial / HEADER).open("w", encoding="utf-8") as stream:
                json.dump(fields, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
    except (OSError, ValueError, RuntimeError) as error:  # tensorstore reports a full disk as a ValueError
        raise InputError(f"{out}: cannot be written ({str(error)[:200]})") from error


def read_header(folder: Path) -> Header:
    """What ``write_native`` wrote beside the parameters.

    Raises:
      InputError: not a checkpoint of this version.
    """
    path = folder / HEADER
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error!r})") from error
    missing = _FIELDS if not isinstance(fields, dict) else [name for name in _FIELDS if name not in fields]
    if missing:
        raise InputError(f"{path}: not readable ({', '.join(missing)} missing)")
    if fields["format"] != _FORMAT or fields["version"] != _VERSION:
        raise InputError(f"{path}: {fields['format']} of version {fields['version']}, expected {_FORMAT} {_VERSION}")
    if fields["dtype"] not in FLOATS:
        raise InputError(f"{path}: dtype {fields['dtype']!r} is not known")
    return Header(_config(fields["config"], path), fields["dtype"], str(fields["fingerprint"]), str(fields["source"]))


def _config(fields: Any, path: Path) -> ModelConfig:
    if not isinstance(fields, dict):
        raise InputError(f"{path}: not readable (config is no object)")
    try:
        config = ModelConfig.from_json(fields)
    except TypeError as error:
        raise InputError(f"{path}: not readable ({' '.join(str(error).split())[:200]})") from error
    return validated(config, str(path))


def reading_dtype(stored: jnp.dtype, wanted: jnp.dtype) -> jnp.dtype:
    """In which dtype to read: the wanted one if it holds every stored number, else the stored one, to be narrowed."""
    return wanted if jnp.promote_types(stored, wanted) == wanted else stored


def narrowed(params: Params, dtype: jnp.dtype, where: str) -> dict[str, Any]:
    """Parameters cast to ``dtype``, but for those that are ``Narrow``.

    Raises:
      InputError: a number is beyond the range of ``dtype``.
    """

    def cast(path: Any, leaf: Any) -> Any:
        out = leaf if isinstance(leaf, Narrow) else leaf.astype(dtype)
        if not bool(in_range(out) if isinstance(out, Narrow) else jnp.isfinite(out).all()):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise InputError(f"{where}: {name} holds numbers beyond the range of {dtype}; use bfloat16 or float32")
        return out

    return dict(jax.tree_util.tree_map_with_path(cast, params, is_leaf=is_narrow))


def read_params(folder: Path, config: ModelConfig, dtype: jnp.dtype, shardings: Any) -> dict[str, Any]:
    """The parameters, cast to ``dtype`` and placed as ``shardings`` (None: on the default device) say."""
    from orbax.checkpoint import v1 as ocp

    blanks = shapes(config, dtype)
    shardings = on_one_device(config) if shardings is None else shardings

    def wanted(blank: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(blank.shape, blank.dtype, sharding=sharding)

    path = folder.resolve() / _PARAMS
    try:
        with _quiet():
            _check_shapes(ocp.metadata(path).metadata, blanks)
            return ocp.load(path, jax.tree.map(wanted, blanks, shardings))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except Exception as error:  # orbax and tensorstore raise errors of every kind for damaged files
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise InputError(f"{folder}: its parameters cannot be read ({reason})") from error


def _check_shapes(params: Any, wanted: Any) -> None:
    """Refuse parameters other than the config's: orbax would cut or pad them."""
    ours = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    theirs = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise InputError(f"parameter {name} has shape {theirs.get(name)}, expected {ours.get(name)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax from logging the errors that it raises, with their tracebacks."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
