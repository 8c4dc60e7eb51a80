"""``--replace`` and ``--score-replace`` of every command: one meaning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import jstrace
from jstrace.cli import view
from jstrace.models import Model
from tests.cli.conftest import Run


@pytest.fixture
def texts(tmp_path: Path) -> str:
    (tmp_path / "texts.txt").write_text("some words\nand more\n")
    return str(tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("words", "replace", "scored"),
    [
        ((), "zero", "zero"),
        (("--replace", "mean"), "mean", "mean"),
        (("--score-replace", "mean"), "zero", "mean"),
        (("--replace", "mean", "--score-replace", "zero"), "mean", "zero"),
    ],
)
def test_trace(
    run: Run, stub: Model, texts: str, tmp_path: Path, words: tuple[str, ...], replace: str, scored: str
) -> None:
    asked = ("trace", "hello", "--score", "l1*gradient", *words)
    asked += ("--reference", texts) if words else ()
    code, out, error = run(*asked, "--json", "--save", str(tmp_path / "t.npz"))
    assert code == 0, error
    found, trace = json.loads(out), jstrace.Trace.load(tmp_path / "t.npz")
    assert (found["replace"], found["scored_under"]) == (replace, scored) == (trace.replace, trace.score_replace)
    lines = ["some words", "and more"]
    options = {"reference": lines} if words else {}
    expected = jstrace.trace(stub, "hello", score="l1*gradient", replace=replace, score_replace=scored, **options)
    np.testing.assert_array_equal(trace.scores.attn, expected.scores.attn)
    judged = jstrace.evaluate(stub, expected, **options)
    np.testing.assert_allclose([row["tv"] for row in found["rows"]], judged.tv, atol=1e-5)
    _, printed, _ = run(*asked)
    line = next(line for line in printed.splitlines() if line.startswith("ranked by"))
    assert line.startswith(f"ranked by l1*gradient under {scored}, best first")
    assert ("carrying mean" in printed) == (replace == "mean")


def test_selectivity_says_what_it_is_under(run: Run, stub: Model, texts: str) -> None:
    words = ("selectivity", "hello", "--others", texts, "--score", "l1*gradient")
    told = json.loads(run(*words, "--json")[1])
    assert (told["replace"], told["scored_under"], told["told"]) == ("zero", "zero", [0, 1])
    code, out, error = run(*words, "--score-replace", "mean", "--reference", texts)
    assert code == 0, error
    assert out.startswith("TV from the target of each score, l1*gradient under zero, scored under mean; 2 foreign")


def test_the_first_curve_of_a_page_is_the_traces_own() -> None:
    assert [*view.curves("zero")] == ["zeros", "zeros, attention intact", "means"]
    assert [*view.curves("mean")] == ["means", "means, attention intact", "zeros"]
    assert [one.get("replace") for one in view.curves("resample").values()] == [None, None, "zero", "mean"]


def test_view(run: Run, stub: Model, texts: str, tmp_path: Path) -> None:
    """Of a text the score follows; of a saved trace it is settled, and what stands beside it is made alike."""
    page, saved = str(tmp_path / "p.html"), str(tmp_path / "t.npz")
    words = ("--reference", texts, "--out", page)
    code, _, error = run("view", "hello", "--score", "l1*gradient", "--replace", "mean", *words)
    assert code == 0, error
    assert "scored under mean" in Path(page).read_text()
    asked = ("--score", "l1*gradient", "--replace", "mean", "--reference", texts)
    assert run("trace", "hello", *asked, "--save", saved)[0] == 0
    code, _, error = run("view", saved, "--against", "gradient", *words)
    assert code == 0, error
    assert Path(page).read_text().count("scored under mean") == 2
    code, _, error = run("view", saved, "--out", page)
    assert (code, error.count("\n")) == (2, 1)
    assert "give the same reference" in error
    own = dataclasses.replace(jstrace.Trace.load(saved), replace="mine", reference="")
    own.save(tmp_path / "own.npz")
    code, _, error = run("view", str(tmp_path / "own.npz"), "--out", page)
    assert (code, error.count("\n")) == (2, 1)
    assert "carry 'mine' of your own" in error
    code, _, error = run("view", saved, "--replace", "zero", "--score-replace", "zero", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert f"--score-replace: the trace in {saved} is made" in error


def test_export_reads_the_full_graph_alone(run: Run, stub: Model, texts: str, tmp_path: Path) -> None:
    """So a trace under texts of one's own is exported without them."""
    saved, out = str(tmp_path / "t.npz"), tmp_path / "g.json"
    asked = ("--score", "l1*gradient", "--replace", "mean", "--reference", texts)
    assert run("trace", "hello", *asked, "--save", saved)[0] == 0
    words = ("--format", "neuronpedia", "--size", "0.1", "-o", str(out), "--model", "x")
    code, _, error = run("export", saved, *words)
    assert code == 0, error
    told = json.loads(out.read_text())["metadata"]["generation_settings"]
    assert (told["replace"], told["scored_under"]) == ("mean", "mean")
