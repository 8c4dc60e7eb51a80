"""Greedy best-first extraction on the device, all sizes at once, without a heap (section 3 of the method).

One backward pass gives every edge the key at which best-first search takes it: ``key(e) = min(priority(e),
b(target))``, ``b(node) = max`` of the keys of the edges leaving it. Edges of equal key form a group; where a cut falls
inside a group, the same pass runs within it, on the edges and nodes that the group discovered, until no cut straddles
a group. Groups at cuts are small, so they are refined in a compact buffer; where they are not (many equal or random
scores), the same refinement runs on the whole graph.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jstrace import graph
from jstrace.models import EdgeTree, InputError, ModelConfig

Values = TypeVar("Values")

_TOP = np.uint32(0xFFFFFFFF)
_FROZEN_BIT = np.uint32(1 << 31)
_FROZEN_FAMILIES = {"residual": ("residual_attn", "residual_mlp"), "attention": ("attn",), "mlp": ("mlp",)}


def extract(scores: EdgeTree, sizes: Sequence[float], *, config: ModelConfig, frozen: Sequence[str] = ()) -> EdgeTree:
    """Strata of one input: for every edge the index of the smallest trace that holds it.

    A pure function that works under ``jax.jit`` and ``jax.vmap``; there E is taken from ``config`` and the number of
    tokens, while concrete scores may mark further slots as no edges, and E is counted.

    Args:
      scores: float32 ``[L,T]``, ``[L,H,T,T]``, ``[L,T]``, ``[L,T]``; a negative score marks a slot that is no edge.
      sizes: fractions of E, strictly increasing; trace k holds ``floor(sizes[k] * E)`` edges.
      config: the model's config.
      frozen: components that rank before all others: any of "residual", "attention", "mlp".

    Returns:
      uint8 strata: k, or Z for edges in no trace, or 255 for slots that are no edge; ``strata <= k`` is mask k.

    Raises:
      InputError: sizes or component names that make no sense, or NaN among concrete scores.
    """
    sizes = graph.checked_sizes(sizes)
    scores = jax.tree.map(jnp.asarray, scores)
    n_tokens = scores.residual_attn.shape[-1]
    edges = graph.n_edges(config, n_tokens)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(scores)):
        if any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(scores)):
            raise InputError("scores hold NaN")
        edges = int(_count_reachable(scores))
    return _extract(scores, jnp.asarray(graph.counts(sizes, edges)), n_tokens, frozen=checked_frozen(frozen))


def checked_frozen(frozen: Sequence[str]) -> tuple[str, ...]:
    """The component names, or an ``InputError`` that lists those there are."""
    unknown = [name for name in frozen if name not in _FROZEN_FAMILIES]
    if isinstance(frozen, str) or unknown:
        raise InputError(f"frozen = {frozen!r}, expected a sequence of {', '.join(_FROZEN_FAMILIES)}")
    return tuple(frozen)


def extract_padded(
    scores: EdgeTree, cuts: Int[Array, "Z"], length: Int[Array, ""] | int, *, frozen: tuple[str, ...] = ()
) -> EdgeTree:
    """Strata of one input of which only the first ``length`` tokens are true; ``cuts`` are edges per trace.

    Padded slots carry negative scores. Where a size repeats or is empty, the first trace that holds an edge counts.
    """
    priority = _priorities(scores, frozen)
    keys = _relax_tree(priority, _into_output(priority, length), jax.tree.map(lambda p: p > 0, priority))
    return graph.unflat(_strata(priority, keys, cuts), priority)


_extract = jax.jit(extract_padded, static_argnames="frozen")


# --- keys -----------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relaxed(Generic[Values]):
    """The result of one pass over edges, as an ``EdgeTree`` or as flat arrays."""

    key: Values
    """uint32: the level of priority at which the search takes the edge; 0 is never."""
    seed: Values
    """bool: the edge was available before the search fell to its key."""
    opens: Values
    """bool: the edge's source is discovered at its key."""


def _priorities(scores: EdgeTree, frozen: tuple[str, ...]) -> EdgeTree:
    """Scores as uint32 of the same order, at least 1; frozen components above all others; 0 for no edge.

    The bits of non-negative floats are ordered as the floats are.
    """
    raised = {family for name in frozen for family in _FROZEN_FAMILIES[name]}

    def one(family: str, score: Array) -> UInt32[Array, ...]:
        score = score.astype(jnp.float32)
        bits = jax.lax.bitcast_convert_type(jnp.abs(score), jnp.uint32) + 1
        return jnp.where(score < 0, 0, bits | _FROZEN_BIT if family in raised else bits)

    return EdgeTree(**{family: one(family, score) for family, score in scores.items()})


def _into_output(edges: EdgeTree, length: Int[Array, ""] | int) -> EdgeTree:
    """True at the edges into the output node (2L, length - 1)."""
    n_layers, n_tokens = edges.mlp.shape
    last = jnp.zeros((n_layers, n_tokens), bool).at[-1, length - 1].set(True)
    return EdgeTree(jnp.zeros_like(last), jnp.zeros(edges.attn.shape, bool), last, last)


def _relax_tree(priority: EdgeTree, available: EdgeTree, counted: EdgeTree) -> Relaxed[EdgeTree]:
    """Keys of all edges, in one pass from the last level to the first.

    ``available`` edges need no discovered target; only ``counted`` edges discover their source.
    """

    def step(above: Array, inputs: tuple[EdgeTree, EdgeTree, EdgeTree]) -> tuple[Array, Relaxed[EdgeTree]]:
        p, free, counts = inputs

        def key(name: str, target: Array) -> tuple[Array, Array]:
            bound = jnp.where(getattr(free, name), _TOP, target)
            return jnp.minimum(getattr(p, name), bound), bound

        def reach(name: str, keys: Array) -> Array:
            return jnp.where(getattr(counts, name), keys, 0)

        (residual_mlp, bound_rm), (mlp, bound_m) = key("residual_mlp", above), key("mlp", above)
        middle = jnp.maximum(reach("residual_mlp", residual_mlp), reach("mlp", mlp))
        (residual_attn, bound_ra), (attn, bound_a) = key("residual_attn", middle), key("attn", middle[:, None])
        below = jnp.maximum(reach("residual_attn", residual_attn), jnp.max(reach("attn", attn), axis=(0, 1)))
        keys = EdgeTree(residual_attn, attn, residual_mlp, mlp)
        bounds = EdgeTree(bound_ra, bound_a, bound_rm, bound_m)
        sources = EdgeTree(below, below, middle, middle)
        seeds = jax.tree.map(jnp.less, keys, bounds)
        opens = jax.tree.map(lambda c, k, b: c & (k == b), counts, keys, sources)
        return below, Relaxed(keys, seeds, opens)

    n_tokens = priority.mlp.shape[-1]
    start = jnp.zeros(n_tokens, jnp.uint32)
    return jax.lax.scan(step, start, (priority, available, counted), reverse=True)[1]


@jax.jit
def _count_reachable(scores: EdgeTree) -> Int[Array, ""]:
    priority = _priorities(scores, ())
    keys = _relax_tree(priority, _into_output(priority, scores.mlp.shape[-1]), jax.tree.map(lambda p: p > 0, priority))
    return jnp.sum(graph.flat(keys.key) > 0)


# --- cuts -----------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cuts:
    """Where each of the Z cuts stands: ``need`` edges of ``group`` are still to be taken, while ``open``."""

    group: Int[Array, "Z"]
    """The index of the first cut in the same group, which names the group."""
    need: Int[Array, "Z"]
    open: Bool[Array, "Z"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
    """The edges that are still undecided, flat: those of the groups that straddle a cut."""

    rank: UInt32[Array, "N"]
    """Distinct, larger is better; 0 for edges that are decided."""
    seed: Bool[Array, "N"]
    opens: Bool[Array, "N"]
    stratum: Int[Array, "N"]
    """While undecided, the group's name: the lowest stratum that is still possible."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fall:
    """The key that each cut falls to within its group, with the group's edges above that key and on it."""

    key: UInt32[Array, "Z"]
    above: Int[Array, "Z"]
    tied: Int[Array, "Z"]


Relax = Callable[[Pool], Relaxed[Array]]
Select = Callable[[Array, Array, Cuts], Fall]


def _split(key: Array, group: Array, cuts: Cuts, fall: Fall) -> tuple[Array, Array, Cuts]:
    """Divide groups at the keys that their cuts fall to.

    Returns the strata, which edges stay undecided, and the cuts in their new groups.
    """
    mine = cuts.open[:, None] & (cuts.group[:, None] == group)
    stratum = group + jnp.sum(mine & (key < fall.key[:, None]), axis=0, dtype=jnp.int32)
    need = cuts.need - fall.above
    straddles = cuts.open & (need > 0) & (need < fall.tied)
    same = (cuts.group[:, None] == cuts.group) & (fall.key[:, None] == fall.key) & straddles
    fresh = Cuts(jnp.argmax(same, axis=1).astype(jnp.int32), need, straddles)
    # An edge on the key of a straddling cut has just got that cut's stratum, the name of its new group.
    here = jnp.minimum(stratum, cuts.need.shape[0] - 1)
    pending = (key > 0) & (stratum == here) & straddles[here] & (key == fall.key[here]) & (group == cuts.group[here])
    return stratum, pending, fresh


def _select_sorted(key: Array, group: Array, cuts: Cuts, *, span: int) -> Fall:
    """Where the cuts fall, by sorting ``group * span + key``; keys are below ``span``.

    With a single group ``span`` may be 2^32, which is 0 in uint32, and so is every product.
    """
    width = jnp.uint32(span % 2**32)
    joint = jnp.sort(jnp.where(key > 0, group.astype(jnp.uint32) * width + key, 0))
    base = cuts.group.astype(jnp.uint32) * width
    end = jnp.searchsorted(joint, base + (width - 1), side="right")
    found = joint[jnp.maximum(end - cuts.need, 0)]
    not_above = jnp.searchsorted(joint, found, side="right")
    tied = not_above - jnp.searchsorted(joint, found, side="left")
    return _nothing_needed(cuts, Fall(found - base, end - not_above, tied))


def _select_bisected(key: Array, group: Array, cuts: Cuts, *, bits: int) -> Fall:
    """The same by bisection on the key, for graphs whose ``group * span + key`` does not fit into 32 bits."""

    def count(floor: Array) -> Array:
        return jax.lax.map(
            lambda cut: jnp.sum((group == cut[0]) & (key >= cut[1]), dtype=jnp.int32), (cuts.group, floor)
        )

    def step(index: Array, floor: Array) -> Array:
        trial = floor + (jnp.uint32(1) << (bits - 1 - index).astype(jnp.uint32))
        return jnp.where(count(trial) >= cuts.need, trial, floor)

    found = jax.lax.fori_loop(0, bits, step, jnp.zeros(cuts.need.shape, jnp.uint32))
    above = count(found + 1)
    return _nothing_needed(cuts, Fall(found, above, count(found) - above))


def _select_for(n_edges: int, n_sizes: int) -> Select:
    """The way to select among ranks up to ``n_edges + 1``."""
    span = n_edges + 2
    if n_sizes * span < 2**32:
        return functools.partial(_select_sorted, span=span)
    return functools.partial(_select_bisected, bits=span.bit_length())


def _nothing_needed(cuts: Cuts, fall: Fall) -> Fall:
    """Cuts at no edges at all fall to a key above every edge."""
    some = cuts.need > 0
    return Fall(jnp.where(some, fall.key, _TOP), jnp.where(some, fall.above, 0), jnp.where(some, fall.tied, 0))


def _strata(priority: EdgeTree, first: Relaxed[EdgeTree], counts: Int[Array, "Z"]) -> Array:
    """Strata of all slots, flat, from the first pass."""
    n_sizes = counts.shape[0]
    key = graph.flat(first.key)
    cuts = Cuts(jnp.zeros(n_sizes, jnp.int32), counts.astype(jnp.int32), jnp.ones(n_sizes, bool))
    everyone = jnp.zeros(key.shape, jnp.int32)
    stratum, pending, cuts = _split(key, everyone, cuts, _select_sorted(key, everyone, cuts, span=2**32))
    flat_priority, seed, opens = graph.flat(priority), graph.flat(first.seed), graph.flat(first.opens)

    capacity = pool_capacity(key.shape[0])
    fits = jnp.sum(pending) <= capacity
    index = jnp.nonzero(pending & fits, size=capacity, fill_value=key.shape[0])[0]

    def picked(values: Array) -> Array:
        return values.at[index].get(mode="fill", fill_value=0)

    sources, targets = graph.endpoints(index, priority)
    n_nodes = (2 * priority.mlp.shape[0] + 1) * priority.mlp.shape[1]
    small = _pool(picked(flat_priority), picked(seed), picked(opens), picked(stratum), index < key.shape[0])
    refined = _refine(
        small,
        dataclasses.replace(cuts, open=cuts.open & fits),
        lambda pool: _relax_list(pool, sources, targets, n_nodes),
        _select_for(capacity, n_sizes),
    )
    stratum = stratum.at[index].set(refined, mode="drop")

    def relax_whole(pool: Pool) -> Relaxed[Array]:
        trees = (graph.unflat(part, priority) for part in (pool.rank, pool.seed, pool.opens))
        result = _relax_tree(*trees)
        return Relaxed(graph.flat(result.key), graph.flat(result.seed), graph.flat(result.opens))

    def whole(stratum: Array, pending: Array, flat_priority: Array, seed: Array, opens: Array, cuts: Cuts) -> Array:
        pool = _pool(flat_priority, seed, opens, stratum, pending)
        return _refine(pool, cuts, relax_whole, _select_for(key.shape[0], n_sizes))

    stratum = _when(~fits, whole, stratum, pending, flat_priority, seed, opens, cuts)
    return jnp.where(key > 0, stratum, graph.NO_EDGE).astype(jnp.uint8)


def pool_capacity(n_slots: int) -> int:
    """Edges that the compact buffer holds, for a graph of ``n_slots`` slots."""
    return min(n_slots, max(2048, n_slots // 128))


def _when(condition: Bool[Array, ""], function: Callable[..., Array], value: Array, *operands: Any) -> Array:
    """``function(value, *operands)`` if the condition holds, else ``value``.

    A loop of at most one turn: ``lax.cond`` would run both branches under ``vmap``, this runs ``function`` only if the
    condition holds for an input of the batch. The turn uses its operands up, or the compiler would see constants of
    the loop and do their work before it, always.
    """

    def turn(state: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        _, value, operands = state
        return jnp.zeros((), bool), function(value, *operands), jax.tree.map(jnp.zeros_like, operands)

    return jax.lax.while_loop(lambda state: state[0], turn, (condition, value, operands))[1]


# --- refinement -----------------------------------------------------------------------------------------------------


def _pool(priority: Array, seed: Array, opens: Array, stratum: Array, pending: Array) -> Pool:
    """Undecided edges with distinct ranks: by priority, then lower index first."""
    n = priority.shape[0]
    order = jnp.argsort(jnp.where(pending, ~priority, _TOP), stable=True)
    rank = jnp.zeros(n, jnp.uint32).at[order].set(jnp.arange(n, 0, -1, dtype=jnp.uint32))
    return _with_first_raised(Pool(jnp.where(pending, rank, 0), seed & pending, opens & pending, stratum))


def _with_first_raised(pool: Pool) -> Pool:
    """Rank the first edge of every group, its best available one, above all: the search starts there."""
    n = pool.rank.shape[0]
    candidates = jnp.where(pool.seed, pool.rank, 0)
    best = jnp.zeros(graph.NO_EDGE + 1, jnp.uint32).at[pool.stratum].max(candidates)
    first = pool.seed & (pool.rank > 0) & (pool.rank == best[pool.stratum])
    return dataclasses.replace(pool, rank=jnp.where(first, jnp.uint32(n + 1), pool.rank))


def _refine(pool: Pool, cuts: Cuts, relax: Relax, select: Select) -> Int[Array, "N"]:
    """Strata of the pool's edges: split groups until no cut straddles one; at most 2L + 2 passes."""

    def body(state: tuple[Pool, Cuts]) -> tuple[Pool, Cuts]:
        pool, cuts = state
        found = relax(pool)
        key = jnp.where(pool.rank > 0, found.key, 0)
        stratum, pending, cuts = _split(key, pool.stratum, cuts, select(key, pool.stratum, cuts))
        stratum = jnp.where(key > 0, stratum, pool.stratum)
        rank = jnp.where(pending, pool.rank, 0)
        return _with_first_raised(Pool(rank, found.seed & pending, found.opens & pending, stratum)), cuts

    return jax.lax.while_loop(lambda state: jnp.any(state[1].open), body, (pool, cuts))[0].stratum


def _relax_list(pool: Pool, sources: Array, targets: Array, n_nodes: int) -> Relaxed[Array]:
    """``_relax_tree`` for edges in a list: repeated until nothing changes, at most once a level."""

    def keys(node: Array) -> tuple[Array, Array]:
        bound = jnp.where(pool.seed, _TOP, node.at[targets].get(mode="fill", fill_value=0))
        return jnp.minimum(pool.rank, bound), bound

    def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
        node, _ = state
        fresh = jnp.zeros_like(node).at[sources].max(jnp.where(pool.opens, keys(node)[0], 0), mode="drop")
        return fresh, jnp.any(fresh != node)

    start = (jnp.zeros(n_nodes, jnp.uint32), jnp.ones((), bool))
    node, _ = jax.lax.while_loop(lambda state: state[1], body, start)
    key, bound = keys(node)
    return Relaxed(key, key < bound, pool.opens & (key == node.at[sources].get(mode="fill", fill_value=0)))
