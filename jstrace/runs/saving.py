"""When finished inputs go to disk: a part closes by count, by time, and when the run is stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import pyarrow as pa

from jstrace.runs import parts
from jstrace.runs.rows import Entry
from jstrace.scale import hosts

SECONDS = 60.0
"""Finished inputs wait for so long, at most, for others of their part."""

clock: Callable[[], float] = time.monotonic


class Saver:
    """Keeps finished inputs until they are written; one for a run.

    Batches of a part finish in the order of their lengths, while a file holds neighbours: what is finished early goes
    into small parts, which are joined when the others are there.
    """

    def __init__(
        self, folder: Path, mark: str, names: Sequence[str], tables: Callable[[list[Entry]], dict[str, pa.Table]],
        on_save: Callable[[int], None] | None, before: int,
    ) -> None:  # fmt: skip
        """``tables`` makes rows of inputs in order; ``on_save`` is told how many are there, ``before`` at once."""
        self._folder, self._mark, self._names = folder, mark, names
        self._tables, self._on_save, self._n_saved = tables, on_save or (lambda _: None), before
        self._waiting: dict[int, Entry] = {}
        self._written: set[parts.Part] = set()
        self._untold = 0
        self._mine = True
        self._since = clock()
        self._on_save(before)

    @contextlib.contextmanager
    def part(self, number: int) -> Iterator[None]:
        """The inputs added inside make one part, which one of the hosts writes; what was added outlives an error."""
        self._mine, self._written = number % jax.process_count() == jax.process_index(), set()
        try:
            yield
            self._save()
        except BaseException:
            self._write()  # alone: other hosts may be anywhere
            self._tell()
            raise
        hosts.together(self._join)

    def add(self, entries: Sequence[Entry]) -> None:
        """Inputs that are finished."""
        self._waiting = self._waiting | {entry.index: entry for entry in entries}

    def save_if_due(self) -> None:
        """Write what waits when it has waited long enough, on every host."""
        if self._waiting and hosts.agreed(int(clock() - self._since >= SECONDS)):
            self._save()

    def _save(self) -> None:
        hosts.together(self._write)
        self._since = clock()
        self._tell()

    def _tell(self) -> None:
        if self._untold:
            self._on_save(self._n_saved + self._untold)
            self._n_saved, self._untold = self._n_saved + self._untold, 0

    def _write(self) -> None:
        """Write what waits; where it is cut short and called again, the same files are written."""
        for part in parts.neighbours(self._waiting):
            if self._mine:
                members = [self._waiting[index] for index in part.inputs]
                parts.write_part(self._folder, part, self._tables(members), self._mark)
            self._written.add(part)
            self._untold += len(part.inputs)
            self._waiting = {index: entry for index, entry in self._waiting.items() if index not in part.inputs}

    def _join(self) -> None:
        """Make one part of the small ones that lie side by side."""
        for whole in parts.neighbours(index for part in self._written for index in part.inputs):
            pieces = sorted(part for part in self._written if part.first in whole.inputs)
            if self._mine and len(pieces) > 1:
                parts.join(self._folder, pieces, self._names, self._mark)
