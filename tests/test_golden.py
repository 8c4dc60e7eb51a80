"""What earlier versions wrote loads for ever: jstrace 0.1.0 wrote tests/golden.

It hashed models in another way, so that what is in its files is another model's by now; where the rest of a file is to
be read, the model's hash of today stands in its place.
"""

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
from jstrace.models import Decoder, InputError, Model, ModelConfig, fingerprint
from jstrace.reports import write_report
from jstrace.runs import manifest
from jstrace.runs.parts import Part, read_part, write_part
from jstrace.runs.schema import TABLES
from tests.conftest import TINY, tiny_params

GOLDEN = Path(__file__).parent / "golden"
FIRST = "f5525de38bc695b5"
"""The model's fingerprint when the files were written,"""
NOW = "2-b47833030ecaaeeb"
"""and that of today."""
PLAN = Plan(("l1",), ("all", "residual+mlp"), ("random", "inverse"))


def checkpoint(folder: Path, mark: str) -> Path:
    """The checkpoint, with a fingerprint."""
    shutil.copytree(GOLDEN / "checkpoint", folder)
    header = json.loads((folder / "jstrace.json").read_text())
    assert header["fingerprint"] == FIRST
    (folder / "jstrace.json").write_text(json.dumps(header | {"fingerprint": mark}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return jstrace.load(str(checkpoint(tmp_path_factory.mktemp("golden") / "checkpoint", NOW)))


def test_a_checkpoint_loads(model: Model) -> None:
    assert model.fingerprint() == NOW, "another one would be another model in every file of this version"
    assert model.tokenizer is not None
    assert model.tokenizer.encode("the cat sat") == [0, 1, 2, 3]


def test_a_checkpoint_of_other_weights_does_not(tmp_path: Path) -> None:
    """Hashes of version 0.1, which nothing makes any more, are not compared."""
    mark = "2-b47833030ecaaeec"
    with pytest.raises(InputError, match=f"its weights hash to {NOW}, expected {mark}; it is damaged"):
        jstrace.load(str(checkpoint(tmp_path / "other", mark)))
    assert jstrace.load(str(checkpoint(tmp_path / "first", FIRST))).fingerprint() == NOW


def test_a_trace_loads_and_is_still_the_same(model: Model) -> None:
    old, new = jstrace.Trace.load(GOLDEN / "trace.npz"), jstrace.trace(model, "the cat sat")
    jax.tree.map(np.testing.assert_array_equal, old.strata, new.strata)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), old.scores, new.scores)
    with pytest.raises(InputError, match=f"made with model {FIRST}, this is {NOW}"):
        jstrace.evaluate(model, old)
    anyones = dataclasses.replace(old, model_fingerprint="")
    assert jstrace.evaluate(model, anyones).density == pytest.approx(2.79744, abs=1e-4)


def data() -> runs.Data:
    return dataclasses.replace(runs.read_data(str(GOLDEN / "texts.tsv")), name="gold.tsv")


def test_a_run_goes_on(model: Model, tmp_path: Path) -> None:
    """Two of its three inputs are there; the third joins them, and the report reads all."""
    folder = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    told = manifest.read_manifest(folder)
    config = told["config"] | {"model": NOW}
    (folder / "manifest.json").write_text(json.dumps(told | {"config": config}))
    part, old = Part(0, 1), manifest.mark_of(told["config"])
    found = {name: read_part(folder, name, part, old) for name in TABLES if (folder / name).exists()}
    write_part(folder, part, found, manifest.mark_of(config))
    done = runs.run(model, data(), folder, PLAN, save_strata=True)
    assert (done.inputs, done.invalid, done.computed) == (3, 0, 1)
    assert "scores" not in manifest.read_manifest(folder)["config"], "nothing says what they were"
    assert parquet.read_table(folder / "inputs")["input"].to_pylist() == [0, 1, 2]
    write_report([folder], tmp_path / "report")


def test_a_run_of_another_fingerprint_does_not(model: Model, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    with pytest.raises(InputError, match=rf"holds another run: model is .*{FIRST}\) there, .*{NOW}\) here"):
        runs.run(model, data(), folder, PLAN, save_strata=True)
    write_report([folder], tmp_path / "report")


# --- fingerprints ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Later(ModelConfig):
    """The config of a later version, which has one field more."""

    flag: bool = False


def later(**changes: bool) -> Decoder:
    return Decoder(Later(**dataclasses.asdict(TINY), **changes), tiny_params())


def test_a_new_field_changes_no_fingerprint() -> None:
    now = fingerprint(Decoder(TINY, tiny_params()))
    assert fingerprint(later()) == now != fingerprint(later(flag=True))


def test_fingerprints_tell_models_apart() -> None:
    def of(config: ModelConfig = TINY, seed: int = 0) -> str:
        return fingerprint(Decoder(config, tiny_params(config, seed)))

    assert of() == of()
    assert len({of(), of(seed=1), of(dataclasses.replace(TINY, rope_theta=10001.0))}) == 3
