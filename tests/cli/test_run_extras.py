"""What ``jstrace run`` adds to its inputs, and checkpoints in one command; the report of each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pyarrow import csv, parquet
from safetensors import numpy as safetensors

from jstrace.cli.checkpoints import checkpoints
from jstrace.models import InputError, Model
from jstrace.pipeline.records import Spent
from tests.cli.conftest import Run

WORDS = ("--ablate", "residual+mlp")


def test_generated_shuffled_and_measured(run: Run, stub: Model, tmp_path: Path) -> None:
    """All three at once, through to the report."""
    rows, out = tmp_path / "rows.txt", tmp_path / "out"
    rows.write_text("ab cd\nef gh\n")
    asked = ("--generate", "2", "--temperature", "0.5", "--geometry", "--alter", "shuffle", *WORDS)
    code, told, err = run("run", "--data", str(rows), "--out", str(out), *asked)
    assert (code, told) == (0, f"{out}: 8 inputs, 8 of them computed now\n"), err
    assert f"jstrace: 8 inputs in {rows}; starting JAX" in err
    found = parquet.read_table(out / "inputs").to_pylist()
    assert [(row["pair"], row["variant"], row["step"]) for row in found[:4]] == [
        ("0", "original", 0), ("0", "original", 1), ("0", "shuffled", 0), ("0", "shuffled", 1),
    ]  # fmt: skip
    assert all(len(row["dimension"]) == 3 for row in found)
    code, _, err = run("report", str(out), "--out", str(tmp_path / "report"), "--paired")
    assert code == 0, err
    figures = {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert {"generation", "geometry", "paired"} < figures
    rows = csv.read_csv(tmp_path / "report" / "tables" / "paired.csv")
    assert set(rows["n"].to_pylist()) == {2}, "pairs; steps of a row are compared with the same steps of its pair"


@pytest.mark.usefixtures("stub")
def test_what_scores_took_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, out, reference = tmp_path / "rows.txt", tmp_path / "out", tmp_path / "reference.txt"
    rows.write_text("ab cd\nef gh\n")
    reference.write_text("gh ef\n")
    spent = {"l1 and l2": Spent(2, 0.5), "gradient": Spent(2, 300.0)}
    monkeypatch.setattr("jstrace.runs.runner._seconds", lambda _: {k: vars(v) for k, v in spent.items()})
    asked = (
        "--score",
        "l1,l2,gradient",
        "--replace",
        "mean",
        "--reference",
        str(reference),
        *WORDS,
        "--sizes",
        "10%,0.5",
    )
    code, told, err = run("run", "--data", str(rows), "--out", str(out), *asked)
    assert code == 0, err
    last = "seconds an input for scores, without compilation: l1 and l2 0.25; gradient 150"
    assert told.splitlines() == [f"{out}: 2 inputs, 2 of them computed now", last]
    assert json.loads((out / "manifest.json").read_text())["config"]["sizes"] == [0.1, 0.5]


def test_checkpoints_in_one_command(run: Run, hf_checkpoints: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.txt", tmp_path / "out"
    rows.write_text("the cat\nsat the cat\n")
    asked = ("--model", str(hf_checkpoints), "--revision", "late", "--revision", "early", *WORDS)
    code, told, err = run("run", "--data", str(rows), "--out", str(out), *asked)
    assert code == 0, err
    assert told.splitlines() == [f"{out}/{name}: 2 inputs, 2 of them computed now" for name in ("late", "early")]
    models = [json.loads((out / name / "manifest.json").read_text())["model"] for name in ("late", "early")]
    assert [(one["revision"], one["place"]) for one in models] == [("late", 0), ("early", 1)]
    assert run("run", "--data", str(rows), "--out", str(out), *asked)[1].count("0 of them computed now") == 2
    alone = ("--model", str(hf_checkpoints / "late"), *WORDS)
    assert run("run", "--data", str(rows), "--out", str(out / "late"), *alone)[0] == 0
    assert json.loads((out / "late" / "manifest.json").read_text())["model"] == models[0], "it is one of them still"
    code, told, err = run("report", str(out), "--out", str(tmp_path / "report"))
    assert code == 0, err
    assert told.endswith("@late, steps@early\n")
    rows = csv.read_csv(tmp_path / "report" / "tables" / "revisions.csv").to_pylist()
    assert [row["revision"] for row in rows] == ["late", "early"]
    assert rows[0]["density_median"] != rows[1]["density_median"]
    assert (tmp_path / "report" / "figures" / "revisions.svg").exists()


@pytest.fixture
def hf_checkpoints(hf_llama: object, tmp_path: Path) -> Path:
    """A folder with two checkpoints of one tiny model."""
    from tests.hf_models import add_tokenizer

    first, parent = hf_llama(), tmp_path / "steps"  # type: ignore[operator]
    add_tokenizer(first)
    for name, factor in (("early", 0.5), ("late", 1.0)):
        shutil.copytree(first, parent / name)
        weights = safetensors.load_file(parent / name / "model.safetensors")
        scaled = {key: factor * value for key, value in weights.items()}
        safetensors.save_file(scaled, parent / name / "model.safetensors", {"format": "pt"})
    return parent


def test_where_checkpoints_are(tmp_path: Path) -> None:
    """Revisions of a hub id are asked for; a single one is as it was."""
    found = checkpoints("owner/name", ["main", "step/1"], "gs://runs/a/")
    assert [(one.source, one.revision, one.label, one.place) for one in found] == [
        ("owner/name", "main", "main", 0), ("owner/name", "step/1", "step/1", 1),
    ]  # fmt: skip
    assert [one.out for one in found] == ["gs://runs/a/main", "gs://runs/a/step_1"]
    (one,) = checkpoints("owner/name", ["main"], "a/")
    assert (one.revision, one.out, one.label) == ("main", "a/", None)
    for names, message in (
        (["a", "a"], "each of them once"),
        ([""], "revision '': expected a branch, a tag or a commit"),
        (["a", " "], "revision ' ': expected a branch"),
        (["a", ".."], "names of folders"),
        (["a", "b/../c"], "names of"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoints("owner/name", names, "a")
    with pytest.raises(InputError, match="holds no folder a"):
        checkpoints(str(tmp_path), ["a", "b"], "a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--data", "a.txt", "--out", "x", "--temperature", "1"), "temperature is for generated tokens"),
        (("run", "--data", "a.txt", "--out", "x", "--alter", "reverse"), "alter 'reverse': expected shuffle"),
        (("run", "--data", "a.txt", "--out", "x", "--model", ".", "--revision", "a", "--revision", "b"), "no folder a"),
    ],
)
def test_bad_input(
    run: Run, stub: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one two\n")
    code, _, err = run(*words)
    assert code == 2
    assert message in err.splitlines()[-1]
