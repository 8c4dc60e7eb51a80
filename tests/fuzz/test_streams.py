"""Devices, pipes and huge files where a text or a saved file is asked for; and what the program says of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import jstrace
from jstrace.cli.texts import read_texts
from jstrace.files import read_text
from jstrace.method.scores.learned import Scorer
from jstrace.models import Replacement
from jstrace.runs import read_data
from jstrace.runs.manifest import read_manifest
from tests.cli.conftest import Run, run  # noqa: F401
from tests.conftest import ROOT
from tests.fuzz.hostile import refusal

pytestmark = pytest.mark.quick

READERS: dict[str, Callable[[Path], object]] = {
    "text.txt": lambda path: read_texts(None, path),
    "data.txt": lambda path: read_data(str(path)),
    "data.tsv": lambda path: read_data(str(path)),
    "data.parquet": lambda path: read_data(str(path)),
    "trace.npz": jstrace.Trace.load,
    "replacement.npz": Replacement.load,
    "scorer.safetensors": Scorer.load,
    "manifest.json": lambda path: read_manifest(path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file(name: str, tmp_path: Path) -> None:
    """A device has no end, and a pipe that nobody writes into none that ever comes."""
    path = tmp_path / name
    path.symlink_to("/dev/zero")
    assert "device" in refusal(lambda: READERS[name](path))
    path.unlink()
    os.mkfifo(path)
    assert "pipe" in refusal(lambda: READERS[name](path))
    path.unlink()
    path.mkdir()
    assert "Is a directory" in refusal(lambda: READERS[name](path))
    path.rmdir()
    assert "No such file" in refusal(lambda: READERS[name](path))


@pytest.mark.parametrize(
    "command", ['printf "a\\nb\\n" | {} -', 'printf "a\\nb\\n" | {} /dev/stdin', '{} <(printf "a\\nb\\n")']
)
def test_pipes_that_were_handed_over(command: str) -> None:
    code = "import sys, pathlib; from jstrace.files import read_text; print(repr(read_text(pathlib.Path(sys.argv[1]))))"
    words = command.format(f"{sys.executable} -c '{code}'")
    done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == r"'a\nb\n'", done.stderr


def test_no_more_than_can_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("x" * 100)
    assert read_text(path, most=100) == "x" * 100
    assert "more than 99 bytes" in refusal(lambda: read_text(path, most=99))
    with path.open("wb") as stream:
        stream.truncate(2**31)  # takes no room on disk
    assert "more than" in refusal(lambda: read_text(path, most=2**24))


@pytest.mark.parametrize(
    "words",
    [
        ("trace", "--file", "/dev/zero"),
        ("trace", "--file", "FOLDER/pipe"),
        ("trace", "x", "--model", "FOLDER/damaged.gguf"),
        ("trace", "x", "--score", "FOLDER/pipe.safetensors"),
        ("info", "FOLDER/damaged.npz"),
        ("info", "FOLDER/damaged.gguf"),
        ("info", "FOLDER"),
        ("export", "FOLDER/damaged.npz", "--format", "json", "--size", "0.1", "-o", "FOLDER/out.json"),
        ("convert", "FOLDER/damaged.gguf", "FOLDER/out"),
        ("run", "--data", "FOLDER/damaged.parquet", "--out", "FOLDER/out"),
        ("report", "FOLDER", "--out", "FOLDER/out.html"),
        ("view", "FOLDER/damaged.npz", "--out", "FOLDER/out.html"),
    ],
    ids=lambda words: " ".join(words),
)
def test_the_program_says_it_in_one_line(words: tuple[str, ...], tmp_path: Path, run: Run) -> None:  # noqa: F811
    """Exit code 2, no traceback, and nothing is written."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("damaged.gguf", "damaged.npz", "damaged.parquet", "config.json", "manifest.json"):
        (tmp_path / name).write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*(word.replace("FOLDER", str(tmp_path)) for word in words))
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("jstrace: error: ")
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
