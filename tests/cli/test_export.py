"""``jstrace export``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import jstrace
from jstrace.cli import options
from jstrace.cli.export import Format
from jstrace.models import Model
from jstrace.show.export import FORMATS
from tests.cli.conftest import Run
from tests.conftest import SIZES

pytestmark = pytest.mark.quick


@pytest.fixture
def saved(stub: Model, tmp_path: Path) -> Path:
    jstrace.trace(stub, "hello", sizes=SIZES).save(tmp_path / "trace.npz")
    return tmp_path / "trace.npz"


@pytest.mark.parametrize("kind", FORMATS)
def test_files_are_the_librarys(run: Run, saved: Path, kind: str, tmp_path: Path) -> None:
    out, wanted = tmp_path / "a" / "x", tmp_path / "b" / "x"
    for path in (out, wanted):
        path.parent.mkdir()
    code, printed, error = run("export", str(saved), "--format", kind, "--size", "0.7", "-o", str(out))
    assert (code, error) == (0, "")
    assert str(out) in printed
    jstrace.export(jstrace.Trace.load(saved), wanted, kind, size=0.7)
    assert out.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *((text, {"size": 1.0}) for text in ("1", "1.0", "1e0", "100%", "full")),
        *((text, {"size": 0.01}) for text in ("0.01", "1e-2", ".01", "1%", "1.0%")),
        ("2", {"k": 2}),
        ("16", {"k": 16}),
        ("0", {"size": 0.0}),
        ("2.0", {"size": 2.0}),
        ("-1", {"size": -1.0}),
    ],
)
def test_what_numbers_mean(text: str, meant: dict[str, float]) -> None:
    """A size is a share of all edges; only a whole number that can be none is an index."""
    assert options.at_size(text) == meant


def test_size_1_is_all_of_the_graph(run: Run, saved: Path, tmp_path: Path) -> None:
    trace = jstrace.Trace.load(saved)
    assert run("export", str(saved), "--format", "json", "--size", "1", "--out", str(tmp_path / "x"))[0] == 0
    assert len(json.loads((tmp_path / "x").read_text())["edges"]) == trace.n_edges


def test_choices_are_the_librarys() -> None:
    assert list(Format) == list(FORMATS)


def test_a_model_says_what_is_predicted(run: Run, stub: Model, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "graph.json"
    options = ("--format", "neuronpedia", "--size", "1", "--out", str(out), "--scan", "tiny")
    assert run("export", str(saved), *options, "--model", "tiny")[0] == 0
    found = json.loads(out.read_text())
    top = jstrace.evaluate(stub, jstrace.Trace.load(saved)).full_tokens[0]
    assert found["nodes"][-1]["feature"] == top
    assert f'Output "[bold]{top}"' in found["nodes"][-1]["clerp"]
    assert found["metadata"]["scan"] == "tiny"


def test_what_is_refused(run: Run, saved: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x")
    for words, message in (
        ((str(saved), "--format", "json", "--size", "0.4", "--out", out), "not one of this trace's sizes"),
        ((str(saved), "--format", "json", "--size", "few", "--out", out), "expected a size of the trace"),
        ((str(saved), "--format", "json", "--size", "1", "--out", out, "--model", "tiny"), "json holds no prediction"),
        ((str(saved), "--format", "json", "--size", "1", "--out", str(tmp_path / "no" / "x")), "there is no folder"),
        (("missing.npz", "--format", "json", "--size", "1", "--out", out), "missing.npz"),
    ):
        code, printed, error = run("export", *words)
        assert (code, printed, error.count("\n")) == (2, "", 1), words
        assert message in error
    assert not Path(out).exists()
