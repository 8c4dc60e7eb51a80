"""What earlier versions wrote loads for ever: jstrace 0.1.0 wrote tests/golden, with its first fingerprints."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from pyarrow import parquet

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import Decoder, InputError, Model, ModelConfig, fingerprints
from jstrace.reports import write_report
from tests.conftest import TINY, tiny_params

GOLDEN = Path(__file__).parent / "golden"
FIRST = "f5525de38bc695b5"
"""The model's fingerprint when the files were written."""


@pytest.fixture(scope="module")
def model() -> Model:
    return jstrace.load(str(GOLDEN / "checkpoint"))


def test_a_checkpoint_loads(model: Model) -> None:
    assert json.loads((GOLDEN / "checkpoint" / "jstrace.json").read_text())["fingerprint"] == FIRST
    assert FIRST in model.fingerprints()
    assert model.fingerprint() == "2-b47833030ecaaeeb", (
        "another one would be another model in every file of this version"
    )
    assert model.tokenizer is not None
    assert model.tokenizer.encode("the cat sat") == [0, 1, 2, 3]


def test_a_damaged_checkpoint_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "checkpoint", folder)
    header = json.loads((folder / "jstrace.json").read_text())
    (folder / "jstrace.json").write_text(json.dumps(header | {"fingerprint": "f5525de38bc695b6"}))
    with pytest.raises(InputError, match="damaged"):
        jstrace.load(str(folder))


def test_a_trace_loads_and_is_still_the_same(model: Model) -> None:
    old, new = jstrace.Trace.load(GOLDEN / "trace.npz"), jstrace.trace(model, "the cat sat")
    assert old.model_fingerprint == FIRST
    jax.tree.map(np.testing.assert_array_equal, old.strata, new.strata)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), old.scores, new.scores)
    assert jstrace.evaluate(model, old).density == pytest.approx(2.79744, abs=1e-4)


def test_a_run_goes_on(model: Model, tmp_path: Path) -> None:
    """Two of its three inputs are there; the third joins them, and the report reads all."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "run", folder)
    data = runs.read_data(str(GOLDEN / "texts.tsv"))
    plan = Plan(("l1",), ("all", "residual+mlp"), ("random", "inverse"))
    done = runs.run(model, dataclasses.replace(data, name="gold.tsv"), folder, plan, save_strata=True)
    assert (done.inputs, done.invalid, done.computed) == (3, 0, 1)
    assert "scores" not in json.loads((folder / "manifest.json").read_text())["config"], "nothing says what they were"
    assert parquet.read_table(folder / "inputs")["input"].to_pylist() == [0, 1, 2]
    write_report([folder], tmp_path / "report")


# --- fingerprints ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Later(ModelConfig):
    """The config of a later version, which has one field more."""

    flag: bool = False


def later(**changes: bool) -> Decoder:
    return Decoder(Later(**dataclasses.asdict(TINY), **changes), tiny_params())


def test_a_new_field_changes_no_fingerprint() -> None:
    now = fingerprints(Decoder(TINY, tiny_params()))
    assert fingerprints(later()) == now
    assert not set(fingerprints(later(flag=True)).every) & set(now.every)


def test_fingerprints_tell_models_apart() -> None:
    def of(config: ModelConfig = TINY, seed: int = 0) -> set[str]:
        return set(fingerprints(Decoder(config, tiny_params(config, seed))).every)

    assert of() == of()
    assert not of() & of(seed=1)
    assert not of() & of(dataclasses.replace(TINY, rope_theta=10001.0))
