"""Weights of a Hugging Face folder: ``model.safetensors``, or else shards under ``model.safetensors.index.json``."""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import re
import weakref
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jstrace.convert.weights import Tensor
from jstrace.models import InputError

_SINGLE = "model.safetensors"
_INDEX = f"{_SINGLE}.index.json"
_ADAPTER = "adapter_config.json"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_EIGHT_BITS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
"""Types that numpy has not, and the library of safetensors gives to torch alone."""
_INTEGERS = {"U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "U32": "uint32", "I64": "int64"}
_SOON, _GONE = "MADV_WILLNEED", "MADV_DONTNEED"
_PREFIXES = (
    "model.language_model.",
    "model.text_model.",
    "language_model.model.",
    "language_model.",
    "transformer.",
    "gpt_neox.",
    "model.decoder.",
    "decoder.",
    "backbone.",
    "model.",
)
"""What stands before the names of a language model's weights in one release of transformers or another."""
_BUFFER = re.compile(
    r"(layers|h)\.\d+\.((self_attn|attention|self_attention)\.rotary_emb\.inv_freq"
    r"|(attn\.)?(attn|attention)\.(masked_)?bias|attn\.causal_mask)$|embed_positions\.weights$|(^|\.)rotary_emb\.inv_freq$"
)
"""Buffers that old checkpoints carry: rotary frequencies, sinusoids and causal masks, which follow from the config."""


class _Content:
    """The bytes of a file whose header the library has checked, for what it cannot give.

    It is open while something that was read of it is in use, and then closed: compiled programs keep what reads layers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # who opens it again may stand in another folder
        self._state = _state(self._path.stat())
        self._last: weakref.ref[mmap.mmap] | None = None

    def _open(self) -> mmap.mmap | None:
        return None if self._last is None else self._last()

    def _mapped(self) -> mmap.mmap:
        """All of it, which stays on disk until it is read.

        Raises:
          InputError: another file is there by now, or it was written since.
        """
        mapped = self._open()
        if mapped is None:
            with self._path.open("rb") as stream:
                if _state(os.fstat(stream.fileno())) != self._state:
                    raise InputError(f"{self._path}: the file has changed since the model was loaded; load it again")
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._last = weakref.ref(mapped)
        return mapped

    @functools.cached_property
    def _header(self) -> tuple[dict[str, Any], int]:
        """What it says, and where it ends."""
        mapped = self._mapped()
        stop = 8 + int.from_bytes(mapped[:8], "little")
        return json.loads(mapped[8:stop]), stop

    def _place(self, name: str) -> tuple[int, int]:
        """Of a matrix: where its bytes begin, and how many they are."""
        header, first = self._header
        start, stop = header[name]["data_offsets"]
        return first + start, stop - start

    def array(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """A matrix by its place."""
        start, size = self._place(name)
        return np.frombuffer(self._mapped(), np.uint8, size, start).view(jnp.dtype(dtype)).reshape(shape)

    def advise(self, name: str, advice: str) -> None:
        """Tell the system what becomes of the pages of a matrix, where it has the word."""
        start, size = self._place(name)
        if size and hasattr(mmap, advice):
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            with contextlib.suppress(OSError):  # no more than a hint
                mapped = self._open() if advice == _GONE else self._mapped()  # a closed file has no pages here
                if mapped is not None:
                    mapped.madvise(getattr(mmap, advice), first, start + size - first)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """What differs once a file is another one, or was written."""
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Slice:
    """One matrix of a safetensors file, of which only the slice asked for is read."""

    def __init__(self, handle: Any, name: str, content: _Content, *, mapped: bool) -> None:
        self.name = name
        self._content, self._mapped = content, mapped
        self._slice = handle.get_slice(name)
        self.shape = tuple(self._slice.get_shape())
        stored = self._slice.get_dtype()
        self.dtype = (_DTYPES | _EIGHT_BITS).get(stored, stored)
        self._kind = (_DTYPES | _EIGHT_BITS | _INTEGERS).get(stored, "")
        if stored in _EIGHT_BITS or (mapped and self._kind):
            self._slice = None  # which would keep the file open

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        from safetensors import SafetensorError

        if self._mapped:
            self.release()  # what was read of it before, such as other rows
        try:
            whole = self._content.array(self.name, self._kind, self.shape) if self._slice is None else self._slice
            return np.require(whole[ranges], requirements="A")  # files may begin anywhere
        except (SafetensorError, TypeError, ValueError) as error:  # a type that numpy has not, or no numbers at all
            raise InputError(f"weight {self.name} cannot be read ({error})") from error

    def fetch(self) -> None:
        """As ``streaming.Paged``."""
        self._content.advise(self.name, _SOON)

    def release(self) -> None:
        """As ``streaming.Paged``."""
        self._content.advise(self.name, _GONE)


def open_safetensors(folder: Path, *, left_out: tuple[str, ...] = (), mapped: bool = False) -> dict[str, Tensor]:
    """The matrices of a folder by name, without prefixes; nothing but safetensors is opened.

    What begins with ``left_out`` belongs to parts that read images or sound. Of ``mapped`` files views are read.

    Raises:
      InputError: no safetensors files, an incomplete set of shards, or a file that is not one.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        try:
            handle = safe_open(path, framework="numpy")
            content = _Content(path)
            slices = {name: _Slice(handle, name, content, mapped=mapped) for name in handle.keys()}  # noqa: SIM118  a handle is no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from error
        for full_name, weight in slices.items():
            if _BUFFER.search(full_name) or full_name.startswith(left_out):
                continue
            name = _bare(full_name)
            if name in tensors:
                raise InputError(f"{path}: weight {full_name} stands in the folder twice")
            tensors[name] = weight
    return tensors


def check_whole(folder: Path, *, left_out: tuple[str, ...] = ()) -> None:
    """Refuse weights that ``open_safetensors`` would refuse; of the files only headers are read, and their sizes.

    A folder without any weights is left alone: what is asked may be its config.

    Raises:
      InputError: as ``open_safetensors``.
    """
    if (folder / _INDEX).is_file() or (folder / _SINGLE).is_file():
        open_safetensors(folder, left_out=left_out)


def _bare(name: str) -> str:
    # transformers saves the layers of Kimi K2.5 so, which are "layers" in what it reads
    name = name.replace("language_model.model.blocks.", "language_model.model.layers.", 1)
    # and norms of OLMo Hybrid so, which have Llama's names in released files
    name = name.replace(".attention_layer_norm.", ".input_layernorm.")
    name = name.replace(".feedforward_layer_norm.", ".post_attention_layernorm.")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _files(folder: Path) -> list[Path]:
    """What transformers would read: the single file, whatever index an earlier save left beside it, or the shards."""
    single, index = folder / _SINGLE, folder / _INDEX
    if (folder / _ADAPTER).is_file():
        raise InputError(
            f"{folder}: {_ADAPTER} changes the weights, and jstrace applies no adapters;"
            " merge it with PEFT's merge_and_unload and save the whole model"
        )
    if single.is_file():
        return [single]
    if not index.is_file():
        raise InputError(
            f"{folder}: no model.safetensors and no index of shards; jstrace reads only safetensors:"
            " take a revision that has them, or save the model again with transformers"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index}: not a readable index of shards ({error!r})") from error
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{index}: shard name {name!r} cannot be read, expected a text")
        if Path(name).name != name:
            raise InputError(f"{index}: shard name {name!r} leaves the folder")
        if not (folder / name).is_file():
            raise InputError(f"{folder}: shard {name} is missing")
    return [folder / name for name in names]
