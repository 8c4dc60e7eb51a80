"""Runs whose results, and data, are in an object store: fsspec's of this process's memory stands in for one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pyarrow import parquet

from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.runs import parts, remote
from jstrace.runs.data import Data, Row
from tests.conftest import SIZES
from tests.stand_ins import Letters

PLAN = Plan(sizes=SIZES, ablations=("all",))
DATA = Data("letters", tuple(Row(text, "d") for text in ("hello", "abc", "world")), ("hello",))
URL = "memory://bucket/run"
TABLES = ["curves", "components", "inputs"]


@pytest.fixture
def store() -> Iterator[Any]:
    found = fsspec.filesystem("memory")
    yield found
    for path in found.find("/"):
        found.rm_file(path)


def names(store: Any) -> list[str]:
    return sorted(path.removeprefix("/bucket/run/") for path in store.find("/bucket/run"))


def test_a_run_goes_on_from_a_store(tiny: Model, store: Any, tmp_path: Path) -> None:
    """It has the rows of one in a folder, and no lock."""
    model = Model(tiny.decoder, Letters())
    seen: list[int] = []
    done = runs.run(model, DATA, URL, PLAN, limit=2, part_inputs=2, on_save=lambda _: seen.append(len(names(store))))
    assert done == runs.Summary(2, 0, 2)
    assert seen == [1, 4], "the manifest at once, and what is told to be saved is there"
    assert runs.run(model, DATA, URL, PLAN, part_inputs=2) == runs.Summary(3, 0, 1)
    runs.run(model, DATA, tmp_path / "here", PLAN, part_inputs=2)
    store.get("/bucket/run", str(tmp_path / "there"), recursive=True)
    assert names(store) == [
        "components/00000000-00000001.parquet",
        "components/00000002-00000002.parquet",
        "curves/00000000-00000001.parquet",
        "curves/00000002-00000002.parquet",
        "inputs/00000000-00000001.parquet",
        "inputs/00000002-00000002.parquet",
        "manifest.json",
    ]
    for name in TABLES:
        one, other = (parquet.read_table(tmp_path / where / name) for where in ("here", "there"))
        assert one.equals(other)


def test_a_store_takes_all_that_a_folder_takes(tiny: Model, store: Any, tmp_path: Path) -> None:
    model, options = Model(tiny.decoder, Letters()), {"extras": runs.Extras(geometry=True), "revision": "b", "place": 1}
    runs.run(model, DATA, URL, PLAN, **options)
    store.get("/bucket/run", str(tmp_path / "there"), recursive=True)
    assert {"dimension", "anisotropy"} <= set(parquet.read_table(tmp_path / "there" / "inputs").column_names)
    held = json.loads((tmp_path / "there" / "manifest.json").read_text())["model"]
    assert (held["revision"], held["place"]) == ("b", 1)


def files(folder: Path, name: str) -> None:
    """A part of text files."""
    for table in TABLES:
        (folder / table).mkdir(exist_ok=True)
        (folder / table / name).write_text(table)


def test_errors_are_of_the_store(tiny: Model, store: Any) -> None:
    """Not of the folder here; and what is no run is not fetched."""
    model = Model(tiny.decoder, Letters())
    store.pipe_file("/bucket/rows.tsv", b"hello\tthere\tmore\n")
    with pytest.raises(InputError, match=r"^memory://bucket/rows.tsv:1: 3 columns"):
        runs.read_data("memory://bucket/rows.tsv")
    with pytest.raises(InputError, match=r"^memory://bucket: holds files, but no run; give --out a new folder"):
        runs.run(model, DATA, "memory://bucket", PLAN)
    runs.run(model, DATA, URL, PLAN)
    with pytest.raises(InputError, match=r"^memory://bucket/run: ") as caught:
        runs.run(model, DATA, URL, Plan(sizes=(0.05,), ablations=("all",)))
    assert "jstrace-" not in str(caught.value)


def test_a_store_that_cannot_be_written_loses_nothing(
    tiny: Model, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder here stays, and is named."""
    model = Model(tiny.decoder, Letters())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runs.run(model, DATA, URL, PLAN, limit=1)
    assert not list(tmp_path.glob("jstrace-*"))

    def refusing(*_: Any, **__: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(store, "put_file", refusing)
    with (
        pytest.warns(RuntimeWarning, match=r"cannot be written \(full\); what was computed is in"),
        pytest.raises(InputError, match=r"memory://bucket/run: cannot be written \(full\)"),
    ):
        runs.run(model, DATA, URL, PLAN)
    (kept,) = tmp_path.glob("jstrace-*")
    assert parts.complete_parts(kept, TABLES)


def test_a_stop_of_the_last_copy_loses_nothing(
    tiny: Model, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the run computes, and once more while what it has finished is copied."""
    model = Model(tiny.decoder, Letters())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def stopping(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def progress(done: int, *_: int) -> None:
        if done == 2:
            monkeypatch.setattr(store, "put_file", stopping)
            raise KeyboardInterrupt

    with (
        pytest.warns(RuntimeWarning, match=r"^the copy was stopped; what was computed is in .*jstrace-"),
        pytest.raises(KeyboardInterrupt),
    ):
        runs.run(model, DATA, URL, PLAN, part_inputs=1, progress=progress)
    (kept,) = tmp_path.glob("jstrace-*")
    assert parts.complete_parts(kept, TABLES) == {parts.Part(0, 0), parts.Part(1, 1)}
    monkeypatch.undo()


@pytest.mark.parametrize("at", range(1, 14))
def test_a_kill_while_a_join_is_copied(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The next start has each input once, in the old parts or in the new one."""
    old, new = ("00000000-00000000.parquet", "00000001-00000001.parquet"), "00000000-00000001.parquet"
    stage = remote.Stage(URL, tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    for name in old:
        files(tmp_path, name)
    stage.push()
    for table in TABLES:
        for name in old:
            (tmp_path / table / name).unlink()
    files(tmp_path, new)
    calls = [0]

    def stopping(move: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] >= at:
                raise OSError("killed")
            return move(*arguments, **options)

        return run

    with monkeypatch.context() as patched:
        for name in ("put_file", "rm_file"):
            patched.setattr(store, name, stopping(getattr(store, name)))
        if at <= 11:
            with pytest.raises(InputError, match=r"memory://bucket/run: cannot be written \(killed\)"):
                stage.push()
        else:
            stage.push()
    again = tmp_path / "again"
    again.mkdir()
    remote.Stage(URL, again)
    parts.finish_joins(again, TABLES)
    found = parts.complete_parts(again, TABLES)
    parts.check_apart(again, found)
    assert sorted(index for part in found for index in part.inputs) == [0, 1]


def test_data_in_a_store(store: Any) -> None:
    """As the file itself."""
    store.pipe_file("/bucket/rows.tsv", b"hello\tthere\nbye\tnow\n")
    data = runs.read_data("memory://bucket/rows.tsv", corpus="memory://bucket/rows.tsv")
    assert (data.name, data.rows[0].next_word, data.corpus) == ("rows.tsv", "there", ("hello", "bye"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none.tsv", "memory://bucket/none.tsv: cannot be read"),
        ("nothing://bucket/rows.tsv", r"cannot be opened \(Protocol not known: nothing"),
        ("memory://bucket/rows.doc", "expected wikitext-2"),
    ],
)
def test_stores_that_make_no_sense(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        runs.read_data(url)
