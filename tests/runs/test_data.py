"""Rows of files, passages of WikiText, next tokens and counts."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from jstrace.models import InputError
from jstrace.runs.data import Data, read_data
from jstrace.runs.row import Row, next_token, token_counts
from jstrace.runs.wikitext import detokenised, passages
from tests.stand_ins import Letters

pytestmark = pytest.mark.quick

ROWS = (Row("one two", "three"), Row('a "quote"\u2028 and <b>', None))


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet", "txt"])
def test_rows_of_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        parquet.write_table(pa.table({"text": [r.text for r in ROWS], "next": [r.next_word for r in ROWS]}), path)
    elif ending == "jsonl":
        path.write_text(
            "\n\n".join(json.dumps({"text": r.text, "next": r.next_word}, ensure_ascii=False) for r in ROWS)
        )
    elif ending == "tsv":
        path.write_bytes("\ufeffone two\tthree\r\n".encode() + (ROWS[1].text + "\n").encode())
    else:
        path.write_text("\n".join(row.text for row in ROWS))
    found = read_data(str(path))
    expected = tuple(Row(row.text) for row in ROWS) if ending == "txt" else ROWS
    assert found.rows == expected
    assert found.corpus == tuple(row.text for row in ROWS)
    assert found.name == path.name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "one\ttwo\tthree\n", r"a\.tsv:1: 3 columns"),
        ("a.tsv", "one\t\tx\ta\ntwo\t\tx\ta\n", r"a\.tsv: pair 'x' has more than one text of variant 'a'"),
        ("a.tsv", "one\t\tx\t\n", r"a\.tsv:1: the variant is '', expected a text"),
        ("a.jsonl", '{"text": "a", "pair": 3, "variant": "b"}', r"a\.jsonl:1: the pair is 3, expected a text"),
        ("a.jsonl", '{"text": "a", "variant": "b"}', r"a\.jsonl:1: the pair is None, expected a text"),
        ("a.tsv", "one\ttwo\n\n\ttwo\n", r"a\.tsv:3: no text"),
        ("a.jsonl", "{", r"a\.jsonl:1: no JSON"),
        ("a.jsonl", "3", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"txt": "a"}', r"a\.jsonl:1: no text"),
        ("a.jsonl", '{"text": "a", "next": 3}', r"a\.jsonl:1: the next word is 3"),
        ("a.jsonl", '{"text": "\\ud800"}', r"a\.jsonl:1: not valid Unicode"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: no JSON"),
        ("a.txt", "\n \n", "no row holds any text"),
        ("a.parquet", "no parquet", "no readable parquet file"),
        ("a.csv", "a", r"expected wikitext-2, wikitext-103 or a file in \.tsv"),
    ],
)
def test_rows_that_make_no_sense(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_data(str(tmp_path / name))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_data(str(tmp_path / "none.tsv"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_data(str(tmp_path / "bytes.txt"))
    parquet.write_table(pa.table({"words": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column text, but words"):
        read_data(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1]),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([2**30], pa.date32()),
        pa.array([["a"]]),
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]),
    ],
)
def test_columns_that_are_no_texts(tmp_path: Path, column: pa.Array) -> None:
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"expected texts|no readable parquet"):
        read_data(str(tmp_path / "a.parquet"))


def test_long_cells_and_lone_carriage_returns(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"a\rb" + b"x" * 200_000 + b"\tc\r\n")
    (row,) = read_data(str(tmp_path / "a.tsv")).rows
    assert (len(row.text), row.text[:3], row.next_word) == (200_003, "a\rb", "c")


def test_fingerprints_tell_rows_and_corpora_apart() -> None:
    one = Data("", (Row("ab", "c"),), ("x",))
    others = [
        Data("", (Row("a", "bc"),), ("x",)),
        Data("", (Row("ab", None),), ("x",)),
        Data("", (Row("ab", ""),), ("x",)),
        Data("", (Row("ab", "c"), Row("x")), ()),
        Data("", (Row("ab", "c"),), ("x", "x")),
        Data("", (), ("ab", "c", "x")),
    ]
    assert len({data.fingerprint for data in (one, *others)}) == 7
    assert Data("another name", one.rows, one.corpus).fingerprint == one.fingerprint


def test_another_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_text("two\nthree\n")
    assert read_data(str(tmp_path / "a.txt"), corpus=str(tmp_path / "b.txt")).corpus == ("two", "three")


# --- WikiText -------------------------------------------------------------------------------------------------------


def test_running_text() -> None:
    spaced = " He didn 't pay 1 @,@ 000 ( or 2 @.@ 5 ) for Ann 's well @-@ known book , did he ? They 're in . "
    assert detokenised(spaced) == "He didn't pay 1,000 (or 2.5) for Ann's well-known book, did he? They're in."
    assert detokenised("the 'second ' one") == "the 'second ' one"


def test_passages_start_at_sentences_and_end_at_words() -> None:
    sentences = ["One two three.", "Four five six seven.", "Eight nine.", 'Ten "eleven" twelve.', "A b c d e f g h."]
    found = list(passages(" ".join(sentences), 5))
    assert found == [Row("One two three. Four five", "six"), Row("A b c d e", "f")]
    titles = "He met Mr. Smith of the U.S. Army camp. J. Doe stayed there for a while."
    assert [row.text for row in passages(titles, 5)] == ["He met Mr. Smith of", "J. Doe stayed there for"]
    assert list(passages("One 'two three ' four five six seven.", 3)) == []
    assert list(passages("Too short.", 5)) == []
    assert list(passages("One two three four five", 5)) == [], "there must be a next word"
    assert list(passages("One two three four five six", 5)) == [Row("One two three four five", "six")]


@pytest.fixture
def wikitext(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for the datasets library's loader; the calls that it got."""
    calls: list[Any] = []

    def load_dataset(*words: str, split: str) -> dict[str, list[str]]:
        calls.append((*words, split))
        lines = [f" Passage {split} {n} " + "of words " * 30 + ". \n" for n in range(20)]
        return {"text": ["", " = Heading = \n", *lines]}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_wikitext_by_the_papers_selection(wikitext: list[Any]) -> None:
    data = read_data("wikitext-2", count=30, seed=1)
    assert wikitext[0] == ("Salesforce/wikitext", "wikitext-2-raw-v1", "train")
    assert len(data.rows) == 30
    assert all(len(row.text.split()) == 40 and row.text.startswith("Passage") for row in data.rows)
    assert {row.next_word for row in data.rows} == {"words"}
    assert len(data.corpus) == 60
    assert not any("Heading" in text for text in data.corpus)
    assert data.rows == read_data("wikitext-2", count=30, seed=1).rows
    assert data.rows != read_data("wikitext-2", count=30, seed=2).rows
    assert data.rows[:5] == read_data("wikitext-2", count=5, seed=1).rows
    assert len(read_data("wikitext-103", n_words=10).rows) == 60
    with pytest.raises(InputError, match="no passage of 400 words"):
        read_data("wikitext-2", n_words=400)


def test_wikitext_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nmore")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=refused))
    with pytest.raises(InputError, match=r"could not be fetched from the hub \(no route\); pass a file"):
        read_data("wikitext-2")


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_next_tokens() -> None:
    class Merging(Letters):
        """Merges what follows an x into one token."""

        def encode(self, text: str) -> list[int]:
            return [5] if "x " in text else super().encode(text)

    row = Row("ab", "cd")
    assert next_token(Letters(), row, Letters().encode("ab")) == Letters().encode("c")[0]
    assert next_token(Letters(), Row("ab"), [0, 1]) is None
    assert next_token(Merging(), Row("x", "y"), [23]) is None, "the text's own tokens changed"


def test_token_counts() -> None:
    counts = token_counts(Letters(), ["aab", "b"])
    assert (counts[0], counts[1], counts[2], counts.total()) == (2, 2, 0, 4)


def test_a_table_without_next_words_is_told_of(tmp_path: Path) -> None:
    """Spaces in the place of tabs would leave every surprisal out without a word."""
    (tmp_path / "spaces.tsv").write_text("a text    word\nanother    word\n")
    with pytest.warns(RuntimeWarning, match="no row has a tab and a next word"):
        found = read_data(str(tmp_path / "spaces.tsv"))
    assert [row.next_word for row in found.rows] == [None, None]
    (tmp_path / "tabs.tsv").write_text("a text\tword\nanother\n")
    assert [row.next_word for row in read_data(str(tmp_path / "tabs.tsv")).rows] == ["word", None]
