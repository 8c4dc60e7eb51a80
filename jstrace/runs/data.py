"""Inputs of a run: WikiText by the paper's selection, or the rows of a file (section 7 of the method).

A row is a text and, where it is known, the word that truly follows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jstrace.errors import InputError
from jstrace.files import MOST_TEXT, check_regular, read_text
from jstrace.runs import wikitext
from jstrace.runs.row import Row
from jstrace.runs.wikitext import COUNT, N_WORDS, WIKITEXT

_READERS = (".tsv", ".jsonl", ".parquet", ".txt")
_CORPUS_PARAGRAPHS = 20_000
_BATCH = 4096


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
        (columns of those names) or ``.txt`` (a text a line).
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
        rows = _file_rows(path)
        name, texts = path.name, tuple(row.text for row in rows)
    if corpus is not None:
        texts = tuple(row.text for row in _file_rows(Path(corpus)))
    return Data(name, rows, texts)


# --- files ----------------------------------------------------------------------------------------------------------


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
    lines = read_text(path).split("\n")
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
        check_regular(path)
        with path.open("rb") as stream:
            schema = parquet.read_schema(stream)
            _check_texts(path, schema)
            wanted = [name for name in ("text", "next") if name in schema.names]
            file = parquet.ParquetFile(stream, read_dictionary=wanted)
            cells = _cells(path, file.iter_batches(_BATCH, columns=wanted))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no readable parquet file ({(str(error).splitlines() or ['?'])[0]})") from error
    for number, (text, after) in enumerate(cells, 1):
        yield _checked(f"{path}:{number}", text, after)


def _cells(path: Path, batches: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Text and next word of every row; what a file holds once for many rows is there once."""
    found: list[tuple[Any, Any]] = []
    letters = 0
    for batch in batches:
        batch.validate(full=True)  # of which a damaged file may hold others than it says
        columns = {name: _texts_of(batch.column(name)) for name in batch.schema.names}
        texts, after = columns["text"], columns.get("next", [None] * len(batch))
        letters += sum(len(text) for text in (*texts, *after) if text)
        if letters > MOST_TEXT:
            raise InputError(f"{path}: cannot be read (it holds more than {MOST_TEXT:,} letters of text)")
        found += zip(texts, after, strict=True)
    return found


def _texts_of(column: Any) -> list[str | None]:
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    texts = column.dictionary.to_pylist()
    return [None if index is None else texts[index] for index in column.indices.to_pylist()]


def _check_texts(path: Path, schema: Any) -> None:
    """Refuse a file without texts, or with other things in their place."""
    import pyarrow as pa

    if "text" not in schema.names:
        raise InputError(f"{path}: no column text, but {', '.join(schema.names)}")
    for field in (field for field in schema if field.name in ("text", "next")):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if not any(is_text(kind) for is_text in texts) or schema.names.count(field.name) > 1:
            raise InputError(f"{path}: column {field.name} is of type {field.type}, or there twice; expected texts")


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
