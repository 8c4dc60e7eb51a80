"""What scores took: told by runs of scores that take passes of their own, session by session."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from pyarrow import parquet

from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline import call, masked, stages
from jstrace.pipeline.resolved import Resolved
from jstrace.reports import exhibits, reading, write_report
from jstrace.runs import folder, manifest
from jstrace.runs.data import Data, Row
from tests.conftest import SIZES

DATA = Data("letters", tuple(Row(text, "d") for text in ("abc", "hello", "cab")), ("hello", "aaa"))
PLAN = Plan(("l1", "l2", "gradient"), sizes=SIZES, replacements=("mean",), baselines=("random",))


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only these move: a call's gradients by five seconds, all else of it by one, and waiting by ten.

    Two seconds of every call count as compilation.
    """
    real, wait, now = stages.score_batch, jax.block_until_ready, [0.0]

    def score(*args: Any, **options: Any) -> Any:
        now[0] += 5 if any(kind == "gradient" for kind, _ in options["scorings"]) else 1
        return real(*args, **options)

    def waited(scores: Any) -> Any:
        now[0] += 10
        return wait(scores)

    @contextlib.contextmanager
    def compiled() -> Iterator[Callable[[], float]]:
        yield lambda: 2.0

    monkeypatch.setattr(stages, "score_batch", score)
    monkeypatch.setattr(jax, "block_until_ready", waited)
    monkeypatch.setattr(call, "compile_seconds", compiled)
    monkeypatch.setattr(call.time, "perf_counter", lambda: now[0])


def told(run: Path) -> list[dict[str, Any]]:
    return [session.get("seconds", {}) for session in manifest.read_manifest(run)["sessions"]]


@pytest.mark.usefixtures("clocked")
def test_each_score_is_timed_by_itself(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started, waited for, and less compilation; of the batches of a run the sum."""
    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 1)
    done = runs.run(model, DATA, tmp_path, PLAN, reference=["hello"], limit=2)
    expected = {"l1 and l2 and random": 1 + 10 - 2, "gradient": 5 + 10 - 2}
    assert told(tmp_path) == [{name: {"inputs": 2, "seconds": 2 * each} for name, each in expected.items()}]
    assert done.seconds == expected
    runs.run(model, DATA, tmp_path, PLAN, reference=["hello"])
    assert [one["gradient"]["inputs"] for one in told(tmp_path)] == [2, 1]
    write_report([tmp_path], tmp_path / "report", tables=["seconds"], figures=["tv"])
    table = (tmp_path / "report" / "tables" / "seconds.csv").read_text()
    assert table.count('"gradient"') == 2
    (run,) = reading.read_results([tmp_path])
    (found,) = [one for one in exhibits.tables([run]) if one.name == "seconds"]
    rows = found.compute().to_pylist()
    assert [(row["score"], row["n"], row["seconds_an_input"]) for row in rows] == [
        (name, n, each) for n in (2, 1) for name, each in expected.items()
    ]


@pytest.mark.usefixtures("clocked")
def test_what_is_computed_again_counts_once(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that does not hold the evaluation of several inputs: their scores are made again."""
    real = masked.evaluate_batch

    def small(decoder: Any, tokens: Any, *args: Any, **options: Any) -> Any:
        if tokens.shape[0] > 1:
            raise MemoryError
        return real(decoder, tokens, *args, **options)

    data = Data("letters", tuple(Row(text, "d") for text in ("abc", "cab", "bca", "acb")), ("hello",))
    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 4)
    monkeypatch.setattr(masked, "evaluate_batch", small)
    with pytest.warns(RuntimeWarning, match="going on with [12]"):
        runs.run(model, data, tmp_path, PLAN, reference=["hello"])
    assert told(tmp_path)[0]["gradient"] == {"inputs": 4, "seconds": 4 * 13}


@pytest.mark.parametrize(("plan", "ahead"), [(Plan(("l1", "l2"), sizes=SIZES), True), (PLAN, False)])
def test_batches_are_started_ahead_where_nothing_is_timed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan, ahead: bool
) -> None:
    """Scores of clean passes alone are not waited for."""
    happened: list[str] = []
    real = call.start

    def noted(*args: Any) -> Callable[[], Any]:
        happened.append("start")
        wait = real(*args)
        return lambda: (happened.append("fetch"), wait())[1]

    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 1)
    monkeypatch.setattr(call, "start", noted)
    done = runs.run(model, DATA, tmp_path, plan, reference=["hello"] if plan.takes_reference else None)
    assert happened[:2] == (["start", "start"] if ahead else ["start", "fetch"])
    assert bool(done.seconds) != ahead
    assert bool(told(tmp_path)[0]) != ahead
    (run,) = reading.read_results([tmp_path])
    assert ("seconds" in [one.name for one in exhibits.tables([run])]) != ahead


def test_a_manifest_that_cannot_be_written_costs_no_results(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several hosts the first one alone writes it: the others would wait."""

    def full(*_: Any) -> None:
        monkeypatch.setattr(folder, "_write", real)
        raise InputError("no space left")

    real = folder._write
    with pytest.warns(RuntimeWarning, match=r"not in the manifest \(no space left\)"):
        done = runs.run(
            model, DATA, tmp_path, PLAN, reference=["hello"],
            on_save=lambda n: monkeypatch.setattr(folder, "_write", full) if n == 3 else None,
        )  # fmt: skip
    assert done.computed == 3
    assert told(tmp_path) == [{}]


def test_a_stopped_session_says_what_it_took(model: Model, tmp_path: Path) -> None:
    def stop(done: int, _: int, __: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(model, DATA, tmp_path, PLAN, reference=["hello"], progress=stop)
    assert told(tmp_path)[0]["gradient"]["inputs"] >= 1


def test_scores_are_those_of_runs_of_their_own(model: Model, tmp_path: Path) -> None:
    """Together with gradients as by itself: its program is the same."""
    runs.run(model, DATA, tmp_path / "both", PLAN, reference=["hello"], save_strata=True)
    runs.run(model, DATA, tmp_path / "one", Plan(sizes=PLAN.sizes), save_strata=True)
    strata = [read_strata(tmp_path / name) for name in ("both", "one")]
    assert strata[0] == strata[1]


def read_strata(run: Path) -> list[dict[str, Any]]:
    rows = parquet.read_table(run / "strata").to_pylist()
    return sorted((row for row in rows if row["source"] == "l1"), key=lambda row: row["input"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda took: took.update(inputs=0),
        lambda took: took.update(seconds=-1),
        lambda took: took.update(seconds="3.5"),
        lambda took: took.update(seconds=True),
        lambda took: took.update(seconds=1e999),
        lambda took: took.pop("inputs"),
    ],
)
def test_damaged_seconds_are_refused(model: Model, tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    runs.run(model, DATA, tmp_path, PLAN, reference=["hello"], limit=1)
    path = tmp_path / manifest.MANIFEST
    held = json.loads(path.read_text())
    damage(held["sessions"][0]["seconds"]["gradient"])
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="damaged"):
        manifest.read_manifest(tmp_path)


@pytest.mark.parametrize("where", ["score", "device"])
def test_names_that_no_table_can_hold_are_refused(model: Model, tmp_path: Path, where: str) -> None:
    runs.run(model, DATA, tmp_path, PLAN, reference=["hello"], limit=1)
    path = tmp_path / manifest.MANIFEST
    held = json.loads(path.read_text())
    session = held["sessions"][0]
    if where == "score":
        session["seconds"]["gr\ud800"] = session["seconds"]["gradient"]
    else:
        session["hardware"]["device"] = "cpu\ud800"
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="damaged"):
        manifest.read_manifest(tmp_path)


def test_other_hosts_leave_the_manifest_alone(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.run(model, DATA, tmp_path, Plan(sizes=SIZES))
    session = manifest.read_manifest(tmp_path)["sessions"][0]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with folder.timed(tmp_path, session, lambda: {"gradient": {"inputs": 1, "seconds": 1.0}}):
        pass
    assert told(tmp_path) == [{}]
