"""The control of runs: scores from gradients that are told other inputs' predictions, and what is kept of it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.gradients import ShareTimesGradient
from jstrace.models import Decoder, InputError, Model, make_mesh, param_shardings
from jstrace.pipeline import Evaluation, Input, Invalid, foreign
from jstrace.pipeline.replacing import Replacing
from jstrace.runs import manifest
from jstrace.runs.control import Control
from jstrace.runs.data import Data, Row
from tests.conftest import SIZES, TINY, tiny_params, top_token
from tests.stand_ins import Letters

TEXTS = ("hello", "abc", "", "bye", "hello", "a longer text", "more words")
DATA = Data("letters", tuple(Row(text, "d") for text in TEXTS), ("hello",))
REFERENCE = ["some words of reference", "and others", "a third text"]
FITTED = Fitted(steps=2, smallest=0.05, start=ShareTimesGradient(), name="few")
PLAN = Plan(
    (FITTED, "l1"), baselines=("inverse",), sizes=SIZES, replacements=("mean",),
    orders=("score",), selectivity=2,
)  # fmt: skip
LIGHT = Plan(("l1*gradient",), sizes=SIZES, replacements=("mean",), selectivity=2)


def tables(folder: Path) -> dict[str, pa.Table]:
    return {name: parquet.read_table(folder / name) for name in ("inputs", "curves", "components")}


def test_numbers_are_selectivitys(model: Model, tmp_path: Path) -> None:
    """Of every curve of every score from gradients, and of no other; what else is there is as without."""
    shares: list[float] = []
    runs.run(model, DATA, tmp_path / "run", PLAN, reference=REFERENCE, limit=2, on_steps=shares.append)
    steps = [2, *range(5, 42, 3), 42]
    np.testing.assert_allclose(shares, [(fits + done / 42) / 3 for fits in range(3) for done in steps] * 2, atol=1e-9)
    found = tables(tmp_path / "run")
    told = found["inputs"]["foreign_inputs"].to_pylist()
    curves = found["curves"].to_pylist()
    names = {row["condition"] for row in curves if row["foreign_tv"] is not None}
    assert names == {"few by score/all/mean"} == {case.name for case in PLAN.controlled}
    how: dict[str, Any] = {"order": "score", "replace": "mean", "reference": REFERENCE, "sizes": PLAN.sizes}
    for index in range(2):
        others = [TEXTS[other] for other in told[index]]
        expected = jstrace.selectivity(model, TEXTS[index], others, score=FITTED, **how)
        rows = [row for row in curves if (row["input"], row["condition"]) == (index, "few by score/all/mean")]
        np.testing.assert_allclose([row["tv"] for row in rows], expected.own, atol=2e-5)
        np.testing.assert_allclose([row["foreign_tvs"] for row in rows], expected.foreign.T, atol=2e-5)
        np.testing.assert_allclose([row["foreign_tv"] for row in rows], expected.foreign.mean(axis=0), atol=2e-5)
        np.testing.assert_allclose([row["selectivity"] for row in rows], expected.selectivity, atol=2e-5)
    plain = dataclasses.replace(PLAN, selectivity=0)
    runs.run(model, DATA, tmp_path / "plain", plain, reference=REFERENCE, limit=2)
    added = {"curves": ["foreign_tvs", "foreign_tv", "selectivity"], "inputs": ["foreign_inputs"], "components": []}
    for name, table in tables(tmp_path / "plain").items():
        assert found[name].drop_columns(added[name]) == table


def test_targets_are_the_next_rows_that_predict_something_else(model: Model) -> None:
    """From the first again after the last, without regard to limits; a row that is no input is passed over."""
    control = Control(model, LIGHT, DATA.rows, Replacing(model, REFERENCE))
    tops = [None if not text else top_token(model, text) for text in TEXTS]
    assert len({top for top in tops if top is not None}) > 2
    for index in (0, 1, 3, 4, 5, 6):
        following = [*range(index + 1, len(TEXTS)), *range(index)]
        assert control.others(index) == tuple(row for row in following if tops[row] not in (None, tops[index]))[:2]


def test_the_other_of_a_pair_is_no_foreign_text(model: Model) -> None:
    rows = [Row(text, "d", pair=str(number // 2), variant="ab"[number % 2]) for number, text in enumerate(TEXTS)]
    control = Control(model, dataclasses.replace(LIGHT, selectivity=6), rows, Replacing(model, REFERENCE))
    plain = Control(model, dataclasses.replace(LIGHT, selectivity=6), DATA.rows, Replacing(model, REFERENCE))
    assert 1 in plain.others(0)
    for index in (0, 1, 3, 4, 5, 6):
        assert control.others(index) == tuple(row for row in plain.others(index) if row // 2 != index // 2)


def stop(done: int, *_: Any) -> None:
    if done == 2:
        raise KeyboardInterrupt


def test_going_on_gives_the_same(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop, in parts of one, with a limit that grew, and where no prediction is remembered."""
    asked = {"plan": LIGHT, "part_inputs": 1, "reference": REFERENCE}
    runs.run(model, DATA, tmp_path / "whole", **asked)
    with contextlib.suppress(KeyboardInterrupt):
        runs.run(model, DATA, tmp_path / "stopped", **asked, limit=4, progress=stop)
    monkeypatch.setattr(foreign, "_KEPT", 0)
    done = runs.run(model, DATA, tmp_path / "stopped", **asked)
    assert (done.invalid, done.computed) == (1, 5)
    assert tables(tmp_path / "stopped") == tables(tmp_path / "whole")


def test_a_run_without_it_is_as_before(model: Model, tmp_path: Path) -> None:
    """Its manifest does not name it; with it, it is another run, whose manifest gives the plan back."""
    plain = dataclasses.replace(LIGHT, selectivity=0)
    runs.run(model, DATA, tmp_path / "plain", plain, reference=REFERENCE, limit=1)
    config = manifest.read_manifest(tmp_path / "plain")["config"]
    assert "selectivity" not in config
    assert manifest.plan_of(config) == plain
    assert not {"foreign_tv", "foreign_tvs", "selectivity"} & set(tables(tmp_path / "plain")["curves"].column_names)
    with pytest.raises(InputError, match=r"selectivity is 0 there, 2 here$"):
        runs.run(model, DATA, tmp_path / "plain", LIGHT, reference=REFERENCE)
    runs.run(model, DATA, tmp_path / "run", LIGHT, reference=REFERENCE, limit=1)
    assert manifest.plan_of(manifest.read_manifest(tmp_path / "run")["config"]) == LIGHT
    with pytest.raises(InputError, match=r"selectivity is 2 there, 0 here$"):
        runs.run(model, DATA, tmp_path / "run", plain, reference=REFERENCE)


def test_a_score_of_ones_own(model: Model, tmp_path: Path) -> None:
    """A manifest knows it by its name alone."""
    plan = dataclasses.replace(LIGHT, scores=(ShareTimesGradient(name="own"),))
    runs.run(model, DATA, tmp_path, plan, reference=REFERENCE, limit=1)
    assert tables(tmp_path)["curves"]["selectivity"].null_count == 0
    assert manifest.plan_of(manifest.read_manifest(tmp_path)["config"]).selectivity == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("l1",)}, "selectivity is for scores from gradients"),
        ({"selectivity": -1}, "selectivity = -1, expected a number of foreign predictions"),
        ({"selectivity": True}, "selectivity = True"),
    ],
)
def test_plans_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(LIGHT, **options)


def test_more_than_there_are_inputs(tmp_path: Path) -> None:
    def unloaded() -> Model:
        raise AssertionError("nothing is loaded for a run that is refused")

    with pytest.raises(InputError, match=r"^selectivity = 7: beside an input the data has 6 others to be told$"):
        runs.run(unloaded, DATA, tmp_path / "run", dataclasses.replace(LIGHT, selectivity=7))
    assert not (tmp_path / "run").exists()


def test_inputs_that_all_predict_the_same(model: Model, tmp_path: Path) -> None:
    """There is nothing foreign to be told: the cells are empty, and the inputs as valid as before."""
    data = Data("d", (Row("abc"), Row("abc"), Row("abc")), ())
    assert runs.run(model, data, tmp_path, LIGHT, reference=REFERENCE) == runs.Summary(3, 0, 3)
    found = tables(tmp_path)
    assert found["inputs"]["foreign_inputs"].null_count == 3
    assert found["curves"]["foreign_tv"].null_count == found["curves"]["selectivity"].null_count == 3 * 5


def test_memory_that_ran_out_in_the_control(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input's own scores did fit: it is raised. What is not finite leaves no control."""
    control, inputs = Control(model, LIGHT, DATA.rows, Replacing(model, REFERENCE)), {0: Input(np.arange(5))}

    def driven(outcome: Any) -> None:
        monkeypatch.setattr(control._driver, "batches", lambda asked, _: iter([dict.fromkeys(asked, outcome)]))

    driven(Invalid("not finite"))
    assert control.of(inputs) == {}
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")
    driven(Invalid("no room", error=error))
    with pytest.raises(jax.errors.JaxRuntimeError):
        control.of(inputs)


def test_a_masked_pass_that_is_not_finite(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one foreign prediction: there is no mean of all."""
    control = Control(model, LIGHT, DATA.rows, Replacing(model, REFERENCE))
    inputs = {0: Input(np.asarray(Letters().encode(TEXTS[0]), np.int32))}
    assert set(control.of(inputs)) == {0}
    valid = iter([True, False])
    monkeypatch.setattr(Evaluation, "valid", property(lambda _: next(valid)))
    assert control.of(inputs) == {}


def test_on_a_mesh(model: Model) -> None:
    """Predictions are those of one device, and so are the rows that are chosen by them."""
    mesh = make_mesh(data=2, model=2)
    placed = Model(Decoder(TINY, jax.device_put(tiny_params(), param_shardings(TINY, mesh))), Letters())
    alone, meshed = (Control(one, LIGHT, DATA.rows, Replacing(one, REFERENCE)) for one in (model, placed))
    for index in (0, 5):
        assert meshed.others(index) == alone.others(index)
        one, two = (control._predictions.of(index) for control in (alone, meshed))
        assert one is not None
        np.testing.assert_allclose(two, one, atol=1e-5)
        ids = Letters().encode(TEXTS[index])
        exact = model(ids, model.full_mask(len(ids)))
        np.testing.assert_allclose(one, jax.nn.log_softmax(exact), atol=1e-5)
    assert alone._predictions.of(2) is None, "an empty text"
