"""``jstrace view``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import Model
from jstrace.runs.data import Data, Row
from jstrace.show.page import packed
from tests.cli.conftest import Run
from tests.conftest import SIZES
from tests.show.pages import data_of


def test_command(run: Run, stub: Model, tmp_path: Path) -> None:
    out, saved = tmp_path / "page.html", tmp_path / "trace.npz"
    code, printed, error = run("view", "hello", "--out", str(out), "--against", "l2", "--sizes", "10%,0.5")
    assert code == 0, error
    assert "kB" in printed
    panels = data_of(out.read_text())["traces"]
    assert [(panel["name"], panel["sizes"]) for panel in panels] == [("l1", [0.1, 0.5, 1]), ("l2", [0.1, 0.5, 1])]
    jstrace.trace(stub, "hello", sizes=SIZES).save(saved)
    assert run("view", str(saved), "--out", str(out))[0] == 0
    assert data_of(out.read_text())["traces"][0]["sizes"] == [*SIZES, 1.0]
    assert run("view", str(saved), "--against", "l1", "--order", "score", "--out", str(out))[0] == 0
    best, ranked = data_of(out.read_text())["traces"]
    alone = jstrace.trace(stub, "hello", sizes=SIZES, order="score")
    assert ranked["strata"] == packed(dict(alone.strata.items())), "the order is that of the trace beside it"
    assert best["strata"] != ranked["strata"]
    for words, message in (
        ((str(saved), "--score", "l2"), "--score: the trace in"),
        ((str(saved), "--order", "score"), "--order: the trace in"),
        (("hello", "--out", "page.txt"), "ends in .html"),
        (("hello", "--out", str(tmp_path / "no" / "a.html")), "there is no folder"),
        (("missing.npz",), "missing.npz"),
        (("hello", "--score", "flow"), "expected one of l1"),
    ):
        code, _, error = run("view", *words)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error


def test_pairs(run: Run, stub: Model, tmp_path: Path) -> None:
    """A text and its counterfactual, a saved pair, and what does not go together."""
    out, saved, plain = tmp_path / "page.html", tmp_path / "pair.npz", tmp_path / "plain.npz"
    pair = ("--counterfactual", "hallo", "--answer", "a", "--instead-of", "b")
    code, _, error = run("view", "hello", *pair, "--score", "gradient", "--against", "l1", "--out", str(out))
    assert code == 0, error
    data = data_of(out.read_text())
    names = ["the counterfactual's states", "the counterfactual's states, attention intact", "means"]
    for panel in data["traces"]:
        assert [one["name"] for one in panel["evaluations"]] == names
        assert panel["counterfactual"] == [f"[bold]{ord(letter) % 97}" for letter in "hallo"]
        assert (panel["first"], panel["differs"]) == (1, [False, True, False, False, False])
        assert all(one["metric"]["name"].startswith("logit(") for one in panel["evaluations"])
    assert any("after the counterfactual prompt" in line for line in data["answer"])
    effects = jstrace.effects(stub, "hello", by="node", counterfactual="hallo", metric=jstrace.logit_difference(0, 1))
    assert np.shape(data["traces"][0]["effects"]["values"]) == np.shape(effects.values)
    metric = jstrace.logit_difference(0, 1)
    jstrace.trace(stub, "hello", sizes=SIZES, counterfactual="hallo", metric=metric, score="gradient").save(saved)
    jstrace.trace(stub, "hello", sizes=SIZES).save(plain)
    for words in ((str(saved),), (str(saved), "--against", "l1"), (str(saved), "--against", "rounds")):
        code, _, error = run("view", *words, "--out", str(out))
        assert code == 0, error
        assert all(panel["first"] == 1 for panel in data_of(out.read_text())["traces"])
    for words, message in (
        ((str(saved), "--counterfactual", "hallo"), "--counterfactual: the trace in"),
        ((str(plain), "--answer", "a"), "--answer: the trace in"),
        (("hello", "--instead-of", "a"), "--instead-of names the rival of --answer"),
        (("hello", "--counterfactual", "hallo", "--replace", "mean"), "give one of the two"),
        (("hello", "--counterfactual", "hi"), "the counterfactual has 2 tokens, the text 5"),
        (("hello", "--counterfactual", "hello"), "the counterfactual is the text itself"),
    ):
        code, _, error = run("view", *words, "--out", str(out))
        assert (code, error.count("\n")) == (2, 1), error
        assert message in error


def test_inputs_of_a_run(run: Run, stub: Model, tmp_path: Path) -> None:
    """Without the model, and with it where texts of its tokens are wanted."""
    folder, bare, out = tmp_path / "run", tmp_path / "bare", tmp_path / "page.html"
    data, plan = Data("d", (Row("hello"), Row("abc")), ("x",)), Plan(("l1", "l2"), sizes=SIZES)
    runs.run(stub, data, folder, plan, save_strata=True, name="tiny")
    runs.run(stub, data, bare, plan)
    chosen = ("--condition", "l2/all", "--condition", "l1")
    code, printed, error = run("view", str(folder), "--input", "1", *chosen, "--out", str(out))
    assert code == 0, error
    assert "kB" in printed
    assert [panel["name"] for panel in data_of(out.read_text())["traces"]] == ["l2", "l1"]
    assert run("view", str(folder), "--input", "1", "--model", "tiny", "--out", str(out))[0] == 0
    assert all(word.startswith("[bold]") for word in data_of(out.read_text())["traces"][0]["evaluations"][0]["top"])
    manifest = (folder / "manifest.json").read_text()
    (tmp_path / "empty").mkdir()
    for words, message in (
        ((str(folder),), "give --input N"),
        ((str(folder), "--input", "2"), "no input 2; it has 2, from 0 to 1"),
        ((str(folder), "--input", "0", "--condition", "x"), "no condition 'x', but l1/all, l2/all"),
        ((str(folder), "--input", "0", "--against", "l2"), "--against: the run has settled that"),
        ((str(bare), "--input", "0"), "run it again with --save-strata"),
        ((str(tmp_path / "empty"), "--input", "0"), "no folder of a run"),
        (("hello", "--input", "0"), "is no folder of a run"),
        (("hello", "--condition", "l1"), "is no folder of a run"),
    ):
        code, _, error = run("view", *words, "--out", str(out))
        assert (code, error.count("\n")) == (2, 1), error
        assert message in error
    report = ("report", str(folder), "--pages", "1", "--out", str(tmp_path / "report"))
    assert run(*report)[0] == 0
    assert len(list((tmp_path / "report" / "pages").iterdir())) == 2
    (folder / "manifest.json").write_text(manifest.replace(stub.fingerprint(), "2-0"))
    code, _, error = run("view", str(folder), "--input", "0", "--model", "tiny", "--out", str(out))
    assert code == 2
    assert "no run of that --model, but of tiny" in error


def test_the_page_says_what_json_says(run: Run, stub: Model, opened: Any, tmp_path: Path) -> None:
    """Ten times a size and an edge at random: what is read on the page, and what ``trace --json`` prints."""
    out = tmp_path / "page.html"
    assert run("view", "eight ch", "--out", str(out))[0] == 0
    told = json.loads(run("trace", "eight ch", "--json", "--top", "100000")[1])
    assert len(told["edges"]) == told["n_edges"]
    tab, rng = opened(out.read_text()), np.random.default_rng(1)
    sizes = [row["size"] for row in told["rows"]]
    for k, place in zip(rng.integers(0, 27, 10).tolist(), rng.integers(0, told["n_edges"], 10).tolist(), strict=True):
        row, edge = told["rows"][k], told["edges"][place]
        tab.evaluate(f"state.head = null; state.k = {k}; refresh()")
        words = tab.inner_text("#prediction")
        assert f"\t{row['tv']:.3f}\t{row['kl']:.3f}" in words
        assert row["top_token_text"] in words
        assert f"{row['edges']:,} edge" in tab.inner_text("#size-text") or row["size"] == 1
        assert tab.evaluate("panels[0].all.reduce((sum, edge) => sum + edge[6], 0)") == row["edges"]
        words = said(tab, edge)
        assert f"layer {edge['layer']}" in words
        assert (f"head {edge['head']}" in words) == (edge["head"] is not None)
        assert f"[{edge['target']}]" in words
        assert edge["head"] is None or f"from [{edge['source']}] to" in words
        enters = re.search(r"enters at ([\d.]+)%", words)
        assert enters
        assert float(enters[1]) == pytest.approx(100 * sizes[edge["stratum"]], rel=1e-3)
        score = re.search(r"score ≈ ([\d.e-]+)", words)
        assert score
        assert float(score[1]) == pytest.approx(edge["score"], rel=0.1)


def said(tab: Any, edge: dict[str, Any]) -> str:
    """What the page says of an edge, at the size at which it enters and with its head chosen."""
    tab.evaluate(
        "([head, k]) => { state.head = head; state.k = k; refresh(); }",
        [None if edge["head"] is None else [edge["layer"], edge["head"]], edge["stratum"]],
    )
    level = 2 * edge["layer"] + (edge["kind"] in ("residual_mlp", "mlp"))
    tab.evaluate(
        "([kind, from, j, i]) => panels[0].sayEdge(panels[0].all.find((edge) =>"
        " edge[0] === kind && edge[3] === from && edge[2] === j && edge[4] === i))",
        [edge["kind"].split("_")[0], level, edge["source"], edge["target"]],
    )
    return str(tab.inner_text(".words"))
