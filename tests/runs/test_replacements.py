"""Runs with several scores, replacements and orders: conditions, going on, and what makes another run."""

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
from jstrace.method.conditions import ABLATIONS
from jstrace.method.plans import BASELINES, Plan
from jstrace.models import InputError, Model
from jstrace.runs import manifest
from jstrace.runs.data import Data, Row
from tests.conftest import SIZES
from tests.stand_ins import Letters

DATA = Data("letters", (Row("hello", "d"), Row("abc"), Row("bye", "d")), ("hello",))
PLAN = Plan(
    ("l1", "rounds"), sizes=SIZES, replacements=("zero", "mean"), orders=("best-first", "score")
)  # fmt: skip
LIGHT = Plan(sizes=SIZES, replacements=("zero", "mean"))
REFERENCE = ["some words of reference", "and others", "a third text"]
NAMES = [
    *(f"{source}/all" for source in ("l1", "l1 by score", "rounds under zero", "rounds under zero by score")),
    *(f"{source}/all/mean" for source in ("l1", "l1 by score", "rounds", "rounds by score")),
]


def tables(folder: Path) -> dict[str, pa.Table]:
    return {name: parquet.read_table(folder / name) for name in ("inputs", "curves", "components")}


def stop(done: int, *_: Any) -> None:
    if done == 1:
        raise KeyboardInterrupt


def test_every_condition_and_going_on(model: Model, tmp_path: Path) -> None:
    """A run that was stopped goes on to the tables of one that was not, which hold what trace and evaluate give."""
    asked = {"plan": PLAN, "part_inputs": 1, "reference": REFERENCE}
    runs.run(model, DATA, tmp_path / "whole", **asked)
    with contextlib.suppress(KeyboardInterrupt):
        runs.run(model, DATA, tmp_path / "stopped", **asked, progress=stop)
    assert runs.run(model, DATA, tmp_path / "stopped", **asked) == runs.Summary(inputs=3, invalid=0, computed=2)
    found = tables(tmp_path / "whole")
    assert tables(tmp_path / "stopped") == found
    told = manifest.read_manifest(tmp_path / "whole")
    assert told["conditions"] == NAMES
    rounds = ["rounds under zero", "rounds under zero by score", "rounds", "rounds by score"]
    assert told["sources"] == ["l1", "l1 by score", *rounds]
    assert manifest.plan_of(told["config"]) == PLAN
    curves = found["curves"].to_pylist()
    for case in PLAN.cases:
        options: dict[str, Any] = {"score": case.source.score, "order": case.source.order}
        replace = case.condition.replace
        options |= {} if replace == "zero" else {"reference": REFERENCE}
        trace = jstrace.trace(model, "hello", **options, sizes=PLAN.sizes, replace=replace)
        result = jstrace.evaluate(model, trace, reference=REFERENCE)
        rows = [row["tv"] for row in curves if (row["input"], row["condition"]) == (0, case.name)]
        np.testing.assert_allclose(rows, result.tv, atol=2e-5)


def test_another_run_in_the_same_folder(model: Model, tmp_path: Path) -> None:
    """Refused with the difference, whether it asks for more or for less, before the model is loaded."""
    runs.run(model, DATA, tmp_path / "run", LIGHT, limit=1, reference=REFERENCE)
    runs.run(model, DATA, tmp_path / "plain", Plan(sizes=SIZES), limit=1)
    before = sorted(path for path in tmp_path.rglob("*"))
    for folder, change, reference, message in (
        ("run", {}, REFERENCE[:2], r'reference is "\w{16}" there, "\w{16}" here$'),
        ("run", {}, None, r'reference is "\w{16}" there, "\w{16}" here$'),
        (
            "run",
            {"replacements": ("mean", "zero")},
            REFERENCE,
            r'replace is \["zero", "mean"\] there, \["mean", "zero"',
        ),
        ("run", {"replacements": ("zero",)}, None, r'replace is \["zero", "mean"\] there, \["zero"\] here'),
        ("run", {"orders": ("score",)}, REFERENCE, r'order is \["best-first"\] there, \["score"\] here$'),
        ("plain", {}, None, r'reference is none there, "\w{16}" here; replace is \["zero"\] there, \["zero", "mean"\]'),
    ):
        with pytest.raises(InputError, match=message):
            runs.run(_unloaded, DATA, tmp_path / folder, dataclasses.replace(LIGHT, **change), reference=reference)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert runs.run(model, DATA, tmp_path / "run", LIGHT, limit=2, reference=tuple(REFERENCE)).computed == 1


def _unloaded() -> Model:
    raise AssertionError("nothing is loaded for a run that is refused")


def test_an_empty_reference(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reference is empty"):
        runs.run(_unloaded, DATA, tmp_path / "run", LIGHT, reference=[])
    assert not (tmp_path / "run").exists()


def test_a_reference_too_short_to_resample(model: Model, tmp_path: Path) -> None:
    plan = Plan(sizes=SIZES, replacements=("resample",))
    done = runs.run(model, DATA, tmp_path / "run", plan, reference=["ab", "cd"])
    assert done.invalid == done.inputs, "each says how many tokens there are"


def test_older_plans_stay_as_they_were() -> None:
    """What came later is in a configuration only where it is asked for, and read as the default where it is not."""
    plan = Plan(("l1", "cosine"), ABLATIONS, BASELINES, sizes=(0.1,), seed=3)
    config = manifest.configuration(plan, DATA, save_strata=False)
    assert config.pop("flops") is True  # which is no difference to one without
    assert list(config) == ["importance", "ablate", "baselines", "sizes", "seed", "save_strata", "data"]
    assert not plan.takes_reference
    assert manifest.plan_of(json.loads(json.dumps(config))) == plan
    later = manifest.configuration(PLAN, DATA, save_strata=False, reference="mark")
    assert (later["reference"], later["replace"]) == ("mark", ["zero", "mean"])
    assert later["order"] == ["best-first", "score"]


def test_scores_that_a_model_has_not_leave_no_folder(tiny: Model, tmp_path: Path) -> None:
    """Refused before anything is written, so that the folder is free for what can be done."""
    model = Model(tiny.decoder, Letters())
    (tmp_path / "d.txt").write_text("one\ntwo\n")
    data = runs.read_data(str(tmp_path / "d.txt"))
    with pytest.raises(InputError, match="fit one to this model"):
        runs.run(model, data, tmp_path / "run", Plan(("learned",)))
    runs.run(model, data, tmp_path / "run", Plan(("l1",)))
