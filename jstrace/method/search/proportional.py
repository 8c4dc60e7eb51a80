"""Random traces with as many edges of each kind as the traces that they stand beside, at every size (section 6)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from jstrace.method.graph.sizes import NO_EDGE
from jstrace.method.search.ordering import is_edge
from jstrace.method.search.refinement import bisected
from jstrace.method.search.relaxation import TOP, output_bounds
from jstrace.models import EdgeTree

_BITS = 24
"""Of random scores."""
_FIRST = np.asarray([2, 0, 1])
"""Kinds in the order in which they take the place of one that has no edge left: attention, residual, MLP."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """What is small of a trace that grows: edges that a node has once, nodes, and what the size at hand lacks."""

    residual: UInt8[Array, "2 L T"]
    """Strata of ``residual_attn`` and ``residual_mlp``."""
    mlp: UInt8[Array, "L T"]
    middle: Bool[Array, "L T"]
    """Nodes that are reached, of those that attention's edges enter,"""
    above: Bool[Array, "L T"]
    """and of those that a layer ends in; with parallel blocks both are these."""
    lack: Int[Array, "3"]
    """Residual, MLP and attention edges still to be drawn."""
    moved: Bool[Array, ""]
    """Whether the last turn drew any."""


def proportional(
    scores: EdgeTree,
    beside: EdgeTree,
    length: Int[Array, ""] | int,
    *,
    n_sizes: int,
    parallel: bool,
    n_outputs: int = 1,
) -> EdgeTree:
    """Strata of one input's connected random traces: of each kind as many edges as the traces beside hold.

    Every size goes on from the smaller one, in turns. A turn looks at the edges that are available, which enter an
    output or a node that an edge of the trace leaves. Of each kind it takes those with the highest scores: as many as
    the size still lacks, but no more than half of those available, so that edges which it opens compete with the rest.
    Where no kind that lacks edges has any available, attention's take their place, or where there are none residual
    ones, then the MLPs'; larger sizes make up for it.

    Args:
      scores: float32 in [0, 1), multiples of 2^-24; ``NO_SCORE`` in slots that are no edge.
      beside: strata of the traces that it stands beside.
      length: number of true tokens.
      n_sizes: Z.
      parallel: whether a layer is one level of nodes or two.
      n_outputs: the last so many true tokens are outputs.
    """
    values = jax.tree.map(lambda score: jnp.where(is_edge(score), score * 2**_BITS + 1, 0).astype(jnp.uint32), scores)
    start = jax.tree.map(lambda value: jnp.where(value > 0, n_sizes, NO_EDGE).astype(jnp.uint8), values)
    ends = output_bounds(scores.mlp.shape[-1], length, n_outputs) == TOP
    above = jnp.zeros(scores.mlp.shape, bool).at[-1].set(ends)
    rows = _Rows(
        jnp.stack([start.residual_attn, start.residual_mlp]), start.mlp, above & parallel, above,
        jnp.zeros(3, jnp.int32), jnp.ones((), bool),
    )  # fmt: skip

    def size(state: tuple[_Rows, Array], k: Array) -> tuple[tuple[_Rows, Array], None]:
        rows, attn = state
        rows = dataclasses.replace(rows, lack=_lacking(rows, attn, beside, k, n_sizes), moved=jnp.ones((), bool))

        def turn(state: tuple[_Rows, Array]) -> tuple[_Rows, Array]:
            rows, taken = _turn(*state, values, k, n_sizes=n_sizes, parallel=parallel)
            attn = jnp.where(taken, k, state[1])
            light = jax.lax.while_loop(
                lambda rows: rows.moved & (rows.lack[2] == 0) & jnp.any(rows.lack > 0),
                lambda rows: _turn(rows, None, values, k, n_sizes=n_sizes, parallel=parallel)[0],
                rows,
            )
            # Without attention's edges a turn may find nothing where one with them does.
            return dataclasses.replace(light, moved=rows.moved), attn

        return jax.lax.while_loop(lambda state: state[0].moved & jnp.any(state[0].lack > 0), turn, (rows, attn)), None

    (rows, attn), _ = jax.lax.scan(size, (rows, start.attn), jnp.arange(n_sizes, dtype=jnp.uint8))
    return EdgeTree(rows.residual[0], attn, rows.residual[1], rows.mlp)


def _lacking(rows: _Rows, attn: Array, beside: EdgeTree, k: Array, n_sizes: int) -> Int[Array, "3"]:
    """Of each kind the edges that size ``k`` lacks; where one has more than its number, the others get the fewer."""

    def count(*leaves: Array) -> Array:
        return jnp.sum(jnp.stack([jnp.sum(leaf, dtype=jnp.int32) for leaf in leaves]))

    wanted = [(beside.residual_attn <= k, beside.residual_mlp <= k), (beside.mlp <= k,), (beside.attn <= k,)]
    held = [(rows.residual < n_sizes,), (rows.mlp < n_sizes,), (attn < n_sizes,)]
    lack = jnp.stack([count(*asked) - count(*there) for asked, there in zip(wanted, held, strict=True)])
    room, lack = jnp.sum(lack), jnp.maximum(lack, 0)
    before = jnp.cumsum(lack) - lack
    return jnp.clip(room - before, 0, lack)


def _turn(
    rows: _Rows, attn: Array | None, values: EdgeTree, k: Array, *, n_sizes: int, parallel: bool
) -> tuple[_Rows, Array]:
    """One turn, and which attention edges it takes; without ``attn`` it draws none of these."""
    above = rows.above
    middle = above if parallel else rows.middle
    residual = jnp.stack([values.residual_attn, values.residual_mlp])
    reached = jnp.stack([middle, above])
    there = [
        jnp.where((rows.residual == n_sizes) & reached, residual, 0),
        jnp.where((rows.mlp == n_sizes) & above, values.mlp, 0),
    ]
    if attn is not None:
        there.append(jnp.where((attn == n_sizes) & middle[:, None, :, None], values.attn, 0))
    counts = jnp.stack([jnp.sum(value > 0, dtype=jnp.int32) for value in there])
    lack = rows.lack
    if attn is not None:
        stuck = jnp.all(jnp.minimum(lack, counts) == 0)
        first = jnp.asarray(_FIRST)[jnp.argmax(counts[_FIRST] > 0)]
        lack = jnp.where(stuck, jnp.zeros_like(lack).at[first].set(jnp.sum(lack)), lack)
    wanted = jnp.minimum(lack[: len(there)], (counts + 1) // 2)
    taken = [_highest(value, n) for value, n in zip(there, wanted, strict=True)]
    drawn = jnp.zeros(3, jnp.int32).at[: len(there)].set(wanted)
    opened, through = taken[0][0], taken[0][1] | taken[1]
    if attn is not None:
        opened = opened | jnp.any(taken[2], axis=(1, 2))
    opened, middle = (opened | through, rows.middle) if parallel else (opened, rows.middle | through)
    above = above | jnp.roll(opened, -1, axis=0).at[-1].set(False)
    residual, mlp = jnp.where(taken[0], k, rows.residual), jnp.where(taken[1], k, rows.mlp)
    return _Rows(residual, mlp, middle, above, lack - drawn, jnp.any(drawn > 0)), taken[-1]


def _highest(values: UInt32[Array, "*N"], need: Int[Array, ""]) -> Bool[Array, "*N"]:
    """Which are the ``need`` highest values, of equal ones the first; zeros are none of them."""
    flat = values.ravel()

    def count(floor: Array) -> Array:
        return jnp.sum(flat >= floor, dtype=jnp.int32)[None]

    fall = bisected(count, need[None], bits=_BITS + 1)
    tied = flat == fall.key
    first = tied & (jnp.cumsum(tied, dtype=jnp.int32) <= need - fall.above)
    return ((flat > 0) & ((flat > fall.key) | first)).reshape(values.shape)
