"""The first pass of extraction: where the cuts fall among the keys of all edges (section 3 of the method).

``key(e) = min(priority(e), bound(target))``, and bounds are one number a node, so keys are never stored: each sweep
makes them again, one layer at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from jstrace.method.conditions import FROZEN_KINDS
from jstrace.method.graph import indexing
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.method.search.ordering import HIGH_BIT, bits_of, is_none, ordered, ordered_floats, unless_none
from jstrace.method.search.refinement import Cuts, Fall, bisected, nothing_needed, split, straddling
from jstrace.method.search.relaxation import output_bounds, relax_layer
from jstrace.models import EdgeTree, form
from jstrace.models.rows import first_true

_LEAST_NORMAL = np.uint32(1 << 23)

_HALF = 1 << 16
"""Keys are looked up by their upper and lower 16 bits in turn."""


def priorities(scores: EdgeTree, frozen: tuple[str, ...]) -> EdgeTree:
    """Scores as uint32 of the same order, at least 1; frozen components above all others; 0 for what is no edge.

    With frozen components one bit less is left for the scores, so they must not be negative (``ranked`` makes them so).
    """
    if not frozen:
        return jax.tree.map(ordered_floats, scores)
    raised = {kind for name in frozen for kind in FROZEN_KINDS[name]}
    return EdgeTree(**{kind: _raised(bits_of(score), kind in raised) for kind, score in scores.items()})


def _raised(bits: UInt32[Array, "*N"], frozen: bool) -> UInt32[Array, "*N"]:
    """The bits of floats that are not negative, which are ordered as the floats are."""
    priority = (bits & ~HIGH_BIT) + 1
    return unless_none(bits, priority | HIGH_BIT if frozen else priority)


def ranked(scores: EdgeTree) -> EdgeTree:
    """Positive floats in the place of any: of the same order, equal where those are; what marks no edge stays.

    Ranks are read as the bits of floats, from the least that is normal: ordered as integers are, and none is rounded.
    """
    values = jax.tree.map(lambda score: ordered(bits_of(score)), scores)
    order = jnp.sort(indexing.flat(values))

    def rank_of(value: Array, score: Array) -> Array:
        rank = jnp.searchsorted(order, value.ravel()).astype(jnp.uint32).reshape(value.shape)
        bits = jnp.where(is_none(bits_of(score)), bits_of(score), rank + _LEAST_NORMAL)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    return jax.tree.map(rank_of, values, scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FirstPass:
    """The scores with the bound of every node: what all keys follow from."""

    scores: EdgeTree
    below: UInt32[Array, "L T"]
    """Bounds of the nodes that a layer starts from."""
    middle: UInt32[Array, "L T"]
    """Bounds of the nodes after a layer's attention; with parallel blocks the same as ``above``."""
    above: UInt32[Array, "L T"]
    """Bounds of the nodes that a layer ends in."""
    frozen: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @staticmethod
    def of(
        scores: EdgeTree, length: Int[Array, ""] | int, *, parallel: bool, frozen: tuple[str, ...], n_outputs: int = 1
    ) -> FirstPass:
        """One pass from the outputs, whose bounds are above all keys, to level 0."""

        def step(above: Array, scores: EdgeTree) -> tuple[Array, tuple[Array, Array, Array]]:
            layer = relax_layer(priorities(scores, frozen), above, parallel=parallel)
            return layer.below, (layer.below, layer.middle, above)

        output = output_bounds(scores.mlp.shape[-1], length, n_outputs)
        _, (below, middle, above) = jax.lax.scan(step, output, scores, reverse=True)
        return FirstPass(scores, below, middle, above, frozen)

    def sweep(self, step: Callable[[Any, Array, Array], tuple[Any, Any]], start: Any) -> tuple[Any, Any]:
        """``jax.lax.scan`` of ``step(carry, layer, keys)`` over the layers, whose keys are flat, row-major."""

        def body(carry: Any, inputs: tuple[Array, EdgeTree, Array, Array]) -> tuple[Any, Any]:
            layer, scores, middle, above = inputs
            p = priorities(scores, self.frozen)
            keys = EdgeTree(
                residual_attn=jnp.minimum(p.residual_attn, middle),
                attn=jnp.minimum(p.attn, middle[:, None]),
                residual_mlp=jnp.minimum(p.residual_mlp, above),
                mlp=jnp.minimum(p.mlp, above),
            )
            return step(carry, layer, indexing.flat(keys))

        layers = jnp.arange(self.scores.mlp.shape[0], dtype=jnp.int32)
        return jax.lax.scan(body, start, (layers, self.scores, self.middle, self.above))

    def nodes(self, *, parallel: bool) -> UInt32[Array, "N"]:
        """The bounds by number of node, as ``indexing.endpoints`` counts them."""
        levels = self.below if parallel else jnp.stack([self.below, self.middle], axis=1).reshape(-1)
        return jnp.concatenate([levels.ravel(), self.above[-1]])


def find_falls(first: FirstPass, cuts: Cuts, platform: str | None = None) -> Fall:
    """The key that each cut falls to: the ``need``-th largest; no sort."""
    way = form(platform, cpu=_falls_by_histograms, gpu=_falls_by_histograms, tpu=_falls_by_bisection)
    return way(first, cuts)


def _falls_by_bisection(first: FirstPass, cuts: Cuts) -> Fall:
    """All cuts at once, a bit of the key in each of 32 sweeps, which only compare and add."""

    def count(floor: UInt32[Array, "Z"]) -> Int[Array, "Z"]:
        def above(counts: Array, _: Array, key: Array) -> tuple[Array, None]:
            return counts + jnp.sum((key > 0) & (key >= floor[:, None]), axis=1, dtype=jnp.int32), None

        return first.sweep(above, jnp.zeros(floor.shape, jnp.int32))[0]

    return bisected(count, cuts.need, bits=32)


def _falls_by_histograms(first: FirstPass, cuts: Cuts) -> Fall:
    """In two sweeps that count the keys' upper halves, and the lower halves of those at cuts."""
    need = cuts.need
    n_sizes = need.shape[0]

    def upper(histogram: Array, _: Array, key: Array) -> tuple[Array, None]:
        place = jnp.where(key > 0, key >> 16, _HALF)
        return histogram.at[place].add(1, mode="drop"), None

    uppers, _ = first.sweep(upper, jnp.zeros(_HALF, jnp.int32))
    high, above_high = jax.vmap(_descend, in_axes=(None, 0))(uppers, need)
    # Cuts that share an upper half share a row, that of the first of them.
    row = jnp.full(_HALF, n_sizes, jnp.int32).at[high].min(jnp.arange(n_sizes, dtype=jnp.int32))

    def lower(histogram: Array, _: Array, key: Array) -> tuple[Array, None]:
        place = row[key >> 16] * _HALF + (key & (_HALF - 1)).astype(jnp.int32)
        return histogram.at[jnp.where(key > 0, place, histogram.size)].add(1, mode="drop"), None

    lowers, _ = first.sweep(lower, jnp.zeros(n_sizes * _HALF, jnp.int32))
    mine = lowers.reshape(n_sizes, _HALF)[row[high]]
    low, above_low = jax.vmap(_descend)(mine, need - above_high)
    tied = jnp.take_along_axis(mine, low[:, None], axis=1)[:, 0]
    fall = Fall((high.astype(jnp.uint32) << 16) | low.astype(jnp.uint32), above_high + above_low, tied)
    total = jnp.sum(uppers)
    beyond = need > total
    zero = Fall(jnp.zeros_like(fall.key), jnp.broadcast_to(total, need.shape), jnp.zeros_like(tied))
    return nothing_needed(need, jax.tree.map(lambda none, some: jnp.where(beyond, none, some), zero, fall))


def _descend(histogram: Int[Array, "N"], need: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The bin of the ``need``-th largest value, from 1, and how many lie in bins above it; coarse bins first."""
    fine = histogram.reshape(256, -1)
    block, above = _last_reaching(jnp.sum(fine, axis=1), need)
    within, more = _last_reaching(fine[block], need - above)
    return block * fine.shape[1] + within, above + more


def _last_reaching(counts: Int[Array, "N"], need: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The last bin with ``need`` values in it and above, or the first bin; and how many lie above it."""
    from_here = jax.lax.cumsum(counts, reverse=True)
    place = jnp.maximum(jnp.sum(from_here >= need, dtype=jnp.int32) - 1, 0)
    return place, from_here[place] - counts[place]


def divide(
    first: FirstPass, cuts: Cuts, fall: Fall, capacity: int, platform: str | None = None
) -> tuple[EdgeTree, Int[Array, "N"], Int[Array, ""]]:
    """Strata by the first pass, and the edges of the groups that straddle a cut.

    Returns:
      Strata, uint8, right for all but the edges of straddling groups; the indices of those, in increasing order, the
      number of slots where there are fewer than ``capacity``; and their number.
    """
    way = form(platform, cpu=_divided_by_layers, gpu=_divided_by_layers, tpu=_divided_at_once)
    return way(first, cuts, fall, capacity)


def _divided_at_once(
    first: FirstPass, cuts: Cuts, fall: Fall, capacity: int
) -> tuple[EdgeTree, Int[Array, "N"], Int[Array, ""]]:
    """With a byte of every edge for whether it is undecided, among which the first are found without a scatter."""
    like, fresh = _one_layer(first.scores), straddling(cuts, fall)

    def step(n_pending: Array, _: Array, key: Array) -> tuple[Array, tuple[EdgeTree, EdgeTree]]:
        stratum, pending = split(key, jnp.zeros(key.shape, jnp.int32), cuts, fall, fresh, "tpu")
        stratum = jnp.where(key > 0, stratum, NO_EDGE).astype(jnp.uint8)
        parts = indexing.unflat(stratum, like), indexing.unflat(pending, like)
        return n_pending + jnp.sum(pending, dtype=jnp.int32), parts

    n_pending, (strata, pending) = first.sweep(step, jnp.int32(0))
    return strata, first_true(indexing.flat(pending), capacity), n_pending


def _one_layer(like: EdgeTree) -> EdgeTree:
    return EdgeTree(**{name: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.uint8) for name, leaf in like.items()})


def _divided_by_layers(
    first: FirstPass, cuts: Cuts, fall: Fall, capacity: int
) -> tuple[EdgeTree, Int[Array, "N"], Int[Array, ""]]:
    like = first.scores
    n_slots = sum(leaf.size for _, leaf in like.items())
    layer_like = _one_layer(like)
    fresh = straddling(cuts, fall)
    offsets, strides = _numbering(like)

    def step(carry: tuple[Array, Array], layer: Array, key: Array) -> tuple[tuple[Array, Array], EdgeTree]:
        n_pending, index = carry
        stratum, pending = split(key, jnp.zeros(key.shape, jnp.int32), cuts, fall, fresh)
        place = jnp.where(pending, n_pending + jnp.cumsum(pending, dtype=jnp.int32) - 1, capacity)
        index = index.at[place].set(offsets + layer * strides, mode="drop")
        stratum = jnp.where(key > 0, stratum, NO_EDGE).astype(jnp.uint8)
        return (n_pending + jnp.sum(pending, dtype=jnp.int32), index), indexing.unflat(stratum, layer_like)

    start = (jnp.int32(0), jnp.full(capacity, n_slots, jnp.int32))
    (n_pending, index), strata = first.sweep(step, start)
    return strata, jnp.sort(index), n_pending


def _numbering(like: EdgeTree) -> tuple[Int[Array, "N"], Int[Array, "N"]]:
    """Edge indices of layer 0 in the order of a flat layer, and how much they grow with every layer."""
    start, offsets, strides = 0, [], []
    for _, leaf in like.items():
        size = leaf.size // leaf.shape[0]
        offsets.append(start + jnp.arange(size, dtype=jnp.int32))
        strides.append(jnp.full(size, size, jnp.int32))
        start += leaf.size
    return jnp.concatenate(offsets), jnp.concatenate(strides)
