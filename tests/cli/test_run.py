"""``jstrace run`` and ``jstrace report``: datasets, stops, and what is said meanwhile."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jstrace.cli import progress
from jstrace.models import InputError, Model
from jstrace.pipeline import Driver, call
from jstrace.pipeline.resolved import Resolved
from tests.cli.conftest import Run
from tests.conftest import ROOT


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.tsv"
    path.write_text("hello\td\nabc\nbye\n")
    return path


def test_run_and_report(run: Run, stub: Model, rows: Path, tmp_path: Path) -> None:
    out, words = (
        str(tmp_path / "out"),
        ("--baselines", "random,inverse", "--ablate", "residual+mlp", "--score", "l2"),
    )
    code, told, err = run("run", "--data", str(rows), "--out", out, *words, "--limit", "2", "--score", "l1,cosine")
    assert (code, told) == (0, f"{out}: 2 inputs, 2 of them computed now\n")
    assert re.search(r"2/2 inputs, 2 saved, [\d.e+]+ inputs/s, 0:00:00 left", err)
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    assert config["importance"] == ["l2", "l1", "cosine"]
    assert (config["ablate"], config["baselines"]) == (["residual+mlp"], ["random", "inverse"])
    code, told, _ = run("run", "--data", str(rows), "--out", out, *words, "--score", "l1", "--score", "cosine")
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
    out, words = str(tmp_path / "out"), ("--score", "l1*gradient", "--ablate", "all")
    words += ("--reference", "data", "--score-replace", "mean")
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
        (("run", "--data", "a.tsv", "--out", "x", "--score", ","), "score '': expected some of"),
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
        f"jstrace: stopped; repeat the command to resume {tmp_path}/out",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_keeps_what_is_done(
    run: Run, stub: Model, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Ctrl-C, or the SIGTERM of a scheduler, while the third input is computed."""
    run_batch, calls = call.start, [0]

    def stopped(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(number)
        return run_batch(*arguments)

    monkeypatch.setattr(call, "start", stopped)
    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 1)
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
        [f"jstrace: stopped; repeat the command to resume {tmp_path}/out"],
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
    assert "stopped; repeat the command to resume" in err
    assert signal.getsignal(signal.SIGINT) is before
