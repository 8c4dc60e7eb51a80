"""What scores of runs are made under: names, manifests, and runs that were written when it was means throughout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.gradients import ShareTimesGradient
from jstrace.method.scores.rounds import Rounds
from jstrace.models import InputError, Model
from jstrace.pipeline import Driver, Input
from jstrace.pipeline.records import Ask
from jstrace.pipeline.replacing import Replacing
from jstrace.runs import manifest
from jstrace.runs.data import Data, Row

DATA = Data("letters", (Row("hello", "d"), Row("abc"), Row("bye", "d")), ("hello",))
REFERENCE = ["some words of reference", "and others", "a third text"]
FOLLOWS = Plan(("l1", "l1*gradient"), sizes=(0.1, 0.4))
MEANS = dataclasses.replace(FOLLOWS, score_replace="mean")


def tables(folder: Path) -> dict[str, pa.Table]:
    return {name: parquet.read_table(folder / name) for name in ("inputs", "curves", "components")}


@pytest.mark.parametrize(
    ("options", "sources", "conditions"),
    [
        ({}, ["l1", "rounds under zero"], ["l1/all", "rounds under zero/all"]),
        ({"replacements": ("mean",)}, ["l1", "rounds"], ["l1/all/mean", "rounds/all/mean"]),
        ({"score_replace": "mean"}, ["l1", "rounds"], ["l1/all", "rounds/all"]),
        (
            {"replacements": ("zero", "mean")},
            ["l1", "rounds under zero", "rounds"],
            ["l1/all", "rounds under zero/all", "l1/all/mean", "rounds/all/mean"],
        ),
        (
            {"replacements": ("mean", "resample"), "score_replace": "zero", "orders": ("score",)},
            ["l1 by score", "rounds under zero by score"],
            [f"{one} by score/all/{under}" for under in ("mean", "resample") for one in ("l1", "rounds under zero")],
        ),
    ],
)
def test_names_say_what_scores_are_under(options: Any, sources: list[str], conditions: list[str]) -> None:
    """But for means, which all scores of older runs were under; manifests give the plan back."""
    plan = Plan(("l1", "rounds"), **options)
    assert [one.name for one in plan.sources] == sources
    assert [one.name for one in plan.cases] == conditions
    config = json.loads(json.dumps(manifest.configuration(plan, DATA, save_strata=False)))
    assert manifest.plan_of(config) == plan
    assert config["score_replace"] == list(plan.scored_under)
    for case in plan.cases:
        assert plan.case(score=case.source.score, replace=case.condition.replace) == case


def test_a_run_of_an_older_version_goes_on_under_means(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest says nothing of it; the same plan, which would follow the evaluation now, means what it meant."""
    asked: dict[str, Any] = {"part_inputs": 1, "reference": REFERENCE}

    def stop(done: int, *_: Any) -> None:
        if done == 1:
            raise KeyboardInterrupt

    runs.run(model, DATA, tmp_path / "whole", MEANS, **asked)
    with contextlib.suppress(KeyboardInterrupt), monkeypatch.context() as older:
        older.setattr(manifest, "_scored", lambda plan: {})
        runs.run(model, DATA, tmp_path / "old", MEANS, **asked, progress=stop)
    config = manifest.read_manifest(tmp_path / "old")["config"]
    assert not {"score_replace", "own_gradients"} & set(config), "as older versions wrote it"
    assert runs.run(model, DATA, tmp_path / "old", FOLLOWS, **asked).computed == 2
    old, whole = tables(tmp_path / "old"), tables(tmp_path / "whole")
    assert {name: table.to_pylist() for name, table in old.items()} == {
        name: table.to_pylist() for name, table in whole.items()
    }
    for said, given in (("zero", {}), ("resample", asked)):
        with pytest.raises(InputError, match=rf'score_replace is \["mean"\] there, \["{said}"\] here'):
            runs.run(model, DATA, tmp_path / "old", dataclasses.replace(FOLLOWS, score_replace=said), **given)
    with pytest.raises(InputError, match=r'score_replace is \["mean"\] there, \["zero"\] here'):
        runs.run(model, DATA, tmp_path / "whole", FOLLOWS)


def test_a_run_follows_the_evaluation(model: Model, tmp_path: Path) -> None:
    """Scores under zeros are those of ``jstrace.trace``, and need no reference."""
    with pytest.raises(InputError, match=r"^reference has texts for replace mean or resample"):
        runs.run(model, DATA, tmp_path / "run", FOLLOWS, reference=REFERENCE)
    runs.run(model, DATA, tmp_path / "run", FOLLOWS, limit=1)
    told = manifest.read_manifest(tmp_path / "run")
    assert told["config"]["score_replace"] == ["zero"]
    assert "reference" not in told["config"]
    assert set(told["sessions"][0]["seconds"]) == {"l1", "l1*gradient under zero"}
    trace = jstrace.trace(model, "hello", score="l1*gradient", sizes=FOLLOWS.sizes)
    rows = tables(tmp_path / "run")["curves"].to_pylist()
    found = [row["tv"] for row in rows if row["condition"] == "l1*gradient under zero/all"]
    np.testing.assert_allclose(found, jstrace.evaluate(model, trace).tv, atol=2e-5)
    assert runs.run(model, DATA, tmp_path / "run", FOLLOWS, limit=2).computed == 1
    differs = r'score_replace is \["zero"\] there, \["mean"\] here; reference is none there'
    with pytest.raises(InputError, match=differs):
        runs.run(model, DATA, tmp_path / "run", MEANS, reference=REFERENCE)


def test_scores_of_ones_own_are_known_as_gradients(model: Model, tmp_path: Path) -> None:
    plan = Plan((ShareTimesGradient(name="own"),), sizes=(0.2,))
    runs.run(model, DATA, tmp_path / "run", plan, limit=1)
    told = manifest.read_manifest(tmp_path / "run")
    assert told["config"]["own_gradients"] == ["own"]
    assert told["conditions"] == ["own under zero/all"]
    assert manifest.plan_of(told["config"]).scored_under == ("zero",)


def test_a_manifest_that_says_what_cannot_be(tmp_path: Path) -> None:
    config = manifest.configuration(Plan(("rounds",), replacements=("zero", "mean")), DATA, save_strata=False)
    for wrong in (["mean"], ["zero", "resample"], ["no", "no"]):
        with pytest.raises((ValueError, InputError)):
            manifest.plan_of(config | {"score_replace": wrong})


def test_plans_that_make_no_sense() -> None:
    with pytest.raises(InputError, match=r"^score_replace is for scores from gradients"):
        Plan(score_replace="mean")
    with pytest.raises(InputError, match=r"^score_replace = 'no', expected one of zero, mean, resample$"):
        Plan(("rounds",), score_replace="no")


def test_scores_that_draw_beside_scores_that_do_not(model: Model) -> None:
    """Under the states of other texts a fit draws its own, and the others have one text's, in one call as in two."""
    kinds = Rounds(cuts=1, name="one"), Fitted(steps=1, polish=0, start=ShareTimesGradient(), name="few")
    plan = Plan(kinds, sizes=(0.1, 0.4), replacements=("resample",), orders=("score",))
    row = {0: Input(np.arange(4, dtype=np.int32))}

    def strata(sources: Any) -> Any:
        ask = Ask(tuple(sources), (), plan.sizes)
        (batch,) = Driver(model, ask, replacing=Replacing(model, [np.arange(9), np.arange(9, 20)])).batches(row)
        return batch[0].strata

    for one, source in zip(strata(plan.sources), plan.sources, strict=True):
        for kind, leaf in strata([source])[0].items():
            np.testing.assert_array_equal(getattr(one, kind), leaf)
