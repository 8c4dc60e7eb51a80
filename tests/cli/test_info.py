"""``jstrace info`` and ``jstrace convert``."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import InputError, Model, ModelConfig
from tests import hf_models
from tests.cli.conftest import Run
from tests.conftest import SIZES

pytestmark = pytest.mark.quick


def test_info_of_a_preset(run: Run) -> None:
    """Offline; Llama's flags are left out of the text and stand in the JSON."""
    code, out, _ = run("info", "allenai/OLMo-2-1124-13B", "--tokens", "55")
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert (rows["parameters"], rows["post norm"], rows["bytes bfloat16"]) == (
        "13,716,198,400",
        "True",
        "27,432,396,800",
    )
    assert "parallel" not in rows
    assert rows["estimated memory"] == "in float32 on a CPU or GPU; traces and gradients come on top of the weights"
    assert (rows["weights"], rows["one trace"], rows["round of gradients"]) == ("54.9 GB", "0.4 GB", "0.3 GB")
    facts = json.loads(run("info", "llama-3.1-8b", "--tokens", "55", "--json")[1])
    assert (facts["parameters"], facts["edges"], facts["parallel"]) == (8_030_261_248, 1_534_558, False)
    assert facts["estimated_bytes"].keys() == {"weights", "one_trace", "round_of_gradients"}
    assert "64 numbers from 1 to 8" in run("info", "llama-3.1-8b")[1]


def test_info_compiles(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights, in the dtype and the way that is asked for; tests/scale/test_memory.py has the numbers."""
    asked = []

    def compiled_bytes(config: ModelConfig, *how: object) -> dict[str, int]:
        asked.append((config.n_layers, *how))
        return {"one_trace": 10**9}

    monkeypatch.setattr("jstrace.pipeline.compiled.compiled_bytes", compiled_bytes)
    how = ("--tokens", "55", "--compile", "--dtype", "bfloat16", "--weights", "int4")
    rows = dict(
        re.split(r"  +", line.strip(), maxsplit=1) for line in run("info", "llama-3.1-8b", *how)[1].splitlines()
    )
    assert asked == [(32, 55, jnp.dtype("bfloat16"), "int4")]
    assert (rows["weights"], rows["one trace"]) == ("5.4 GB", "1.0 GB")
    assert rows["estimated memory"].startswith("of bfloat16, weights int4, compiled for cpu; the others come on top")


@pytest.fixture
def saved(stub: Model, tmp_path: Path) -> tuple[jstrace.Trace, str]:
    """A trace and its file."""
    trace = jstrace.trace(stub, "hello", sizes=SIZES)
    trace.save(tmp_path / "trace.npz")
    return trace, str(tmp_path / "trace.npz")


def test_info_of_a_trace(run: Run, saved: tuple[jstrace.Trace, str]) -> None:
    trace, path = saved
    code, out, _ = run("info", path)
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines())
    assert (code, rows["tokens"], rows["n edges"], rows["sizes"]) == (
        0,
        "5",
        f"{trace.n_edges:,}",
        "4 from 1% to 70%, and 100%",
    )
    facts = json.loads(run("info", path, "--json")[1])
    assert (facts["tokens"], facts["counts"]) == (trace.tokens.tolist(), trace.counts.tolist())
    assert "graph" not in facts
    dataclasses.replace(trace, text="日本").save(path)
    assert re.search(r"token texts  '日本'\n", run("info", path)[1]), "the text, not the texts of tokens"


@pytest.mark.parametrize(("at", "k"), [("0.3", 2), ("30%", 2), ("1", 4)])
def test_info_of_a_trace_as_a_network(run: Run, saved: tuple[jstrace.Trace, str], at: str, k: int) -> None:
    """What is printed is what Python has."""
    trace, path = saved
    code, out, _ = run("info", path, "--graph", at, "--top", "3", "--json")
    graph, found = json.loads(out)["graph"], jstrace.analyse(trace, k)
    assert (code, graph["k"], graph["edges"], graph["nodes"]) == (0, k, found.network.n_edges, found.network.n_nodes)
    assert graph["modularity"] == found.modularity
    for name, hubs in graph["hubs"].items():
        assert hubs == [dataclasses.asdict(hub) for hub in found.hubs(3, by=name)], name
    code, out, _ = run("info", path, "--graph", at, "--top", "3")
    assert code == 0
    assert f"{found.network.n_edges:,} edges, {found.network.n_nodes:,} nodes; betweenness exact" in out
    first = found.hubs(1)[0]
    assert f"{first.kind}: '[bold]{trace.tokens[first.position]}' [{first.position}]" in out, "tokens are no markup"
    assert f"modularity {found.modularity:.3f}" in out


def test_what_info_refuses_of_traces(run: Run, saved: tuple[jstrace.Trace, str]) -> None:
    _, path = saved
    for words, message in (
        (("llama-3.1-8b", "--graph", "0.1"), "--graph takes a trace"),
        ((path, "--tokens", "5"), "a trace has its own"),
        (("llama-3.1-8b", "--weights", "int8"), "add --compile"),
        (("llama-3.1-8b", "--compile", "--weights", "stored"), "depends on the file; compile with"),
        ((path, "--graph", "0.4"), "not one of this trace's sizes"),
        ((path, "--graph", "7"), "expected 0 to 4"),
        ((path, "--graph", "0"), "not one of this trace's sizes"),
        ((path, "--graph", "-1"), "not one of this trace's sizes"),
        ((path, "--graph", "1.5"), "not one of this trace's sizes"),
        ((path, "--graph", "nan"), "not one of"),
        ((path, "--graph", "half"), "expected a size of the trace"),
        (("missing.npz", "--graph", "1"), "missing.npz"),
    ):
        code, out, error = run("info", *words)
        assert (code, out, error.count("\n")) == (2, "", 1), words
        assert message in error


def test_convert(run: Run, tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["gpt2"], tmp_path / "hf")
    code, out, _ = run("convert", str(tmp_path / "hf"), str(tmp_path / "out"), "--dtype", "float16")
    assert code == 0
    mark = out.split()[-1]
    assert jstrace.load(str(tmp_path / "out"), dtype="float16").fingerprint() == mark
    code, out, err = run("convert", str(tmp_path / "hf"), str(tmp_path / "out"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "exists already" in err
    assert run("info", str(tmp_path / "out"))[0] == 0
    assert "only a hub id has revisions" in run("info", str(tmp_path / "out"), "--revision", "main")[2]


def test_info_of_what_does_not_load(run: Run, tmp_path: Path) -> None:
    """What is missing, with exit code 1; what is no model at all is an error, as ever."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "dbrx"}))
    code, out, err = run("info", str(tmp_path))
    assert (code, err) == (1, "")
    assert re.search(r"loads  no\n +missing  .*'dbrx' is not supported: its mixture of experts is missing\n$", out)
    facts = json.loads(run("info", str(tmp_path), "--json")[1])
    assert facts.keys() == {"model", "loads", "missing"}
    assert facts["loads"] is False
    config.write_text("no JSON")
    assert run("info", str(tmp_path))[0] == 2


def test_a_field_to_ignore(run: Run, tmp_path: Path) -> None:
    """Named where it is refused, recorded by config, trace and file, and refused of what has no such fields."""
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mystery": 1}))
    words = ("info", str(tmp_path), "--json")
    assert "go on with --ignore-field mystery" in json.loads(run(*words)[1])["missing"]
    facts = json.loads(run(*words, "--ignore-field", "mystery")[1])
    assert (facts["loads"], facts["ignored_fields"]) == (True, ["mystery"])
    model = jstrace.load(tmp_path, ignore_fields=["mystery"])
    trace = jstrace.trace(model, np.arange(5), sizes=SIZES)
    trace.save(tmp_path / "trace.npz")
    assert jstrace.Trace.load(tmp_path / "trace.npz").config.ignored_fields == ("mystery",)
    assert (
        "has no config.json, of which alone fields are ignored"
        in run("info", "llama-3.1-8b", "--ignore-field", "mystery")[2]
    )
    with pytest.raises(InputError, match="ignore_fields = 'mystery', expected a list of names"):
        jstrace.load(tmp_path, ignore_fields="mystery")


def test_info_of_weights_that_are_cut_off(run: Run, tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["gpt2"], tmp_path)
    assert run("info", str(tmp_path))[0] == 0
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    code, out, err = run("info", str(tmp_path))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"jstrace: error: {weights}: not a whole safetensors file (")


@pytest.mark.real
def test_info_of_a_graph_too_large(run: Run, real: Model) -> None:
    """``real`` has fetched the model before, or standard error would say so."""
    code, out, err = run("info", "smollm2", "--tokens", "1000000")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "graph of" in err


@pytest.mark.real
def test_info(run: Run) -> None:
    code, out, _ = run("info", "smollm2", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["parameters"], facts["edges"], facts["n_layers"]) == (134_515_008, 337_578, 30)
