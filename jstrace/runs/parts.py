"""Parts of a run on disk: the inputs of one range, in one file for each table. No JAX.

The file of ``inputs`` is written last: a part counts when it has all its files, but for those of ``OPTIONAL`` tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from jstrace.errors import InputError
from jstrace.files import read_regular, write_whole
from jstrace.runs.schema import OPTIONAL, TABLES, unlike

_MARK = b"jstrace.run"
_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")
_AGAIN = "remove inputs/{}, and the same run computes its inputs again"
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
    ranges: list[Part] = []
    for index in sorted(indices):
        if ranges and ranges[-1].last + 1 == index:
            ranges[-1] = Part(ranges[-1].first, index)
        else:
            ranges.append(Part(index, index))
    return ranges


def parts_of(folder: Path, table: str, prefix: str = "") -> set[Part]:
    """The parts that a table has a file of, whose name has a ``prefix``."""
    matches = (_NAME.fullmatch(path.name.removeprefix(prefix)) for path in (folder / table).glob(f"{prefix}*.parquet"))
    return {Part(int(match[1]), int(match[2])) for match in matches if match}


def complete_parts(folder: Path, names: Sequence[str]) -> set[Part]:
    """The parts that every one of the tables has a file of, but for those that are optional."""
    return set.intersection(*(parts_of(folder, name) for name in names if name not in OPTIONAL))


def write_part(folder: Path, part: Part, tables: dict[str, pa.Table], mark: str) -> None:
    """Write the files of a part, each of them whole or not at all, that of ``inputs`` last.

    Args:
      folder: of the run.
      part: the range of inputs.
      tables: the tables by name.
      mark: of the run, which ``read_part`` compares.

    Raises:
      InputError: there is no room, or no permission.
    """
    for name in TABLES:
        if name in tables:
            _write(folder / name / part.file, tables[name], f"{mark} {name}")


def _write(path: Path, table: pa.Table, mark: str) -> None:
    marked = table.replace_schema_metadata({_MARK: mark})
    write_whole(path, lambda stream: parquet.write_table(marked, stream, compression="zstd", write_page_checksum=True))


def join(folder: Path, pieces: Sequence[Part], names: Sequence[str], mark: str) -> None:
    """Write parts that lie side by side as one, with the same rows, and remove them.

    Large ones stay as they are, and so do those of which somebody has removed an optional file.

    Nothing is lost where it fails or is stopped, and nothing is there twice: the new part is written under other names
    first; from the moment that the old ones give way to it, the swap is finished, at the latest by the next start
    (``finish_joins``).

    Raises:
      InputError: there is no room, or no permission, or one of the files is damaged.
    """
    whole, names = Part(pieces[0].first, pieces[-1].last), [name for name in TABLES if name in names]
    try:
        if any(not (folder / name / part.file).exists() for name in OPTIONAL if name in names for part in pieces):
            return
        if sum((folder / name / part.file).stat().st_size for name in names for part in pieces) > _LARGE:
            return
        try:
            for name in names:
                tables = [read_part(folder, name, part, mark) for part in pieces]
                joined = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
                _write(folder / name / _hidden(whole), joined, f"{mark} {name}")
        except BaseException:
            for name in names:
                (folder / name / _hidden(whole)).unlink(missing_ok=True)
            raise
        try:
            _swap(folder, pieces, whole, names)
        except BaseException:
            _swap(folder, pieces, whole, names)
            raise
    except OSError as error:
        raise InputError(f"{folder}: parts cannot be joined ({error.strerror or error})") from error


def finish_joins(folder: Path, names: Sequence[str]) -> None:
    """Finish what a kill cut short after the old parts had begun to give way: all but ``inputs`` and strata are there.

    Raises:
      OSError: a file cannot be renamed or removed.
    """
    *others, inputs = names = [name for name in TABLES if name in names]
    for whole in sorted(parts_of(folder, inputs, HIDDEN)):
        if all((folder / name / whole.file).is_file() for name in others if name not in OPTIONAL):
            there = {part for name in names for part in parts_of(folder, name)} - {whole}
            _swap(folder, [part for part in there if whole.first <= part.first <= whole.last], whole, names)


HIDDEN = ".jstrace-"
"""What names of files begin with that are not there yet."""


def _hidden(part: Part) -> str:
    """The name of a file that is not there yet, which the next start removes."""
    return f"{HIDDEN}{part.file}"


def _swap(folder: Path, pieces: Sequence[Part], whole: Part, names: Sequence[str]) -> None:
    """Let the files of one part take the place of others', as far as they have not; ``inputs`` is the last of names."""
    *others, inputs = (folder / name for name in names)
    for table in others:
        _rename(table / _hidden(whole), table / whole.file)
    for part in pieces:
        (inputs / part.file).unlink(missing_ok=True)
    _rename(inputs / _hidden(whole), inputs / whole.file)
    for table in others:
        for part in pieces:
            (table / part.file).unlink(missing_ok=True)


def _rename(path: Path, target: Path) -> None:
    if path.exists():
        path.replace(target)


def read_part(folder: Path, table: str, part: Part, mark: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file, its checksums verified.

    Raises:
      InputError: it is damaged, or of another run, another table or other inputs.
    """
    path = folder / table / part.file
    try:
        content = read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        rows = parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(columns)
        rows.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        without = "remove this file to do without it, or " if table in OPTIONAL else ""
        raise InputError(f"{path}: damaged ({reason}); {without}{_AGAIN.format(part.file)}") from error
    if (rows.schema.metadata or {}).get(_MARK) != f"{mark} {table}".encode():
        raise InputError(f"{path}: of another run or another table; {_AGAIN.format(part.file)}")
    wrong = unlike(table, rows.schema, columns)
    if wrong is not None:
        raise InputError(f"{path}: damaged (its column {wrong} is missing or of another type)")
    same = rows.num_rows == len(part.inputs)  # first: a name can speak of a hundred million
    if table == "inputs" and not (same and rows["input"].to_pylist() == list(part.inputs)):
        raise InputError(f"{path}: does not hold the inputs that its name says; {_AGAIN.format(part.file)}")
    return rows


def check_apart(folder: Path, parts: Iterable[Part]) -> None:
    """Refuse parts that overlap.

    Raises:
      InputError: with the inputs that stand in two parts.
    """
    for part, other in itertools.pairwise(sorted(parts)):
        if other.first <= part.last:
            raise InputError(f"{folder}: inputs {other.first} to {part.last} stand in two parts; remove one of them")
