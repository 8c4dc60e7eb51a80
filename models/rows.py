"""Functions of single tokens, applied to all rows or to the live ones only.

Most traces touch few tokens in most layers. ``live_rows`` gathers the rows that a mask keeps into a buffer of one of
a few static capacities, applies the function there and scatters the results back: exact, and as much cheaper as the
rows are fewer. Under ``jax.vmap`` the batch axes (inputs, sizes) join the rows, so the choice of a capacity is made
once for the whole batch and the model's mathematics never sees them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

RowFunction = Callable[[Any, Array], Any]
"""``(weights, x[R, ...]) -> pytree of [R, ...]``, each row on its own; a module-level function or a stable closure."""

_SHARES = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32)
"""Capacities in 32nds of all rows: fine where most layers of most batches are; each costs 0.2 s to compile on a CPU."""

_MULTIPLE = 32
"""Of rows in a buffer: fewer save no time in a matrix product, and small batches need fewer programs."""


@runtime_checkable
class RowMap(Protocol):
    """Applies a ``RowFunction`` to rows of which only the live ones are computed from ``x``."""

    def __call__(
        self, function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"], idle: Array | None = None
    ) -> Any:
        """Results for all rows; a dead row that is not in the state ``idle`` may get anything finite."""
        ...


def every_row(function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"], idle: Array | None = None) -> Any:
    """Apply ``function`` to every row, live or not; differentiable."""
    del live, idle
    return function(weights, x)


def live_rows(function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"], idle: Array | None = None) -> Any:
    """Apply ``function`` to the live rows; not reverse-differentiable under ``vmap``.

    Dead rows give ``function(weights, idle)``, computed once for all of them, or zeros where ``idle`` is None.
    """
    if idle is not None:
        out = live_rows(function, weights, x, live)
        rest = function(weights, idle[None])
        return jax.tree.map(lambda y, r: jnp.where(live.reshape(-1, *[1] * (y.ndim - 1)), y, r), out, rest)

    @jax.custom_batching.custom_vmap
    def apply(weights: Any, x: Array, live: Array) -> Any:
        return _gathered(function, weights, x, live)

    @apply.def_vmap
    def _(size: int, batched: Any, weights: Any, x: Array, live: Array) -> Any:
        weights_batched, x_batched, live_batched = batched
        if any(jax.tree.leaves(weights_batched)):
            raise NotImplementedError("live_rows: weights differ over a vmapped axis; use every_row")
        x = x if x_batched else jnp.broadcast_to(x, (size, *x.shape))
        live = live if live_batched else jnp.broadcast_to(live, (size, *live.shape))
        flat = apply(weights, x.reshape(-1, *x.shape[2:]), live.reshape(-1))
        out = jax.tree.map(lambda y: y.reshape(*live.shape, *y.shape[1:]), flat)
        return out, jax.tree.map(lambda _: True, out)

    return apply(weights, x, live)


def capacities(n_rows: int) -> tuple[int, ...]:
    """The buffer sizes that ``live_rows`` chooses from, increasing; the last holds every row."""
    whole = (-(-n_rows * share // (_SHARES[-1] * _MULTIPLE)) * _MULTIPLE for share in _SHARES)
    return tuple(sorted({min(n_rows, capacity) for capacity in whole}))


def _gathered(function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"]) -> Any:
    n_rows = x.shape[0]
    sizes = capacities(n_rows)
    order = jnp.nonzero(live, size=n_rows, fill_value=n_rows)[0]
    branch = jnp.searchsorted(jnp.asarray(sizes), jnp.sum(live))

    def with_capacity(size: int, weights: Any, x: Array, order: Array) -> Any:
        if size == n_rows:
            return function(weights, x)
        picked = order[:size]
        out = function(weights, x.at[picked].get(mode="fill", fill_value=0))
        return jax.tree.map(lambda y: jnp.zeros((n_rows, *y.shape[1:]), y.dtype).at[picked].set(y, mode="drop"), out)

    branches = [functools.partial(with_capacity, size) for size in sizes]
    return jax.lax.switch(branch, branches, weights, x, order)
