"""One sentence in the place of what JAX's coordinator prints when it ends a process, because other hosts are not there.

It ends one from within, with a page of addresses, and Python is not asked: so standard error of all that is not Python
goes through a process of its own, which outlives this one. That process runs this file alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator

_BEGINS = re.compile(r"^[EF]\d{4} .*(coordination_service\w*\.cc:\d+\]|client\.h:\d+\] Terminating process)")
_FATAL = "Terminating process because the JAX distributed service"
_AGAIN = "so this one stops; start every host again (jstrace run goes on with the parts that are whole)"


def quieten() -> None:
    """Send what is written to descriptor 2 through such a process; ``sys.stderr`` keeps the way that it has."""
    from jstrace.cli.streams import lossy  # not where this file runs alone

    sys.stderr.flush()
    own = os.dup(2)
    filtering = subprocess.Popen(
        [sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=own, stderr=own, start_new_session=True
    )
    assert filtering.stdin is not None
    encoding, sys.stderr = sys.stderr.encoding, os.fdopen(own, "w", 1, encoding="utf-8", errors="backslashreplace")
    sys.stderr.reconfigure(encoding=encoding)
    sys.stderr = lossy(sys.stderr)
    os.dup2(filtering.stdin.fileno(), 2)
    filtering.stdin.close()


def shown(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come; from the first of the coordinator on they wait for the end, which a sentence may take."""
    held: list[str] = []
    for line in lines:
        if held or _BEGINS.match(line):
            held.append(line)
        else:
            yield line
    text = "".join(held)
    if _FATAL in text:
        yield f"jstrace: error: {_reason(text)}, {_AGAIN}\n"
    else:
        yield from held


def _reason(text: str) -> str:
    if "RegisterTask" in text:
        return "the hosts did not all start in time"
    if "Failed to send RPC" in text:
        return "the first host has ended or cannot be reached"
    silent = re.search(r"stopped sending heartbeats\):\n(\d+(?:\n\d+)*)\n", text)
    if silent:
        return f"host {', '.join(silent[1].split())} has ended or cannot be reached"
    return "another host has ended"


def main() -> None:
    """Standard input to standard output, line by line, to its end."""
    for line in shown(_lines()):
        sys.stdout.write(line)
        sys.stdout.flush()


def _lines() -> Iterator[str]:
    while line := sys.stdin.buffer.readline():
        yield line.decode("utf-8", "backslashreplace")


if __name__ == "__main__":
    main()
