"""Pairs that jstrace makes itself: every row as it is, and altered on purpose."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import numpy as np

from jstrace.errors import InputError
from jstrace.runs.data import Data
from jstrace.runs.row import Row

ORIGINAL, SHUFFLED = "original", "shuffled"
ALTERATIONS = ("shuffle",)


def altered(data: Data, how: str, *, seed: int = 0) -> Data:
    """Every row twice: as it is, and after it altered; the two are a pair.

    Args:
      data: without pairs.
      how: "shuffle": the words in another order, drawn by the seed and the row alone; what is between them stays.
      seed: of the order.

    Raises:
      InputError: no such way, data that has pairs, or rows of which none has two words that differ.
    """
    if how not in ALTERATIONS:
        raise InputError(f"alter {how!r}: expected {', '.join(ALTERATIONS)}")
    if data.paired:
        raise InputError(f"{data.name}: has pairs already, which alter would make")
    rows = tuple(_pairs(data.rows, seed))
    if not rows:
        raise InputError(f"{data.name}: no row has two words that differ, which shuffle could move")
    left_out = len(data.rows) - len(rows) // 2
    if left_out:
        message = f"{data.name}: {left_out} rows have no two words that differ, and are left out"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return Data(f"{data.name}, beside it with shuffled words, seed {seed}", rows, data.corpus)


def _pairs(rows: tuple[Row, ...], seed: int) -> Iterator[Row]:
    for number, row in enumerate(rows):
        words = re.split(r"(\s+)", row.text)  # every other one is what stands between words
        places = [place for place in range(0, len(words), 2) if words[place]]
        own = [words[place] for place in places]
        if len(set(own)) < 2:
            continue
        rng, order = np.random.default_rng([seed, number]), own
        while order == own:
            order = [own[place] for place in rng.permutation(len(own))]
        for place, word in zip(places, order, strict=True):
            words[place] = word
        yield row._replace(pair=str(number), variant=ORIGINAL)
        yield Row("".join(words), None, str(number), SHUFFLED)
