"""Masks of a given number of edges, hard or soft, from one number an edge (section 8 of the method).

Values are ``NO_SCORE`` in slots that are no edge. Nothing here sorts: a cut is found by counting.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jstrace.method.search.ordering import is_edge, ordered_floats
from jstrace.models import EdgeTree

_MOST_TURNS = 30
_LARGEST = np.finfo(np.float32).max
_CLOSE = 1e-5
"""Of the number of edges, or of one where there are fewer: how far a soft mask's sum may be off."""


def total(tree: EdgeTree) -> Array:
    """The sum of all leaves."""
    return functools.reduce(jnp.add, (jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))


def extremes(values: EdgeTree) -> tuple[Array, Array]:
    """The least and the greatest value of all kinds of edges, some of which may have none."""
    leaves = jax.tree.leaves(values)
    low = functools.reduce(jnp.minimum, (jnp.min(jnp.where(is_edge(x), x, _LARGEST)) for x in leaves))
    high = functools.reduce(jnp.maximum, (jnp.max(jnp.where(is_edge(x), x, -_LARGEST)) for x in leaves))
    return low, high


def largest(values: EdgeTree, count: Int[Array, ""] | int) -> EdgeTree:
    """The bool mask of the ``count`` edges of the largest values; edges equal to the last of them are in it, too."""
    keys = jax.tree.map(ordered_floats, values)

    def turn(index: Array, floor: Array) -> Array:
        trial = floor | (jnp.uint32(1) << (31 - index).astype(jnp.uint32))
        enough = total(jax.tree.map(lambda key: (key >= trial).astype(jnp.int32), keys)) >= count
        return jnp.where(enough, trial, floor)

    least = jax.lax.fori_loop(0, 32, turn, jnp.uint32(0))
    return jax.tree.map(lambda key: (key >= jnp.maximum(least, 1)) & (count > 0), keys)


@jax.custom_vjp
def soft_mask(values: EdgeTree, count: Array | float, temperature: Array | float) -> EdgeTree:
    """``sigmoid((values - t) / temperature)`` with t such that the mask sums to ``count``; zero where there is no edge.

    Its derivative is implicit, through t: with ``s = m (1 - m)`` and the cotangent g, that of the values is
    ``s / temperature * (g - sum(g s) / sum(s))``, so that no step leaves the budget. Count and temperature have none.
    """
    return _at(values, _threshold(values, count, temperature), temperature)


def _forward(values: EdgeTree, count: Any, temperature: Any) -> tuple[EdgeTree, Any]:
    mask = soft_mask(values, count, temperature)
    return mask, (mask, count, temperature)


def _backward(saved: Any, cotangent: EdgeTree) -> tuple[EdgeTree, Any, Any]:
    mask, count, temperature = saved
    slope = jax.tree.map(lambda m: m * (1 - m), mask)
    weight = total(slope)
    mean = total(jax.tree.map(jnp.multiply, slope, cotangent)) / jnp.where(weight > 0, weight, 1.0)
    gradient = jax.tree.map(lambda s, g: s / temperature * (g - mean), slope, cotangent)
    return gradient, _no_cotangent(count), _no_cotangent(temperature)


def _no_cotangent(value: Any) -> Any:
    """What stands for the derivative in something that has none."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.zeros_like(array)
    return np.zeros(array.shape, jax.dtypes.float0)


soft_mask.defvjp(_forward, _backward)


def _at(values: EdgeTree, threshold: Array, temperature: Array | float) -> EdgeTree:
    def softened(x: Array) -> Array:
        edge = is_edge(x)
        return jnp.where(edge, jax.nn.sigmoid((jnp.where(edge, x, threshold) - threshold) / temperature), 0.0)

    return jax.tree.map(softened, values)


def _threshold(values: EdgeTree, count: Any, temperature: Any) -> Array:
    """Newton's method on the sum, kept inside a bracket that every turn narrows."""
    low, high = extremes(values)
    low, high = low - 20 * temperature, high + 20 * temperature
    target = jnp.asarray(count, jnp.float32)
    bound = _CLOSE * jnp.maximum(1.0, target)

    def excess(t: Array) -> tuple[Array, Array]:
        mask = _at(values, t, temperature)
        return total(mask) - target, total(jax.tree.map(lambda m: m * (1 - m), mask)) / temperature

    def going(state: tuple[Any, ...]) -> Array:
        turn, _, _, _, over, _ = state
        return (turn < _MOST_TURNS) & (jnp.abs(over) > bound)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        turn, t, low, high, over, slope = state
        low, high = jnp.where(over > 0, t, low), jnp.where(over > 0, high, t)
        tried = t + over / jnp.where(slope > 0, slope, 1.0)
        t = jnp.where((tried > low) & (tried < high) & (slope > 0), tried, (low + high) / 2)
        return (turn + 1, t, low, high, *excess(t))

    start = (low + high) / 2
    outcome: tuple[Any, ...] = jax.lax.while_loop(going, step, (jnp.int32(0), start, low, high, *excess(start)))
    _, t, _, _, over, slope = outcome
    return t + over / jnp.where(slope > 0, slope, 1.0)  # one turn more costs little and squares what is left
