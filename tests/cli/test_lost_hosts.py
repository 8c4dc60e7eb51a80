"""What stands in the place of the coordinator's last words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jstrace.cli import lost_hosts

pytestmark = pytest.mark.quick

FATAL = (
    "F1126 10:07:54.818142   26843 client.h:80] Terminating process because the JAX distributed service detected fatal"
    " errors. absl::Status: {}\n*** Check failure stack trace: ***\n    @     0x7f4bcc840634  Flush()\n"
)
POLLED = "E1126 10:07:46.49 26626 coordination_service_agent.cc:289] Polled an error from coordination service.\n"
SILENT = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n3\nThe tasks have crashed.\n"


def shown(text: str) -> str:
    return "".join(lost_hosts.shown(text.splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (SILENT, "host 1, 3 has ended or cannot be reached"),
        ("UNAVAILABLE: Failed to send RPC to coordination service.", "the first host has ended or cannot be reached"),
        ("DEADLINE_EXCEEDED\n\nRPC: /xla.coordination.CoordinationService/RegisterTask", "the hosts did not all start"),
        ("Barrier timed out. Id: Shutdown::85::0.", "another host has ended"),
    ],
)
def test_the_coordinators_last_words_are_one_sentence(words: str, reason: str) -> None:
    """What came before them stays."""
    first, *rest = shown("before\n" + POLLED + FATAL.format(words)).splitlines()
    assert first == "before"
    (sentence,) = rest
    assert sentence.startswith(f"jstrace: error: {reason}")
    assert sentence.endswith("start every host again (jstrace run goes on with the parts that are whole)")


def test_other_words_stay() -> None:
    """Those of other libraries at once; the coordinator's that ended nothing, at the end."""
    other = "W0000 something\nF1126 10:07 5 other.cc:80] Check failed\n"
    assert shown(other + POLLED + "more\n") == other + POLLED + "more\n"
    assert next(lost_hosts.shown(iter([other]))) == other


def test_what_is_written_to_the_descriptor_is_filtered() -> None:
    """Python's own words are not, though a process dies with the others'."""
    script = f"""
import os, sys
from jstrace.cli.lost_hosts import quieten
quieten()
sys.stderr.write("of Python\\n")
os.write(2, {(POLLED + FATAL.format("Failed to send RPC")).encode()!r})
os.abort()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert ended.returncode not in (0, 2)
    first, second = ended.stderr.splitlines()
    assert first == "of Python"
    assert second.startswith("jstrace: error: the first host has ended")
