"""Standard input, output and error that are closed, full or not read, and devices that cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import pytest

from tests.cli.conftest import Run

KNOWN = "info llama-3.1-8b"
UNKNOWN = "info no-such-model"


def shell(words: str, **variables: str) -> tuple[int, str, str]:
    """The program in a shell: its exit code, output and errors."""
    command = ["sh", "-c", f'exec "{sys.executable}" -m jstrace.cli {words}']
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("trace --file - <&-", 2, "-: cannot be read (standard input is closed)"),
        (f"{KNOWN} >&-", 2, "output cannot be written (Bad file descriptor)"),
        (f"{KNOWN} >/dev/full", 2, "output cannot be written (No space left on device)"),
        ("--help >/dev/full", 2, "output cannot be written (No space left on device)"),
        (f"{UNKNOWN} 2>&-", 2, ""),
        (f"{UNKNOWN} <&- >&- 2>&-", 2, ""),
        ("info --no-such-option 2>/dev/full", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(words: str, code: int, error: str) -> None:
    """One line where there is a place for it; what nobody hears changes no exit code."""
    assert shell(words) == (code, "", f"jstrace: error: {error}\n" if error else "")


def test_a_closed_descriptor_is_no_files() -> None:
    """A file that is opened does not get the place of standard error, into which libraries print."""
    script = (
        "import os, sys; from jstrace.cli.streams import prepare; prepare(); handle = open(os.devnull);"
        " os.write(2, b'printed'); sys.exit(handle.fileno())"
    )
    command = f'"{sys.executable}" -c "{script}" <&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode > 2


def test_results_come_though_messages_are_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that cannot be written is not worth the results."""

    class Full:
        encoding = "utf-8"

        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

        flush = write

    monkeypatch.setattr("sys.stderr", Full())
    assert run("info", "no-such-model")[0] == 2
    assert run("info", "llama-3.1-8b")[0] == 0


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize backend 'gpuu'\nmore"), AssertionError()])
def test_devices_that_cannot_be_had(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever JAX raises, one line says what was asked for."""

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("jstrace.load", failing)
    monkeypatch.setattr(jax, "devices", failing)
    reason = "".join(f"; {line}" for line in str(error).splitlines()[:1])
    monkeypatch.setenv("JAX_PLATFORMS", "gpuu")
    expected = f"(JAX_PLATFORMS is 'gpuu'{reason}); unset JAX_PLATFORMS to use what this machine has"
    assert run("trace", "a") == (2, "", f"jstrace: error: JAX has no device to compute on {expected}\n")


def test_a_variable_of_jax_that_makes_no_sense() -> None:
    """JAX itself cannot be imported then."""
    code, out, error = shell("trace word --model llama-3.1-8b", JAX_ENABLE_X64="maybe")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("jstrace: error: JAX cannot be imported (invalid truth value 'maybe'")
