"""Traces on disk: one ``.npz`` file without pickle, with a format version, written all or nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from jstrace import graph
from jstrace.graph import NO_EDGE
from jstrace.models import FAMILIES, EdgeTree, InputError, ModelConfig
from jstrace.tracing import Trace

_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)
FORMAT = "jstrace-trace"
VERSION = 1


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file through a temporary one beside it, so that it is whole or not there.

    Raises:
      InputError: the path cannot be written.
    """
    check_writable(path)
    target = path.resolve()
    temporary = target.with_name(f".jstrace-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with open(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a path that ``write_whole`` could not write, before any work is done."""
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: cannot be written (it is not a regular file)")
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links
        raise InputError(f"{path}: cannot be written ({error})") from error
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot be written (there is no folder {target.parent})")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission)")


def save_trace(trace: Trace, path: Path) -> None:
    """Write one trace; the arrays under the names of ``EdgeTree``, the rest as JSON."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(trace.config),
        "model_fingerprint": trace.model_fingerprint,
        "n_edges": trace.n_edges,
        "sizes": trace.sizes,
        "importance": trace.importance,
        "frozen": trace.frozen,
        "seed": trace.seed,
        "token_texts": trace.token_texts,
    }
    arrays = {f"{kind}.{name}": leaf for kind in ("scores", "strata") for name, leaf in getattr(trace, kind).items()}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    write_whole(path, lambda stream: np.savez_compressed(stream, header=text, tokens=trace.tokens, **arrays))


def load_trace(path: Path) -> Trace:
    """Read one trace.

    Raises:
      InputError: no such file, not a trace, of a newer version, or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise InputError(f"{path}: not a trace of jstrace")
        if header["version"] != VERSION:
            raise InputError(f"{path}: format version {header['version']}, this jstrace reads version {VERSION}")
        trace = _assembled(header, arrays)
        _check(trace, path)
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        ArithmeticError,
        RecursionError,
        *_DAMAGE,
    ) as error:
        raise InputError(f"{path}: not a readable trace ({error})") from error
    return trace


def _assembled(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trace:
    trees = {kind: EdgeTree(**{f: arrays[f"{kind}.{f}"] for f in FAMILIES}) for kind in ("scores", "strata")}
    sizes, texts = tuple(header["sizes"]), header["token_texts"]
    return Trace(
        tokens=arrays["tokens"],
        token_texts=None if texts is None else tuple(texts),
        config=ModelConfig.from_json(header["config"]),
        n_edges=header["n_edges"],
        sizes=sizes,
        counts=graph.counts(sizes, header["n_edges"]),
        importance=header["importance"],
        frozen=tuple(header["frozen"]),
        seed=header["seed"],
        model_fingerprint=header["model_fingerprint"],
        **trees,
    )


def _check(trace: Trace, path: Path) -> None:
    """Refuse arrays whose shapes and types are not those of the config."""
    c, t = trace.config, len(trace.tokens)
    if trace.tokens.ndim != 1 or trace.tokens.dtype != np.int32 or graph.n_edges(c, t) != trace.n_edges:
        raise InputError(f"{path}: its tokens and its number of edges do not belong together")
    if trace.tokens.min() < 0 or trace.tokens.max() >= c.vocab_size:
        raise InputError(f"{path}: its tokens are outside the vocabulary of {c.vocab_size}")
    if trace.token_texts is not None and len(trace.token_texts) != t:
        raise InputError(f"{path}: {len(trace.token_texts)} texts for {t} tokens")
    graph.checked_sizes(trace.sizes)
    rows = (c.n_layers, t)
    expected = dict(zip(FAMILIES, (rows, (c.n_layers, c.n_heads, t, t), rows, rows), strict=True))
    for kind, dtype in (("scores", np.float32), ("strata", np.uint8)):
        for name, leaf in getattr(trace, kind).items():
            if leaf.shape != expected[name] or leaf.dtype != dtype:
                raise InputError(f"{path}: {kind}.{name} is {leaf.dtype}{leaf.shape}, expected {dtype}{expected[name]}")
    held = np.bincount(np.concatenate([np.ravel(leaf) for _, leaf in trace.strata.items()]), minlength=256)
    if held[:NO_EDGE].sum() != trace.n_edges or (np.cumsum(held)[: len(trace.sizes)] != trace.counts).any():
        raise InputError(f"{path}: its strata do not hold the edges that its sizes ask for")
