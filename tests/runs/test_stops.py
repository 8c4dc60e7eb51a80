"""Stops, kills and parts that close early: what is finished outlives them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pyarrow import parquet

from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import Decoder, InputError, Model
from jstrace.pipeline import call
from jstrace.pipeline.resolved import Resolved
from jstrace.runs import parts, saving
from jstrace.runs.data import Data, Row
from jstrace.runs.inputs import Inputs
from jstrace.scale import hosts
from tests import compiling, killed_runs
from tests.conftest import ROOT, TINY, tiny_params
from tests.runs.small_runs import DATA, SIZES, SMALL, Stops, read
from tests.stand_ins import Letters


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All tables in the order of inputs and sizes."""
    return {name: read(folder, name).to_pylist() for name in ("curves", "components", "inputs")}


def test_ten_kills(tmp_path: Path) -> None:
    """kill -9 at random moments: the final tables are those of a run that nothing stopped, row for row."""
    out = tmp_path / "killed"
    weights = tmp_path / "weights.npz"
    np.savez(weights, *jax.tree.leaves(tiny_params()))
    command = [sys.executable, "-m", "tests.killed_runs", *map(str, (out, tmp_path / "programs", weights))]
    root, unchecked = ROOT, os.environ | {"JAXTYPING_DISABLE": "1", "XLA_FLAGS": compiling.QUICK}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=unchecked)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ends"] == ["killed"] * killed_runs.KILLS
    assert 0 < told["parts_before_the_last"] < len(killed_runs.DATA.rows)
    alone = Model(Decoder(TINY, tiny_params()), Letters())
    runs.run(alone, killed_runs.DATA, tmp_path / "whole", killed_runs.PLAN, part_inputs=1)
    found, expected = rows_of(out), rows_of(tmp_path / "whole")
    assert [row["input"] for row in found["inputs"]] == list(range(len(killed_runs.DATA.rows)))
    assert found == expected
    leftovers = [path.name for path in out.rglob("*") if path.name.startswith(".jstrace")]
    assert leftovers == []


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input is a batch, in the order of lengths: 0, 1, 3, 2."""
    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 1)


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
    run_batch = call.start

    def noted(task: Resolved, members: list[Any], *rest: Any) -> Any:
        batches.append([one.tokens.tolist() for one in members])
        return run_batch(task, members, *rest)

    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 2)
    monkeypatch.setattr(call, "start", noted)
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


@pytest.mark.usefixtures("four_a_call")
def test_a_stop_while_a_part_is_read(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part before it, which is computed meanwhile, is waited for and written."""
    made, batches, saved, run_batch = Inputs.made, [0], list[int](), call.start

    def stopped(inputs: Inputs, index: int) -> Any:
        if index == 3:
            assert (batches, saved) == ([1], [0])
            raise KeyboardInterrupt
        return made(inputs, index)

    def counted(*arguments: Any) -> Any:
        batches[0] += 1
        return run_batch(*arguments)

    monkeypatch.setattr(Inputs, "made", stopped)
    monkeypatch.setattr(call, "start", counted)
    monkeypatch.setattr(Resolved, "two_fit", lambda *_: True)
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


@pytest.mark.parametrize("at", range(5))
def test_strata_that_are_removed_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """What had begun to give way is finished all the same, or no input of it would be left."""
    names = ["curves", "components", "strata", "inputs"]
    for name in names:
        (tmp_path / name).mkdir()
        for part in PIECES:
            (tmp_path / name / part.file).touch()
        (tmp_path / name / parts._hidden(parts.Part(0, 2))).touch()
    stopping(monkeypatch, at, once=False)
    with pytest.raises(KeyboardInterrupt):
        parts._swap(tmp_path, PIECES, parts.Part(0, 2), names)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "strata")
    parts.finish_joins(tmp_path, names)
    assert parts.complete_parts(tmp_path, names) == ({parts.Part(0, 2)} if at >= 2 else set(PIECES))


@pytest.mark.usefixtures("one_by_one", "minutes")
def test_strata_that_are_removed_while_a_run_goes_on(model: Model, tmp_path: Path) -> None:
    """Parts of which some have lost theirs are not joined."""

    def removing(done: int, _: int, wanted: int) -> None:
        if done == wanted:
            for path in sorted((tmp_path / "strata").iterdir())[:1]:
                path.unlink()

    assert runs.run(model, DATA, tmp_path, SMALL, save_strata=True, progress=removing) == runs.Summary(4, 0, 4)
    assert inputs_of(tmp_path) == [(n, n) for n in range(4)]
    assert len(list((tmp_path / "strata").iterdir())) == 3


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
