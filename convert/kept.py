"""Weights of GGUF files, dequantised and stacked, kept in the user's cache folder for the next start to map.

An entry is a folder of one ``.npy`` file for each parameter, without pickle, and ``entry.json``: of which file it was
made (its path, size and time), in which form, the fingerprints, and a sum over the words of each array, which is
verified at every start. Whatever is amiss with an entry costs a sentence and the work of making it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.convert.default_model import cache_folder
from jstrace.convert.partials import new_partial, remove_abandoned
from jstrace.models import Fingerprints, ModelConfig, n_params, shapes
from jstrace.models.params import Weight, map_weights, on_one_device

FOLDER = "weights"
_ENTRY, _TOKENIZER = "entry.json", "tokenizer.json"
_FORMAT, _VERSION = "jstrace-kept-weights", 2
"""The version goes up with whatever makes another model or tokenizer of the same file."""
_WORTH = 2**24
"""Bytes of weights from which keeping them pays."""
_MOST_GB = "JSTRACE_KEPT_GB"
"""The variable with the size of all entries in GB; 8 without it, and 0 keeps none."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What an entry holds."""

    config: ModelConfig
    params: dict[str, Any]
    fingerprints: Fingerprints
    tokenizer: str | None
    """A tokenizer of the ``tokenizers`` library as text."""


def find(path: Path, dtype: jnp.dtype, say: Callable[[str], None]) -> Kept | None:
    """What is kept of a GGUF file in a dtype, if it is whole; ``say`` is told of an entry that is not, which goes."""
    folder = _folder_of(path, dtype)
    if folder is None or not (folder / _ENTRY).is_file():
        return None
    try:
        found = _read(folder, path, dtype)
        os.utime(folder / _ENTRY)  # by which the least used are known
    except PermissionError:
        return None
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # it is whole
    except Exception as error:  # damaged files raise errors of every kind
        say(f"{folder} is damaged ({str(error)[:100] or type(error).__name__}); made again")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return found


def keep(path: Path, kept: Kept, say: Callable[[str], None]) -> None:
    """Keep the weights of a GGUF file, where that pays and there is room; ``say`` is told why they could not be."""
    dtype = kept.params["embed"].dtype
    size, most = n_params(kept.config) * dtype.itemsize, _most_bytes()
    folder = _folder_of(path, dtype)
    if folder is None or not _WORTH <= size <= most:
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        prune(most - size)
        free = shutil.disk_usage(folder.parent).free
        if free < 2 * size:
            say(f"{folder.parent}: {free / 1e9:.1f} GB are free, so the weights are not kept for the next start")
            return
        partial = new_partial(folder)
        try:
            _write(partial, path, dtype, kept)
            with contextlib.suppress(OSError):  # another start was faster
                os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        say(f"{folder.parent}: the weights cannot be kept for the next start ({error.strerror or error})")


def entries() -> Iterator[tuple[Path, dict[str, Any], int]]:
    """The entries, least used first: their folders, what they say of themselves, and their bytes."""
    found = []
    for entry in (cache_folder() / FOLDER).glob(f"*/{_ENTRY}"):
        with contextlib.suppress(OSError, ValueError):
            size = sum(file.stat().st_size for file in entry.parent.iterdir())
            found.append((entry.stat().st_mtime, entry.parent, json.loads(entry.read_text(encoding="utf-8")), size))
    for _, folder, facts, size in sorted(found, key=lambda item: item[0]):
        yield folder, facts, size


def prune(most: int) -> None:
    """Remove entries, those not used for longest first, until they take ``most`` bytes at most."""
    there = list(entries())
    total = sum(size for *_, size in there)
    for folder, _, size in there:
        if total <= most:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _most_bytes() -> int:
    try:
        return int(float(os.environ.get(_MOST_GB, "8")) * 1e9)
    except ValueError:
        return 0


def _folder_of(path: Path, dtype: jnp.dtype) -> Path | None:
    """Where the weights of this very file in this dtype are kept; None where the file cannot be looked at."""
    try:
        mark = json.dumps([_facts(path), dtype.name, _VERSION], sort_keys=True)
        return cache_folder() / FOLDER / f"{path.stem[:60]}-{hashlib.sha256(mark.encode()).hexdigest()[:16]}"
    except (OSError, ValueError, RuntimeError):
        return None


def _facts(path: Path) -> dict[str, Any]:
    """What tells a file from another and from itself after a change."""
    status = path.resolve().stat()
    return {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _write(folder: Path, path: Path, dtype: jnp.dtype, kept: Kept) -> None:
    sums: dict[str, int] = {}

    def save(name: str, _: Weight, leaf: jax.Array) -> None:
        words = np.asarray(leaf)
        words = words.view(np.uint16) if dtype.itemsize == 2 else words  # numpy's files know no bfloat16
        np.save(folder / f"{name}.npy", words, allow_pickle=False)
        sums[name] = _sum(words)

    map_weights(save, kept.config, kept.params, named=True)
    if kept.tokenizer is not None:
        (folder / _TOKENIZER).write_text(kept.tokenizer, encoding="utf-8")
    facts = {
        "format": _FORMAT,
        "version": _VERSION,
        "source": _facts(path),
        "dtype": dtype.name,
        "config": dataclasses.asdict(kept.config),
        "fingerprints": kept.fingerprints.every,
        "tokenizer": kept.tokenizer is not None,
        "sums": sums,
    }
    (folder / _ENTRY).write_text(json.dumps(facts), encoding="utf-8")


def _read(folder: Path, path: Path, dtype: jnp.dtype) -> Kept:
    facts = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
    known = (facts["format"], facts["version"], facts["source"], facts["dtype"])
    if known != (_FORMAT, _VERSION, _facts(path), dtype.name):
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
    current, *earlier = facts["fingerprints"]
    tokenizer = (folder / _TOKENIZER).read_text(encoding="utf-8") if facts["tokenizer"] else None
    return Kept(config, params, Fingerprints(current, tuple(earlier)), tokenizer)


def _sum(words: np.ndarray) -> int:
    """The sum of an array's words modulo 2^64, at the speed of memory."""
    flat = words.reshape(-1)
    wide = flat.view(np.uint64) if flat.nbytes % 8 == 0 else flat.view(np.uint16)
    return int(np.sum(wide, dtype=np.uint64))
