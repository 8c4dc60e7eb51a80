"""Runs and their data: manifests, parts, and rows in text, JSON lines and parquet files."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from jstrace.reports import read_results, view_input
from jstrace.runs import Row, read_data
from jstrace.runs.schema import TABLES
from tests.conftest import ROOT
from tests.fuzz.hostile import HUGE, altered, cases, damaged, hostile_json, refusal, refusal_of

# --- runs -----------------------------------------------------------------------------------------------------------


def use(folder: Path) -> None:
    """All that reports read of a run."""
    (run,) = read_results([folder])
    for case in run.cases:
        assert run.curve(case, "tv").shape == (run.valid.num_rows, len(run.sizes))
        assert run.nucleus(case).shape[:2] == (run.valid.num_rows, len(run.sizes))
        if case.has_density:
            run.density(case)
    assert set(run.shares) == set(run.sources)
    assert isinstance(run.parallel, bool)
    assert run.controlled is not None
    if run.valid.num_rows:
        view_input(folder, run.valid["input"][0].as_py())


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A run that an earlier version wrote, with strata."""
    folder = Path(shutil.copytree(ROOT / "tests" / "golden" / "run", tmp_path / "run"))
    assert not refusal(lambda: use(folder))
    return folder


def test_manifests(golden: Path) -> None:
    path = golden / "manifest.json"
    told = json.loads(path.read_text())
    inner = altered(told["config"]).map(lambda config: json.dumps(told | {"config": config}).encode())

    @cases(60)
    @given(hostile_json(told) | inner)
    def check(content: bytes) -> None:
        refusal_of(content, path, lambda file: use(file.parent))

    check()


@pytest.mark.parametrize("table", TABLES)
def test_damaged_parts(table: str, golden: Path) -> None:
    (path,) = (golden / table).iterdir()
    whole = path.read_bytes()

    @cases(25)
    @given(damaged(whole) | damaged(whole, 500) | damaged(whole[-2000:]).map(lambda tail: whole[:-2000] + tail))
    def check(content: bytes) -> None:
        refusal_of(content, path, lambda file: use(golden))

    check()


def _parquet(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(table, stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("table", TABLES)
def test_parts_of_other_columns(table: str, golden: Path) -> None:
    """Whole files with the mark of the run: without a column, of another type, or with other rows."""
    (path,) = (golden / table).iterdir()
    whole = parquet.read_table(path)
    kinds = (pa.int8(), pa.string(), pa.null(), pa.list_(pa.int32()), pa.list_(pa.string()), pa.binary(), pa.float64())

    def changed(column: str, kind: pa.DataType | None, rows: tuple[int, int] | None) -> bytes:
        found, at = whole, whole.schema.get_field_index(column)
        if kind is None:
            found = found.drop_columns([column])
        elif kind is not ...:
            found = found.set_column(at, column, pa.nulls(len(found), kind))
        if rows is not None:
            found = pa.concat_tables([found.slice(*rows), found.slice(0, rows[1] % 3)])
        return _parquet(found.replace_schema_metadata(whole.schema.metadata))

    @cases(25)
    @given(
        st.sampled_from(whole.column_names),
        st.sampled_from((None, ..., *kinds)),
        st.none() | st.tuples(st.integers(0, 9), st.integers(0, 400)),
    )
    def check(column: str, kind: Any, rows: tuple[int, int] | None) -> None:
        refusal_of(changed(column, kind, rows), path, lambda file: use(golden))

    check()


def test_names_of_parts(golden: Path) -> None:
    """Ranges that make no sense, or billions of inputs."""
    for name in ("00000002-00000000", "00000000-99999999", "00000000-00000009", "x", "00000000-0000000", "*"):
        for table in TABLES:
            (path,) = (golden / table).iterdir()
            path.rename(path.with_name(f"{name}.parquet"))
        assert refusal(lambda: use(golden))


# --- data -----------------------------------------------------------------------------------------------------------

_TEXT = st.text(max_size=30) | st.sampled_from(("", " ", "a\tb", "a\tb\tc", "\0", "\ufeff", "\u2028", "x" * 5000))
_LINES = st.lists(_TEXT, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
_TSV = "\ufeffa text\tnext\r\nanother\n\n  \nno next \t\n\U0001f600 x\ty\n".encode()
_JSONL = b'{"text": "a", "next": "b"}\n{"text": "c", "next": null, "more": [1]}\n\n{"text": "\\u00e9"}\n'


def read(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a .tsv without any next word
        found = read_data(str(path))
    assert found.fingerprint
    assert all(row.text.strip() for row in found.rows)


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".txt"])
def test_texts(suffix: str, tmp_path: Path) -> None:
    lines = st.lists(hostile_json({"text": "a", "next": "b"}), max_size=3).map(b"\n".join)

    @cases(100)
    @given(damaged(_TSV) | damaged(_JSONL) | _LINES | st.binary(max_size=60) | lines)
    def check(content: bytes) -> None:
        refusal_of(content, tmp_path / f"it{suffix}", read)

    check()


_TABLE = pa.table({"text": ["a", "b\n", None, "c" * 30], "next": ["x", None, "", "y"], "more": [1, 2, 3, 4]})
_VALUES = (
    *([b"a", b"\xff"], ["a", ""], [1, 2], [1.5, None], [["a"], []], [{"a": 1}, None], [True, False], [None, None]),
)


def test_parquet(tmp_path: Path) -> None:
    whole = [
        _parquet(_TABLE),
        _parquet(_TABLE, compression="zstd", use_dictionary=False, write_page_checksum=True),
        _parquet(_TABLE.set_column(0, "text", _TABLE["text"].dictionary_encode()), data_page_version="2.0"),
    ]

    def made(text: Any, after: Any, names: tuple[str, str]) -> bytes:
        return _parquet(pa.Table.from_arrays([pa.array(text), pa.array(after)], names=list(names)))

    names = st.tuples(*[st.sampled_from(("text", "next", "x", ""))] * 2)

    @cases(150)
    @given(
        st.sampled_from(whole).flatmap(lambda one: damaged(one) | damaged(one[4:]).map(lambda rest: one[:4] + rest))
        | st.builds(made, st.sampled_from(_VALUES), st.sampled_from(_VALUES), names)
    )
    def check(content: bytes) -> None:
        refusal_of(content, tmp_path / "it.parquet", read)

    check()


def test_columns_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "it.parquet"
    path.write_bytes(_parquet(pa.table({"next": ["x", None], "more": [1, 2], "text": ["a", "b"]})))
    assert read_data(str(path)).rows == (Row("a", "x"), Row("b", None))


@pytest.mark.parametrize("length", [length for length in HUGE if 2**30 < length < 2**32])
def test_a_footer_of_any_length(length: int, tmp_path: Path) -> None:
    whole = _parquet(_TABLE)
    content = whole[:-8] + length.to_bytes(4, "little") + whole[-4:]
    assert "no readable parquet file" in refusal_of(content, tmp_path / "it.parquet", read)


def test_a_parquet_file_of_one_long_text(tmp_path: Path) -> None:
    """Dictionaries hold a text once, and rows are a number each: a small file can hold gigabytes."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 2**17])
    content = _parquet(pa.table({"text": long}))
    assert len(content) < 2**20
    assert "more than 1,073,741,824 letters" in refusal_of(content, tmp_path / "it.parquet", read)
