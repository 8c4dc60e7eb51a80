"""Functions of single tokens, applied to all rows or to the live ones only.

Most traces touch few tokens in most layers. ``live_rows`` gathers the rows that a mask keeps, applies the function
there and puts the results back: exact, and as much cheaper as the rows are fewer. On a CPU it goes through blocks of
two static sizes, on a TPU of one and without scatters, on a GPU it takes one buffer of a few static capacities. Under
``jax.vmap`` the batch axes (inputs, sizes) join the rows, so that is done once for the whole batch and the model's
mathematics never sees them.

Beside them stand sorting, finding and counting without scatters and without XLA's sort, which TPUs are slow at, and
slow to compile: each exact, and a small program whatever the number of values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from jstrace.models.platforms import form

RowFunction = Callable[..., Any]
"""``(weights, x[R, ...]) -> pytree of [R, ...]``, each row on its own; a module-level function or a stable closure."""

BLOCKS = (256, 64)
"""Rows in a block: large ones, as each turn reads all the weights; and small ones, as the last is half empty.

Below 64 rows products on a CPU may round otherwise.
"""

_TURN = (256, 512)
"""Rows in a turn on a TPU, for calls of up to 4,096 rows and for larger ones.

With some 250 rows a v5e multiplies for as long as it reads weights.
"""

MOST_ROWS = _TURN[-1]
"""That a TPU computes at once."""

_SHARES = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32)
"""Capacities in 32nds of all rows: fine where most layers of most batches are; each is one more body to compile."""

_MULTIPLE = 32
"""Of rows in a buffer: fewer save no time in a matrix product, and small batches need fewer programs."""


_FANOUT = 128
"""Values that one is looked for among at once: the width of a TPU's vector."""

_CHUNK = 1 << 16
"""Places that are looked for at once, each with a vector of its own."""


@runtime_checkable
class RowMap(Protocol):
    """Applies a ``RowFunction`` to rows of which only the live ones are computed from ``x``."""

    def __call__(
        self,
        function: RowFunction,
        weights: Any,
        x: Array,
        live: Bool[Array, "R"],
        idle: Array | None = None,
        *,
        skips: bool = False,
    ) -> Any:
        """Results for all rows; a dead row that is not in the state ``idle`` may get anything.

        ``skips`` says that ``function`` takes the live rows as a third argument, and leaves the others out by itself.
        """
        ...


def every_row(
    function: RowFunction,
    weights: Any,
    x: Array,
    live: Bool[Array, "R"],
    idle: Array | None = None,
    *,
    skips: bool = False,
) -> Any:
    """Apply ``function`` to every row, live or not; differentiable."""
    del live, idle, skips
    return function(weights, x)


def live_rows(
    function: RowFunction,
    weights: Any,
    x: Array,
    live: Bool[Array, "R"],
    idle: Array | None = None,
    *,
    skips: bool = False,
    platform: str | None = None,
) -> Any:
    """Apply ``function`` to the live rows; not reverse-differentiable.

    Dead rows give ``function(weights, idle)``, or zeros where ``idle`` is None: of one state for all of them, or of one
    for each, computed once for a whole batch that shares it. ``platform`` is that of ``models.platforms.form``.
    """
    if idle is not None:
        out = live_rows(function, weights, x, live, platform=platform)
        rest = function(weights, idle[None] if idle.ndim < x.ndim else idle)
        return jax.tree.map(functools.partial(_alive, live), out, rest)

    @jax.custom_batching.custom_vmap
    def apply(weights: Any, x: Array, live: Array) -> Any:
        return function(weights, x, live) if skips else gathered(platform)(function, weights, x, live)

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
    """The buffer sizes that ``in_capacity`` chooses from, increasing; the last holds every row."""
    whole = (-(-n_rows * share // (_SHARES[-1] * _MULTIPLE)) * _MULTIPLE for share in _SHARES)
    return tuple(sorted({min(n_rows, capacity) for capacity in whole}))


def gathered(platform: str | None) -> Callable[[RowFunction, Any, Array, Array], Any]:
    """The way to compute live rows alone.

    Turns of a loop make the host of a GPU wait, each of them; a choice does once. TPUs do both by themselves, but a
    choice has a body for every capacity to compile.
    """
    return form(platform, cpu=in_blocks, gpu=in_capacity, tpu=in_turns)


def in_blocks(function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"]) -> Any:
    """Results of live rows, zeros elsewhere: full large blocks, then small ones. Two bodies to compile."""
    n_rows = x.shape[0]
    sizes = sorted({min(size, n_rows) for size in BLOCKS}, reverse=True)
    # A sort compiles in a fraction of the time of the two sums in jnp.nonzero.
    order = jnp.sort(jnp.where(live, jnp.arange(n_rows, dtype=jnp.int32), n_rows))
    order = jnp.pad(order, (0, sizes[0]), constant_values=n_rows)
    left, start = jnp.sum(live, dtype=jnp.int32), jnp.int32(0)
    kinds = jax.eval_shape(function, weights, x)
    out = jax.tree.map(lambda y: jnp.zeros(y.shape, _scattered(y.dtype)), kinds)
    for size in sizes:
        turns = left // size if size != sizes[-1] else -(-left // size)
        block = functools.partial(_block, function, weights, x, order, start, size)
        out = jax.lax.fori_loop(0, turns, block, out)
        left, start = left - turns * size, start + turns * size
    return jax.tree.map(lambda y, kind: y.astype(kind.dtype), out, kinds)


def _scattered(dtype: Any) -> Any:
    """The dtype of a buffer of results: XLA on CPUs would widen all of one in half precision at every turn."""
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def _block(
    function: RowFunction, weights: Any, x: Array, order: Array, start: Array, size: int, turn: Array, out: Any
) -> Any:
    """``out`` with the results of the ``size`` rows that ``order`` names from the block's start on."""
    picked = jax.lax.dynamic_slice(order, (start + turn * size,), (size,))
    results = function(weights, x.at[picked].get(mode="fill", fill_value=0))
    return jax.tree.map(lambda y, new: y.at[picked].set(new.astype(y.dtype), mode="drop"), out, results)


def in_capacity(function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"]) -> Any:
    """The same in the smallest buffer that holds the live rows; where that is the whole, all rows are computed."""
    n_rows = x.shape[0]
    sizes = capacities(n_rows)
    order = jnp.nonzero(live, size=n_rows, fill_value=n_rows)[0]
    branch = jnp.searchsorted(jnp.asarray(sizes), jnp.sum(live))

    def with_capacity(size: int, weights: Any, x: Array, order: Array) -> Any:
        if size == n_rows:
            return jax.tree.map(functools.partial(_alive, live), function(weights, x))
        picked = order[:size]
        out = function(weights, x.at[picked].get(mode="fill", fill_value=0))
        return jax.tree.map(lambda y: jnp.zeros((n_rows, *y.shape[1:]), y.dtype).at[picked].set(y, mode="drop"), out)

    branches = [functools.partial(with_capacity, size) for size in sizes]
    return jax.lax.switch(branch, branches, weights, x, order)


def in_turns(function: RowFunction, weights: Any, x: Array, live: Bool[Array, "R"]) -> Any:
    """Results of live rows, zeros elsewhere: as many equal blocks as it takes, without scatters. One body."""
    n_rows = x.shape[0]
    size = min(n_rows, _TURN[n_rows > 4096])
    n_most = -(-n_rows // size) * size
    order = jnp.pad(first_true(live, n_rows), (0, n_most - n_rows), constant_values=n_rows)
    rank = cumulative(live.astype(jnp.int32)) - 1
    kinds = jax.eval_shape(function, weights, x)

    def turn(index: Array, out: Any) -> Any:
        picked = jax.lax.dynamic_slice(order, (index * size,), (size,))
        results = function(weights, x.at[picked].get(mode="fill", fill_value=0))
        return jax.tree.map(
            lambda y, new: jax.lax.dynamic_update_slice_in_dim(y, new, index * size, 0), out, results
        )  # fmt: skip

    out = jax.tree.map(lambda y: jnp.zeros((n_most, *y.shape[1:]), y.dtype), kinds)
    out = jax.lax.fori_loop(0, -(-jnp.sum(live, dtype=jnp.int32) // size), turn, out)

    return jax.tree.map(lambda y: _alive(live, y.at[rank].get(mode="clip")), out)


def _alive(live: Bool[Array, "R"], y: Array, rest: Array | float = 0) -> Array:
    """The rows of ``y`` that are live, and the rest elsewhere."""
    return jnp.where(live.reshape(-1, *[1] * (y.ndim - 1)), y, jnp.asarray(rest, y.dtype))


def cumulative(counts: Int[Array, "N"]) -> Int[Array, "N"]:
    """``jnp.cumsum`` of int32."""
    n = counts.shape[0]
    rows = _cumulative_rows(_in_rows(counts))
    if rows.shape[0] == 1:
        return rows[0, :n]
    before = cumulative(rows[:, -1]) - rows[:, -1]
    return (rows + before[:, None]).reshape(-1)[:n]


def first_true(mask: Bool[Array, "N"], size: int) -> Int[Array, "M"]:
    """The places of the first ``size`` true values, in order; N where there are fewer.

    Counts of ever larger groups make a tree, which is descended to all of the places at once.
    """
    n, levels = mask.shape[0], [_cumulative_bits(_in_rows(mask))]
    while levels[-1].shape[0] > 1:
        levels.append(_cumulative_rows(_in_rows(levels[-1][:, -1].astype(jnp.int32))))

    def descended(nth: Int[Array, "C"]) -> Int[Array, "C"]:
        left, place = nth, jnp.zeros_like(nth)
        for level in reversed(levels):
            until = level.at[place].get(mode="clip").astype(jnp.int32)
            passed = until <= left[:, None]
            place = place * _FANOUT + jnp.sum(passed, axis=1, dtype=jnp.int32)
            left = left - jnp.max(jnp.where(passed, until, 0), axis=1)
        return jnp.where(nth < levels[-1][0, -1], place, n)

    chunks = -(-size // _CHUNK)
    nth = jnp.arange(chunks * -(-size // chunks), dtype=jnp.int32).reshape(chunks, -1)
    return jax.lax.map(descended, nth).reshape(-1)[:size]


def _in_rows(values: Array) -> Array:
    return jnp.pad(values, (0, -values.shape[0] % _FANOUT)).reshape(-1, _FANOUT)


def _cumulative_rows(rows: Int[Array, "R F"]) -> Int[Array, "R F"]:
    """By a sum of all values before, which the compiler never holds at once; its own scans take seconds to compile."""
    place = jnp.arange(rows.shape[1])
    return jnp.sum(jnp.where(place[:, None] <= place, rows[:, :, None], 0), axis=1)


def _cumulative_bits(rows: Bool[Array, "R F"]) -> UInt8[Array, "R F"]:
    """By a product, which counts up to 128 exactly."""
    place = jnp.arange(rows.shape[1])
    before = (place[:, None] <= place).astype(jnp.bfloat16)
    counts = jnp.matmul(rows.astype(jnp.bfloat16), before, preferred_element_type=jnp.float32)
    return counts.astype(jnp.uint8)


def argsort(keys: UInt32[Array, "N"]) -> Int[Array, "N"]:
    """``jnp.argsort(keys, stable=True)``: a bitonic network, one stage a turn of a loop."""
    n, bits = keys.shape[0], max(1, (keys.shape[0] - 1).bit_length())
    place = jnp.arange(1 << bits, dtype=jnp.int32)
    filled = jnp.pad(keys, (0, (1 << bits) - n), constant_values=np.uint32(0xFFFFFFFF))
    stages = [(2 << block, 1 << apart) for block in range(bits) for apart in range(block, -1, -1)]

    def stage(state: tuple[Array, Array], sizes: Array) -> tuple[tuple[Array, Array], None]:
        block, apart = sizes
        is_lower = (place & apart) == 0
        own, other = state, tuple(jnp.where(is_lower, jnp.roll(x, -apart), jnp.roll(x, apart)) for x in state)
        is_less = (own[0] < other[0]) | ((own[0] == other[0]) & (own[1] < other[1]))
        stays = is_less == (is_lower == ((place & block) == 0))
        return (jnp.where(stays, own[0], other[0]), jnp.where(stays, own[1], other[1])), None

    (_, order), _ = jax.lax.scan(stage, (filled, place), jnp.asarray(stages, jnp.int32))
    return order[:n]
