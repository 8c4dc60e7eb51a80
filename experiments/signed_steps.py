"""Steps of rounds and signed steps, and plans of them (``smaller.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.method.scores.budgets import extremes, largest, soft_mask, total
from jstrace.method.scores.gradients import LEAST_GRADIENT, Pass, as_floats, first_order, kl, log_of
from jstrace.method.search.ordering import log_ranks, marked
from jstrace.models import EdgeTree

MOST = 4.0
"""The most that one edge gets in a signed step, in mean roots."""


class Numbers(NamedTuple):
    """One gradient: where it is taken, and what becomes of it."""

    size: float
    """Of the soft mask, a share of all edges."""
    temperature: float
    logarithm: float = 0.0
    """How much of log |g| an edge gets."""
    nested: float = 0.0
    """1 where no edge outside of this cut comes back."""
    root: float = 0.0
    """How much of the signed root."""
    gated: float = 0.0
    """The power of 1 - TV, from the target, that a signed step is multiplied by."""


Given = tuple[Any, ...]
"""The first five fields of a ``Pass``; the others are static."""


class State(NamedTuple):
    """What edges have, which are left, and how many cuts each survived."""

    x: EdgeTree
    inside: EdgeTree
    survived: EdgeTree

    @staticmethod
    def of(x: EdgeTree, slots: EdgeTree) -> State:
        """At the start."""
        return State(x, slots, as_floats(jax.tree.map(jnp.zeros_like, slots)))


@jax.jit
def step(given: Given, state: State, numbers: Numbers) -> State:
    """The state after one gradient: a forward and a backward pass."""
    forward, target = Pass(*given), given[4]
    slots = forward.slots()
    n_edges, left = total(as_floats(slots)), jax.tree.map(jnp.logical_and, slots, state.inside)
    count = jnp.floor(numbers.size * n_edges)
    mask = soft_mask(marked(state.x, left), count, numbers.temperature)

    def loss(mask: EdgeTree) -> tuple[Any, Any]:
        logits = forward.logits(mask)
        return kl(target, logits), logits

    gradient, logits = jax.grad(loss, has_aux=True)(mask)
    near = 1 - 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(logits) - jnp.exp(target)))
    usual = total(jax.tree.map(lambda m, g: m * jnp.sqrt(jnp.abs(g)), mask, gradient)) / total(mask)
    root = numbers.root * jnp.maximum(near, 1e-6) ** numbers.gated

    def moved(x: Any, g: Any) -> Any:
        signed = jnp.clip(jnp.sign(g) * jnp.sqrt(jnp.abs(g)) / (usual + 1e-20), -MOST, MOST)
        return x - root * signed + numbers.logarithm * log_of(g, LEAST_GRADIENT)

    x = jax.tree.map(moved, state.x, gradient)
    cut = largest(marked(x, left), count.astype(jnp.int32))
    inside = jax.tree.map(lambda new, old: jnp.where(numbers.nested > 0, new, old), cut, state.inside)
    return State(x, inside, jax.tree.map(lambda s, new: s + numbers.nested * new, state.survived, cut))


@jax.jit
def begun(given: Given) -> tuple[State, Any]:
    """Where rounds begin, and the prediction to keep: two forward passes and one backward."""
    forward = Pass(*given)
    start = first_order(forward)
    return State.of(start.combined(0.5), forward.slots()), start.target


@jax.jit
def ordered(given: Given, state: State) -> EdgeTree:
    """Scores: edges rank by the cuts that they survive, then by x."""
    low, high = extremes(marked(state.x, Pass(*given).slots()))
    return jax.tree.map(lambda survived, x: survived + (x - low) / (high - low + 1), state.survived, state.x)


@jax.jit
def begun_again(given: Given, scores: EdgeTree) -> State:
    """An order as the start of signed steps: 1.2 for each e-fold of rank."""
    slots = Pass(*given).slots()
    return State.of(jax.tree.map(lambda x: 1.2 * x, log_ranks(scores, slots)), slots)


def course(count: int, sizes: Sequence[float], temperatures: Sequence[float], **how: float) -> Sequence[Numbers]:
    """Steps whose sizes and temperatures change by equal factors."""
    steps = zip(*(np.geomspace(ends[0], ends[1], count) for ends in (sizes, temperatures)), strict=True)
    return [Numbers(float(size), float(temperature), **how) for size, temperature in steps]


TEN, TWENTY = (course(count, (0.4, 0.01), (0.5, 4.0), logarithm=0.5, nested=1.0) for count in (10, 20))
"""The cuts of ``jstrace.Rounds``."""
TWELVE = 12, (0.1, 0.01), (0.5, 0.2)
"""Of signed steps: how many, from which size to which, and the temperatures."""
PLANS: dict[str, tuple[Sequence[Numbers], Sequence[Numbers]]] = {
    "rounds": (TWENTY, ()),
    "10 cuts, 12 signed steps of .1": (TEN, course(*TWELVE, root=0.1)),
    "10 cuts, 12 signed steps of .1, gated": (TEN, course(*TWELVE, root=0.1, gated=1.0)),
    "10 cuts, 12 signed steps of .2, gated twice": (TEN, course(*TWELVE, root=0.2, gated=2.0)),
}
"""Cuts, and signed steps after them: a forward and a backward pass each, and two and one before the first."""
