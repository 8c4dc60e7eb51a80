"""Cuts that fall inside groups of edges of equal key: split the groups until none straddles a cut (section 3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from jstrace.method.relaxation import TOP, Relaxed
from jstrace.method.sizes import NO_EDGE


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


def straddling(cuts: Cuts, fall: Fall) -> Cuts:
    """The cuts in their new groups, when groups are divided at the keys that their cuts fall to."""
    need = cuts.need - fall.above
    # A cut beyond the last reachable edge falls to key 0 and straddles nothing.
    straddles = cuts.open & (need > 0) & (need < fall.tied) & (fall.key > 0)
    same = (cuts.group[:, None] == cuts.group) & (fall.key[:, None] == fall.key) & straddles
    return Cuts(jnp.argmax(same, axis=1).astype(jnp.int32), need, straddles)


def split(key: Array, group: Array, cuts: Cuts, fall: Fall, fresh: Cuts) -> tuple[Array, Array]:
    """The strata of edges once groups are divided into ``fresh`` ones, and which edges stay undecided."""
    mine = cuts.open[:, None] & (cuts.group[:, None] == group)
    stratum = group + jnp.sum(mine & (key < fall.key[:, None]), axis=0, dtype=jnp.int32)
    # An edge on the key of a straddling cut has just got that cut's stratum, the name of its new group.
    here = jnp.minimum(stratum, cuts.need.shape[0] - 1)
    pending = (key > 0) & (stratum == here) & fresh.open[here] & (key == fall.key[here]) & (group == cuts.group[here])
    return stratum, pending


def select_sorted(key: Array, group: Array, cuts: Cuts, *, span: int) -> Fall:
    """Where the cuts fall, by sorting ``group * span + key``; keys are below ``span``.

    With a single group ``span`` may be 2^32, which is 0 in uint32, and so is every product.
    """
    width = jnp.uint32(span % 2**32)
    joint = jnp.sort(jnp.where(key > 0, group.astype(jnp.uint32) * width + key, 0))
    base = cuts.group.astype(jnp.uint32) * width
    end = jnp.searchsorted(joint, base + (width - 1), side="right")
    # Beyond the group's first edge lies another group or the zeros of edges that are none: key 0, every edge is kept.
    start = jnp.searchsorted(joint, base, side="right")
    found = jnp.where(end - cuts.need >= start, joint[jnp.maximum(end - cuts.need, 0)], base)
    not_above = jnp.searchsorted(joint, found, side="right")
    tied = not_above - jnp.searchsorted(joint, found, side="left")
    return nothing_needed(cuts.need, Fall(found - base, end - not_above, tied))


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
    return nothing_needed(cuts.need, Fall(found, above, count(found) - above))


def select_for(n_edges: int, n_sizes: int) -> Select:
    """The way to select among ranks up to ``n_edges + 1``."""
    span = n_edges + 2
    if n_sizes * span < 2**32:
        return functools.partial(select_sorted, span=span)
    return functools.partial(_select_bisected, bits=span.bit_length())


def nothing_needed(need: Int[Array, "Z"], fall: Fall) -> Fall:
    """Cuts at no edges at all fall to a key above every edge."""
    some = need > 0
    return Fall(jnp.where(some, fall.key, TOP), jnp.where(some, fall.above, 0), jnp.where(some, fall.tied, 0))


def make_pool(priority: Array, seed: Array, opens: Array, stratum: Array, pending: Array) -> Pool:
    """Undecided edges with distinct ranks: by priority, then lower index first."""
    n = priority.shape[0]
    order = jnp.argsort(jnp.where(pending, ~priority, TOP), stable=True)
    rank = jnp.zeros(n, jnp.uint32).at[order].set(jnp.arange(n, 0, -1, dtype=jnp.uint32))
    return _with_first_raised(Pool(jnp.where(pending, rank, 0), seed & pending, opens & pending, stratum))


def _with_first_raised(pool: Pool) -> Pool:
    """Rank the first edge of every group, its best available one, above all: the search starts there."""
    n = pool.rank.shape[0]
    candidates = jnp.where(pool.seed, pool.rank, 0)
    best = jnp.zeros(NO_EDGE + 1, jnp.uint32).at[pool.stratum].max(candidates)
    first = pool.seed & (pool.rank > 0) & (pool.rank == best[pool.stratum])
    return dataclasses.replace(pool, rank=jnp.where(first, jnp.uint32(n + 1), pool.rank))


def refine(pool: Pool, cuts: Cuts, relax: Relax, select: Select) -> Int[Array, "N"]:
    """Strata of the pool's edges: split groups until no cut straddles one; at most 2L + 2 passes."""

    def body(state: tuple[Pool, Cuts]) -> tuple[Pool, Cuts]:
        pool, cuts = state
        found = relax(pool)
        key = jnp.where(pool.rank > 0, found.key, 0)
        fall = select(key, pool.stratum, cuts)
        fresh = straddling(cuts, fall)
        stratum, pending = split(key, pool.stratum, cuts, fall, fresh)
        stratum = jnp.where(key > 0, stratum, pool.stratum)
        rank = jnp.where(pending, pool.rank, 0)
        return _with_first_raised(Pool(rank, found.seed & pending, found.opens & pending, stratum)), fresh

    return jax.lax.while_loop(lambda state: jnp.any(state[1].open), body, (pool, cuts))[0].stratum
