"""What scores took: told by runs of scores that take passes of their own, session by session."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from pyarrow import parquet

from jstrace import runs
from jstrace.method.conditions import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline import stages
from jstrace.reports import contents, results, write_report
from jstrace.runs import manifest
from jstrace.runs.data import Data, Row
from tests.stand_ins import Letters

DATA = Data("letters", tuple(Row(text, "d") for text in ("abc", "hello", "cab")), ("hello", "aaa"))
PLAN = Plan(("l1", "l2", "gradient"), sizes=(0.05, 0.3), replacements=("mean",), baselines=("random",))
SLOW = 0.5


@pytest.fixture
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())


@pytest.fixture
def slow_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that take half a second a call more than they do."""
    real = stages.score_batch

    def slow(*args: Any, **options: Any) -> Any:
        if any(kind == "gradient" for kind, _ in options["scorings"]):
            time.sleep(SLOW)
        return real(*args, **options)

    monkeypatch.setattr(stages, "score_batch", slow)


def told(folder: Path) -> list[dict[str, Any]]:
    return [session.get("seconds", {}) for session in manifest.read_manifest(folder)["sessions"]]


@pytest.mark.usefixtures("slow_gradients")
def test_each_score_is_timed_by_itself(model: Model, tmp_path: Path) -> None:
    done = runs.run(model, DATA, tmp_path, PLAN, reference=["hello"], limit=2)
    (session,) = told(tmp_path)
    assert list(session) == ["l1, l2, random", "gradient"], "those of one clean pass together"
    assert [one["inputs"] for one in session.values()] == [2, 2]
    assert session["gradient"]["seconds"] >= SLOW
    assert done.seconds == pytest.approx({name: one["seconds"] / 2 for name, one in session.items()})
    runs.run(model, DATA, tmp_path, PLAN, reference=["hello"])
    assert [one["gradient"]["inputs"] for one in told(tmp_path)] == [2, 1]
    write_report([tmp_path], tmp_path / "report", tables=["seconds"], figures=["tv"])
    table = (tmp_path / "report" / "tables" / "seconds.csv").read_text()
    assert table.count('"gradient"') == 2
    (run,) = results.read_results([tmp_path])
    (found,) = [one for one in contents.tables([run], [run]) if one.name == "seconds"]
    took = [row["seconds_an_input"] for row in found.compute().to_pylist() if row["score"] == "gradient"]
    assert took == [one["gradient"]["seconds"] / one["gradient"]["inputs"] for one in told(tmp_path)]


def test_scores_of_one_clean_pass_are_not_waited_for(model: Model, tmp_path: Path) -> None:
    assert runs.run(model, DATA, tmp_path, Plan(("l1", "l2"), sizes=(0.3,))).seconds == {}
    assert told(tmp_path) == [{}]
    (run,) = results.read_results([tmp_path])
    assert not [one for one in contents.tables([run], [run]) if one.name == "seconds"]


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


def read_strata(folder: Path) -> list[dict[str, Any]]:
    rows = parquet.read_table(folder / "strata").to_pylist()
    return sorted((row for row in rows if row["source"] == "l1"), key=lambda row: row["input"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda took: took.update(inputs=0),
        lambda took: took.update(seconds=-1),
        lambda took: took.update(seconds="long"),
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


def test_other_hosts_leave_the_manifest_alone(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jstrace.runs import folder

    runs.run(model, DATA, tmp_path, Plan(sizes=(0.3,)))
    session = manifest.read_manifest(tmp_path)["sessions"][0]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with folder.timed(tmp_path, session, lambda: {"gradient": {"inputs": 1, "seconds": 1.0}}):
        pass
    assert told(tmp_path) == [{}]
