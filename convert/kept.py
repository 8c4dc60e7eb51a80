"""Weights of GGUF files, dequantised and stacked, kept in the user's cache folder for the next start to map.

An entry is a folder of one ``.npy`` file for each parameter, without pickle, and ``entry.json``: of which file it was
made (its path, and a digest of all its bytes), in which form, the fingerprint, and a sum over the words of each array,
which is verified at every start. Whatever is amiss with an entry costs a sentence and the work of making it again.

The digest is taken of the whole file at every start, as nothing less tells a file from the one that replaced it: size
and time are copied by ``cp -p`` and archives, and samples miss a weight that was edited. Threads share the work, and
the file is smaller than the entry that is read and summed anyway, unless it is not quantised at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.convert.default_model import cache_folder
from jstrace.convert.gguf.tokenizer import GgufTokenizer
from jstrace.convert.partials import filled, remove_abandoned
from jstrace.files import remove_beyond
from jstrace.models import InputError, ModelConfig, n_params, shapes
from jstrace.models.declared import Weight
from jstrace.models.params import map_weights, on_one_device

FOLDER = "weights"
_ENTRY, _TOKENIZER = "entry.json", "tokenizer.json"
_FORMAT, _VERSION = "jstrace-kept-weights", 4
"""The version is of what is made of a file, too: another tokenizer or config of the same file is another version."""
_WORTH = 2**24
"""Bytes of weights from which keeping them pays."""
_MOST_GB = "JSTRACE_KEPT_GB"
"""The variable with the size of all entries in GB; 8 without it, 0 keeps none, and inf all that the disk holds."""
_CHUNK, _BLOCK, _THREADS = 2**24, 2**20, 8
"""Bytes that a thread hashes, those that it reads at a time, and how many threads there are at most."""
_DAMAGE = (None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR)
"""What the system says of an entry that is not whole; None is numpy's. All else passes: files open, rights, memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What an entry holds."""

    config: ModelConfig
    params: dict[str, Any]
    fingerprint: str
    tokenizer: GgufTokenizer | None


def digest(path: Path) -> str | None:
    """What tells the contents of a file from all others; None where its weights would not be kept.

    Raises:
      InputError: the variable that bounds the entries is no size.
    """
    most = _most_bytes()
    try:
        # Kept weights take half of the file at least, whatever it stores and is asked for.
        return _digest(path) if path.stat().st_size <= 2 * most else None
    except (OSError, RuntimeError):  # no thread to be had is a RuntimeError
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as stream, ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        file = stream.fileno()
        parts = pool.map(functools.partial(_hashed, file), range(0, os.fstat(file).st_size, _CHUNK))
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _hashed(file: int, start: int) -> bytes:
    checksum, end = hashlib.sha256(), start + _CHUNK
    while start < end and (block := os.pread(file, min(_BLOCK, end - start), start)):
        checksum.update(block)
        start += len(block)
    return checksum.digest()


def find(path: Path, content: str | None, dtype: jnp.dtype, say: Callable[[str], None]) -> Kept | None:
    """What is kept of a GGUF file with this digest in a dtype, if it is whole; ``say`` is told why it is not used.

    An entry that is damaged goes; one that cannot be read for now stays.
    """
    folder = None if content is None else _folder_of(path, dtype, content)
    if folder is None:
        return None
    try:
        if not (folder / _ENTRY).is_file():
            return None
        checkpoint = _read(folder, content, dtype)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # it is whole
    except Exception as error:  # damaged files raise errors of every kind
        if isinstance(error, OSError) and error.errno not in _DAMAGE:
            say(f"{folder} cannot be read ({error.strerror or error}); the weights are dequantised anew")
            return None
        say(f"{folder} is damaged ({str(error)[:100] or type(error).__name__}); made again")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):  # another user's
        os.utime(folder / _ENTRY)  # by which the least used are known
    return checkpoint


def keep(path: Path, content: str | None, checkpoint: Kept, say: Callable[[str], None]) -> None:
    """Keep the weights of a GGUF file, where that pays and there is room; ``say`` is told why they could not be.

    ``content`` is the file's digest from before it was read: a file that is another by now is not kept.
    """
    dtype = checkpoint.params["embed"].dtype
    size, most = n_params(checkpoint.config) * dtype.itemsize, _most_bytes()
    folder = _folder_of(path, dtype, content) if content is not None and _WORTH <= size <= most else None
    if folder is None or _folder_of(path, dtype) != folder:
        return
    try:
        if (folder / _ENTRY).exists():  # and cannot be read for now
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        remove_beyond(((entry, taken) for entry, _, taken in entries()), most - size)
        free = shutil.disk_usage(folder.parent).free
        if free < 2 * size:
            say(f"{folder.parent}: {free / 1e9:.1f} GB are free, so the weights are not kept for the next start")
            return
        with filled(folder) as partial:
            _write(partial, path, content, dtype, checkpoint)
    except OSError as error:
        if not os.path.exists(folder / _ENTRY):  # another start was faster
            say(f"{folder.parent}: the weights cannot be kept for the next start ({error.strerror or error})")


def entries() -> Iterator[tuple[Path, dict[str, Any], int]]:
    """The entries, least used first: their folders, what they say of themselves, and their bytes.

    One that is damaged says nothing.
    """
    records = []
    for entry in (cache_folder() / FOLDER).glob(f"*/{_ENTRY}"):
        with contextlib.suppress(OSError, ValueError):
            size = sum(file.stat().st_size for file in entry.parent.iterdir())
            records.append((entry.stat().st_mtime, entry.parent, _said(entry), size))
    for _, folder, facts, size in sorted(records, key=lambda item: item[0]):
        yield folder, facts, size


def _said(entry: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        facts = json.loads(entry.read_text(encoding="utf-8"))
        if isinstance(facts, dict) and isinstance(facts.get("source"), dict):
            return facts
    return {}


def _most_bytes() -> float:
    given = os.environ.get(_MOST_GB, "").strip() or "8"
    try:
        gigabytes = 0.0 if given == "none" else float(given)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:  # nor is nan
        raise InputError(f"{_MOST_GB}={given}: expected a size in GB, such as 8; 0 keeps none and inf has no bound")
    return gigabytes * 1e9


def _folder_of(path: Path, dtype: jnp.dtype, content: str | None = None) -> Path | None:
    """Where the weights of a file in a dtype are kept, by its digest or else its content now; None if nowhere."""
    try:
        mark = json.dumps([content or _digest(path), dtype.name, _VERSION])
        return cache_folder() / FOLDER / f"{path.stem[:60]}-{hashlib.sha256(mark.encode()).hexdigest()[:16]}"
    except (OSError, ValueError, RuntimeError):
        return None


def _write(folder: Path, path: Path, content: str | None, dtype: jnp.dtype, checkpoint: Kept) -> None:
    sums: dict[str, int] = {}

    def save(name: str, _: Weight, leaf: jax.Array) -> None:
        words = np.asarray(leaf)
        words = words.view(np.uint16) if dtype.itemsize == 2 else words  # numpy's files know no bfloat16
        np.save(folder / f"{name}.npy", words, allow_pickle=False)
        sums[name] = _sum(words)

    map_weights(save, checkpoint.config, checkpoint.params, named=True)
    if checkpoint.tokenizer is not None:
        (folder / _TOKENIZER).write_text(checkpoint.tokenizer.as_text(), encoding="utf-8")
    facts = {
        "format": _FORMAT,
        "version": _VERSION,
        "source": {"path": str(path.resolve()), "digest": content},
        "dtype": dtype.name,
        "config": dataclasses.asdict(checkpoint.config),
        "fingerprint": checkpoint.fingerprint,
        "tokenizer": checkpoint.tokenizer is not None,
        "sums": sums,
    }
    (folder / _ENTRY).write_text(json.dumps(facts), encoding="utf-8")


def _read(folder: Path, content: str | None, dtype: jnp.dtype) -> Kept:
    facts = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
    known = (facts["format"], facts["version"], facts["source"]["digest"], facts["dtype"])
    if known != (_FORMAT, _VERSION, content, dtype.name):
        raise ValueError("of another file")
    config = ModelConfig.from_json(facts["config"])

    def load(name: str, _: Weight, blank: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> jax.Array:
        words = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        stored = np.dtype(np.uint16) if dtype.itemsize == 2 else dtype
        if words.shape != blank.shape or words.dtype != stored or _sum(words) != facts["sums"][name]:
            raise ValueError(f"{name} is not what was written")
        return jax.device_put(words.view(dtype), place)

    # Placed as dequantised weights are: programs for arrays that may lie anywhere are others.
    params = map_weights(load, config, shapes(config, dtype), on_one_device(config), named=True)
    text = (folder / _TOKENIZER).read_text(encoding="utf-8") if facts["tokenizer"] else None
    words = None if text is None else GgufTokenizer.of_text(text)
    return Kept(config, params, str(facts["fingerprint"]), words)


def _sum(words: np.ndarray) -> int:
    """The sum of an array's words modulo 2^64, at the speed of memory."""
    flat = words.reshape(-1)
    wide = flat.view(np.uint64) if flat.nbytes % 8 == 0 else flat.view(np.uint16)
    return int(np.sum(wide, dtype=np.uint64))
