"""A call that starts before the last one has ended: what fails in company, and what a stop waits for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import pytest

from jstrace.models import InputError
from jstrace.scale import batching

pytestmark = pytest.mark.quick


class Flights:
    """Calls that note when they start and end, and fail where they are told to."""

    def __init__(
        self, *, in_start: Sequence[int] = (), in_end: Sequence[int] = (), error: Exception | None = None
    ) -> None:
        """Numbers of the starts, and of the waits, that run out of memory, or raise another error; from 1."""
        self._error = error or MemoryError()
        self.told: list[tuple[str, list[int]]] = []
        self.most, self._flying = 0, 0
        self._fails = {"start": list(in_start), "end": list(in_end)}
        self._counts = {"start": 0, "end": 0}

    def _note(self, what: str, members: list[int]) -> None:
        self.told.append((what, members))
        self._counts[what] += 1
        if self._counts[what] in self._fails[what]:
            raise self._error

    def start(self, members: list[int], _: int) -> Callable[[], list[int]]:
        self._note("start", members)
        self._flying += 1
        self.most = max(self.most, self._flying)

        def finish() -> list[int]:
            self._flying -= 1
            self._note("end", members)
            return [10 * index for index in members]

        return finish

    def run(self, *parts: Mapping[int, int], **options: Any) -> list[tuple[list[int], list[int]]]:
        return list(batching.Calls(lambda _: 2, self.start, ahead=lambda: True, **options).of(parts))


def results(*members: list[int]) -> list[tuple[list[int], list[int]]]:
    return [(each, [10 * index for index in each]) for each in members]


def test_a_call_starts_before_the_last_one_has_ended() -> None:
    """Across parts, too; two at most are in flight, and a new length waits for its size."""
    flights = Flights()
    assert flights.run({0: 3, 1: 3, 2: 3}, {3: 3, 4: 20}) == results([0, 1], [2], [3], [4])
    first, second, third, last = [0, 1], [2], [3], [4]
    steps = [("start", first), ("start", second), ("end", first), ("start", third), ("end", second), ("end", third)]
    assert flights.told == [*steps, ("start", last), ("end", last)]
    assert flights.most == 2


@pytest.mark.parametrize("fails", [{"in_start": [2]}, {"in_end": [1]}, {"in_end": [2]}])
def test_memory_that_does_not_hold_two_calls(fails: dict[str, list[int]]) -> None:
    """It is one at a time from there on: nothing is lost, twice or smaller."""
    flights = Flights(**fails)
    with pytest.warns(RuntimeWarning, match="2 inputs of 8 tokens in one call and another in flight"):
        assert flights.run(dict.fromkeys(range(8), 3)) == results([0, 1], [2, 3], [4, 5], [6, 7])
    assert flights.told[-4:] == [("start", [4, 5]), ("end", [4, 5]), ("start", [6, 7]), ("end", [6, 7])]


def test_what_fails_alone_is_halved_while_the_rest_goes_on() -> None:
    """The second call fails beside another, and again alone."""
    flights = Flights(in_start=[2, 3])
    with pytest.warns(RuntimeWarning, match=r"another in flight|going on with 1"):
        assert flights.run(dict.fromkeys(range(6), 3)) == results([0, 1], [2], [3], [4], [5])


def test_a_single_input_is_judged_alone() -> None:
    """One that does not fit beside another may fit by itself; else it is the caller's."""
    for in_start, expected in (([2], results([0], [1], [2])), ([2, 3], [([0], [0]), ([1], [-1]), ([2], [20])])):
        flights, judged = Flights(in_start=in_start), []

        def unfit(members: list[int], _: Exception, judged: list[list[int]] = judged) -> list[int]:
            judged.append(members)
            return [-1]

        calls = batching.Calls(lambda _: 1, flights.start, unfit=unfit, ahead=lambda: True)
        with pytest.warns(RuntimeWarning, match="another in flight"):
            found = list(calls.of([dict.fromkeys(range(3), 3)]))
        assert found == expected
        assert judged == [[1]] * (len(in_start) - 1), "in company nothing is judged"


def test_a_length_that_did_fit_is_tried_again_alone() -> None:
    """Where memory ran out in company alone; the caller raises for a length that is known to fit."""
    flights = Flights(in_start=[2])

    def unfit(_: list[int], error: Exception) -> list[int]:
        raise error

    calls = batching.Calls(lambda _: 1, flights.start, unfit=unfit, ahead=lambda: True)
    with pytest.warns(RuntimeWarning, match="another in flight"):
        assert list(calls.of([dict.fromkeys(range(3), 3)])) == results([0], [1], [2])


def test_what_failed_in_company_is_judged_alone() -> None:
    """Both of two calls in flight fail, and both fit by themselves."""
    flights, unfit = Flights(in_start=[2], in_end=[1]), lambda members, _: [-1 for _ in members]
    calls = batching.Calls(lambda _: 1, flights.start, unfit=unfit, ahead=lambda: True)
    with pytest.warns(RuntimeWarning, match="another in flight"):
        assert list(calls.of([dict.fromkeys(range(3), 3)])) == results([0], [1], [2])


def test_a_size_that_was_too_large_is_not_tried_again() -> None:
    flights = Flights(in_start=[1])
    with pytest.warns(RuntimeWarning, match="going on with 1") as warned:
        assert flights.run({0: 3, 1: 3}, {2: 3, 3: 3}) == results([0], [1], [2], [3])
    assert len(warned) == 1


def test_two_calls_only_where_memory_is_known_to_hold_them() -> None:
    """Of both lengths that would be in flight; and none stays there while the caller computes, unless ``ahead``."""
    flights = Flights()
    flights.run({0: 3, 1: 3, 2: 20, 3: 20, 4: 20, 5: 3}, {6: 3, 7: 20}, two=lambda width: width < 16)
    at = [step for step, _ in flights.told]
    for before, after in itertools.pairwise(flights.told):
        if before[0] == after[0] == "start":
            assert max(*before[1], *after[1]) in (5, 6), "two short ones"
    assert at.count("start") == at.count("end")
    alone = Flights()
    for _ in batching.Calls(lambda _: 2, alone.start).of([dict.fromkeys(range(4), 3)]):
        assert alone.told[-1][0] == "end"


def test_a_stop_loses_nothing_that_is_computed() -> None:
    """What is in flight is waited for before the next call's error goes on."""
    flights, found = Flights(), []

    def start(members: list[int], n_rows: int) -> Callable[[], list[int]]:
        if members == [4, 5]:
            raise KeyboardInterrupt
        return flights.start(members, n_rows)

    results = batching.Calls(lambda _: 2, start, ahead=lambda: True).of([dict.fromkeys(range(8), 3)])
    with pytest.raises(KeyboardInterrupt):
        found.extend(members for members, _ in results)
    assert found == [[0, 1], [2, 3]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_stop_while_the_next_is_read_loses_nothing(error: type[BaseException]) -> None:
    """Reading may take long, and happens while a call is in flight."""
    flights, found = Flights(), []

    def several() -> Iterator[dict[int, int]]:
        yield dict.fromkeys(range(4), 3)
        assert flights.told == [("start", [0, 1]), ("start", [2, 3]), ("end", [0, 1])]
        raise error

    results = batching.Calls(lambda _: 2, flights.start, ahead=lambda: True).of(several())
    with pytest.raises(error):
        found.extend(members for members, _ in results)
    assert found == [[0, 1], [2, 3]]


def stopped(flights: Flights, error: BaseException, *, reading: bool) -> list[list[int]]:
    """What is given before a stop in the third call, or where the second part is read."""
    given: list[list[int]] = []

    def several() -> Iterator[dict[int, int]]:
        yield dict.fromkeys(range(4), 3)
        if reading:
            raise error
        yield dict.fromkeys(range(4, 8), 3)

    def start(members: list[int], n_rows: int) -> Callable[[], list[int]]:
        if members == [4, 5]:
            raise error
        return flights.start(members, n_rows)

    calls = batching.Calls(lambda _: 2, start, ahead=lambda: True)
    with pytest.raises(type(error)) as raised:
        given.extend(members for members, _ in calls.of(several()))
    assert raised.value is error
    return given


@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("failure", [MemoryError(), jax.errors.JaxRuntimeError("INTERNAL: no"), InputError("no")])
def test_a_stop_starts_nothing(reading: bool, failure: Exception) -> None:
    """What fails while it is waited for is left, whatever its error is; the stop goes on."""
    flights = Flights(in_end=[2], error=failure)
    assert stopped(flights, KeyboardInterrupt(), reading=reading) == [[0, 1]]
    first, second = [0, 1], [2, 3]
    assert flights.told == [("start", first), ("start", second), ("end", first), ("end", second)]


@pytest.mark.parametrize("reading", [False, True])
def test_a_stop_of_several_hosts_waits_for_nothing(reading: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may have been stopped elsewhere, and fetch nothing."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    flights = Flights()
    assert stopped(flights, KeyboardInterrupt(), reading=reading) == [[0, 1]]
    assert flights.told == [("start", [0, 1]), ("start", [2, 3]), ("end", [0, 1])]
