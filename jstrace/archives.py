"""Arrays with a header on disk: one ``.npz`` file without pickle, with a format and its version, all or nothing."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
import zlib
from ast import literal_eval as python_literal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jstrace.errors import InputError
from jstrace.files import check_regular, write_whole

_DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError, SyntaxError),
)
_HEADER = "header"
_LARGEST_HEADER = 2**26
"""Bytes of JSON; those of a trace are its tokens as texts, its sizes and its config."""
_MOST_ARRAYS = 100
_SMALL = 2**28
_DENSEST = 200
"""Of floats that are no constant a compressed file has more than a 200th of their bytes; of strata less than that."""


class Outline(NamedTuple):
    """What a file says of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


Check = Callable[[dict[str, Any], Mapping[str, Outline]], None]


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under their names, and the header as JSON.

    Raises:
      InputError: the path cannot be written.
    """
    named: dict[str, Any] = {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}
    write_whole(path, lambda stream: np.savez_compressed(stream, **named))


def read(path: Path, *, kind: str, version: int, check: Check) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file that ``write`` wrote; call it within ``reading``.

    Args:
      path: of the file.
      kind: the format that its header names.
      version: of the format.
      check: is given the header and the outlines of all arrays, and raises an error that ``reading`` knows where they
        make no sense, before any array is read: a small file can hold arrays beyond any memory.

    Raises:
      InputError: of another kind, or of another version.
    """
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        outlines = _outlines(archive)
        if outlines[_HEADER].nbytes > _LARGEST_HEADER:
            raise ValueError("its header is too large")
        header = json.loads(_array(archive, _HEADER).tobytes())
        if not isinstance(header, dict) or header["format"] != kind:
            raise InputError(f"{path}: not a {kind.removeprefix('jstrace-')} of jstrace")
        if header["version"] != version:
            raise InputError(f"{path}: format version {header['version']}, this jstrace reads version {version}")
        del outlines[_HEADER]
        check(header, outlines)
        return header, {name: _array(archive, name) for name in outlines}


def check_density(path: Path, outlines: Mapping[str, Outline]) -> None:
    """Refuse arrays that are so much larger than their file that they can hold nothing but one number.

    Raises:
      ValueError: with both sizes.
    """
    whole, there = sum(outline.nbytes for outline in outlines.values()), path.stat().st_size
    if whole > max(_SMALL, _DENSEST * there):
        raise ValueError(f"{there:,} bytes claim to hold {whole:,}")


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever a missing or damaged file raises, as an ``InputError`` that names the file."""
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: not a readable {what} ({error})") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: not a readable {what} ({error})") from error


def _outlines(archive: zipfile.ZipFile) -> dict[str, Outline]:
    """Of every array; the bytes that the archive says it has are as many as its shape asks for."""
    arrays: dict[str, Outline] = {}
    if len(archive.infolist()) > _MOST_ARRAYS:
        raise ValueError(f"it holds {len(archive.infolist())} files")
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1 or name in arrays:
            raise ValueError(f"{name} is packed in a way that numpy does not pack arrays in, or twice")
        with archive.open(info) as stream:
            start = stream.read(10)
            if start[:8] != b"\x93NUMPY\x01\x00" or len(start) < 10:
                raise ValueError(f"{name} is no array")
            length = int.from_bytes(start[8:], "little")
            arrays[name] = outline = _outline(stream.read(length), name)
        if 10 + length + outline.nbytes != info.file_size:
            raise ValueError(f"{name} is not of the size that it says")
    return arrays


def _outline(text: bytes, name: str) -> Outline:
    """Of an array of numbers, from the literal before them."""
    said = python_literal(text.decode("ascii").strip())
    shape, kind = said["shape"], said["descr"]
    if not isinstance(shape, tuple) or not all(isinstance(axis, int) and axis >= 0 for axis in shape):
        raise ValueError(f"{name} is of shape {shape!r:.100}")
    dtype = np.dtype(kind) if isinstance(kind, str) else None
    if dtype is None or dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {kind!r:.100}, expected numbers")
    return Outline(shape, dtype)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
