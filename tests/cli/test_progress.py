"""What a run shows of itself, by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jstrace.cli import progress
from jstrace.cli.progress import Shown

pytestmark = pytest.mark.quick


class Times:
    """Seconds since the start, and those of them that compiled."""

    def __init__(self) -> None:
        self.now = self.compiled = 0.0


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    found = Times()
    monkeypatch.setattr(progress, "clock", lambda: found.now)
    return found


def nothing() -> None:
    """No signal."""


def begun(times: Times, *, wanted: int, before: int = 0, shown: bool = True) -> Shown:
    """A run after its first look at the folder."""
    found = Shown(nothing, lambda: times.compiled, shown=shown)
    found.saved(before)
    found.progress(before, before, wanted)
    return found


def computed(shown: Shown, times: Times, done: range, n_tokens: int, *, seconds: float, compiled: float = 0.0) -> None:
    """A batch that ends with these numbers of inputs done."""
    shown.batch(len(done), n_tokens)
    times.now += seconds + compiled
    times.compiled += compiled
    for number in done:
        shown.progress(number, 0, 100)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_first_batch_is_shown_at_once(times: Times, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, and without its compilation; then the first of a steady pace; then a line in 30 s, at most."""
    shown = begun(times, wanted=100)
    computed(shown, times, range(1, 5), 48, seconds=8, compiled=40)
    assert lines(capsys) == [
        "jstrace: compiling for inputs of up to 48 tokens, then running them",
        "4/100 inputs, 0 saved, 0.5 inputs/s, about 0:03:12 left, compilation apart",
    ]
    computed(shown, times, range(5, 9), 48, seconds=4)
    assert lines(capsys) == ["8/100 inputs, 0 saved, 1 inputs/s, about 0:01:32 left"]
    for first in range(9, 41, 4):
        computed(shown, times, range(first, first + 4), 48, seconds=4)
    assert lines(capsys) == ["40/100 inputs, 0 saved, 1 inputs/s, about 0:01:00 left"]


def test_another_length_leaves_the_pace(times: Times, capsys: pytest.CaptureFixture[str]) -> None:
    """Its first batch is slow for reasons of its own."""
    shown = begun(times, wanted=100)
    for number in (1, 2):
        computed(shown, times, range(number, number + 1), 48, seconds=1)
    computed(shown, times, range(3, 4), 64, seconds=60, compiled=30)
    computed(shown, times, range(4, 5), 64, seconds=31)
    told = [line for line in lines(capsys) if "inputs/s" in line]
    assert told[1:] == [
        "2/100 inputs, 0 saved, 1 inputs/s, about 0:01:38 left",
        "3/100 inputs, 0 saved, 1 inputs/s, about 0:01:37 left",
        "4/100 inputs, 0 saved, 0.0625 inputs/s, about 0:25:36 left",
    ]


def test_the_end_and_what_was_there(times: Times, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line is due when all is saved; the first says what is left of an earlier run."""
    shown = begun(times, wanted=100, before=99)
    shown.batch(1, 8)
    times.now += 2
    shown.progress(100, 99, 100)
    shown.saved(100)
    assert lines(capsys) == [
        "jstrace: 99 of 100 inputs are there already",
        "jstrace: compiling for inputs of up to 8 tokens, then running them",
        "100/100 inputs, 99 saved, 0.5 inputs/s, 0:00:00 left",
        "100/100 inputs, 100 saved, 0.5 inputs/s, 0:00:00 left",
    ]


def test_fits_are_told_of(times: Times, capsys: pytest.CaptureFixture[str]) -> None:
    """Every 30 s, before the first input is done and after it, and to nobody who asked for no lines."""
    shown = begun(times, wanted=100)
    for _ in range(9):
        times.now += 10
        shown.steps(times.now / 100)
    assert lines(capsys) == [f"0.{tens}0/100 inputs, fitting" for tens in (3, 6, 9)]
    computed(shown, times, range(1, 2), 8, seconds=10)
    capsys.readouterr()
    times.now += 31
    shown.steps(0.25)
    assert lines(capsys) == ["1.25/100 inputs, fitting"]
    silent = begun(times, wanted=2, shown=False)
    times.now += 31
    silent.steps(0.5)
    assert lines(capsys) == []


def test_other_hosts_are_silent(times: Times, capsys: pytest.CaptureFixture[str]) -> None:
    shown = begun(times, wanted=100, before=1, shown=False)
    computed(shown, times, range(2, 101), 8, seconds=60)
    shown.saved(100)
    shown.show(last=True)
    assert lines(capsys) == []


@pytest.mark.parametrize(
    "call",
    [lambda shown: shown.batch(1, 8), lambda shown: shown.progress(1, 0, 2), lambda shown: shown.steps(0.5)],
)
def test_signals_are_looked_for(times: Times, call: Callable[[Shown], None]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    shown = Shown(stop, lambda: times.compiled, shown=False)
    with pytest.raises(KeyboardInterrupt):
        call(shown)
