"""The program in this process, and a tiny model in the place of whatever it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jstrace import cli
from jstrace.models import Model
from tests.browser import browser, opened  # noqa: F401

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the console script in this process: exit code, standard output and standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["jstrace", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as done:
            code = int(done.code or 0)
        return code, *capsys.readouterr()

    return call


class Bytes:
    """A tokenizer of single characters."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 97 for letter in text.strip()]

    def token(self, token_id: int) -> str:
        return f"[bold]{token_id}"

    def save(self, folder: Path) -> None:
        pass


@pytest.fixture
def stub(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The tiny model in the place of whatever is loaded."""
    stub = Model(tiny.decoder, Bytes())
    monkeypatch.setattr("jstrace.load", lambda source, **_: stub)
    return stub
