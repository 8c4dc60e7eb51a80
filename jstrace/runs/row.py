"""One row of a dataset."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One input."""

    text: str
    next_word: str | None = None
    pair: str | None = None
    """Texts of the same pair are compared with each other,"""
    variant: str | None = None
    """each being another variant of it: as it was, or altered somehow."""


class Passage(Row):
    """A row of a text in which every word follows after a space, whatever other texts have there."""

    __slots__ = ()
