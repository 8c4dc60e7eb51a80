"""``jstrace train-scorer``, and what it writes as an edge score of the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import jstrace
from jstrace.models import Model
from tests.cli.conftest import Run


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"{word} and more" for word in ("one", "two", "three", "four", "five")))
    return str(path)


def test_fits_and_is_used(run: Run, stub: Model, texts: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    words = ("train-scorer", "--data", texts, "--out", str(out), "--features", "gradient", "--steps", "2")
    code, printed, error = run(*words, "--reference", texts)
    assert code == 0, error
    assert "numbers from 5 texts in 2 steps" in printed
    means, lines = ("--replace", "mean", "--reference", texts), Path(texts).read_text().split("\n")
    code, printed, error = run("trace", "hello", "--score", str(out), *means, "--json")
    assert code == 0, error
    found = jstrace.trace(stub, "hello", score=jstrace.Scorer.load(out), replace="mean", reference=lines)
    tv = jstrace.evaluate(stub, found, reference=lines).tv
    assert [row["tv"] for row in json.loads(printed)["rows"]] == pytest.approx(tv.tolist(), abs=1e-5)
    folder = tmp_path / "run"
    words = ("run", "--data", texts, "--out", str(folder), "--score", f"l1,{out}", *means)
    code, printed, error = run(*words)
    assert code == 0, error
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["importance"] == ["l1", "mine"]
    assert jstrace.Scorer.load(out).coefficients.digest in manifest["config"]["own_importances"]["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x.npz"), "x.npz: expected a file that ends in .safetensors"),
        (("--out", "none/x.safetensors"), "there is no folder"),
        (("--limit", "4", "--replace", "noise"), "replace = ('noise',)"),
        (("--data", "missing.txt"), "missing.txt: cannot be read"),
        (("--name", "l1"), "name = 'l1'"),
    ],
)
def test_bad_input(
    run: Run,
    stub: Model,
    texts: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run("train-scorer", "--data", texts, "--out", "a.safetensors", *words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_too_few_texts(run: Run, stub: Model, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    code, _, error = run("train-scorer", "--data", str(tmp_path / "few.txt"), "--out", str(tmp_path / "a.safetensors"))
    assert (code, "2 texts: a scorer is fitted to a list of at least 4" in error) == (2, True)


def test_bad_importances(run: Run, stub: Model, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"?")
    for given, message in (("flow", "expected one of l1, l2"), (str(tmp_path / "a.safetensors"), "no readable scorer")):
        for words in (("trace", "hello"), ("run", "--data", "x.txt", "--out", str(tmp_path / "r"))):
            code, _, error = run(*words, "--score", given)
            assert code == 2
            assert message in error
