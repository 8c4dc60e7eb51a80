"""Inputs of a run: WikiText by the paper's selection, or the rows of a file (section 7 of the method).

A row is a text and, where it is known, the word that truly follows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jstrace.errors import InputError
from jstrace.runs import remote, wikitext
from jstrace.runs.row import Row
from jstrace.runs.wikitext import COUNT, N_WORDS, WIKITEXT

_READERS = (".tsv", ".jsonl", ".parquet", ".txt")
_CORPUS_PARAGRAPHS = 20_000


@dataclasses.dataclass(frozen=True)
class Data:
    """The rows of a run in their order, and the texts in which tokens are counted."""

    name: str
    rows: tuple[Row, ...]
    corpus: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A short hash of every row and of the corpus."""
        digest = hashlib.sha256(b"%d rows " % len(self.rows))
        for part in (*(part for row in self.rows for part in row), *self.corpus):
            found = b"" if part is None else part.encode()
            digest.update(b"%d " % (-1 if part is None else len(found)) + found)
        return digest.hexdigest()[:16]


def read_data(
    source: str, *, n_words: int = N_WORDS, count: int = COUNT, seed: int = 0, corpus: str | None = None
) -> Data:
    """Rows of a source by name.

    Args:
      source: ``wikitext-2`` or ``wikitext-103``, fetched through the ``datasets`` library; or a file: ``.tsv`` (a text
        and its next word, tab-separated; the second may be missing), ``.jsonl`` (``text``, ``next``), ``.parquet``
        (columns of those names) or ``.txt`` (a text a line), also by URLs such as ``gs://``, through fsspec.
      n_words, count, seed: of passages drawn from WikiText; rows of files are taken as they are.
      corpus: another file of texts in which tokens are counted; by default the rows themselves, or of WikiText up to
        20,000 paragraphs.

    Raises:
      InputError: no such source, or rows that make no sense, with their place.
    """
    if source in WIKITEXT:
        paragraphs = wikitext.shuffled(wikitext.paragraphs(source), seed)
        rows = wikitext.drawn(paragraphs, n_words, count, seed)
        name, texts = f"{source}, {n_words} words, seed {seed}", tuple(paragraphs[:_CORPUS_PARAGRAPHS])
    else:
        path = Path(source)
        if path.suffix not in _READERS:
            raise InputError(f"data {source!r}: expected {', '.join(WIKITEXT)} or a file in {', '.join(_READERS)}")
        rows = _source_rows(source)
        name, texts = path.name, tuple(row.text for row in rows)
    if corpus is not None:
        texts = tuple(row.text for row in _source_rows(corpus))
    return Data(name, rows, texts)


# --- files ----------------------------------------------------------------------------------------------------------


def _source_rows(source: str) -> tuple[Row, ...]:
    """Rows of a file, which may be a URL."""
    with remote.local_copy(source) as path:
        return _file_rows(path)


def _file_rows(path: Path) -> tuple[Row, ...]:
    if path.suffix not in _READERS:
        raise InputError(f"{path}: expected a file in {', '.join(_READERS)}")
    rows = tuple(_parquet_rows(path) if path.suffix == ".parquet" else _text_rows(path))
    if not rows:
        raise InputError(f"{path}: no row holds any text")
    if path.suffix == ".tsv" and all(row.next_word is None for row in rows):
        message = f"{path}: no row has a tab and a next word after it, so surprisals and ranks will be missing"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return rows


def _text_rows(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    read = {".tsv": _tsv_row, ".jsonl": _json_row, ".txt": lambda _, line: Row(line)}[path.suffix]
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if line.strip():
            yield read(f"{path}:{number}", line)


def _tsv_row(where: str, line: str) -> Row:
    cells = line.split("\t")
    if len(cells) > 2:
        raise InputError(f"{where}: {len(cells)} columns, expected a text and its next word")
    return _checked(where, cells[0], cells[1] if len(cells) == 2 else None)


def _json_row(where: str, line: str) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f'{where}: expected an object such as {{"text": "...", "next": "..."}}')
    return _checked(where, found.get("text"), found.get("next"))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as stream:
            names = parquet.read_schema(stream).names
            wanted = [name for name in ("text", "next") if name in names]
            table = parquet.read_table(stream, columns=wanted)
            rows = _as_texts(path, table).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no readable parquet file ({(str(error).splitlines() or ['?'])[0]})") from error
    if "text" not in wanted:
        raise InputError(f"{path}: no column text, but {', '.join(names)}")
    for number, cells in enumerate(rows, 1):
        yield _checked(f"{path}:{number}", cells["text"], cells.get("next"))


def _as_texts(path: Path, table: Any) -> Any:
    """The table, whose columns must be texts."""
    import pyarrow as pa

    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if not any(is_text(kind) for is_text in texts):
            raise InputError(f"{path}: column {field.name} is of type {field.type}, expected texts")
    return table


def _checked(where: str, text: Any, next_word: Any) -> Row:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: no text")
    if next_word is not None and not isinstance(next_word, str):
        raise InputError(f"{where}: the next word is {next_word!r}, expected a text")
    try:
        (text + (next_word or "")).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: not valid Unicode ({error.reason})") from error
    return Row(text, next_word if next_word and next_word.strip() else None)
