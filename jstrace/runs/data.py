"""Inputs of a run: WikiText by the paper's selection, or the rows of a file (section 7 of the method).

A row is a text and, where it is known, the word that truly follows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jstrace.errors import InputError
from jstrace.files import MOST_TEXT, check_regular, read_text
from jstrace.runs import remote, wikitext
from jstrace.runs.row import Row
from jstrace.runs.wikitext import COUNT, N_WORDS, WIKITEXT

_COLUMNS = ("text", "next", "pair", "variant", "counterfactual", "answer", "rival")
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
    def paired(self) -> bool:
        """Whether any row belongs to a pair."""
        return any(row.pair is not None for row in self.rows)

    @property
    def asks(self) -> bool:
        """Whether any row has a counterfactual or an answer."""
        return any(row.asks for row in self.rows)

    @property
    def has_counterfactuals(self) -> bool:
        """Whether any row has one."""
        return any(row.counterfactual is not None for row in self.rows)

    @property
    def fingerprint(self) -> str:
        """A short hash of every row and of the corpus."""
        digest = hashlib.sha256(b"%d rows " % len(self.rows))
        known = len(Row._fields) if self.asks else 4 if self.paired else 2  # as it was before there were others
        rows = [row[:known] for row in self.rows]
        for part in (*(part for row in rows for part in row), *self.corpus):
            encoded = b"" if part is None else part.encode()
            digest.update(b"%d " % (-1 if part is None else len(encoded)) + encoded)
        return digest.hexdigest()[:16]


def read_data(
    source: str, *, n_words: int = N_WORDS, count: int = COUNT, seed: int = 0, corpus: str | None = None
) -> Data:
    """Rows of a source by name.

    Args:
      source: ``wikitext-2`` or ``wikitext-103``, fetched through the ``datasets`` library; or a file: ``.tsv`` (a text
        and its next word, tab-separated; the second may be missing), ``.jsonl`` (``text``, ``next``), ``.parquet``
        (columns of those names) or ``.txt`` (a text a line), also by URLs such as ``gs://``, through fsspec. Texts to
        compare have ``pair`` and ``variant``, too, the third and fourth column of a ``.tsv``; the variant that comes
        first is what others are compared with.
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


# --- pairs ----------------------------------------------------------------------------------------------------------

ORIGINAL, SHUFFLED = "original", "shuffled"
ALTERATIONS = ("shuffle",)


def altered(data: Data, how: str, *, seed: int = 0) -> Data:
    """Every row twice: as it is, and after it altered; the two are a pair.

    Args:
      data: without pairs.
      how: "shuffle": the words in another order, drawn by the seed and the row alone; what is between them stays.
      seed: of the order.

    Raises:
      InputError: no such way, data that has pairs, or rows of which none has two words that differ.
    """
    if how not in ALTERATIONS:
        raise InputError(f"alter {how!r}: expected {', '.join(ALTERATIONS)}")
    if data.paired:
        raise InputError(f"{data.name}: has pairs already, which alter would make")
    if data.asks:
        raise InputError(f"{data.name}: has counterfactuals or answers, which are of the texts as they are")
    rows = tuple(_pairs(data.rows, seed))
    if not rows:
        raise InputError(f"{data.name}: no row has two words that differ, which shuffle could move")
    left_out = len(data.rows) - len(rows) // 2
    if left_out:
        message = f"{data.name}: {left_out} rows have no two words that differ, and are left out"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return Data(f"{data.name}, beside it with shuffled words, seed {seed}", rows, data.corpus)


def _pairs(rows: tuple[Row, ...], seed: int) -> Iterator[Row]:
    for number, row in enumerate(rows):
        words = re.split(r"(\s+)", row.text)  # every other one is what stands between words
        places = [place for place in range(0, len(words), 2) if words[place]]
        own = [words[place] for place in places]
        if len(set(own)) < 2:
            continue
        rng, order = np.random.default_rng([seed, number]), own
        while order == own:
            order = [own[place] for place in rng.permutation(len(own))]
        for place, word in zip(places, order, strict=True):
            words[place] = word
        yield row._replace(pair=str(number), variant=ORIGINAL)
        yield Row("".join(words), None, str(number), SHUFFLED)


# --- files ----------------------------------------------------------------------------------------------------------


def _source_rows(source: str) -> tuple[Row, ...]:
    with remote.local_copy(source) as path:
        if path.suffix not in _READERS:
            raise InputError(f"{path}: expected a file in {', '.join(_READERS)}")
        rows = tuple(_parquet_rows(path) if path.suffix == ".parquet" else _text_rows(path))
        if not rows:
            raise InputError(f"{path}: no row holds any text")
        texts = Counter((row.pair, row.variant) for row in rows if row.pair is not None)
        for (pair, variant), count in texts.items():
            if count > 1:
                raise InputError(f"{path}: pair {pair!r} has more than one text of variant {variant!r}")
    if path.suffix == ".tsv" and all(row.next_word is None for row in rows):
        message = f"{path}: no row has a tab and a next word after it, so surprisals and ranks will be missing"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
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
    if len(cells) not in (1, 2, 4):
        raise InputError(
            f"{where}: {len(cells)} columns, expected a text and its next word, or these, a pair and a variant"
        )
    return _checked(where, *cells)


def _json_row(where: str, line: str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f'{where}: expected an object such as {{"text": "...", "next": "..."}}')
    return _checked(where, *(record.get(name) for name in _COLUMNS))


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        check_regular(path)
        with path.open("rb") as stream:
            schema = parquet.read_schema(stream)
            _check_texts(path, schema)
            wanted = [name for name in _COLUMNS if name in schema.names]
            file = parquet.ParquetFile(stream, read_dictionary=wanted)
            rows = _cells(path, file.iter_batches(_BATCH, columns=wanted))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no readable parquet file ({(str(error).splitlines() or ['?'])[0]})") from error
    for number, cells in enumerate(rows, 1):
        yield _checked(f"{path}:{number}", *cells)


def _cells(path: Path, batches: Iterable[Any]) -> list[tuple[Any, ...]]:
    """The columns' texts of every row, in their order; what a file holds once for many rows is there once."""
    rows: list[tuple[Any, ...]] = []
    letters = 0
    for batch in batches:
        batch.validate(full=True)  # of which a damaged file may hold others than it says
        held = {name: _texts_of(batch.column(name)) for name in batch.schema.names}
        letters += sum(len(text) for texts in held.values() for text in texts if text)
        if letters > MOST_TEXT:
            raise InputError(f"{path}: cannot be read (it holds more than {MOST_TEXT:,} letters of text)")
        rows += zip(*(held.get(name, [None] * len(batch)) for name in _COLUMNS), strict=True)
    return rows


def _texts_of(column: pa.Array) -> list[str | None]:
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    texts = column.dictionary.to_pylist()
    return [None if index is None else texts[index] for index in column.indices.to_pylist()]


def _check_texts(path: Path, schema: pa.Schema) -> None:
    """Refuse a file without texts, or with other things in their place."""
    if "text" not in schema.names:
        raise InputError(f"{path}: no column text, but {', '.join(schema.names)}")
    for field in (field for field in schema if field.name in _COLUMNS):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if not any(is_text(kind) for is_text in texts) or schema.names.count(field.name) > 1:
            raise InputError(f"{path}: column {field.name} is of type {field.type}, or there twice; expected texts")


def _checked(where: str, text: Any, *others: Any) -> Row:
    """The cells of a row, in the order of ``_COLUMNS``, of which the last ones may be missing."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: no text")
    cells: list[Any] = [*others, *[None] * (len(_COLUMNS) - 1 - len(others))]
    (next_word, pair, variant), asked = cells[:3], cells[3:]
    if next_word is not None and not isinstance(next_word, str):
        raise InputError(f"{where}: the next word is {next_word!r}, expected a text")
    for what, given in (("pair", pair), ("variant", variant)):
        if (pair, variant) != (None, None) and not (isinstance(given, str) and given.strip()):
            raise InputError(f"{where}: the {what} is {given!r}, expected a text; texts to compare have both")
    for what, given in zip(_COLUMNS[4:], asked, strict=True):
        if given is not None and not (isinstance(given, str) and given):
            raise InputError(f"{where}: the {what} is {given!r}, expected a text")
    row = Row(text, next_word if next_word and next_word.strip() else None, pair, variant, *asked)
    if row.rival is not None and row.answer is None:
        raise InputError(f"{where}: the rival {row.rival!r} is compared with an answer, and there is none")
    try:
        "".join(cell for cell in row if cell is not None).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: not valid Unicode ({error.reason})") from error
    return row
