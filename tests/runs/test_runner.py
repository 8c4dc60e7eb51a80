"""Runs: their folder, and everything that can stop them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jstrace import runs
from jstrace.cli import progress
from jstrace.method import graph
from jstrace.method.conditions import Plan
from jstrace.models import Decoder, EdgeTree, InputError, Model
from jstrace.pipeline import Driver, masked
from jstrace.runs import folder as run_folder
from jstrace.runs import manifest, parts, rows, saving
from jstrace.runs.data import Data, Row
from jstrace.runs.inputs import Inputs
from jstrace.scale import batching, hosts
from tests import killed_runs
from tests.conftest import ROOT, TINY, tiny_params
from tests.stand_ins import Letters

SIZES = (0.01, 0.05, 0.3, 0.7)
DATA = Data("letters", tuple(Row(text, "d") for text in ("hello", "abc", "a longer text", "bye")), ("hello", "aaa"))
SMALL = Plan(sizes=SIZES)


@pytest.fixture
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())


class Backwards(Letters):
    """Other tokens for the same texts."""

    def encode(self, text: str) -> list[int]:
        return [96 - token for token in super().encode(text)]


def read(folder: Path, table: str) -> pa.Table:
    return parquet.read_table(folder / table)


class Stops:
    """Progress that stops the run after so many inputs."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.after, self.error = after, error

    def __call__(self, done: int, before: int, wanted: int) -> None:
        if done == self.after:
            raise self.error


# --- the folder -----------------------------------------------------------------------------------------------------


def test_the_same_command_goes_on(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.run(model, DATA, tmp_path, SMALL, limit=3, part_inputs=2).computed == 3
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.parquet")}
    seen: list[tuple[int, int, int]] = []
    done = runs.run(model, DATA, tmp_path, SMALL, part_inputs=2, progress=lambda *n: seen.append(n))
    assert done == runs.Summary(4, 0, 1)
    assert seen == [(3, 3, 4), (4, 3, 4)]
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert read(tmp_path, "inputs")["input"].to_pylist() == [0, 1, 2, 3]
    monkeypatch.setattr(Driver, "_run", lambda *_: pytest.fail("nothing is left to do"))
    assert runs.run(model, DATA, tmp_path, SMALL).computed == 0
    told = manifest.read_manifest(tmp_path)
    assert len(told["sessions"]) == 3
    assert told["config"]["data"] == DATA.fingerprint
    assert told["config"]["model"] == model.fingerprint()
    assert {"jax", "numpy", "python", "jstrace"} <= set(told["sessions"][0]["versions"])


def test_another_configuration_is_refused_with_the_difference(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, limit=1, name="tiny")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = Model(Decoder(TINY, tiny_params(seed=1)), Letters())
    changes: list[tuple[Model, Data, Plan, str]] = [
        (model, DATA, Plan(sizes=SIZES, ablations=("residual+mlp",)), r'ablate is \["all"\] there, \["residual'),
        (model, DATA, Plan(sizes=SIZES, seed=1), "seed is 0 there, 1 here"),
        (model, DATA, Plan(), r"sizes is \[0.01, 0.05, 0.3, 0.7\] there"),
        (model, Data("other", DATA.rows[1:], ()), SMALL, r"data is letters, 4 rows \(.*\) there, other, 3 rows \("),
        (Model(model.decoder, Backwards()), DATA, SMALL, "tokens is"),
        (other, DATA, SMALL, r"model is tiny, float32 \(.*\) there, other, float32 \("),
    ]
    for chosen, data, plan, message in changes:
        with pytest.raises(InputError, match=message):
            runs.run(chosen, data, tmp_path, plan, name="other")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_folders_that_are_no_runs(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="holds files, but no run"):
        runs.run(model, DATA, tmp_path, SMALL)
    with pytest.raises(InputError, match=r"cannot be written|not a folder"):
        runs.run(model, DATA, tmp_path / "file", SMALL)
    assert (tmp_path / "file").read_text() == "mine"
    for text in ("", "[]", '{"format": "other"}', '{"format": "jstrace-run", "version": 99, "config": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest|format version 99"):
            runs.run(model, DATA, tmp_path, SMALL)
    with pytest.raises(InputError, match="limit = 0"):
        runs.run(model, DATA, tmp_path / "new", SMALL, limit=0)
    with pytest.raises(InputError, match="without a tokenizer"):
        runs.run(Model(model.decoder), DATA, tmp_path / "new", SMALL)


def test_a_run_that_fails_at_once_leaves_no_folder(model: Model, tmp_path: Path) -> None:
    """Neither its own nor those above it; folders that were there stay, and so does what holds anything."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "older" / "sibling").mkdir(parents=True)

    def fails() -> Model:
        raise InputError("no such model")

    for out in ("new", "new/inner", "mine", "older/inner"):
        for start, message in ((fails, "no such model"), (Model(model.decoder), "without a tokenizer")):
            with pytest.raises(InputError, match=message):
                runs.run(start, DATA, tmp_path / out, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "older"]
    assert [path.name for path in (tmp_path / "older").iterdir()] == ["sibling"]
    with pytest.raises(ZeroDivisionError):
        runs.run(model, DATA, tmp_path / "kept", SMALL, limit=1, progress=Stops(0, ZeroDivisionError()))
    assert (tmp_path / "kept" / "manifest.json").exists()
    assert runs.run(model, DATA, tmp_path / "kept", SMALL, limit=1).computed == 1


def test_two_runs_in_one_folder(model: Model, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path), pytest.raises(InputError, match="another run is writing there"):
        runs.run(model, DATA, tmp_path, SMALL)
    assert runs.run(model, DATA, tmp_path, SMALL).computed == 4


def test_a_damaged_part(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, part_inputs=2)
    whole = {name: read(tmp_path, name) for name in ("curves", "inputs", "components")}
    path = sorted((tmp_path / "curves").glob("*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF  # a page, not the footer
    path.write_bytes(content)
    for damage in (bytes(content), b"", bytes(content[: len(content) // 2])):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=f"{path.name}: damaged .* remove this file"):
            runs.run(model, DATA, tmp_path, SMALL, part_inputs=2)
        assert path.read_bytes() == damage
    path.unlink()
    (tmp_path / "curves" / ".jstrace-left").touch()
    assert runs.run(model, DATA, tmp_path, SMALL, part_inputs=2).computed == 2
    assert not list(tmp_path.glob("*/.jstrace*"))
    for name, table in whole.items():
        assert read(tmp_path, name).equals(table)


def test_parts_that_cannot_be_read(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for more open files is no damage; a part that holds other inputs than its name says is."""
    runs.run(model, DATA, tmp_path, SMALL, part_inputs=2)
    (one, two) = sorted((tmp_path / "inputs").glob("*.parquet"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    with pytest.raises(InputError, match="does not hold the inputs that its name says"):
        runs.run(model, DATA, tmp_path, SMALL)
    one.write_bytes(content)

    def refused(_: Path) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match=r"cannot be read \(Too many open files\)"):
        parts.read_part(tmp_path, "inputs", parts.Part(0, 1), "")


def test_memory_that_somebody_else_took(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as long an input fitted before, the run stops rather than call this one invalid."""
    run_cases, calls = masked.evaluate_batch, [0]

    def second_fails(*rest: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")
        return run_cases(*rest, **options)

    monkeypatch.setattr(masked, "evaluate_batch", second_fails)
    monkeypatch.setattr(Driver, "_most", lambda *_: 1)
    data = Data("d", (Row("abc"), Row("cab")), ())
    with pytest.raises(jax.errors.JaxRuntimeError):
        runs.run(model, data, tmp_path, SMALL)
    assert runs.run(model, data, tmp_path, SMALL) == runs.Summary(2, 0, 1), "what was finished before was written"


def test_memory_that_somebody_else_took_in_another_part(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run knows of memory outlives its parts: a part whose first call fails makes no input invalid."""
    run_cases, calls = masked.evaluate_batch, [0]

    def second_fails(*rest: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")
        return run_cases(*rest, **options)

    monkeypatch.setattr(masked, "evaluate_batch", second_fails)
    data = Data("d", (Row("abc"), Row("cab")), ())
    with pytest.raises(jax.errors.JaxRuntimeError):
        runs.run(model, data, tmp_path, SMALL, part_inputs=1)
    assert runs.run(model, data, tmp_path, SMALL, part_inputs=1) == runs.Summary(2, 0, 1)


def test_a_model_is_loaded_when_the_folder_is_free(model: Model, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path / "a"), pytest.raises(InputError, match="another run"):
        runs.run(lambda: pytest.fail("loaded"), DATA, tmp_path / "a", SMALL)
    (tmp_path / "a" / ".lock-3").touch()
    with run_folder.locked(tmp_path / "a"), pytest.raises(InputError, match="another run"):
        run_folder._acquired(tmp_path / "a")
    assert runs.run(lambda: model, DATA, tmp_path / "a", SMALL, limit=1).computed == 1


def test_parts_that_overlap(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, part_inputs=4)
    for name in ("curves", "inputs", "components"):
        (tmp_path / name / "00000001-00000001.parquet").write_bytes(
            (tmp_path / name / "00000000-00000003.parquet").read_bytes()
        )
    with pytest.raises(InputError, match="inputs 1 to 3 stand in two parts"):
        runs.run(model, DATA, tmp_path, SMALL)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """The system refuses to let files grow beyond a number of bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(model: Model, tmp_path: Path, small_files: Callable[[int], None]) -> None:
    runs.run(model, DATA, tmp_path, SMALL, limit=1, part_inputs=1)
    whole = {name: read(tmp_path, name) for name in ("curves", "inputs", "components")}
    small_files(3000)
    with pytest.raises(InputError, match="cannot be written"):
        runs.run(model, DATA, tmp_path, SMALL, part_inputs=1)
    small_files(resource.RLIM_INFINITY)
    for name, table in whole.items():
        assert read(tmp_path, name).slice(0, table.num_rows).equals(table)
        assert not list((tmp_path / name).glob(".*"))
    assert runs.run(model, DATA, tmp_path, SMALL, part_inputs=1).computed == 3


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All tables in the order of inputs and sizes."""
    return {name: read(folder, name).to_pylist() for name in ("curves", "components", "inputs")}


def test_twenty_kills(tmp_path: Path) -> None:
    """kill -9 at random moments: the final tables are those of a run that nothing stopped, row for row."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.killed_runs", str(out), str(tmp_path / "programs")]
    root, unchecked = ROOT, os.environ | {"JAXTYPING_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=unchecked)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ends"] == ["killed"] * 20
    assert 0 < told["parts_before_the_last"] < len(killed_runs.DATA.rows)
    alone = Model(Decoder(TINY, tiny_params()), Letters())
    runs.run(alone, killed_runs.DATA, tmp_path / "whole", killed_runs.PLAN, part_inputs=1)
    found, expected = rows_of(out), rows_of(tmp_path / "whole")
    assert [row["input"] for row in found["inputs"]] == list(range(len(killed_runs.DATA.rows)))
    assert found == expected
    leftovers = [path.name for path in out.rglob("*") if path.name.startswith(".jstrace")]
    assert leftovers == []


# --- parts that close early -----------------------------------------------------------------------------------------


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input is a batch, in the order of lengths: 0, 1, 3, 2."""
    monkeypatch.setattr(Driver, "_most", lambda *_: 1)


def inputs_of(folder: Path) -> list[tuple[int, int]]:
    return sorted((part.first, part.last) for part in parts.parts_of(folder, "inputs"))


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_what_is_finished_outlives_a_stop(model: Model, tmp_path: Path, error: BaseException) -> None:
    """Inputs of a part finish in the order of lengths; each that did is written, and those alone."""
    saved: list[int] = []
    with pytest.raises(type(error)):
        runs.run(model, DATA, tmp_path / "a", SMALL, progress=Stops(3, error), on_save=saved.append)
    assert inputs_of(tmp_path / "a") == [(0, 1), (3, 3)]
    assert saved == [0, 3]
    assert runs.run(model, DATA, tmp_path / "a", SMALL, on_save=saved.append).computed == 1
    assert saved == [0, 3, 3, 4]
    runs.run(model, DATA, tmp_path / "whole", SMALL)
    assert inputs_of(tmp_path / "whole") == [(0, 3)]
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "whole")


def test_a_part_that_was_stopped_has_the_same_batches(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were left are computed together as they would have been, so that numbers are the same."""
    data = Data("d", tuple(Row(text) for text in ("abc", "a longer text", "cab", "bca", "acb", "cba")), ())
    batches: list[list[list[int]]] = []
    run_batch = Driver._run

    def noted(self: Driver, members: list[Any], n_rows: int) -> Any:
        batches.append([one.tokens.tolist() for one in members])
        return run_batch(self, members, n_rows)

    monkeypatch.setattr(Driver, "_most", lambda *_: 2)
    monkeypatch.setattr(Driver, "_run", noted)
    with pytest.raises(KeyboardInterrupt):
        runs.run(model, data, tmp_path / "a", SMALL, progress=Stops(2, KeyboardInterrupt()))
    assert inputs_of(tmp_path / "a") == [(0, 0), (2, 2)]
    runs.run(model, data, tmp_path / "a", SMALL)
    assert inputs_of(tmp_path / "a") == [(0, 0), (1, 1), (2, 2), (3, 5)]
    stopped, batches[:] = sorted(batches), []
    runs.run(model, data, tmp_path / "whole", SMALL)
    lost = [batch for batch, next_one in itertools.pairwise(stopped) if batch == next_one]
    assert len(lost) <= 1, "at most what was in flight is computed again"
    assert sorted([*batches, *lost]) == stopped
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "whole")


def test_a_stop_while_a_part_is_read(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part before it, which is computed meanwhile, is waited for and written."""
    made, batches, saved, run_batch = Inputs.made, [0], list[int](), Driver._run

    def stopped(inputs: Inputs, index: int) -> Any:
        if index == 3:
            assert (batches, saved) == ([1], [0])
            raise KeyboardInterrupt
        return made(inputs, index)

    def counted(*arguments: Any) -> Any:
        batches[0] += 1
        return run_batch(*arguments)

    monkeypatch.setattr(Inputs, "made", stopped)
    monkeypatch.setattr(Driver, "_run", counted)
    monkeypatch.setattr(Driver, "_two_fit", lambda *_: True)
    data = Data("d", tuple(Row(text) for text in ("abc", "cab", "bca", "acb")), ())
    with pytest.raises(KeyboardInterrupt):
        runs.run(model, data, tmp_path, SMALL, part_inputs=2, on_save=saved.append)
    assert inputs_of(tmp_path) == [(0, 1)]
    monkeypatch.setattr(Inputs, "made", made)
    assert runs.run(model, data, tmp_path, SMALL, part_inputs=2).computed == 2


@pytest.mark.usefixtures("one_by_one")
def test_a_stop_while_a_part_is_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between its files: they are written all the same."""
    write, calls = parts._write, [0]

    def stopped(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(parts, "_write", stopped)
    saved: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        runs.run(model, DATA, tmp_path, SMALL, on_save=saved.append)
    assert saved == [0, 4]
    assert runs.run(model, DATA, tmp_path, SMALL).computed == 0


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every batch takes more than a minute."""
    ticks = itertools.count()
    monkeypatch.setattr(saving, "clock", lambda: 61.0 * next(ticks))


@pytest.mark.usefixtures("one_by_one", "minutes")
def test_parts_close_by_time(model: Model, tmp_path: Path) -> None:
    """What a minute has finished is written, and small parts become one when the others are there."""
    seen: list[list[tuple[int, int]]] = []
    saved: list[int] = []
    out, plan = tmp_path / "slow", Plan(sizes=SIZES, baselines=("random",))
    done = runs.run(
        model, DATA, out, plan, save_strata=True, on_save=saved.append, progress=lambda *_: seen.append(inputs_of(out))
    )
    assert done == runs.Summary(4, 0, 4)
    assert seen == [[], [], [(0, 0)], [(0, 0), (1, 1)], [(0, 0), (1, 1), (3, 3)]]
    assert saved == [0, 1, 2, 3, 4]
    assert inputs_of(out) == [(0, 3)]
    runs.run(model, DATA, tmp_path / "fast", plan, save_strata=True, part_inputs=4)
    for name in ("curves", "components", "strata", "inputs"):
        (one,), (other,) = ((tmp_path / which / name).glob("*") for which in ("slow", "fast"))
        assert parquet.read_table(one).equals(parquet.read_table(other), check_metadata=True)
    assert not list(out.rglob(".jstrace*"))


@pytest.mark.usefixtures("one_by_one")
def test_batches_are_told_before_they_are_computed(model: Model, tmp_path: Path) -> None:
    """With the tokens that inputs are padded to: each before the one before it is finished, but for a new length."""
    told: list[tuple[int, ...]] = []
    runs.run(
        model, DATA, tmp_path, SMALL, progress=lambda *now: told.append(now), on_batch=lambda *now: told.append(now)
    )
    batch, finished = (1, 8), [(n, 0, 4) for n in range(5)]
    first = [batch, batch, finished[1], batch, finished[2], finished[3]]
    assert told == [finished[0], *first, (1, 16), finished[4]]


@pytest.mark.usefixtures("one_by_one", "minutes")
def test_hosts_agree_on_time(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another host's clock says that it is not yet a minute, nobody writes."""
    monkeypatch.setattr(hosts, "agreed", lambda number: 0 if number == 1 else number)
    seen: list[list[tuple[int, int]]] = []
    runs.run(model, DATA, tmp_path, SMALL, progress=lambda *_: seen.append(inputs_of(tmp_path)))
    assert seen == [[]] * 5


@pytest.mark.usefixtures("one_by_one", "minutes")
def test_parts_that_cannot_be_joined(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the joined part, or a stop meanwhile: the small ones stay."""
    write = parts._write

    def refused(error: BaseException, path: Path, *rest: Any) -> None:
        if path.name.startswith(".jstrace") and path.parent.name == "inputs":
            raise error
        write(path, *rest)

    for name, error in (("full", InputError("no room")), ("stopped", KeyboardInterrupt())):
        monkeypatch.setattr(parts, "_write", functools.partial(refused, error))
        with pytest.raises(type(error)):
            runs.run(model, DATA, tmp_path / name, SMALL)
        assert inputs_of(tmp_path / name) == [(n, n) for n in range(4)]
        assert not list((tmp_path / name).rglob(".jstrace*"))
        assert runs.run(model, DATA, tmp_path / name, SMALL).computed == 0
    monkeypatch.setattr(parts, "_write", write)
    monkeypatch.setattr(parts, "_LARGE", 1000)
    runs.run(model, DATA, tmp_path / "large", SMALL)
    assert inputs_of(tmp_path / "large") == [(n, n) for n in range(4)]


NAMES, PIECES = ["curves", "components", "inputs"], [parts.Part(n, n) for n in range(3)]


def stopping(monkeypatch: pytest.MonkeyPatch, at: int, *, once: bool) -> None:
    """A stop at the file operation of this number: one, or as a kill is, no operation from there on."""
    moves = [0]

    def counted(move: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        moves[0] += 1
        if moves[0] == at + 1 or (moves[0] > at and not once):
            raise KeyboardInterrupt
        return move(*arguments, **options)

    for name in ("unlink", "replace"):
        move = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda *given, move=move, **options: counted(move, *given, **options))


@pytest.mark.parametrize("at", range(13))
def test_a_kill_while_parts_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Whichever file was the last to be moved: no input is there twice, and after the next start none is missing."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        for part in (*PIECES, parts.Part(3, 3)):
            (tmp_path / name / part.file).touch()
        (tmp_path / name / parts._hidden(parts.Part(0, 2))).touch()
    stopping(monkeypatch, at, once=False)
    with contextlib.suppress(KeyboardInterrupt):
        parts._swap(tmp_path, PIECES, parts.Part(0, 2), NAMES)
    monkeypatch.undo()
    parts.check_apart(tmp_path, parts.complete_parts(tmp_path, NAMES))
    parts.finish_joins(tmp_path, NAMES)
    left = parts.complete_parts(tmp_path, NAMES)
    parts.check_apart(tmp_path, left)
    assert sorted(index for part in left for index in part.inputs) == [0, 1, 2, 3]
    parts.finish_joins(tmp_path, NAMES)
    assert parts.complete_parts(tmp_path, NAMES) == left


@pytest.mark.usefixtures("one_by_one", "minutes")
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_a_stop_while_parts_are_joined(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """What has begun is finished: no input is computed again, and no row is there twice."""
    swap = parts._swap

    def stopped(*arguments: Any) -> None:
        monkeypatch.setattr(parts, "_swap", swap)
        stopping(monkeypatch, at, once=True)
        swap(*arguments)

    monkeypatch.setattr(parts, "_swap", stopped)
    with pytest.raises(KeyboardInterrupt):
        runs.run(model, DATA, tmp_path, SMALL)
    monkeypatch.undo()
    assert inputs_of(tmp_path) == [(0, 3)]
    assert len(read(tmp_path, "curves")) == 4 * (len(SIZES) + 1)
    assert runs.run(model, DATA, tmp_path, SMALL).computed == 0


# --- inputs that do not work ----------------------------------------------------------------------------------------


def test_invalid_inputs_are_recorded(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose forward pass is not finite, one that does not fit into memory, one without tokens, one too long."""
    params = tiny_params()
    params["embed"] = params["embed"].at[Letters().encode("q")[0]].set(jnp.nan)
    broken = Model(Decoder(TINY, params), Letters())
    texts = ("abc", "aq", "b" * 20, " ", "c" * 40, "cab")
    data = Data("broken", tuple(Row(text) for text in texts), texts)
    run_cases, n_edges = masked.evaluate_batch, graph.n_edges

    def small_memory(decoder: Decoder, tokens: jax.Array, *rest: Any, **options: Any) -> Any:
        if tokens.shape[1] == 32:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")
        return run_cases(decoder, tokens, *rest, **options)

    def few_edges(config: Any, length: int) -> int:
        if length == 40:
            raise InputError("40 tokens make a graph of too many edges")
        return int(n_edges(config, length))

    monkeypatch.setattr(masked, "evaluate_batch", small_memory)
    monkeypatch.setattr(graph, "n_edges", few_edges)
    assert batching.bucket(20) == 32
    done = runs.run(broken, data, tmp_path, SMALL)
    assert done == runs.Summary(inputs=6, invalid=4, computed=6)
    rows = read(tmp_path, "inputs").to_pylist()
    assert [row["valid"] for row in rows] == [True, False, False, False, False, True]
    assert [row["reason"] for row in rows] == [
        None,
        "the forward pass over 2 tokens is not finite",
        "20 tokens do not fit into memory",
        "the text is empty; a trace needs at least one token",
        "40 tokens make a graph of too many edges",
        None,
    ]
    for name in ("curves", "components"):
        assert set(read(tmp_path, name)["input"].to_pylist()) == {0, 5}


def test_predictions_that_are_not_finite(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision can overflow under a mask alone."""
    run_cases = masked.evaluate_batch

    def overflow(*rest: Any, **options: Any) -> Any:
        first, *others = run_cases(*rest, **options)
        spoilt = jax.tree.map(lambda leaf: leaf, first)
        object.__setattr__(spoilt.measures, "tv", spoilt.measures.tv.at[0, 1].set(jnp.nan))
        return (spoilt, *others)

    monkeypatch.setattr(masked, "evaluate_batch", overflow)
    runs.run(model, Data("", DATA.rows[:1], ()), tmp_path, SMALL)
    assert read(tmp_path, "inputs")["reason"].to_pylist() == ["a prediction under l1/all is not finite"]


# --- meshes and hosts -----------------------------------------------------------------------------------------------


def test_pace() -> None:
    assert progress._pace(10, 3600, 20.0) == "0.5 inputs/s, about 2:00:00 left"
    assert progress._pace(0, 10, 0.0).startswith("0 inputs/s")


def test_only_whole_parts_count(tmp_path: Path) -> None:
    for name, there in (("curves", (0, 1)), ("inputs", (1,)), ("components", (0, 1, 2))):
        (tmp_path / name).mkdir()
        for part in there:
            (tmp_path / name / parts.Part(part, part).file).touch()
    (tmp_path / "inputs" / "notes.parquet").touch()
    assert parts.complete_parts(tmp_path, ("curves", "inputs", "components")) == {parts.Part(1, 1)}


def test_strata_survive_the_table() -> None:
    tree = EdgeTree(*(np.arange(np.prod(s), dtype=np.uint8).reshape(s) for s in ((2, 3), (2, 4, 3, 3), (2, 3), (2, 3))))
    row = {"layers": 2, "n_heads": 4, "n_tokens": 3, **{name: leaf.tobytes() for name, leaf in tree.items()}}
    for name, leaf in rows.strata_of(row).items():
        np.testing.assert_array_equal(leaf, getattr(tree, name))
