"""How the fit of a learned edge score goes: sizes, temperatures and rates by step, and what each step draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Float, Int

from jstrace.models import AnyArray


@dataclasses.dataclass(frozen=True)
class Course:
    """How a fit goes: what was found to work (docs/scores.md)."""

    steps: int
    rate: float
    largest: float = 0.4
    """Budgets, shares of all edges, are drawn log-uniform between the least so far and this."""
    start: float = 0.3
    """The least budget at the first step."""
    smallest: float = 0.03
    """And at the last."""
    fall: float = 2.4
    """By so many e-folds the least budget falls from the first step to the last."""
    temperature: float = 1.0
    last_temperature: float = 0.2
    cap: float = 30.0
    """Of the KL of one text, in nats; a lower one kills the gradient of a bad start."""

    def at(self, step: int) -> tuple[float, float]:
        """The least budget so far, and the temperature of the masks."""
        done = step / self.steps
        least = max(self.start * math.exp(-self.fall * done), self.smallest)
        return least, self.temperature * (self.last_temperature / self.temperature) ** done

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam, whose rate falls to nothing by a cosine."""
        return optax.adam(optax.cosine_decay_schedule(self.rate, self.steps))


COURSES = {
    "activations": Course(steps=0, rate=0.03),
    "gradient": Course(steps=0, rate=0.03),
    "rounds": Course(steps=0, rate=0.03, smallest=0.01, fall=4.0, temperature=0.5, last_temperature=0.15),
}
"""By features."""


class Draw(NamedTuple):
    """What is drawn for each text of a step."""

    others: Int[AnyArray, "B T"]
    """Tokens of another place of the texts."""
    shares: Float[AnyArray, "B 2"]
    """Of the means and of the other place's states in what ablated edges carry."""
    sizes: Float[AnyArray, "B"]


def draws(
    rows: Sequence[np.ndarray],
    width: int,
    names: Sequence[str],
    course: Course,
    batch: int,
    rng: np.random.Generator,
) -> Iterator[tuple[list[int], Draw]]:
    """The texts of every step, and what is drawn for them."""
    stream, order = np.concatenate(rows), _shuffled(rng, len(rows))
    stream = np.resize(stream, max(len(stream), 2 * width))
    starts = np.cumsum([0, *map(len, rows)]).tolist()
    for step in range(course.steps):
        texts = [next(order) for _ in range(batch)]
        least, _ = course.at(step)
        sizes = np.exp(rng.uniform(np.log(least), np.log(course.largest), batch))
        drawn = [names[i] for i in rng.integers(0, len(names), batch)]
        shares = np.asarray([[name == "mean", name == "resample"] for name in drawn], np.float32)
        places = [_elsewhere(stream, width, starts[text], starts[text + 1], rng) for text in texts]
        yield texts, Draw(np.stack(places), shares, sizes.astype(np.float32))


def _shuffled(rng: np.random.Generator, n_texts: int) -> Iterator[int]:
    """Every text once, in a new order each time."""
    while True:
        yield from map(int, rng.permutation(n_texts))


def _elsewhere(stream: np.ndarray, width: int, first: int, end: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens of another place than those from ``first`` to ``end``; of few texts, any place."""
    every = np.arange(len(stream) - width + 1)
    apart = every[(every + width <= first) | (every >= end)]
    at = int(rng.choice(apart if len(apart) else every))
    return stream[at : at + width]
