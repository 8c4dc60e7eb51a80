"""Signs of life of a run: inputs done and saved, their pace, and signals to stop that are not lost."""

from __future__ import annotations

import collections
import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator

clock: Callable[[], float] = time.monotonic


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number
        """As shells have it: 130 after Ctrl-C."""


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """What raises ``Stopped`` after Ctrl-C, or SIGTERM, which schedulers send before they kill.

    Even where the signal's own was lost in a callback of the collector. For one host: several agree on when to stop
    (``hosts.interrupts_agreed``), and JAX may want SIGTERM itself there.
    """
    asked: list[int] = []

    def interrupted(number: int, _: object) -> None:
        asked.append(number)
        raise Stopped(number)

    def check() -> None:
        if asked:
            raise Stopped(asked[0])

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message: str) -> None:
    """One line on standard error of what takes time, on terminals and in pipes."""
    sys.stderr.write(f"jstrace: {message}\n")


class Shown:
    """What a run shows of itself on standard error: inputs done and saved, their pace and the time left.

    A bar on a terminal, else lines. Its methods are what ``runs.run`` calls; used with ``with``, it ends with a last
    line whatever stops the run.
    """

    def __init__(self, check: Callable[[], None], compiled: Callable[[], float], *, shown: bool) -> None:
        """``check`` is called between inputs, and what it raises ends the run; ``compiled``: seconds of compilation so
        far, which the pace leaves out."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        console = Console(stderr=True)
        elapsed = TimeElapsedColumn(table_column=Column(min_width=7))  # a fit takes minutes to its first result
        state = TextColumn("{task.fields[state]}")
        columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), elapsed, state)
        self._bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
        self._task = self._bar.add_task("inputs", total=None, state="")
        self._check, self._pace = check, Pace(compiled)
        self._lines = shown and not console.is_terminal
        self._done = self._before = self._wanted = self._saved = 0
        self._started, self._line_at, self._line_steady = False, -math.inf, False
        self._steps_at = -math.inf

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, stopped: object, *_: object) -> None:
        try:
            if stopped is not None:
                self.show(last=True)
        finally:
            self._bar.stop()

    def progress(self, done: int, before: int, wanted: int) -> None:
        """``progress`` of ``runs.run``."""
        self._done, self._before, self._wanted = done, before, wanted
        if self._started:
            self._pace.finished()
        else:  # the model is loaded, and whatever that had to say is said
            self._started, self._steps_at = True, clock()
            self._pace.start()
            self._bar.start()
            if before and self._lines:
                say(f"{before} of {wanted} inputs are there already")
        self.show()
        self._check()  # what is finished is shown first

    def batch(self, n_inputs: int, n_tokens: int) -> None:
        """``on_batch`` of ``runs.run``."""
        self._check()
        if self._pace.begins(n_inputs, n_tokens):
            message = f"compiling for inputs of up to {n_tokens} tokens"
            self._bar.update(self._task, state=message)
            if self._lines:
                say(f"{message}, then running them")

    def steps(self, done: float) -> None:
        """``on_steps`` of ``runs.run``."""
        reached = f"{self._done + done:.2f}/{self._wanted} inputs, fitting"
        self._bar.update(self._task, completed=self._done + done, state=reached)
        if self._lines and clock() - max(self._line_at, self._steps_at) >= _LINE_SECONDS:
            self._steps_at = clock()
            sys.stderr.write(f"{reached}\n")
        self._check()

    def saved(self, count: int) -> None:
        """``on_save`` of ``runs.run``."""
        self._saved = count
        if self._started:
            self.show()

    def show(self, *, last: bool = False) -> None:
        """Bring the bar up to date, or write a line where one is due; ``last``: whenever it was written before."""
        self._bar.update(self._task, completed=self._done, total=self._wanted)
        if self._done == self._before or not (last or self._pace.whole):
            return
        text = f"{self._saved} saved, {self._pace.text(self._wanted - self._done)}"
        self._bar.update(self._task, state=text)
        if self._lines and (last or self._saved == self._wanted or self._is_due()):
            sys.stderr.write(f"{self._done}/{self._wanted} inputs, {text}\n")

    def _is_due(self) -> bool:
        """Whether a line is: the first at once, also the first of a steady pace, then every 30 s."""
        now, steady = clock(), self._pace.steady
        if now - self._line_at < _LINE_SECONDS and steady <= self._line_steady:
            return False
        self._line_at, self._line_steady = now, steady
        return True


class Pace:
    """Inputs a second without compilation: of batches that are not the first of a length, as soon as there are any.

    The first of a length also starts programs for the first time, which JAX does not count as compilation.
    """

    def __init__(self, compiled: Callable[[], float]) -> None:
        self._compiled = compiled
        self._lengths: set[int] = set()
        self._spent = dict.fromkeys((True, False), (0, 0.0))
        """Inputs and seconds of batches that are the first of their length, and of others."""
        self._begun: collections.deque[tuple[int, bool]] = collections.deque()
        """Of each batch its inputs, and whether it is the first of its length."""
        self._n_finished, self._mark = 0, 0.0

    @property
    def whole(self) -> bool:
        """Whether no batch is half told."""
        return self._n_finished == 0

    @property
    def steady(self) -> bool:
        """Whether a batch was not the first of its length."""
        return self._spent[False][0] > 0

    def start(self) -> None:
        """Time counts from here."""
        self._mark = clock() - self._compiled()

    def begins(self, n_inputs: int, n_tokens: int) -> bool:
        """A batch begins, maybe before the one before it is finished; whether it is the first of its length."""
        is_first = n_tokens not in self._lengths
        self._lengths.add(n_tokens)
        self._begun.append((n_inputs, is_first))
        return is_first

    def finished(self) -> None:
        """An input is finished; those of a batch all at once, but told one by one."""
        if not self._begun:  # it was never computed
            return
        self._n_finished += 1
        n_inputs, is_first = self._begun[0]
        if self._n_finished == n_inputs:
            self._begun.popleft()
            before, self._n_finished = self._mark, 0
            self.start()
            inputs, seconds = self._spent[is_first]
            self._spent[is_first] = inputs + n_inputs, seconds + self._mark - before

    def text(self, left: int) -> str:
        """The pace and the time that so many inputs take."""
        inputs, seconds = self._spent[not self.steady]
        return _pace(inputs, left, seconds) + ("" if self.steady or not left else ", compilation apart")


_LINE_SECONDS = 30.0


def _pace(done: int, left: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    remaining, about = round(left / rate) if rate else 0, "about " if left else ""
    return f"{rate:.3g} inputs/s, {about}{remaining // 3600}:{remaining // 60 % 60:02d}:{remaining % 60:02d} left"
