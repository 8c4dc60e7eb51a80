"""``jstrace selectivity``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import jstrace
from jstrace.models import Model
from tests.cli.conftest import Run


def test_the_numbers_are_the_librarys(run: Run, stub: Model, tmp_path: Path) -> None:
    others = tmp_path / "others.txt"
    others.write_text("another text\nand more\n")
    words = ("selectivity", "hello", "--others", str(others), "--score", "l1*gradient")
    words += ("--replace", "mean", "--reference", str(others))
    code, out, error = run(*words, "--json")
    assert code == 0, error
    lines = ["another text", "and more"]
    found = jstrace.selectivity(stub, "hello", lines, score="l1*gradient", replace="mean", reference=lines)
    printed = json.loads(out)
    np.testing.assert_allclose(printed["own"], found.own, atol=1e-6)
    np.testing.assert_allclose(printed["foreign"], found.foreign, atol=1e-6)
    code, out, _ = run(*words)
    assert code == 0
    assert "2 foreign predictions" in out
    assert out.splitlines()[-1] == f"most selective at {100 * found.peak:g}% of all edges"


def test_bad_input(run: Run, stub: Model, tmp_path: Path) -> None:
    others = tmp_path / "others.txt"
    others.write_text("hello\n")
    for words, message in (
        (("hello", "--others", str(others)), "the text itself is among them"),
        (("hi", "--others", str(others), "--score", "l1"), "selectivity is for scores from gradients"),
        (("hi", "--others", str(tmp_path / "none.txt")), "none.txt"),
        (("hi", "--others", str(others), "--score", "flow"), "expected one of l1"),
    ):
        code, _, error = run("selectivity", *words)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error
