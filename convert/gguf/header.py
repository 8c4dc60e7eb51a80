"""What a GGUF file says before its weights: metadata, and where each weight lies.

The gguf package makes several objects for every element of a vocabulary, which takes seconds; here a list of texts is
one pass over its bytes, and a list of numbers one array. Types and quantisations are the package's.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_TEXT, _LIST = 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""Types of metadata values by their numbers in the file."""

_ALIGNMENT = "general.alignment"
_DEPTH = 8
_MAX_AXES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """One weight as it lies in the file."""

    name: str
    shape: tuple[int, ...]
    """Fastest axis first, as ggml counts them."""
    tensor_type: Any
    """``gguf.GGMLQuantizationType``."""
    data: np.ndarray
    """Numbers, or bytes of quantised blocks; slowest axis first."""


def read_header(path: Path) -> tuple[dict[str, Any], list[StoredTensor]]:
    """Metadata by name, numbers and lists as Python's, and the weights, which stay on disk until they are read.

    Raises:
      ValueError, OSError, struct.error: no whole GGUF file of version 2 or 3.
    """
    with path.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(memoryview(content))
    if bytes(cursor.take(4)) != _MAGIC:
        raise ValueError("it does not begin as one")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version}, expected 2 or 3 in little-endian order")
    n_tensors, n_values = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        name = cursor.text()
        metadata.setdefault(name, cursor.value(cursor.number("<I")))
    infos = [cursor.info() for _ in range(n_tensors)]
    alignment = metadata.get(_ALIGNMENT, 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{_ALIGNMENT} is {alignment!r}")
    start = -(-cursor.place // alignment) * alignment
    names = [name for name, *_ in infos]
    if len(set(names)) != len(names):
        raise ValueError("two weights have the same name")
    whole = np.frombuffer(content, np.uint8)
    tensors = [_tensor(whole, start, *info) for info in infos]
    _check_apart(tensors, [offset for *_, offset in infos], alignment)
    return metadata, tensors


class _Cursor:
    """A place in the bytes of a file, which moves on with what is read and never beyond their end."""

    def __init__(self, content: memoryview) -> None:
        self._content, self.place = content, 0

    def take(self, count: int) -> memoryview:
        end = self.place + count
        if end > len(self._content):
            raise ValueError("it ends early")
        part = self._content[self.place : end]
        self.place = end
        return part

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def text(self) -> str:
        """A text; what is no UTF-8 in it stays, as halves of surrogate pairs: it may be a token, or nothing we read."""
        return str(self.take(self.number("<Q")), "utf-8", "surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of the type with this number."""
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self._numbers(kind, 1)[0].item()
        if depth == _DEPTH:
            raise ValueError("lists within lists within lists")
        inner, count = self.number("<I"), self.number("<Q")
        if inner == _TEXT:
            return self._texts(count)
        if inner == _LIST:
            return [self.value(inner, depth + 1) for _ in range(count)]
        return self._numbers(inner, count).tolist()

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _NUMBERS:
            raise ValueError(f"a value of type {kind}")
        return np.frombuffer(self.take(count * _NUMBERS[kind].itemsize), _NUMBERS[kind])

    def _texts(self, count: int) -> list[str]:
        """One pass without a call for each: there are a hundred thousand of them and more."""
        content, place, texts = self._content, self.place, []
        length_of = struct.Struct("<Q").unpack_from
        for _ in range(count):
            start = place + 8
            place = start + length_of(content, place)[0]
            if place > len(content):
                raise ValueError("it ends early")
            texts.append(str(content[start:place], "utf-8", "surrogateescape"))
        self.place = place
        return texts

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, number of the quantisation and offset of a weight."""
        name, n_axes = self.text(), self.number("<I")
        if n_axes > _MAX_AXES:
            raise ValueError(f"weight {name} has {n_axes} axes")
        shape = tuple(self.number("<Q") for _ in range(n_axes))
        return name, shape, self.number("<I"), self.number("<Q")


def _check_apart(tensors: Sequence[StoredTensor], offsets: Sequence[int], alignment: int) -> None:
    """Refuse weights that share bytes, or that begin where none may."""
    end, before = 0, ""
    for offset, tensor in sorted(zip(offsets, tensors, strict=True), key=lambda pair: pair[0]):
        if offset % alignment:
            raise ValueError(f"weight {tensor.name} begins at {offset}, no multiple of {alignment}")
        if offset < end:
            raise ValueError(f"weights {before} and {tensor.name} overlap")
        end, before = offset + tensor.data.nbytes, tensor.name


def _tensor(whole: np.ndarray, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> StoredTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    tensor_type = GGMLQuantizationType(kind)
    if tensor_type not in GGML_QUANT_SIZES:
        raise ValueError(f"weight {name} is quantised as {tensor_type.name}, of unknown blocks")
    numbers = {GGMLQuantizationType.F16: "<f2", GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F64: "<f8"}
    block, n_bytes = GGML_QUANT_SIZES[tensor_type]
    if not all(shape):
        raise ValueError(f"weight {name} of {shape} holds no number")
    if shape and shape[0] % block:
        raise ValueError(f"weight {name} of {shape} does not divide into blocks of {block}")
    axes = tuple(reversed((shape[0] // block * n_bytes, *shape[1:]))) if shape else (n_bytes,)
    end = start + offset + int(np.prod(axes, dtype=object))
    if end > len(whole):
        raise ValueError(f"it ends within weight {name}")
    data = whole[start + offset : end].reshape(axes)
    return StoredTensor(name, shape, tensor_type, data.view(numbers.get(tensor_type, np.uint8)))
