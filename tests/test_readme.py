"""The README's Python runs as written, and its commands are the first two sh blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_two_commands_of_one_line() -> None:
    run, test = blocks("sh")[:2]
    assert len(run.splitlines()) == len(test.splitlines()) == 1
    assert 'jstrace trace "' in run
    assert test.strip().endswith("python -m pytest")


@pytest.mark.real
def test_python_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        compiled = compile(block, "README.md", "exec")
        exec(compiled, names)
    shown = re.search(r"loss ([\d.]+) with (\d+)% of the edges' mass kept", capsys.readouterr().out)
    assert shown is not None
    assert float(shown[1]) < 1.0, "keeping everything costs 2.0"
