"""Cuts that fall inside groups of edges of equal key: split the groups until none straddles a cut (section 3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from jstrace.method.graph.sizes import NO_EDGE
from jstrace.method.search.relaxation import TOP, Relaxed
from jstrace.models import form
from jstrace.models.rows import argsort


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Cuts:
    """Where each of the Z cuts stands: ``need`` edges of ``group`` are still to be taken, while ``open``."""

    group: Int[Array, "Z"]
    """The index of the first cut in the same group, which names the group."""
    need: Int[Array, "Z"]
    open: Bool[Array, "Z"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """The edges that are still undecided, flat: those of the groups that straddle a cut."""

    rank: UInt32[Array, "N"]
    """Distinct, larger is better; 0 for edges that are decided."""
    seed: Bool[Array, "N"]
    opens: Bool[Array, "N"]
    stratum: Int[Array, "N"]
    """While undecided, the group's name: the lowest stratum that is still possible."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
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


def split(
    key: Array, group: Array, cuts: Cuts, fall: Fall, fresh: Cuts, platform: str | None = None
) -> tuple[Array, Array]:
    """The strata of edges once groups are divided into ``fresh`` ones, and which edges stay undecided."""
    return form(platform, cpu=_split_at_once, gpu=_split_at_once, tpu=_split_by_cuts)(key, group, cuts, fall, fresh)


def _split_at_once(key: Array, group: Array, cuts: Cuts, fall: Fall, fresh: Cuts) -> tuple[Array, Array]:
    mine = cuts.open[:, None] & (cuts.group[:, None] == group)
    stratum = group + jnp.sum(mine & (key < fall.key[:, None]), axis=0, dtype=jnp.int32)
    # An edge on the key of a straddling cut has just got that cut's stratum, the name of its new group.
    here = jnp.minimum(stratum, cuts.need.shape[0] - 1)
    pending = (key > 0) & (stratum == here) & fresh.open[here] & (key == fall.key[here]) & (group == cuts.group[here])
    return stratum, pending


def _split_by_cuts(key: Array, group: Array, cuts: Cuts, fall: Fall, fresh: Cuts) -> tuple[Array, Array]:
    """The same by a cut after another, without looking anything up."""

    def step(state: tuple[Array, Array], cut: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        (stratum, pending), (name, is_open, straddles, falls) = state, cut
        mine = group == name
        return (stratum + (is_open & mine & (key < falls)), pending | (straddles & mine & (key == falls))), None

    start = jnp.broadcast_to(group, key.shape), jnp.zeros(key.shape, bool)
    (stratum, pending), _ = jax.lax.scan(step, start, (cuts.group, cuts.open, fresh.open, fall.key))
    return stratum, pending & (key > 0)


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
    floor = jnp.where(end - cuts.need >= start, joint[jnp.maximum(end - cuts.need, 0)], base)
    not_above = jnp.searchsorted(joint, floor, side="right")
    tied = not_above - jnp.searchsorted(joint, floor, side="left")
    return nothing_needed(cuts.need, Fall(floor - base, end - not_above, tied))


def select_bisected(key: Array, group: Array, cuts: Cuts, *, bits: int, at_once: bool = False) -> Fall:
    """The same by bisection on the key, for graphs whose ``group * span + key`` does not fit into 32 bits.

    On a CPU one cut after another is counted, which holds less; ``at_once`` vectorises.
    """

    def of_cut(cut: tuple[Array, Array]) -> Array:
        return jnp.sum((group == cut[0]) & (key >= cut[1]), dtype=jnp.int32)

    def count(floor: Array) -> Array:
        return jax.vmap(of_cut)((cuts.group, floor)) if at_once else jax.lax.map(of_cut, (cuts.group, floor))

    return bisected(count, cuts.need, bits=bits)


def bisected(count: Callable[[Array], Array], need: Int[Array, "Z"], *, bits: int) -> Fall:
    """Where cuts fall, from ``count``: how many keys there are at each floor and above."""

    def step(index: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        floor, above, reached = state
        trial = floor + (jnp.uint32(1) << (bits - 1 - index).astype(jnp.uint32))
        held = count(trial)
        enough = held >= need
        return jnp.where(enough, trial, floor), jnp.where(enough, above, held), jnp.where(enough, held, reached)

    nothing = jnp.zeros(need.shape, jnp.int32)
    # The last floor with enough is the one that is found, and the last without is the one after it.
    floors, above, reached = jax.lax.fori_loop(0, bits, step, (nothing.astype(jnp.uint32), nothing, nothing))
    return nothing_needed(need, Fall(floors, above, reached - above))


def select_for(n_edges: int, n_sizes: int, platform: str | None = None) -> Select:
    """The way to select among ranks up to ``n_edges + 1``."""
    span = n_edges + 2
    by_sorting: Select = functools.partial(select_sorted, span=span)
    by_counting: Select = functools.partial(select_bisected, bits=span.bit_length())
    best = by_sorting if n_sizes * span < 2**32 else by_counting
    at_once: Select = functools.partial(select_bisected, bits=span.bit_length(), at_once=True)
    return form(platform, cpu=best, gpu=best, tpu=at_once)


def nothing_needed(need: Int[Array, "Z"], fall: Fall) -> Fall:
    """Cuts at no edges at all fall to a key above every edge."""
    some = need > 0
    return Fall(jnp.where(some, fall.key, TOP), jnp.where(some, fall.above, 0), jnp.where(some, fall.tied, 0))


def make_pool(
    priority: Array, seed: Array, opens: Array, stratum: Array, pending: Array, platform: str | None = None
) -> Pool:
    """Undecided edges with distinct ranks: by priority, then lower index first."""
    ranks = form(platform, cpu=_ranks_scattered, gpu=_ranks_scattered, tpu=_ranks_sorted)
    rank = jnp.where(pending, ranks(jnp.where(pending, ~priority, TOP)), 0)
    return _with_first_raised(Pool(rank, seed & pending, opens & pending, stratum), platform)


def _ranks_scattered(keys: UInt32[Array, "N"]) -> UInt32[Array, "N"]:
    """N for the least key, 1 for the greatest; of equal ones the first has the higher rank."""
    n = keys.shape[0]
    order = jnp.argsort(keys, stable=True)
    return jnp.zeros(n, jnp.uint32).at[order].set(jnp.arange(n, 0, -1, dtype=jnp.uint32))


def _ranks_sorted(keys: UInt32[Array, "N"]) -> UInt32[Array, "N"]:
    """The same without a scatter: to sort an order is to invert it."""
    place = argsort(argsort(keys).astype(jnp.uint32))
    return keys.shape[0] - place.astype(jnp.uint32)


def _with_first_raised(pool: Pool, platform: str | None = None) -> Pool:
    """Rank the first edge of every group, its best available one, above all: the search starts there."""
    n = pool.rank.shape[0]
    candidates = jnp.where(pool.seed, pool.rank, 0)
    best = form(platform, cpu=_best_scattered, gpu=_best_scattered, tpu=_best_chosen)(pool.stratum, candidates)
    first = pool.seed & (pool.rank > 0) & (pool.rank == best)
    return dataclasses.replace(pool, rank=jnp.where(first, jnp.uint32(n + 1), pool.rank))


def _best_scattered(group: Int[Array, "N"], candidates: UInt32[Array, "N"]) -> UInt32[Array, "N"]:
    """For each edge the best candidate of its group."""
    return jnp.zeros(NO_EDGE + 1, jnp.uint32).at[group].max(candidates)[group]


def _best_chosen(group: Int[Array, "N"], candidates: UInt32[Array, "N"]) -> UInt32[Array, "N"]:
    """The same by looking at all groups, one after another."""

    def step(best: Array, name: Array) -> tuple[Array, None]:
        mine = group == name
        return jnp.where(mine, jnp.max(jnp.where(mine, candidates, 0)), best), None

    return jax.lax.scan(step, jnp.zeros_like(candidates), jnp.arange(NO_EDGE + 1, dtype=jnp.int32))[0]


def refine(pool: Pool, cuts: Cuts, relax: Relax, select: Select, platform: str | None = None) -> Int[Array, "N"]:
    """Strata of the pool's edges: split groups until no cut straddles one; at most 2L + 2 passes."""

    def body(state: tuple[Pool, Cuts]) -> tuple[Pool, Cuts]:
        pool, cuts = state
        relaxed = relax(pool)
        key = jnp.where(pool.rank > 0, relaxed.key, 0)
        fall = select(key, pool.stratum, cuts)
        fresh = straddling(cuts, fall)
        stratum, pending = split(key, pool.stratum, cuts, fall, fresh, platform)
        stratum = jnp.where(key > 0, stratum, pool.stratum)
        rank = jnp.where(pending, pool.rank, 0)
        pool = Pool(rank, relaxed.seed & pending, relaxed.opens & pending, stratum)
        return _with_first_raised(pool, platform), fresh

    return jax.lax.while_loop(lambda state: jnp.any(state[1].open), body, (pool, cuts))[0].stratum
