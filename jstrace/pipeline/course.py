"""What a learned edge score is fitted to: texts with their features, and the course of steps with what each draws."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int

from jstrace.method.graph import full_graph
from jstrace.method.scores import linear
from jstrace.method.scores.gradients import Pass
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError, Model, Replacement
from jstrace.models.memory import free_memory
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.footprint import gradient_bytes, wide_bytes
from jstrace.pipeline.progress import FitReport
from jstrace.scale import batching, memory


class Known(NamedTuple):
    """A text with what does not change while coefficients are fitted; padded."""

    tokens: Int[AnyArray, "*B T"]
    length: Int[AnyArray, "*B"]
    features: tuple[EdgeTree, ...]
    """In float16."""
    target: Float32[AnyArray, "*B V"]
    """Log-probabilities of the full pass."""


def known_of(
    model: Model,
    rows: Sequence[np.ndarray],
    features: str,
    replace: Replacement | None,
    report: FitReport | None = None,
) -> list[Known]:
    """Features and predictions of texts, all padded to one length, on the host; edges carry ``replace`` meanwhile.

    Raises:
      InputError: memory does not hold them, or they are not finite.
    """
    width, texts = batching.bucket(max(map(len, rows))), list[Known]()
    _check_room(model, rows, width, features)
    each, shared = gradient_bytes(model.config, width, model.dtype.itemsize), wide_bytes(model)
    size = memory.batch_inputs(model.decoder, width, each, shared=shared, n_masks=2, alone=True)
    for start in range(0, len(rows), size):
        members = rows[start : start + size]
        tokens, lengths = batching.padded(members, width, size)
        program = _known_program(model.decoder, tokens, lengths, replace, features=features)
        batch = jax.tree.map(np.asarray, Known(tokens, lengths, *program))
        texts += [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(len(members))]
        for index, text in enumerate(texts[start:], start):
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(text)):
                what = f"text {index}: its forward pass or its features are not finite"
                raise InputError(f"{what}; try dtype float32")
        if report is not None:
            report(len(texts), len(rows), None)
    return texts


def _check_room(model: Model, rows: Sequence[np.ndarray], width: int, features: str) -> None:
    """Refuse texts whose features memory cannot hold.

    Raises:
      InputError: with the longest of them, which all are padded to.
    """
    full_graph.check_slots(model.config, width, batching.bucket)
    needed = 2 * len(rows) * linear.n_features(features) * full_graph.edge_slot_count(model.config, width)
    room = free_memory()
    if room is not None and needed > room:
        longest = int(np.argmax([len(row) for row in rows]))
        raise InputError(
            f"features of {len(rows)} texts need {needed / 1e9:.1f} GB, {room / 1e9:.1f} GB are there; all are"
            f" padded to the longest, text {longest} of {len(rows[longest])} tokens"
        )


@functools.partial(jax.jit, static_argnames="features")
@usual_promotion()
def _known_program(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    replace: Replacement | None,
    *,
    features: str,
) -> tuple[tuple[EdgeTree, ...], Float32[Array, "B V"]]:
    def text(tokens: Array, length: Array) -> tuple[tuple[EdgeTree, ...], Array]:
        trees, target = linear.features_of(Pass(decoder, tokens, length, replace), features)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float16), trees), target

    return jax.vmap(text)(tokens, lengths)


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
