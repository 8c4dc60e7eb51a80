"""Token counts rounded up to buckets and inputs grouped into batches, so that few shapes are compiled;
rows dealt out to devices."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jstrace.scale.memory import out_of_memory

Result = TypeVar("Result")


def bucket(n_tokens: int) -> int:
    """The padded token count: 8, 16, then steps of 16 up to 128, of an eighth to a quarter of it beyond."""
    if n_tokens <= 16:
        return 8 if n_tokens <= 8 else 16
    step = 16 if n_tokens <= 128 else 1 << (n_tokens - 1).bit_length() - 3
    return -(-n_tokens // step) * step


def _raised(_: list[int], error: Exception) -> Any:
    raise error


@dataclasses.dataclass
class _Group:
    """Inputs of one bucket that are left, and how many of them make a call."""

    width: int
    left: list[int]
    size: int = 0


@dataclasses.dataclass
class _Flight:
    """A call that was started, or could not be."""

    group: _Group
    members: list[int]
    alone: bool
    """Whether nothing else was in flight when it started."""
    finish: Callable[[], list[Any]] | None = None
    error: Exception | None = None


class Calls(Generic[Result]):
    """Inputs in calls of one bucket, and what happens where memory runs out: fewer of them in a call.

    A call is started before the one before it is waited for, where ``ahead`` allows, so that devices compute while the
    host works on results; never are more than two in flight. Where memory does not hold two, it is one from there on.
    """

    def __init__(
        self,
        most: Callable[[int], int],
        start: Callable[[list[int], int], Callable[[], list[Result]]],
        *,
        n_devices: int = 1,
        unfit: Callable[[list[int], Exception], list[Result]] = _raised,
        ahead: Callable[[], bool] = lambda: False,
        two: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """What is called, and asked.

        Args:
          most: from a bucket to the number of inputs of one call on each device.
          start: starts a call for inputs, of so many rows, of which the others are padding, and gives what waits for
            its results.
          n_devices: that inputs are divided over.
          unfit: what comes of a single input that memory ran out for; by default the error is raised.
          ahead: asked before each call whether it may be in flight while something else goes on.
          two: whether memory is known to hold two calls of a width; asked with ``most``, when nothing is in flight.
        """
        self._most, self._start, self._n_devices = most, start, n_devices
        self._unfit, self._ahead, self._two, self._two_fit = unfit, ahead, two, True
        self._sizes: dict[int, int] = {}
        self._twos: dict[int, bool] = {}

    def of(self, several: Iterable[Mapping[int, int]]) -> Iterator[tuple[list[int], list[Result]]]:
        """Results of inputs by their lengths: those of one mapping before those of the next, which is read late."""
        flying: list[_Flight] = []
        source = iter(several)
        while True:
            try:
                lengths = next(source)
            except StopIteration:
                break
            except BaseException:
                yield from self._finished(flying)
                raise
            groups: dict[int, list[int]] = {}
            for index, length in lengths.items():
                groups.setdefault(bucket(length), []).append(index)
            for width, left in groups.items():
                yield from self._called(_Group(width, left), flying)
        yield from self._all_landed(flying)

    def _called(self, group: _Group, flying: list[_Flight]) -> Iterator[tuple[list[int], list[Result]]]:
        """The calls of a group, of which the last may stay in flight."""
        if group.width not in self._sizes:  # which depends on the memory that is free
            yield from self._all_landed(flying)
            self._sizes[group.width] = self._n_devices * self._most(group.width)
            self._twos[group.width] = self._two(group.width)
        while group.left:
            group.size = self._sizes[group.width]
            ahead = self._ahead() and self._two_fit
            widths = (group.width, *(flight.group.width for flight in flying))
            if not (ahead and all(self._twos[width] for width in widths)):
                yield from self._all_landed(flying)
            try:
                flying.append(self._started(group, alone=not flying))
            except BaseException:
                yield from self._finished(flying)
                raise
            leave = int(ahead and flying[-1].error is None)
            while len(flying) > leave:
                yield from self._landed(flying)

    def _started(self, group: _Group, *, alone: bool = True) -> _Flight:
        members, group.left = group.left[: group.size], group.left[group.size :]
        try:
            return _Flight(group, members, alone, self._start(members, call_rows(len(members), self._n_devices)))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            return _Flight(group, members, alone, error=error)

    def _waited(self, flight: _Flight) -> list[Result] | None:
        """Its results; None where it failed, with its error noted."""
        try:
            return None if flight.finish is None else flight.finish()
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            flight.error = error
            return None
        finally:
            flight.finish = None  # which holds arrays

    def _all_landed(self, flying: list[_Flight]) -> Iterator[tuple[list[int], list[Result]]]:
        while flying:
            yield from self._landed(flying)

    def _finished(self, flying: list[_Flight]) -> Iterator[tuple[list[int], list[Result]]]:
        """At a stop: what is in flight already. Nothing is started, and what fails is left to a run that goes on.

        With several hosts nothing at all: others may not fetch these now, and this one would wait for them.
        """
        while flying and jax.process_count() == 1:
            flight, results = flying.pop(0), None
            with contextlib.suppress(Exception):  # which would take the place of the stop
                results = self._waited(flight)
            if results is not None:
                yield flight.members, results

    def _landed(self, flying: list[_Flight]) -> Iterator[tuple[list[int], list[Result]]]:
        """Wait for the first call; where it failed, it and those after it run again, one at a time."""
        flight = flying.pop(0)
        if (results := self._waited(flight)) is not None:
            yield flight.members, results
            return
        again, flying[:] = [flight, *flying], []
        for call in again:
            call.finish = None
        for call in again[1:]:
            call.error = None  # which it got in company
        yield from self._again(flight, alone=flight.alone and len(again) == 1)
        for call in again[1:]:
            yield from self._again(call)

    def _again(self, failed: _Flight, *, alone: bool = True) -> Iterator[tuple[list[int], list[Result]]]:
        """Run the inputs of a call that failed, or was given up for another, with nothing else in flight."""
        group = _Group(failed.group.width, failed.members, failed.group.size)
        error, failed.error = failed.error, None
        while group.left:
            if error is None:
                flight = self._started(group)
                if (results := self._waited(flight)) is not None:
                    yield flight.members, results
                    continue
                group.left, error, alone = flight.members + group.left, flight.error, True
            members, failure, error = group.left[: group.size], error, None
            if (results := self._judged(group, members, failure, alone=alone)) is not None:
                group.left = group.left[1:]
                yield members, results
        self._sizes[group.width] = min(self._sizes[group.width], group.size)

    def _judged(
        self, group: _Group, members: list[int], error: Exception | None, *, alone: bool
    ) -> list[Result] | None:
        """After a failure: what comes of a single input; or None, to try again, perhaps with fewer inputs."""
        assert error is not None
        # Other hosts would wait in the call that failed here, so with several of them there is no second try.
        if jax.process_count() > 1 or not out_of_memory(error):
            raise error
        if alone and len(members) == 1:
            return self._unfit(members, error)
        about = f"out of memory with {len(members)} inputs of {group.width} tokens in one call"
        if alone:
            each = call_rows(len(members), self._n_devices) // self._n_devices
            group.size = self._n_devices * (each // 2) if each > 1 else 1  # one in all where each device had one
            message = f"{about}; going on with {group.size}"
        else:
            self._two_fit, message = False, f"{about} and another in flight; going on with one at a time"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None


def call_rows(n_inputs: int, n_devices: int) -> int:
    """Rows of the call for so many inputs: few shapes, and as few rows for the busiest device as can be.

    On one device the next power of two; otherwise equally many for each device, or for fewer inputs than devices a
    divisor of their number, so that the devices of one input share its sizes.
    """
    if n_inputs >= n_devices:
        each = -(-n_inputs // n_devices)
        return n_devices * (1 << (each - 1).bit_length())
    return next(n for n in range(n_inputs, n_devices + 1) if n_devices % n == 0)


def padded(rows: Sequence[np.ndarray], width: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of token ids as int32 ``[n_rows, width]`` with their lengths; rows of padding have one token."""
    tokens, lengths = np.zeros((n_rows, width), np.int32), np.ones(n_rows, np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], lengths[index] = row, len(row)
    return tokens, lengths


def filled(rows: Sequence[np.ndarray], n_rows: int, value: int = 0) -> np.ndarray:
    """Equal rows stacked to ``[n_rows, ...]``, rows of padding holding ``value``."""
    out = np.full((n_rows, *rows[0].shape), value, rows[0].dtype)
    out[: len(rows)] = rows
    return out


def dealt(cases: Sequence[np.ndarray], n_devices: int, marked: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each case in the order in which devices take them, as large traces cost more than small ones.

    Args:
      cases: ``[N_c, ...]`` each, of one dtype; cases may differ in their number of rows.
      n_devices: that share the rows.
      marked: a row of each case, by its index.

    Returns:
      Rows ``[C, N, ...]``, device by device, and which of them is the marked one of its case: bool ``[C, N]``. Where
      they do not come out even, rows of zeros follow.
    """
    n = -(-max(map(len, cases)) // n_devices) * n_devices
    rows, chosen = np.zeros((len(cases), n, *cases[0].shape[1:]), cases[0].dtype), np.zeros((len(cases), n), bool)
    for index, (given, row) in enumerate(zip(cases, marked, strict=True)):
        rows[index, : len(given)], chosen[index, row] = given, True
    order = np.arange(n).reshape(-1, n_devices).T.ravel()
    return rows[:, order], chosen[:, order]


def collected(leaf: Array, n_devices: int, n_rows: int) -> Array:
    """Results (``[C, B, N, ...]``) of dealt rows in the order of rows again, without padding."""
    if n_devices > 1:
        apart = leaf.reshape(*leaf.shape[:2], n_devices, -1, *leaf.shape[3:])
        leaf = jnp.swapaxes(apart, 2, 3).reshape(leaf.shape)
    return leaf[:, :, :n_rows]
