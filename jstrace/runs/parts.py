"""Parts of a run on disk: the inputs of one range, in one file for each table. No JAX.

The file of ``inputs`` is written last: a part counts when it has all its files.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from jstrace.files import write_whole
from jstrace.models.errors import InputError
from jstrace.runs.schema import TABLES

_MARK = b"jstrace.run"
_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A range of inputs, from ``first`` to ``last``."""

    first: int
    last: int

    @property
    def file(self) -> str:
        """The name of its file in each table's folder."""
        return f"{self.first:08d}-{self.last:08d}.parquet"


def parts_of(folder: Path, table: str) -> set[Part]:
    """The parts that a table has a file of."""
    found = (_NAME.fullmatch(path.name) for path in (folder / table).glob("*.parquet"))
    return {Part(int(match[1]), int(match[2])) for match in found if match}


def complete_parts(folder: Path, names: Sequence[str]) -> set[Part]:
    """The parts that every one of the tables has a file of."""
    return set.intersection(*(parts_of(folder, name) for name in names))


def write_part(folder: Path, part: Part, found: dict[str, pa.Table], mark: str) -> None:
    """Write the files of a part, each of them whole or not at all, that of ``inputs`` last.

    Args:
      folder: of the run.
      part: the range of inputs.
      found: the tables by name.
      mark: of the run, which ``read_part`` compares.

    Raises:
      InputError: there is no room, or no permission.
    """
    for name in TABLES:
        if name in found:
            marked = found[name].replace_schema_metadata({_MARK: f"{mark} {name}"})
            write_whole(folder / name / part.file, functools.partial(_write, marked))


def _write(table: pa.Table, stream: Any) -> None:
    parquet.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_part(folder: Path, table: str, part: Part, mark: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file, its checksums verified.

    Raises:
      InputError: it is damaged, or of another run, another table or other inputs.
    """
    path = folder / table / part.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        found = parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: damaged ({reason}); remove this file, and the same run computes its inputs again"
        ) from error
    if (found.schema.metadata or {}).get(_MARK) != f"{mark} {table}".encode():
        raise InputError(f"{path}: of another run or another table; remove this file to compute its inputs again")
    if table == "inputs" and found["input"].to_pylist() != list(range(part.first, part.last + 1)):
        raise InputError(f"{path}: does not hold the inputs that its name says; remove this file to compute them again")
    return found


def check_apart(folder: Path, parts: Iterable[Part]) -> None:
    """Refuse parts that overlap.

    Raises:
      InputError: with the inputs that stand in two parts.
    """
    for one, other in itertools.pairwise(sorted(parts)):
        if other.first <= one.last:
            raise InputError(f"{folder}: inputs {other.first} to {one.last} stand in two parts; remove one of them")
