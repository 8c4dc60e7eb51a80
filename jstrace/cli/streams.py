"""Standard input, output and error as a program may find them: closed, full, or with nobody who reads them.

What cannot be said on standard error is lost without a word, and changes no exit code. Results that cannot be written
to standard output are an error, also where it is closed.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO, cast


class _Lossy:
    """A stream that forgets what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def lossy(stream: TextIO) -> TextIO:
    """The stream, without its errors."""
    return stream if isinstance(stream, _Lossy) else cast(TextIO, _Lossy(stream))


def prepare() -> None:
    """Make the three streams usable: output and error are there, and a letter that a terminal lacks is no error.

    Descriptors that came closed are opened, or the next file that is opened would take the place of one, and what
    libraries print would go into it. Input cannot be read from there, and output cannot be written: as if closed.
    """
    for number, how in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, how), True)  # the system gives the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stderr = lossy(sys.stderr)
