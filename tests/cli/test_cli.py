"""The command line, on the tiny model and on the real one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jstrace
from jstrace import loading
from jstrace.cli import options, progress, showing
from jstrace.method import conditions
from jstrace.models import InputError, Model
from jstrace.pipeline import Driver, footprint
from jstrace.scale import hosts, memory
from jstrace.show import curves, strongest
from tests import hf_models
from tests.cli.conftest import Run
from tests.conftest import ROOT


def test_table(run: Run, stub: Model) -> None:
    code, out, _ = run("trace", "hello", "--top", "4")
    assert code == 0
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["size", "edges"])
    rows = [line.split() for line in lines[start + 1 : start + 28]]
    assert rows[-1][0] == "full"
    assert rows[-1][1] == str(jstrace.trace(stub, "hello").n_edges)
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
    code, out, _ = run("trace", "hello", "--json", "--ablate", "residual+mlp", "--importance", "random", "--seed", "7")
    found = json.loads(out)
    trace = jstrace.trace(stub, "hello", importance="random", seed=7)
    evaluation = jstrace.evaluate(stub, trace, ablate="residual+mlp")
    assert code == 0
    assert len(found["rows"]) == 27
    np.testing.assert_allclose([row["tv"] for row in found["rows"]], evaluation.tv, atol=1e-6)
    assert found["density"] == pytest.approx(evaluation.density)
    assert (found["ablate"], found["importance"], found["seed"]) == ("residual+mlp", "random", 7)


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trace",), "either a text or --file"),
        (("trace", "  "), "empty"),
        (("trace", "a", "--file", "b"), "either"),
        (("trace", "--file", "/no/such/file"), "/no/such/file: cannot be read (No such file or directory)"),
        (("trace", "x", "--model", "gpt2"), "unknown model 'gpt2'; on the hub it may be openai-community/gpt2"),
        (("trace", "a", "--model", "no-such-model"), "unknown model"),
        (("info", "no-such-model"), "unknown model"),
        (("trace", "a", "--save", "/no/such/folder/a.npz"), "cannot be written"),
        (("trace", "a", "--plot", "a.pdf"), ".png or .svg"),
        (("trace", "a", "--kind", "mlp"), "add --top"),
        (("trace", "a", "--revision", ""), "revision '': expected a branch, a tag or a commit"),
        (("run", "--data", "a.txt", "--out", "a", "--revision", ""), "revision '': expected a branch"),
        (("trace", "a", "--plot", "/no/such/folder/a.png"), "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("report", "run", "--out", "gs://a/b"),
        ("report", "gs://a/b", "--out", "here"),
        ("trace", "a", "--save", "gs://a/b"),
        ("trace", "a", "--plot", "gs://a/b"),
        ("trace", "--file", "gs://a/b"),
        ("view", "a", "--out", "gs://a/b.html"),
        ("export", "a.npz", "--format", "json", "--size", "1", "--out", "gs://a/b"),
        ("fit-scorer", "--data", "a.txt", "--out", "gs://a/b.safetensors"),
        ("convert", "smollm2", "gs://a/b"),
    ],
)
def test_urls_where_paths_are_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """None names a folder here that is called ``gs:``; a folder that is there and called so changes nothing."""
    (tmp_path / "gs:" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    (url,) = (word for word in words if "://" in word)
    assert (code, out) == (2, "")
    assert err == f"jstrace: error: {url}: this takes a local path, and no URL (runs in stores: copy them)\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["gs:", "a"]


@pytest.mark.parametrize("words", [("trace", "a", "--ablate", "mlp"), ("trace", "a", "--seed", "-1"), ("nothing",)])
def test_usage_errors(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words)[0] == 2


def test_other_errors_are_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: str, **_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("jstrace.load", broken)
    with pytest.raises(ValueError, match="a bug"):
        run("trace", "a")


def test_the_name_of_a_file_is_a_text(run: Run, stub: Model, tmp_path: Path) -> None:
    """It is traced, as asked, with a hint."""
    (tmp_path / "texts.txt").write_text("one")
    code, out, err = run("trace", str(tmp_path / "texts.txt"), "--json")
    assert (code, json.loads(out)["text"]) == (0, f"{tmp_path}/texts.txt")
    name = f"{tmp_path}/texts.txt"
    assert err == f"jstrace: {name} is a file; its name is traced here, its lines with --file {name}\n"
    for name in (".", str(tmp_path)):
        code, out, err = run("trace", name, "--json")
        assert (code, json.loads(out)["text"]) == (0, name)
        assert err == f"jstrace: {name} is a folder; its name is traced here, a file's lines with --file\n"


def test_version(run: Run) -> None:
    assert run("--version")[1].strip() == jstrace.__version__


def test_help_promises_no_best_sub_graphs(run: Run) -> None:
    for words in (("--help",), ("trace", "--help")):
        code, out, _ = run(*words)
        assert code == 0
        assert "that best keep" not in " ".join(out.split())
    assert "not the best sub-graphs" in " ".join(out.split())


def test_terminal_plot_shows_the_curve(stub: Model) -> None:
    evaluation = jstrace.evaluate(stub, jstrace.trace(stub, "hello"))
    lines = curves.terminal_plot(evaluation).splitlines()
    assert len(lines) == 7
    assert lines[-1].split() == ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1", "size"]
    with pytest.raises(InputError, match="png"):
        curves.check_plottable(Path("a.gif"))


def test_options_reach_the_library(run: Run, stub: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load(source: str, **options: Any) -> Model:
        asked.update(source=source, dtype=options["dtype"])
        return stub

    monkeypatch.setattr("jstrace.load", load)
    code, out, _ = run("trace", "hi", "--model", "some.gguf", "--dtype", "bfloat16", "--pre-softmax", "--json")
    assert code == 0
    assert asked == {"source": "some.gguf", "dtype": "bfloat16"}
    expected = jstrace.evaluate(stub, jstrace.trace(stub, "hi"), pre_softmax=True)
    np.testing.assert_allclose([row["tv"] for row in json.loads(out)["rows"]], expected.tv, atol=1e-6)


def test_choices_are_the_librarys() -> None:
    assert [a.value for a in options.Ablate] == list(conditions.ABLATIONS)
    assert [i.value for i in options.Importance] == list(conditions.IMPORTANCES)
    assert {k.value for k in options.Kind} == {"all", *strongest.KINDS}
    assert [d.value for d in options.Dtype] == list(loading.DTYPES)


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


def test_files_that_hold_no_texts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "zero").write_bytes(b"one\ntw\0o\n")
    for name, message in (
        ("", "cannot be read (Is a directory)"),
        ("empty", "no line holds any text"),
        ("zero", "zero:2: holds a zero byte; expected lines of UTF-8 text"),
    ):
        code, out, err = run("trace", "--file", str(tmp_path / name))
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert message in err

    def denied(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "open", denied)  # root reads every file
    assert run("trace", "--file", "a.txt") == (2, "", "jstrace: error: a.txt: cannot be read (Permission denied)\n")


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


def test_memory_and_output_errors_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, message in (
        (RuntimeError("RESOURCE_EXHAUSTED: 1 TB"), "out of memory"),
        (RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 56 bytes."), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (np._core._exceptions._ArrayMemoryError((9,), np.dtype("int8")), "out of memory"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "No space left"),
    ):

        def broken(source: str, error: Exception = error, **_: Any) -> None:
            raise error

        monkeypatch.setattr("jstrace.load", broken)
        code, _, err = run("trace", "a")
        assert (code, len(err.splitlines())) == (2, 1)
        assert message in err


class Unread(io.StringIO):
    """Standard output of ``jstrace ... | head`` when head has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("words", [("--json",), ("--top", "3")])
def test_a_pipe_that_nobody_reads(
    run: Run, stub: Model, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends without a word; rich must not end it, or other hosts would not hear of it."""
    ended: list[type[BaseException]] = []

    def noted(*arguments: Any) -> None:
        try:
            show(*arguments)
        except BaseException as error:
            ended.append(type(error))
            raise

    show = showing.show
    monkeypatch.setattr(showing, "show", noted)
    monkeypatch.setattr("sys.stdout", Unread())
    code, _, err = run("trace", "hello", *words)
    assert (code, err, ended) == (1, "", [BrokenPipeError])


def test_what_nobody_reads_ends_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word on those that print nothing, either."""
    seen: list[bool] = []

    def either(mask: np.ndarray) -> np.ndarray:
        seen.append(bool(mask))
        return np.asarray(True)

    def unread() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(hosts, "either", either)
    for first in (True, False):
        with pytest.raises(BrokenPipeError) as raised:
            options.by_first(first, unread)
        assert raised.value.errno == errno.EPIPE
    assert seen == [True, False], "only the first has printed"


def test_texts_that_a_plot_could_misread(run: Run, stub: Model, tmp_path: Path) -> None:
    path = str(tmp_path / "a.svg")
    for text in ("$x_{ $", "_hidden", "tab\there", "日本"):
        assert run("trace", text, "--json", "--plot", path)[0] == 0
        ElementTree.parse(path)
    assert run("trace", "a", "--plot", path, "--save", path)[0] == 2


def test_plot_of_a_curve_with_gaps(stub: Model) -> None:
    found = jstrace.evaluate(stub, jstrace.trace(stub, "hello"))
    broken = dataclasses.replace(found, tv=np.where(np.arange(27) > 20, np.nan, found.tv))
    assert "?" in curves.terminal_plot(broken)


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
    facts = json.loads(run("info", "llama-3.1-8b", "--tokens", "55", "--json")[1])
    assert (facts["parameters"], facts["edges"], facts["parallel"]) == (8_030_261_248, 1_534_558, False)
    assert "64 numbers from 1 to 8" in run("info", "llama-3.1-8b")[1]


@pytest.fixture
def saved(stub: Model, tmp_path: Path) -> tuple[jstrace.Trace, str]:
    """A trace and its file."""
    trace = jstrace.trace(stub, "hello", sizes=(0.1, 0.4))
    trace.save(tmp_path / "trace.npz")
    return trace, str(tmp_path / "trace.npz")


def test_info_of_a_trace(run: Run, saved: tuple[jstrace.Trace, str]) -> None:
    trace, path = saved
    code, out, _ = run("info", path)
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines())
    assert (code, rows["tokens"], rows["n edges"], rows["sizes"]) == (0, "5", f"{trace.n_edges:,}", "[0.1, 0.4, 1.0]")
    facts = json.loads(run("info", path, "--json")[1])
    assert (facts["tokens"], facts["counts"]) == (trace.tokens.tolist(), trace.counts.tolist())
    assert "graph" not in facts


@pytest.mark.parametrize(("at", "k"), [("1", 1), ("0.4", 1), ("4e-1", 1), ("full", 2), ("1.0", 2), ("2", 2), ("0", 0)])
def test_info_of_a_trace_as_a_network(run: Run, saved: tuple[jstrace.Trace, str], at: str, k: int) -> None:
    """A whole number is an index, as in Python; what is printed is what Python has."""
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
        ((path, "--graph", "0.3"), "not one of this trace's sizes"),
        ((path, "--graph", "3"), "expected 0 to 2"),
        ((path, "--graph", "-1"), "expected 0 to 2"),
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


# --- datasets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.tsv"
    path.write_text("hello\td\nabc\nbye\n")
    return path


def test_run_and_report(run: Run, stub: Model, rows: Path, tmp_path: Path) -> None:
    out, words = (
        str(tmp_path / "out"),
        ("--baselines", "random,inverse", "--ablate", "residual+mlp", "--importance", "l2"),
    )
    code, told, err = run("run", "--data", str(rows), "--out", out, *words, "--limit", "2", "--importance", "l1,cosine")
    assert (code, told) == (0, f"{out}: 2 inputs, 2 of them computed now\n")
    assert re.search(r"2/2 inputs, 2 saved, [\d.e+]+ inputs/s, 0:00:00 left", err)
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    assert config["importance"] == ["l2", "l1", "cosine"]
    assert (config["ablate"], config["baselines"]) == (["residual+mlp"], ["random", "inverse"])
    code, told, _ = run(
        "run", "--data", str(rows), "--out", out, *words, "--importance", "l1", "--importance", "cosine"
    )
    assert (code, told) == (0, f"{out}: 3 inputs, 1 of them computed now\n")
    code, _, err = run("run", "--data", str(rows), "--out", out)
    assert code == 2
    begun, message = err.splitlines()
    assert begun == f"jstrace: 3 inputs in {rows}; starting JAX"
    assert 'ablate is ["residual+mlp"] there, ["all", "residual+mlp"] here' in message
    code, told, _ = run("report", out, "--out", str(tmp_path / "report"))
    assert (code, told) == (0, f"{tmp_path}/report/index.html: smollm2\n")
    assert "there is no other mode" in (tmp_path / "report" / "index.html").read_text()


def test_run_with_its_control(run: Run, stub: Model, rows: Path, tmp_path: Path) -> None:
    """What it costs is said first, too many targets are one line, and the report names where it peaks."""
    out, words = str(tmp_path / "out"), ("--importance", "l1*gradient", "--ablate", "all", "--reference", "data")
    code, _, err = run("run", "--data", str(rows), "--out", out, *words, "--selectivity", "3")
    assert code == 2
    assert "selectivity = 3: beside an input the data has 2 others to be told" in err.splitlines()[-1]
    code, _, err = run("run", "--data", str(rows), "--out", out, *words, "--selectivity", "1", "--limit", "1")
    assert code == 0, err
    assert "jstrace: selectivity: scores from gradients are made 2 times, for each input's own and foreign" in err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["selectivity"] == 1
    code, _, err = run("report", out, "--out", str(tmp_path / "report"))
    assert code == 0, err
    assert re.search(r"l1\*gradient/all [\d.-]+ at [\d.]+% of the edges", (tmp_path / "report/index.html").read_text())


def test_help_says_what_data_is(run: Run) -> None:
    """What a row is in each format, and which options are of WikiText alone."""
    code, out, _ = run("run", "--help")
    shown = " ".join(re.sub(r"[│╭╮╰╯─]|<[a-z]+>", " ", out).split())
    assert code == 0
    for words in ("a tab and the word that truly follows", '{"text": ..., "next": ...}', ".txt (a text a line)"):
        assert words in shown
    assert "[required] --out" in re.sub(r"\* ", "", shown)
    assert "rows of files stay as they are" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--data", "rows.csv", "--out", "x"), "expected wikitext-2, wikitext-103 or a file"),
        (("run", "--data", "/no/such.tsv", "--out", "x"), "/no/such.tsv: cannot be read (No such file or directory)"),
        (("run", "--data", "a.tsv", "--out", "x", "--ablate", "mlp"), "ablate 'mlp': expected some of all"),
        (("run", "--data", "a.tsv", "--out", "x", "--baselines", "noise"), "baselines 'noise'"),
        (("run", "--data", "a.tsv", "--out", "x", "--importance", ","), "importance '': expected some of"),
        (
            ("run", "--data", "a.tsv", "--out", "x", "--replace", "nonsense"),
            "replace 'nonsense': expected some of",
        ),
        (("run", "--data", "a.tsv", "--out", "x", "--order", "nonsense"), "order 'nonsense': expected some of"),
        (("run", "--data", "a.tsv", "--out", "x", "--selectivity", "3"), "selectivity is for scores from gradients"),
        (("report", "/no/such/run", "--out", "x"), "no folder of a run"),
    ],
)
def test_datasets_that_cannot_be_run(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "reference: {}: cannot be read (No such file or directory)"),
        ("empty.txt", "", "reference: {}: no row holds any text"),
        ("blank.txt", " \n\n", "reference: {}: no row holds any text"),
        ("texts.csv", "one", "reference: data '{}': expected wikitext-2, wikitext-103 or a file in"),
    ],
)
def test_references_that_cannot_be_read(
    run: Run, rows: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    words = ("--replace", "mean", "--reference", str(path))
    code, out, err = run("run", "--data", str(rows), "--out", str(tmp_path / "out"), *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"jstrace: error: {message.format(path)}")
    assert not (tmp_path / "out").exists()


def test_a_reference_of_the_runs_own_texts(run: Run, stub: Model, rows: Path, tmp_path: Path) -> None:
    """The same as a file of them, next words or none; another is refused in the same folder."""
    (tmp_path / "own.tsv").write_text("hello\nabc\nbye\n")
    (tmp_path / "other.txt").write_text("hello\n")
    words = ("run", "--data", str(rows), "--out", str(tmp_path / "out"), "--ablate", "all", "--replace", "zero,mean")
    code, told, _ = run(*words, "--limit", "1", "--order", "score", "--reference", "data")
    assert (code, told) == (0, f"{tmp_path}/out: 1 inputs, 1 of them computed now\n")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["conditions"] == ["l1 by score/all", "l1 by score/all/mean"]
    code, told, err = run(*words, "--limit", "2", "--order", "score", "--reference", str(tmp_path / "own.tsv"))
    assert (code, told) == (0, f"{tmp_path}/out: 2 inputs, 1 of them computed now\n")
    assert "Warning" not in err
    code, _, err = run(*words, "--order", "score", "--reference", str(tmp_path / "other.txt"))
    assert (code, len(err.splitlines())) == (2, 2)
    assert f'holds another run: reference is "{manifest["config"]["reference"]}" there, ' in err


def test_a_run_that_is_interrupted(
    run: Run, stub: Model, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Driver, "stream", interrupted)
    code, out, err = run("run", "--data", str(rows), "--out", str(tmp_path / "out"))
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        f"jstrace: 3 inputs in {rows}; starting JAX",
        "jstrace: loading smollm2",
        f"jstrace: stopped; the same command goes on in {tmp_path}/out",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_keeps_what_is_done(
    run: Run, stub: Model, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Ctrl-C, or the SIGTERM of a scheduler, while the third input is computed."""
    run_batch, calls = Driver._run, [0]

    def stopped(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(number)
        return run_batch(*arguments)

    monkeypatch.setattr(Driver, "_run", stopped)
    monkeypatch.setattr(Driver, "_most", lambda *_: 1)
    before, words = signal.getsignal(number), ("run", "--data", str(rows), "--out", str(tmp_path / "out"))
    found, out, err = run(*words, "--ablate", "all")
    assert (found, out) == (code, "")
    assert [line.split(",")[:2] for line in err.splitlines()] == [
        [f"jstrace: 3 inputs in {rows}; starting JAX"],
        ["jstrace: loading smollm2"],
        ["jstrace: compiling for inputs of up to 8 tokens", " then running them"],
        ["1/3 inputs", " 0 saved"],
        ["2/3 inputs", " 0 saved"],  # the first of a steady pace
        ["2/3 inputs", " 2 saved"],
        [f"jstrace: stopped; the same command goes on in {tmp_path}/out"],
    ]
    assert signal.getsignal(number) is before
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    found, out, err = run(*words, "--ablate", "all")
    assert out == f"{tmp_path}/out: 3 inputs, 1 of them computed now\n"
    assert "jstrace: 2 of 3 inputs are there already\n" in err
    told = [line.split(",")[:2] for line in err.splitlines() if not line.startswith("jstrace: ")]
    assert told == [["3/3 inputs", " 2 saved"], ["3/3 inputs", " 3 saved"]]


def test_a_run_says_what_it_does_before_jax_is_imported(tmp_path: Path) -> None:
    """The first word comes at once, though imports take seconds; so does what is wrong with the arguments."""
    rows, error = tmp_path / "rows.txt", "jstrace: error: "
    rows.write_text("hello\n")
    stop = "class Stop:\n    def find_spec(self, name, *_):\n        if name == 'jax':\n            sys.exit(9)\n"
    script = f"import sys\n{stop}sys.meta_path.insert(0, Stop())\nfrom jstrace.cli import main\nmain()"
    out, warm = ("--out", str(tmp_path / "out")), "a number from 1e-06 to 1e+06, or 0 for the most probable tokens"
    for words, code, expected in (
        ((str(rows), *out), 9, f"jstrace: 1 inputs in {rows}; starting JAX\n"),
        (("no.txt", *out), 2, f"{error}no.txt: cannot be read (No such file or directory)\n"),
        ((str(rows), *out, "--temperature", "1"), 2, f"{error}temperature is for generated tokens; ask for some\n"),
        (
            (str(rows), *out, "--generate", "2", "--temperature", "1e300"),
            2,
            f"{error}temperature = 1e+300, expected {warm}\n",
        ),
        (
            (str(rows), "--out", "nothing://a"),
            2,
            f"{error}nothing://a: cannot be opened (Protocol not known: nothing)\n",
        ),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", script, "run", "--data", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", expected)


def test_reading_what_takes_long_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """WikiText and large files; of several hosts only the first speaks, before they meet, too."""

    def read(*_: Any, **__: Any) -> None:
        raise InputError("read")

    monkeypatch.setattr("jstrace.runs.read_data", read)
    words = ("run", "--data", "wikitext-2", "--out", "x")
    assert run(*words)[2] == "jstrace: reading wikitext-2\njstrace: error: read\n"
    assert run(*words, "--distributed")[2] == "jstrace: error: read\n"
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    assert run(*words, "--distributed")[2] == "jstrace: reading wikitext-2\njstrace: error: read\n"
    monkeypatch.setattr("jstrace.cli.run._LARGE", 1)
    assert run("run", "--data", __file__, "--out", "x")[2].startswith(f"jstrace: reading {__file__}\n")


def test_counting_many_tokens_is_said(
    run: Run, stub: Model, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jstrace.cli.run._MANY", 3)
    _, _, err = run("run", "--data", str(rows), "--out", str(tmp_path / "out"), "--limit", "1", "--ablate", "all")
    assert "jstrace: loading smollm2\njstrace: counting the tokens of 3 texts\n" in err


def test_a_lost_interrupt(run: Run, stub: Model, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector's callbacks swallow exceptions; the run stops at the next input all the same."""
    batches = Driver.stream

    def swallowed(*arguments: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return batches(*arguments)

    monkeypatch.setattr(Driver, "stream", swallowed)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = run("run", "--data", str(rows), "--out", str(tmp_path / "out"), "--ablate", "all")
    assert code == 130
    assert "stopped; the same command goes on" in err
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_not_installed_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else object())
    for words in (("run", "--data", "a.tsv", "--out", "x"), ("report", "a", "--out", "x")):
        code, _, err = run(*words)
        assert code == 2
        assert "pyarrow missing: this needs pip install 'jstrace[run]'" in err


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


def test_what_is_kept_can_be_seen_and_cleared(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path))
    for name in ("model.gguf", "weights/one/embed.npy", "programs/two", "weights/.half/three", "own/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(10**6))
    facts = {"source": {"path": "/models/one.gguf"}, "dtype": "float32"}
    (tmp_path / "weights" / "one" / "entry.json").write_text(json.dumps(facts))
    _, shown, _ = run("cache")
    assert [line.split()[:4] for line in shown.splitlines()[1:4]] == [
        ["1.0", "MB", "model:", "the"],
        ["2.0", "MB", "weights:", "of"],
        ["1.0", "MB", "programs:", "compiled"],
    ]
    assert "/models/one.gguf in float32" in shown
    run("cache", "--clear", "programs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "own", "weights"]
    code, shown, _ = run("cache", "--clear", "all")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"], "what is not ours stays"
