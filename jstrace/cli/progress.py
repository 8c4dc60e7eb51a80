"""Signs of life of a run: inputs done, their pace, and Ctrl-C that is not lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jstrace.runs import Progress


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """What raises KeyboardInterrupt after Ctrl-C, even where the first was lost in a callback of the collector."""
    asked: list[bool] = []

    def interrupted(*_: object) -> None:
        asked.append(True)
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def shown_progress(check: Callable[[], None], *, shown: bool) -> Iterator[Progress]:
    """Inputs done, inputs a second and time left on standard error: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
    task = bar.add_task("inputs", total=None, pace="the first of a length compiles")
    start, last = [0.0], [0.0]

    def tell(done: int, before: int, wanted: int) -> None:
        check()
        now = time.monotonic()
        if not start[0]:  # the model is loaded, and whatever that had to say is said
            start[0] = last[0] = now
            bar.start()
        bar.update(task, completed=done, total=wanted)
        if done == before:
            return
        pace = _pace(done - before, wanted - done, now - start[0])
        bar.update(task, pace=pace)
        if shown and not console.is_terminal and (done == wanted or now - last[0] > _LINE_SECONDS):
            last[0] = now
            sys.stderr.write(f"{done}/{wanted} inputs, {pace}\n")

    try:
        yield tell
    finally:
        bar.stop()


_LINE_SECONDS = 30.0


def _pace(done: int, left: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    remaining = round(left / rate) if rate else 0
    return f"{rate:.3g} inputs/s, {remaining // 3600}:{remaining // 60 % 60:02d}:{remaining % 60:02d} left"
