"""Foreign predictions: what scores are told as a control (section 8 of the method), of runs and of single texts."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float32

from jstrace.models import InputError
from jstrace.pipeline.driver import Driver
from jstrace.pipeline.inputs import Tokens, token_ids

_KEPT = 128
"""Predictions that are kept: those of one input serve several that stand before it."""


class Predictions:
    """What a model predicts of texts, and which of them are foreign to each other.

    Every prediction is computed by itself, so that no digit of it depends on what else is asked.
    """

    def __init__(self, driver: Driver, texts: Sequence[Tokens]) -> None:
        """One for a driver and its texts, which may be none that can be traced."""
        # Of no method: an object that holds a cache of its own method, and a model, is freed late.
        self.of: Callable[[int], Float32[np.ndarray, "V"] | None] = functools.lru_cache(_KEPT)(
            functools.partial(_prediction, driver, texts)
        )
        """Log-probabilities of what follows a text by its index; None where there is no finite prediction."""
        self._tops: dict[int, int | None] = {}

    def foreign(self, own: int, others: Iterable[int], count: int | None = None) -> tuple[int, ...]:
        """The first so many others whose most probable token is another than that of the own text; all by default."""
        top = self._top(own)
        return tuple(itertools.islice((other for other in others if self._top(other) not in (None, top)), count))

    def _top(self, index: int) -> int | None:
        """The most probable token after a text, where it has a prediction."""
        if index not in self._tops:
            prediction = self.of(index)
            self._tops[index] = None if prediction is None else int(prediction.argmax())
        return self._tops[index]


def _prediction(driver: Driver, texts: Sequence[Tokens], index: int) -> Float32[np.ndarray, "V"] | None:
    try:
        return driver.prediction(token_ids(driver.model, texts[index]))
    except InputError:
        return None
