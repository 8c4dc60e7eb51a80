"""Progress of long work: what callers give as ``progress``, and the bar on standard error that True stands for. No JAX.

A bar shows the time so far, too, as programs compile before anything is done. Where standard error is no terminal there
is a line every 30 seconds in its place.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jstrace.errors import InputError

Report = Callable[[float, int], None]
"""Called with the number of inputs, or of what else is counted, that are done, and in all; of a fit also a part."""
Progress = Report | bool
"""What a caller gives: a function, or True for a bar on standard error."""
Noted = Callable[..., None]
"""A ``Report`` that may be given a note for the bar, too."""
FitReport = Callable[[int, int, float | None], None]
"""Called with the steps done, all steps, and the loss of the last one in nats; while features are computed, with the
texts done, all texts and None."""

SECONDS = 30.0
"""Between two lines, where there is no terminal."""


@contextlib.contextmanager
def bar(what: str, *, shown: bool = True) -> Iterator[Noted]:
    """A bar that goes away at the end.

    Args:
      what: is done, such as "tracing".
      shown: whether anything is: of several hosts one shows it.

    Yields:
      What to call with the number done and in all, and maybe a note; before that the bar shows the time alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        with _lines(what, shown=shown) as report:
            yield report
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task(what, total=None)
        yield lambda done, total, note="": live.update(task, completed=done, total=total, description=f"{what}{note}")


@contextlib.contextmanager
def _lines(what: str, *, shown: bool) -> Iterator[Noted]:
    """A line every ``SECONDS``, also while nothing is reported."""
    said, ended, start = [what], threading.Event(), time.monotonic()

    def write() -> None:
        while not ended.wait(SECONDS):
            seconds = round(time.monotonic() - start)
            sys.stderr.write(f"jstrace: {said[0]}, {seconds // 60}:{seconds % 60:02d} min so far\n")

    def report(done: int, total: int, note: str = "") -> None:
        said[0] = f"{what}{note}, {100 * done / max(1, total):.0f}% done"

    writer = threading.Thread(target=write, daemon=True)
    if shown:
        writer.start()
    try:
        yield report
    finally:
        ended.set()
        if shown:
            writer.join()


@contextlib.contextmanager
def reported(progress: Any, what: str) -> Iterator[Report | None]:
    """What to call while something is done: nothing, the caller's own function, or a bar where True is given.

    Raises:
      InputError: neither of these.
    """
    if isinstance(progress, bool):
        with bar(what, shown=progress) as report:
            yield report
        return
    yield _checked(progress)


@contextlib.contextmanager
def fit_reported(progress: Any) -> Iterator[FitReport | None]:
    """The same of the fit of a scorer, with the last loss.

    Raises:
      InputError: as ``reported``.
    """
    if not isinstance(progress, bool):
        yield _checked(progress)
        return
    with bar("features of the texts, then steps of the fit", shown=progress) as report:
        yield lambda done, total, loss: report(done, total, "" if loss is None else f", KL {loss:.3f} nats")


def _checked(progress: Any) -> Any:
    if progress is not None and not callable(progress):
        raise InputError(f"progress = {progress!r:.60}, expected a function of the number done and in all, or True")
    return progress
