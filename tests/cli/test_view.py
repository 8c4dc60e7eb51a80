"""``jstrace view``."""

from __future__ import annotations

from pathlib import Path

import jstrace
from jstrace.models import Model
from tests.cli.conftest import Run
from tests.show.test_view import data_of


def test_command(run: Run, stub: Model, tmp_path: Path) -> None:
    out, saved = tmp_path / "page.html", tmp_path / "trace.npz"
    code, printed, error = run("view", "hello", "--out", str(out), "--against", "l2")
    assert code == 0, error
    assert "kB" in printed
    assert [panel["name"] for panel in data_of(out.read_text())["traces"]] == ["l1", "l2"]
    jstrace.trace(stub, "hello", sizes=(0.1, 0.5)).save(saved)
    assert run("view", str(saved), "--out", str(out))[0] == 0
    assert data_of(out.read_text())["traces"][0]["sizes"] == [0.1, 0.5, 1.0]
    for words, message in (
        (("hello", "--out", "page.txt"), "ends in .html"),
        (("hello", "--out", str(tmp_path / "no" / "a.html")), "there is no folder"),
        (("missing.npz",), "missing.npz"),
        (("hello", "--importance", "flow"), "expected one of l1"),
    ):
        code, _, error = run("view", *words)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error
