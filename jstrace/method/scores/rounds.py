"""Gradients at ever smaller cuts: the score ``rounds`` (section 8 of the method)."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jstrace.method.scores.budgets import extremes, largest, soft_mask, total
from jstrace.method.scores.gradients import (
    LEAST_GRADIENT,
    FirstOrder,
    Pass,
    check_count,
    first_order,
    log_of,
    loss_gradient,
    name_variant,
)
from jstrace.method.search.ordering import log_ranks, marked
from jstrace.models import EdgeTree, InputError
from jstrace.models.platforms import usual_promotion

EARLIER = {"floor": 0.0, "nested": True, "walks": 1}
"""What rounds were before there were these numbers: files of then, which name the others, do not say them."""


@dataclasses.dataclass(frozen=True, repr=False)
class Rounds:
    """Gradients at ever smaller cuts, each inside the last: one forward and one backward pass a cut, and one before.

    ``walks`` of them, whose sizes lie between one another's, give the mean of the logarithms of their ranks: what one
    walk decides by rounding, the others seldom do.

    It starts from ``ShareTimesGradient``, x. At every size, from the largest to the smallest, the gradient g of KL(full
    || masked), or of a metric, in the soft mask of that size goes into x,
    ``x += weight * log(|g| + floor * mean |g|)``, the mean being over the mask, and the best of x inside the last cut
    are the next. An edge ranks by the smallest cut that it survives, then by x. What matters is the memory of all
    gradients, and that the order is settled cut by cut. A floor keeps a gradient that happens to be near zero from
    deciding, which float32's rounding may turn.

    Examples:
      >>> jstrace.trace(model, text, score=jstrace.Rounds(cuts=3)).score
      'rounds-cuts-3'
    """

    cuts: int = 20
    largest: float = 0.4
    smallest: float = 0.01
    weight: float = 0.5
    power: float = 0.5
    temperature: float = 0.5
    """Of the soft masks that gradients are taken in, at the largest size; 0, here and below, for hard ones."""
    last_temperature: float = 4.0
    """At the smallest; in between it changes by equal factors."""
    floor: float = 0.0
    nested: bool = True
    """Whether a cut may hold edges of the last one alone; if not, edges rank by x."""
    walks: int = 1
    name: str = "rounds"

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
          InputError: with the first of them.
        """
        check_count("cuts", self.cuts)
        check_count("walks", self.walks)
        if self.walks > 1 and self.cuts == 1:
            raise InputError("several walks of one cut are the same walk; expected two cuts at least")
        if not 0 < self.smallest <= self.largest <= 1:
            raise InputError(f"rounds from {self.largest} to {self.smallest}: expected 1 >= largest >= smallest > 0")
        numbers = {"weight": self.weight, "power": self.power, "temperature": self.temperature, "floor": self.floor}
        for name, number in (numbers | {"last_temperature": self.last_temperature}).items():
            if not 0 <= number < math.inf:
                raise InputError(f"{name} = {number}, expected a number that is not negative")
        if (self.temperature > 0) != (self.last_temperature > 0):
            raise InputError("temperatures: both are positive, or both 0, for hard masks")
        if not isinstance(self.nested, bool):
            raise InputError(f"nested = {self.nested!r}, expected True or False")
        name_variant(self, "rounds")

    def __repr__(self) -> str:
        """Without what rounds were before there were numbers for it, as files compare these words."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        words = [f"{name}={value!r}" for name, value in fields.items() if EARLIER.get(name, fields) != value]
        return f"Rounds({', '.join(words)})"

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        start = first_order(forward)
        if self.walks == 1:
            return self.walk(forward, start)[0]
        slots = forward.slots()

        def ranked(summed: EdgeTree, course: tuple[Array, Array]) -> tuple[EdgeTree, None]:
            ranks = log_ranks(self._along(forward, start, course)[0], slots)
            return jax.tree.map(jnp.add, summed, ranks), None

        none = jax.tree.map(lambda slot: jnp.zeros(slot.shape, jnp.float32), slots)
        summed, _ = jax.lax.scan(ranked, none, self._courses())
        return jax.tree.map(lambda ranks: jnp.exp(ranks / self.walks), summed)

    @usual_promotion()
    def walk(
        self, forward: Pass, start: FirstOrder, *, keep: tuple[int, ...] = ()
    ) -> tuple[EdgeTree, tuple[EdgeTree, ...]]:
        """Scores from what is known at the full mask, and log |gradient| at the cuts that are to be kept; one walk."""
        sizes, temperatures = self._courses()
        return self._along(forward, start, (sizes[0], temperatures[0]), keep)

    @usual_promotion()
    def _along(
        self, forward: Pass, start: FirstOrder, course: tuple[Array, Array], keep: tuple[int, ...] = ()
    ) -> tuple[EdgeTree, tuple[EdgeTree, ...]]:
        x, slots = start.combined(self.power), forward.slots()
        n_edges = total(jax.tree.map(lambda slot: slot.astype(jnp.int32), slots))

        def cut(state: _Walk, at: tuple[Array, Array, Array]) -> tuple[_Walk, None]:
            (x, inside, survived, saved), (index, size, temperature) = state, at
            count = jnp.floor(size * n_edges).astype(jnp.int32)
            mask = self._mask(marked(x, inside), count, temperature)
            gradient = self._logs(loss_gradient(forward, mask, start.target), mask)
            x = jax.tree.map(lambda value, g: value + self.weight * g, x, gradient)
            if self.nested:
                inside = largest(marked(x, inside), count)
                survived = jax.tree.map(jnp.add, survived, inside)
            saved = tuple(
                jax.tree.map(lambda new, old, own=own: jnp.where(index == own, new, old), gradient, old)
                for own, old in zip(keep, saved, strict=True)
            )
            return _Walk(x, inside, survived, saved), None

        none = jax.tree.map(lambda slot: jnp.zeros(slot.shape, jnp.float32), slots)
        first = _Walk(x, slots, none, tuple(none for _ in keep))
        last, _ = jax.lax.scan(cut, first, (jnp.arange(self.cuts), *course))
        return jax.tree.map(jnp.add, last.survived, _unit(marked(last.x, slots))), last.kept

    def _courses(self) -> tuple[Array, Array]:
        """Sizes and temperatures ``[walks, cuts]``."""
        sizes = self._between(self.largest, self.smallest)
        hard = self.temperature <= 0
        return sizes, jnp.zeros_like(sizes) if hard else self._between(self.temperature, self.last_temperature)

    def _between(self, first: float, last: float) -> Float32[Array, "W C"]:
        """Numbers that change by equal factors, each walk's between those of the one before; all end in the last."""
        steps = np.geomspace(first, last, self.walks * (self.cuts - 1) + 1)
        walks = [np.append(steps[number :: self.walks][: self.cuts - 1], steps[-1]) for number in range(self.walks)]
        return jnp.asarray(np.stack(walks), jnp.float32)

    def _mask(self, x: EdgeTree, count: Array, temperature: Array) -> EdgeTree:
        if self.temperature > 0:
            return soft_mask(x, count, temperature)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), largest(x, count))

    def _logs(self, gradient: EdgeTree, mask: EdgeTree) -> EdgeTree:
        """log |g|, of which those near zero are next to the mean over the mask."""
        size = jax.tree.map(jnp.abs, gradient)
        if self.floor:
            held = total(jax.tree.map(jnp.multiply, mask, size))
            least = self.floor * held / jnp.maximum(total(mask), 1)
            size = jax.tree.map(lambda g: g + least, size)
        return jax.tree.map(lambda g: log_of(g, LEAST_GRADIENT), size)


class _Walk(NamedTuple):
    """Where rounds are: what edges have, which are left, how many cuts each survived, and gradients on the way."""

    x: EdgeTree
    inside: EdgeTree
    survived: EdgeTree
    kept: tuple[EdgeTree, ...]


def _unit(x: EdgeTree) -> EdgeTree:
    """Values in the same order in [0, 1)."""
    low, high = extremes(x)
    return jax.tree.map(lambda leaf: (leaf - low) / (high - low + 1), x)
