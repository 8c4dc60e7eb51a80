"""Signs of life of a run: inputs done and saved, their pace, and signals to stop that are not lost."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jstrace.runs import Progress


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number
        """As shells have it: 130 after Ctrl-C."""


@contextlib.contextmanager
def interruptible(*, terminable: bool = True) -> Iterator[Callable[[], None]]:
    """What raises ``Stopped`` after a signal, even where the signal's own was lost in a callback of the collector.

    Args:
      terminable: SIGTERM, too, which schedulers send before they kill; JAX may want it itself on several hosts.
    """
    asked: list[int] = []

    def interrupted(number: int, _: object) -> None:
        asked.append(number)
        raise Stopped(number)

    def check() -> None:
        if asked:
            raise Stopped(asked[0])

    caught = (signal.SIGINT, signal.SIGTERM) if terminable else (signal.SIGINT,)
    before = {number: signal.signal(number, interrupted) for number in caught}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shown_progress(check: Callable[[], None], *, shown: bool) -> Iterator[tuple[Progress, Callable[[int], None]]]:
    """Inputs done and saved, inputs a second and time left on standard error: a bar on a terminal, else lines.

    Yields:
      What ``runs.run`` calls with its progress, and what it calls when it has saved results.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
    task = bar.add_task("inputs", total=None, state="the first of a length compiles")
    state = _State()

    def tell(done: int, before: int, wanted: int) -> None:
        check()
        if not state.start:  # the model is loaded, and whatever that had to say is said
            state.start = state.last_line = time.monotonic()
            bar.start()
        state.done, state.before, state.wanted = done, before, wanted
        show()

    def saved(count: int) -> None:
        state.saved = count
        if state.start:
            show()

    def show(*, last: bool = False) -> None:
        bar.update(task, completed=state.done, total=state.wanted)
        if state.done == state.before:
            return
        now = time.monotonic()
        text = state.text(now)
        bar.update(task, state=text)
        due = last or state.saved == state.wanted or now - state.last_line > _LINE_SECONDS
        if shown and not console.is_terminal and due:
            state.last_line = now
            sys.stderr.write(f"{state.done}/{state.wanted} inputs, {text}\n")

    try:
        yield tell, saved
    except BaseException:
        show(last=True)
        raise
    finally:
        bar.stop()


@dataclasses.dataclass
class _State:
    """How far a run is; times in seconds of the monotonic clock, 0 before the first input."""

    done: int = 0
    before: int = 0
    wanted: int = 0
    saved: int = 0
    start: float = 0.0
    last_line: float = 0.0

    def text(self, now: float) -> str:
        """What is saved, the pace, and the time left."""
        return f"{self.saved} saved, {_pace(self.done - self.before, self.wanted - self.done, now - self.start)}"


_LINE_SECONDS = 30.0


def _pace(done: int, left: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    remaining = round(left / rate) if rate else 0
    return f"{rate:.3g} inputs/s, {remaining // 3600}:{remaining // 60 % 60:02d}:{remaining % 60:02d} left"
