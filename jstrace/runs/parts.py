"""Parts of a run on disk: the inputs of one range, in one file for each table. No JAX.

The file of ``inputs`` is written last: a part counts when it has all its files.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from jstrace.files import write_whole
from jstrace.models.errors import InputError
from jstrace.runs.schema import TABLES

_MARK = b"jstrace.run"
_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")
_LARGE = 2**26
"""Bytes from which on parts are not joined: files are few then, and reading them again is work."""


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A range of inputs, from ``first`` to ``last``."""

    first: int
    last: int

    @property
    def file(self) -> str:
        """The name of its file in each table's folder."""
        return f"{self.first:08d}-{self.last:08d}.parquet"

    @property
    def inputs(self) -> range:
        """The indices of its inputs."""
        return range(self.first, self.last + 1)


def neighbours(indices: Iterable[int]) -> list[Part]:
    """The ranges that indices in any order make up."""
    found: list[Part] = []
    for index in sorted(indices):
        if found and found[-1].last + 1 == index:
            found[-1] = Part(found[-1].first, index)
        else:
            found.append(Part(index, index))
    return found


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
            _write(folder / name / part.file, found[name], f"{mark} {name}")


def _write(path: Path, table: pa.Table, mark: str) -> None:
    marked = table.replace_schema_metadata({_MARK: mark})
    write_whole(path, lambda stream: parquet.write_table(marked, stream, compression="zstd", write_page_checksum=True))


def join(folder: Path, pieces: Sequence[Part], names: Sequence[str], mark: str) -> None:
    """Write parts that lie side by side as one, with the same rows, and remove them; large ones stay as they are.

    Nothing is lost where it fails. The old parts give way to the new one, already written under other names, in one
    short moment: a kill in it costs their inputs, and none is there twice.

    Raises:
      InputError: there is no room, or no permission, or one of the files is damaged.
    """
    whole, names = Part(pieces[0].first, pieces[-1].last), [name for name in TABLES if name in names]
    try:
        if sum((folder / name / part.file).stat().st_size for name in names for part in pieces) > _LARGE:
            return
        for name in names:
            tables = [read_part(folder, name, part, mark) for part in pieces]
            joined = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            _write(folder / name / _hidden(whole), joined, f"{mark} {name}")
        _swap(folder, pieces, whole, names)
    except OSError as error:
        raise InputError(f"{folder}: parts cannot be joined ({error.strerror or error})") from error
    finally:
        for name in names:
            (folder / name / _hidden(whole)).unlink(missing_ok=True)


def _hidden(part: Part) -> str:
    """The name of a file that is not there yet, which the next start removes."""
    return f".jstrace-{part.file}"


def _swap(folder: Path, pieces: Sequence[Part], whole: Part, names: Sequence[str]) -> None:
    """Let the files of one part take the place of others'; a part counts with its file of ``inputs``, the last name."""
    *others, inputs = (folder / name for name in names)
    for table in others:
        (table / _hidden(whole)).replace(table / whole.file)
    for part in pieces:
        (inputs / part.file).unlink()
    (inputs / _hidden(whole)).replace(inputs / whole.file)
    for table in others:
        for part in pieces:
            (table / part.file).unlink()


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
    if table == "inputs" and found["input"].to_pylist() != list(part.inputs):
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
