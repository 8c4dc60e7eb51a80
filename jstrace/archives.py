"""Arrays with a header on disk: one ``.npz`` file without pickle, with a format and its version, all or nothing."""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.errors import InputError
from jstrace.files import write_whole

_DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError),
)


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under their names, and the header as JSON.

    Raises:
      InputError: the path cannot be written.
    """
    named: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}
    write_whole(path, lambda stream: np.savez_compressed(stream, **named))


def read(path: Path, *, kind: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file that ``write`` wrote; call it within ``reading``.

    Raises:
      InputError: of another kind, or of another version.
    """
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    if header["format"] != kind:
        raise InputError(f"{path}: not a {kind.removeprefix('jstrace-')} of jstrace")
    if header["version"] != version:
        raise InputError(f"{path}: format version {header['version']}, this jstrace reads version {version}")
    return header, arrays


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever a missing or damaged file raises, as an ``InputError`` that names the file."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: not a readable {what} ({error})") from error
