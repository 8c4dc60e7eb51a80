"""One row of a dataset."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One input."""

    text: str
    next_word: str | None = None
