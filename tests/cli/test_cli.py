"""The command line whatever the command: bad input, errors, choices, pipes that nobody reads."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace import loading
from jstrace.cli import hosting, options, program, showing
from jstrace.method import conditions, naming
from jstrace.models import Model
from jstrace.scale import hosts
from jstrace.show import strongest
from tests.cli.conftest import Run


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
        ("train-scorer", "--data", "a.txt", "--out", "gs://a/b.safetensors"),
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


def test_version(run: Run) -> None:
    assert run("--version")[1].strip() == jstrace.__version__


def test_choices_are_the_librarys() -> None:
    assert [a.value for a in options.Ablate] == list(conditions.ABLATIONS)
    assert [i.value for i in options.Score] == list(naming.SCORE_NAMES)
    assert {k.value for k in options.Kind} == {"all", *strongest.KINDS}
    assert [d.value for d in options.Dtype] == list(loading.DTYPES)
    assert [w.value for w in options.Weights] == list(loading.WAYS)


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
            hosting.by_first(first, unread)
        assert raised.value.errno == errno.EPIPE
    assert seen == [True, False], "only the first has printed"


def test_what_is_not_installed_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else object())
    for words in (("run", "--data", "a.tsv", "--out", "x"), ("report", "a", "--out", "x")):
        code, _, err = run(*words)
        assert code == 2
        assert "pyarrow missing: this needs pip install 'jstrace[run]'" in err


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
    for damaged in ("[]", "{}", "{", '{"source": 3}'):
        (tmp_path / "weights" / "one" / "entry.json").write_text(damaged)
        code, shown, _ = run("cache")
        assert code == 0
        assert shown.splitlines()[-1].split() == ["1.0", "MB", "one,", "damaged"]
    run("cache", "--clear", "programs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "own", "weights"]
    code, shown, _ = run("cache", "--clear", "all")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"], "what is not ours stays"


def test_what_cannot_be_removed_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path))
    (tmp_path / "programs" / "one").mkdir(parents=True)

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("shutil.rmtree", refuses)
    code, _, err = run("cache", "--clear", "programs")
    assert code == 2
    assert "programs: cannot be removed (Operation not permitted)" in err


def test_a_host_that_is_lost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jstrace.scale.hosts.lost_others", lambda error: True)
    monkeypatch.setattr("jstrace.scale.hosts.ENDING", 0)
    found = program._message(RuntimeError("peer 1 is gone\nand more"))
    assert found == "another host has ended or cannot be reached, so this one stops (peer 1 is gone)"
