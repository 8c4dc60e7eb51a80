"""Inputs of a run: WikiText by the paper's selection, or the rows of a file (section 7 of the method).

A row is a text and, where it is known, the word that truly follows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jstrace.models import InputError

WIKITEXT = {"wikitext-2": "wikitext-2-raw-v1", "wikitext-103": "wikitext-103-raw-v1"}
"""Corpora by name, with their configuration on the hub."""
HUB_NAME = "Salesforce/wikitext"
N_WORDS, COUNT = 40, 5000
"""The paper's passages."""
_READERS = (".tsv", ".jsonl", ".parquet", ".txt")
_CORPUS_PARAGRAPHS = 20_000


class Row(NamedTuple):
    """One input."""

    text: str
    next_word: str | None = None


class Encoder(Protocol):
    """What this module needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


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
        paragraphs = _shuffled(_wikitext(source), seed)
        rows = _drawn(paragraphs, n_words, count, seed)
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
    return rows


def _text_rows(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
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


# --- WikiText -------------------------------------------------------------------------------------------------------


def _wikitext(name: str) -> list[str]:
    """All paragraphs of the corpus but headings, as running text."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError("WikiText is fetched by the datasets library: pip install 'jstrace[run]'") from error
    try:
        parts = [
            load_dataset(HUB_NAME, WIKITEXT[name], split=split)["text"] for split in ("train", "validation", "test")
        ]
    except Exception as error:  # the library raises errors of many kinds where the hub is out of reach
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} could not be fetched from the hub ({reason}); pass a file of texts instead"
        ) from error
    return [detokenised(line) for part in parts for line in part if line.strip() and not line.strip().startswith("=")]


_JOINS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), ("( ", "("), (" )", ")"))
_CONTRACTION = re.compile(r"(?<=\w) '(s|t|m|re|ll|ve|d)\b")


def detokenised(line: str) -> str:
    """WikiText's spaced tokens as running text."""
    for spaced, joined in _JOINS:
        line = line.replace(spaced, joined)
    return re.sub(r" ([,.;:!?%])", r"\1", _CONTRACTION.sub(r"'\1", line)).strip()


_SENTENCE_ENDS = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(.])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|No|vs|Lt|Col|Gen|Capt|Sgt|Maj|Adm|Rev|Prof|Mt|Ft|Gov|Sen)\.$"
)
_UNCLEAR = ("<unk>", '"', " '")
"""What passages must not hold: words that are not known, and quotes whose spaces cannot be told."""


def _sentences(paragraph: str) -> list[str]:
    """Sentences, not split after initials and titles."""
    found: list[str] = []
    for piece in _SENTENCE_ENDS.split(paragraph):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def passages(paragraph: str, n_words: int) -> Iterator[Row]:
    """The passages of so many words that start at a sentence, do not overlap and have a word after them.

    Passages with ``<unk>`` or with quotes whose spaces cannot be told are left out.
    """
    sentences, start = _sentences(paragraph), 0
    while start < len(sentences):
        words: list[str] = []
        end = start
        while end < len(sentences) and len(words) <= n_words:
            words += sentences[end].split()
            end += 1
        if len(words) <= n_words:
            return
        text = " ".join(words[: n_words + 1])
        if any(mark in text for mark in _UNCLEAR):
            start += 1
            continue
        yield Row(" ".join(words[:n_words]), words[n_words])
        start = end


def _shuffled(paragraphs: list[str], seed: int) -> list[str]:
    return [paragraphs[index] for index in np.random.default_rng(seed).permutation(len(paragraphs))]


def _drawn(paragraphs: list[str], n_words: int, count: int, seed: int) -> tuple[Row, ...]:
    """At most one passage of each paragraph, in the paragraphs' order."""
    if n_words < 1 or count < 1:
        raise InputError(f"{count} passages of {n_words} words, expected at least one of each")
    draw, found = np.random.default_rng((seed, 1)), list[Row]()
    for paragraph in paragraphs:
        if choices := list(passages(paragraph, n_words)):
            found.append(choices[draw.integers(len(choices))])
        if len(found) == count:
            break
    if not found:
        raise InputError(f"no passage of {n_words} words that starts at a sentence")
    return tuple(found)


# --- tokens ---------------------------------------------------------------------------------------------------------


def next_token(tokenizer: Encoder, row: Row, tokens: list[int]) -> int | None:
    """The first token of the true next word, where the text's own tokens stay what they are before it."""
    if row.next_word is None:
        return None
    longer = tokenizer.encode(f"{row.text} {row.next_word}")
    return longer[len(tokens)] if longer[: len(tokens)] == tokens and len(longer) > len(tokens) else None


def token_fingerprint(counts: Counter[int]) -> str:
    """A short hash that tells tokenizers apart by what they make of a corpus."""
    return hashlib.sha256(repr(sorted(counts.items())).encode()).hexdigest()[:16]


def token_counts(tokenizer: Encoder, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs in a corpus (Fig. 8)."""
    found: Counter[int] = Counter()
    for text in texts:
        found.update(tokenizer.encode(text))
    return found
