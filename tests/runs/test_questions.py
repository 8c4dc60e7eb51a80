"""Runs of rows with counterfactuals and answers: what they ask is what ``jstrace.trace`` and ``evaluate`` are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.runs import Data, Extras, manifest, read_data
from jstrace.runs.data import Row
from tests.conftest import SIZES
from tests.runs.small_runs import read

ROWS = (
    Row("hello", "d", counterfactual="hullo", answer="a", rival="b"),
    Row("abcd", counterfactual="abed", answer="cad"),
    Row("abcd", counterfactual="abed"),
    Row("abcd", "e"),
    Row("abcd", counterfactual="abcde"),
)
DATA = Data("letters", ROWS, ("hello",))
PLAN = Plan(("gradient",), ("all", "residual+mlp"), sizes=SIZES, replacements=("counterfactual", "zero"))


def test_a_run_asks_what_its_rows_say(model: Model, tmp_path: Path) -> None:
    done = runs.run(model, DATA, tmp_path, PLAN)
    assert (done.inputs, done.invalid) == (5, 2)
    inputs = read(tmp_path, "inputs").to_pylist()
    assert [row["valid"] for row in inputs] == [True, True, True, False, False]
    assert "no counterfactual" in inputs[3]["reason"]
    assert "they part at token" in inputs[4]["reason"]
    assert [row["answer"] for row in inputs] == [row.answer for row in ROWS]
    asked: list[dict[str, Any]] = [
        {"metric": jstrace.logit_difference("a", "b")},
        {"metric": jstrace.log_prob("cad"), "answer": "cad"},
        {},
    ]
    for index, (row, question) in enumerate(zip(ROWS, asked, strict=False)):
        trace = jstrace.trace(
            model, row.text, score="gradient", sizes=SIZES, counterfactual=row.counterfactual, **question
        )
        for ablate in PLAN.ablations:
            expected = jstrace.evaluate(model, trace, ablate=ablate)
            curve = _curve(tmp_path, index, ablate)
            np.testing.assert_allclose(curve["tv"], expected.tv, atol=1e-6)
            if question:
                np.testing.assert_allclose(curve["metric"], expected.metric, atol=2e-5)
                np.testing.assert_allclose(curve["metric_recovered"], expected.recovered, atol=2e-5)
            else:
                assert curve["metric"] == curve["metric_recovered"] == [None] * (len(SIZES) + 1)
    again = runs.run(model, DATA, tmp_path, PLAN)
    assert (again.computed, again.invalid) == (0, 2)


def _curve(folder: Path, index: int, ablate: str) -> dict[str, list[Any]]:
    rows = read(folder, "curves").to_pylist()
    case = PLAN.case(ablate)
    own = [row for row in rows if (row["input"], row["condition"]) == (index, case.name)]
    return {name: [row[name] for row in own] for name in ("tv", "metric", "metric_recovered")}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": Data("d", (Row("ab"),), ()), "plan": PLAN}, "d has no column counterfactual"),
        ({"data": DATA, "plan": PLAN, "extras": Extras(generate=2)}, "generate"),
        ({"data": DATA, "plan": Plan(("gradient",), selectivity=1)}, "selectivity"),
    ],
)
def test_what_pairs_cannot_be_asked(model: Model, tmp_path: Path, asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        runs.run(model, out=tmp_path / "run", **asked)


def test_columns_of_files(tmp_path: Path) -> None:
    row = {"text": "ab", "counterfactual": "cb", "answer": " x", "rival": " y"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    data = read_data(str(tmp_path / "a.jsonl"))
    assert data.rows == (Row("ab", counterfactual="cb", answer=" x", rival=" y"),)
    assert data.fingerprint != Data("", (Row("ab"),), ("ab",)).fingerprint
    with pytest.raises(InputError, match="counterfactuals or answers"):
        runs.altered(data, "shuffle")
    for wrong in ({"rival": " y"}, {"answer": ""}, {"counterfactual": 3}):
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "ab"} | wrong))
        with pytest.raises(InputError, match=rf"a\.jsonl:1: the {next(iter(wrong))}"):
            read_data(str(tmp_path / "a.jsonl"))


def test_a_run_of_before_there_were_flops_goes_on(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that column, as all parts have the same ones."""
    data, plan = Data("letters", (Row("hello"), Row("abcd")), ("hello",)), Plan(("l1",), sizes=SIZES)
    written = manifest.configuration

    def older(*given: Any, **options: Any) -> dict[str, Any]:
        return {name: value for name, value in written(*given, **options).items() if name != "flops"}

    with monkeypatch.context() as before:
        before.setattr(manifest, "configuration", older)
        runs.run(model, data, tmp_path, plan, limit=1)
    assert runs.run(model, data, tmp_path, plan).computed == 1
    curves = read(tmp_path, "curves")
    assert "flops" not in curves.column_names
    assert curves.num_rows == 2 * len(plan.cases) * (len(SIZES) + 1)
