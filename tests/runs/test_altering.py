"""Pairs that files hold, and those of shuffled words."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from jstrace.models import InputError
from jstrace.runs import altered, read_data
from jstrace.runs.data import Data, Row

pytestmark = pytest.mark.quick

ROWS = (Row("a cat sat", None, "1", "plain"), Row("un chat", "assis", "1", "French"), Row("alone"))


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_pairs_of_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    names = ("text", "next", "pair", "variant")
    if ending == "tsv":
        path.write_text("a cat sat\t\t1\tplain\nun chat\tassis\t1\tFrench\nalone\n")
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in ROWS))
    else:
        parquet.write_table(pa.table({name: [row[n] for row in ROWS] for n, name in enumerate(names)}), path)
    found = read_data(str(path))
    assert found.rows == ROWS
    assert found.paired


def test_fingerprints_know_pairs() -> None:
    bare = Data("", tuple(Row(*row[:2]) for row in ROWS), ())
    assert not bare.paired
    other = tuple(row._replace(variant=row.variant and "other") for row in ROWS)
    assert len({bare.fingerprint, Data("", ROWS, ()).fingerprint, Data("", other, ()).fingerprint}) == 3


def test_words_are_shuffled_in_place() -> None:
    """Each row beside itself, with the same words; the next word is true of one alone."""
    texts = ("one two\n three  four", "same same", "a b")
    data = Data("d", tuple(Row(text, "end") for text in texts), ("corpus",))
    with pytest.warns(RuntimeWarning, match="d: 1 rows have no two words that differ"):
        found = altered(data, "shuffle", seed=3)
    assert [(row.pair, row.variant, row.next_word) for row in found.rows] == [
        ("0", "original", "end"), ("0", "shuffled", None), ("2", "original", "end"), ("2", "shuffled", None),
    ]  # fmt: skip
    original, shuffled = found.rows[0].text, found.rows[1].text
    assert original == texts[0] != shuffled
    assert sorted(original.split()) == sorted(shuffled.split())
    assert [c for c in shuffled if c.isspace()] == list(" \n   ")
    assert found.rows[3].text == "b a"
    assert found.corpus == ("corpus",)
    again = altered(Data("d", data.rows[:1], ()), "shuffle", seed=3)
    assert again.rows == found.rows[:2], "a row's order is its own"
    assert altered(Data("d", data.rows[:1], ()), "shuffle", seed=4).rows != found.rows[:2]


def test_what_cannot_be_altered() -> None:
    with pytest.raises(InputError, match="alter 'reverse': expected shuffle"):
        altered(Data("d", (Row("a b"),), ()), "reverse")
    with pytest.raises(InputError, match="d: has pairs already"):
        altered(Data("d", ROWS, ()), "shuffle")
    with pytest.raises(InputError, match="d: no row has two words that differ"):
        altered(Data("d", (Row("a"),), ()), "shuffle")
