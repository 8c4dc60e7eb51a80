"""``jstrace trace``, on the tiny model and on the real one."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jstrace
from jstrace.cli import computing
from jstrace.cli.options import sizes_of
from jstrace.method.graph import full_graph
from jstrace.models import InputError, Model
from jstrace.pipeline import Invalid, footprint
from jstrace.scale import memory
from jstrace.show import plots
from tests.cli.conftest import Run
from tests.conftest import ROOT


def test_table(run: Run, stub: Model) -> None:
    code, out, _ = run("trace", "hello", "--top", "4")
    assert code == 0
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["size", "edges"])
    rows = [line.split() for line in lines[start + 1 :]]
    full = next(row for row in rows if row[0] == "full")
    n_edges = jstrace.trace(stub, "hello").n_edges
    assert full[1] == str(n_edges)
    folded = sum(map(int, re.findall(r"(\d+) sizes?", next(line for line in lines if line.startswith("not shown:")))))
    assert rows.index(full) + 1 + folded == 27, "every size is a row, or folded"
    assert f" of {n_edges} edges (" in out, "the answer in words"
    assert "[bold]" in out, "token texts are shown as they are, not read as markup"
    assert "density" in out
    assert "TV 1" in out
    assert "layer" in lines[-1]


def test_attention_alone(run: Run, stub: Model) -> None:
    words = ("trace", "hello", "--top", "4", "--kind", "attention")
    code, out, _ = run(*words)
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["score", "in"])
    assert code == 0
    assert all(
        re.search(r"layer \d head \d: from '\[bold\]\d+' \[\d\] to ", line) for line in lines[start + 1 : start + 5]
    )
    assert "attention edges" in lines[start + 5]
    assert lines[start + 6].split() == ["head", "edges", "of", "from", "token", "edges", "of"]
    found = json.loads(run(*words, "--json")[1])
    assert [edge["kind"] for edge in found["edges_of_kind"]] == ["attn"] * 4
    assert found["edges"] == json.loads(run("trace", "hello", "--top", "4", "--json")[1])["edges"]


def test_json(run: Run, stub: Model) -> None:
    code, out, _ = run("trace", "hello", "--json", "--ablate", "residual+mlp", "--score", "random", "--seed", "7")
    found = json.loads(out)
    trace = jstrace.trace(stub, "hello", score="random", seed=7)
    evaluation = jstrace.evaluate(stub, trace, ablate="residual+mlp")
    assert code == 0
    assert len(found["rows"]) == 27
    np.testing.assert_allclose([row["tv"] for row in found["rows"]], evaluation.tv, atol=1e-6)
    assert found["density"] == pytest.approx(evaluation.density)
    assert (found["ablate"], found["score"], found["seed"]) == ("residual+mlp", "random", 7)


def test_file_plot_and_save(run: Run, stub: Model, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("one\n\ntwo two\nthree\n")
    code, out, _ = run("trace", "--file", str(tmp_path / "texts"), "--json", "--plot", str(tmp_path / "a.svg"))
    assert code == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["one", "two two", "three"]
    assert "<svg" in (tmp_path / "a.svg").read_text()
    code, _, err = run("trace", "one", "--save", str(tmp_path / "a.npz"), "--plot", str(tmp_path / "a.png"))
    assert code == 0
    assert err == f"jstrace: wrote {tmp_path}/a.npz\njstrace: wrote {tmp_path}/a.png\n"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert jstrace.Trace.load(tmp_path / "a.npz").n_edges == jstrace.trace(stub, "one").n_edges


def test_the_advice_on_names_of_files_works(run: Run, stub: Model, tmp_path: Path, monkeypatch: Any) -> None:
    """What a name that was refused is told to do; a word that is a folder's name, too, is a text."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("one")
    Path("one").mkdir()
    code, _, error = run("trace", "texts.txt")
    ((told, literal),) = re.findall(r": jstrace (trace --file texts.txt) traces its lines; add (--text) if", error)
    assert code == 2
    code, out, error = run(*told.split(), "--json")
    assert (code, json.loads(out)["text"], error) == (0, "one", "")
    code, out, _ = run("trace", "a.txt", literal, "--json")
    assert (code, json.loads(out)["text"]) == (0, "a.txt")
    code, _, error = run("view", "a.npz", literal, "--out", "page.html")
    assert (code, Path("page.html").exists()) == (0, True), error
    code, out, error = run("trace", "one", "--json")
    assert (code, json.loads(out)["text"], error) == (0, "one", "")


def test_sizes(run: Run, stub: Model, tmp_path: Path) -> None:
    """Those that are asked for, in every command that traces; the smallest sub-graphs are looked for as finely."""
    code, out, error = run("trace", "hello", "--sizes", "10%,0.5", "--json")
    assert code == 0, error
    found, usual = json.loads(out), json.loads(run("trace", "hello", "--json")[1])
    assert [row["size"] for row in found["rows"]] == [0.1, 0.5, 1.0]
    known = {row["size"]: row["tv"] for row in usual["rows"]}
    assert found["rows"][0]["tv"] == pytest.approx(known[0.1], abs=1e-6)
    least = jstrace.smallest(stub, jstrace.trace(stub, "hello", sizes=(0.1, 0.5)), tv=0.1)
    assert found["smallest"]["tv_0.1"]["edges"] == least.edges
    assert sizes_of("0.7%, 14.1%") == (0.007, 0.141), "as they are written"


def test_help_promises_no_best_sub_graphs(run: Run) -> None:
    for words in (("--help",), ("trace", "--help")):
        code, out, _ = run(*words)
        assert code == 0
        assert "that best keep" not in " ".join(out.split())
    assert "not the best sub-graphs" in " ".join(out.split())


def test_terminal_plot_shows_the_curve(stub: Model) -> None:
    evaluation = jstrace.evaluate(stub, jstrace.trace(stub, "hello"))
    lines = plots.terminal_plot(evaluation).splitlines()
    assert len(lines) == 7
    assert lines[-1].split() == ["0.001%", "0.01%", "0.1%", "1%", "10%", "100%", "size"]
    with pytest.raises(InputError, match="png"):
        plots.check_plottable(Path("a.gif"))


def test_options_reach_the_library(run: Run, stub: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load(source: str, **options: Any) -> Model:
        asked.update(source=source, dtype=options["dtype"], weights=options["weights"])
        return stub

    monkeypatch.setattr("jstrace.load", load)
    options = ["--model", "some.gguf", "--dtype", "bfloat16", "--weights", "int8", "--pre-softmax", "--json"]
    code, out, _ = run("trace", "hi", *options)
    assert code == 0
    assert asked == {"source": "some.gguf", "dtype": "bfloat16", "weights": "int8"}
    expected = jstrace.evaluate(stub, jstrace.trace(stub, "hi"), pre_softmax=True)
    np.testing.assert_allclose([row["tv"] for row in json.loads(out)["rows"]], expected.tv, atol=1e-6)


def test_a_bad_line_is_named(run: Run, stub: Model, tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes("one\u2028still one\r\n\n".encode() + b"two\n")
    code, out, _ = run("trace", "--file", str(tmp_path / "texts"), "--json")
    assert code == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["one\u2028still one", "two"]
    (tmp_path / "bytes").write_bytes(b"\xff\n")
    code, _, err = run("trace", "--file", str(tmp_path / "bytes"))
    assert (code, len(err.splitlines())) == (2, 1)
    code, _, err = run("trace", "a\udcff")
    assert code == 2
    assert "not valid Unicode" in err
    assert len(err.splitlines()) == 1
    (tmp_path / "bad").write_bytes(b"good\n" * 70 + b"x" * 200_000 + b"\n")
    code, out, err = run("trace", "--file", str(tmp_path / "bad"), "--json")
    assert (code, out, len(err.splitlines())) == (2, "", 1), "nothing is printed where a later line is refused"
    assert "bad:71: 200000 tokens" in err


def test_a_text_that_cannot_be_traced_is_named(
    run: Run, stub: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its line, however many texts are computed together."""
    file, trace = tmp_path / "lines.txt", jstrace.trace
    file.write_text("one\n\ntwo\nthree\n")

    def traced(model: Model, rows: list[np.ndarray], **options: Any) -> list[Any]:
        found = zip(rows, trace(model, rows, **options), strict=True)
        return [Invalid("the forward pass is not finite") if len(row) == 5 else one for row, one in found]

    monkeypatch.setattr(jstrace, "trace", traced)
    for together in (1, 64):
        monkeypatch.setattr(computing, "_CHUNK", together)
        code, _, error = run("trace", "--file", str(file))
        assert (code, error) == (2, f"jstrace: error: {file}:4: the forward pass is not finite\n")


def test_long_texts_are_few_at_once(stub: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = full_graph.edge_slot_count(stub.config, 100)
    for room, n_texts in ((5 * slots * 70, 64), (5 * slots * 7, 7), (1, 1)):
        monkeypatch.setattr(computing, "_BYTES", room)
        assert computing._texts_at_once(stub, 100) == n_texts


def test_a_long_word(run: Run, stub: Model) -> None:
    code, out, err = run("trace", "a" * 100_000)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "100000 tokens are too many" in err
    assert "up to" in err


def test_memory_is_looked_at_before_the_work(
    run: Run, stub: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused where the machine certainly lacks it; a warning where it is not free; the longest text decides."""
    needed = 20 * 10**8
    monkeypatch.setattr(footprint, "text_bytes", lambda config, n_tokens, *_, **__: n_tokens * 10**8)
    (tmp_path / "texts").write_text(f"short\n{'a' * 20}\nb\n")
    words = ("trace", "--file", str(tmp_path / "texts"), "--json")

    def have(total: float, free: float) -> tuple[int, str, str]:
        monkeypatch.setattr(memory, "total_bytes", lambda device: int(total))
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(free))
        return run(*words)

    code, out, err = have(needed / 1.6, needed / 1.6)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "texts:2: 20 tokens need about 2.0 GB, 1.2 GB are there, enough for about 12 tokens; shorten" in err
    code, out, err = have(needed / 1.4, needed / 1.4)
    assert (code, len(out.splitlines()), len(err.splitlines())) == (0, 3, 1), "an estimate may be wrong"
    assert "are free" in err
    assert "memory may run out" in err
    assert have(needed, needed)[2] == ""


def test_texts_that_a_plot_could_misread(run: Run, stub: Model, tmp_path: Path) -> None:
    path = str(tmp_path / "a.svg")
    for text in ("$x_{ $", "_hidden", "tab\there", "日本"):
        assert run("trace", text, "--json", "--plot", path)[0] == 0
        ElementTree.parse(path)
    assert run("trace", "a", "--plot", path, "--save", path)[0] == 2


def test_plot_of_a_curve_with_gaps(stub: Model) -> None:
    found = jstrace.evaluate(stub, jstrace.trace(stub, "hello"))
    broken = dataclasses.replace(found, tv=np.where(np.arange(27) > 20, np.nan, found.tv))
    assert "?" in plots.terminal_plot(broken)


@pytest.mark.real
def test_optimised_programs_give_the_known_table(real: Model) -> None:
    """The only test without this suite's compiler flags: the README's table, from a process as users start it."""
    del real  # which has fetched it
    plain = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    }
    command = [sys.executable, "-m", "jstrace.cli", "trace", "The capital of France is", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["n_edges"] == 4398
    assert found["density"] == pytest.approx(4.511, abs=2e-3)
    assert [row["tv"] for row in found["rows"][-5:]] == pytest.approx([0.937, 0.645, 0.074, 0.006, 0], abs=2e-3)
    assert [row["top_token_text"] for row in found["rows"][-5:]] == [" Bah", *[" Paris"] * 4]


def test_effects_of_components(run: Run, stub: Model) -> None:
    """With a metric, --top lists what heads and MLPs do to it, rather than the first edges of the search."""
    words = ("--counterfactual", "jello", "--answer", "a", "--instead-of", "b", "--score", "gradient", "--top", "3")
    code, out, _ = run("trace", "hello", *words)
    assert code == 0
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("effects on logit("))
    found = jstrace.effects(
        stub, "hello", by="node", counterfactual="jello", metric=jstrace.logit_difference("a", "b")
    ).columns()
    rows = [line.split() for line in lines[start + 2 :]]
    assert [float(row[0]) for row in rows] == pytest.approx(found["effect"][:3], abs=1e-3)
    assert [row[3] for row in rows] == [str(layer) for layer in found["layer"][:3]]
    assert any("after the counterfactual prompt" in line for line in lines)
    listed = json.loads(run("trace", "hello", *words, "--json")[1])["effects"]
    assert [one["effect"] for one in listed] == pytest.approx(found["effect"][:3], abs=1e-5)
    code, out, _ = run("trace", "hello", *words, "--kind", "mlp")
    assert (code, "effects on" in out, "MLP" in out.splitlines()[-1]) == (0, False, True), (
        "edges of the kind that was asked for"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--counterfactual", "jello", "--replace", "mean"), "--counterfactual says what ablated edges carry"),
        (("--counterfactual", "jello", "--pre-softmax"), "does not go with --pre-softmax"),
        (("--instead-of", "b"), "--instead-of names the rival of --answer"),
        (("--answer", "a", "--instead-of", "a"), "twice"),
        (("--counterfactual", "hello again"), "a pair needs as many"),
    ],
)
def test_bad_pairs(run: Run, stub: Model, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("trace", "hello", *words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
