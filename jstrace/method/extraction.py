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
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jstrace.method import graph, indexing
from jstrace.method.conditions import checked_frozen
from jstrace.method.first_pass import (
    FirstPass,
    count,
    divide,
    find_falls,
    priorities,
)
from jstrace.method.refinement import (
    TOP,
    Cuts,
    Pool,
    Relaxed,
    make_pool,
    refine,
    relax_list,
    select_for,
    select_sorted,
    split,
    straddling,
)
from jstrace.method.sizes import NO_EDGE, checked_sizes, counts
from jstrace.models import EdgeTree, InputError, ModelConfig, edge_shapes


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
    sizes = checked_sizes(sizes)
    scores = jax.tree.map(jnp.asarray, scores)
    n_tokens = scores.residual_attn.shape[-1]
    edges = graph.n_edges(config, n_tokens)
    graph.check_slots(config, n_tokens)
    _check_shapes(scores, config)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(scores)):
        if any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(scores)):
            raise InputError("scores hold NaN")
        if config.parallel and bool(jnp.any(scores.residual_mlp >= 0)):
            raise InputError("scores: residual_mlp is no edge of parallel blocks; its scores must be negative")
        edges = int(_count_reachable(scores, parallel=config.parallel))
    return _extract(
        scores,
        jnp.asarray(counts(sizes, edges)),
        n_tokens,
        parallel=config.parallel,
        frozen=checked_frozen(frozen),
    )


def _check_shapes(scores: EdgeTree, config: ModelConfig) -> None:
    expected = edge_shapes(config.n_layers, config.n_heads, scores.residual_attn.shape[-1])
    for name, leaf in scores.items():
        if leaf.shape != expected[name]:
            raise InputError(f"scores {name} have shape {leaf.shape}, expected {expected[name]}")


def extract_pooled(
    scores: EdgeTree,
    counts: Int[Array, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...] = (),
) -> tuple[EdgeTree, Bool[Array, ""]]:
    """Strata of one input of which only the first ``length`` tokens are true; ``counts`` are edges per trace.

    Padded slots carry negative scores. Where a size repeats or is empty, the first trace that holds an edge counts.
    ``parallel`` says whether a layer is one level of nodes or two.

    Returns:
      The strata, and whether they are right: the edges of groups at cuts may be too many for the pool.
    """
    first = FirstPass.of(scores, length, parallel=parallel, frozen=frozen)
    cuts = _opened(counts)
    fall = find_falls(first, cuts.need)
    n_slots = sum(leaf.size for _, leaf in scores.items())
    capacity = pool_capacity(n_slots)
    strata, index, found = divide(first, cuts, fall, capacity)
    complete = found <= capacity
    sources, targets = indexing.endpoints(index, scores, parallel=parallel)
    nodes = first.nodes(parallel=parallel)
    rank = indexing.joined(priorities(indexing.picked(scores, index), frozen), index, scores)
    target = nodes.at[targets].get(mode="clip")
    key = jnp.minimum(rank, target)
    opens = key == nodes.at[sources].get(mode="clip")
    valid = index < n_slots
    small = make_pool(
        rank,
        key < target,
        opens,
        indexing.joined(indexing.picked(strata, index), index, scores).astype(jnp.int32),
        valid,
    )
    fresh = straddling(cuts, fall)
    refined = refine(
        small,
        dataclasses.replace(fresh, open=fresh.open & complete),
        lambda pool: relax_list(pool, sources, targets, nodes.shape[0]),
        select_for(capacity, counts.shape[0]),
    )
    return indexing.replaced(strata, index, refined, valid), complete


def extract_whole(
    scores: EdgeTree,
    counts: Int[Array, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...] = (),
) -> EdgeTree:
    """The same for groups of any size, on arrays of all edges: the slow way, with some 60 bytes a slot."""
    priority = priorities(scores, frozen)
    available = _into_output(priority, length, parallel=parallel)
    first = relax_tree(priority, available, jax.tree.map(lambda p: p > 0, priority), parallel=parallel)
    n_sizes, key, cuts = counts.shape[0], indexing.flat(first.key), _opened(counts)
    everyone = jnp.zeros(key.shape, jnp.int32)
    fall = select_sorted(key, everyone, cuts, span=2**32)
    fresh = straddling(cuts, fall)
    stratum, pending = split(key, everyone, cuts, fall, fresh)
    flat_priority, seed, opens = indexing.flat(priority), indexing.flat(first.seed), indexing.flat(first.opens)

    def relax_whole(pool: Pool) -> Relaxed[Array]:
        trees = (indexing.unflat(part, priority) for part in (pool.rank, pool.seed, pool.opens))
        result = relax_tree(*trees, parallel=parallel)
        return Relaxed(indexing.flat(result.key), indexing.flat(result.seed), indexing.flat(result.opens))

    pool = make_pool(flat_priority, seed, opens, stratum, pending)
    stratum = refine(pool, fresh, relax_whole, select_for(key.shape[0], n_sizes))
    return indexing.unflat(jnp.where(key > 0, stratum, NO_EDGE).astype(jnp.uint8), priority)


def extract_padded(
    scores: EdgeTree,
    counts: Int[Array, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...] = (),
) -> EdgeTree:
    """``extract_pooled``, and ``extract_whole`` where that is not complete, in one program."""
    strata, complete = extract_pooled(scores, counts, length, parallel=parallel, frozen=frozen)

    def whole(_: EdgeTree, scores: EdgeTree, counts: Array, length: Array) -> EdgeTree:
        return extract_whole(scores, counts, length, parallel=parallel, frozen=frozen)

    return _when(~complete, whole, strata, scores, counts, jnp.asarray(length))


_extract = jax.jit(extract_padded, static_argnames=("parallel", "frozen"))


@functools.partial(jax.jit, static_argnames="parallel")
def _count_reachable(scores: EdgeTree, *, parallel: bool) -> Int[Array, ""]:
    return count(FirstPass.of(scores, scores.mlp.shape[-1], parallel=parallel, frozen=()))


def _opened(counts: Int[Array, "Z"]) -> Cuts:
    """All cuts in one group, that of all edges."""
    n_sizes = counts.shape[0]
    return Cuts(jnp.zeros(n_sizes, jnp.int32), counts.astype(jnp.int32), jnp.ones(n_sizes, bool))


def pool_capacity(n_slots: int) -> int:
    """Edges that the compact buffer holds, for a graph of ``n_slots`` slots."""
    return min(n_slots, max(2048, n_slots // 128))


def _into_output(edges: EdgeTree, length: Int[Array, ""] | int, *, parallel: bool) -> EdgeTree:
    """True at the edges into the output node: the last token's on the last level."""
    n_layers, n_tokens = edges.mlp.shape
    last = jnp.zeros((n_layers, n_tokens), bool).at[-1, length - 1].set(True)
    attn = jnp.broadcast_to(last[:, None, :, None] & parallel, edges.attn.shape)
    return EdgeTree(last & parallel, attn, last, last)


def relax_tree(priority: EdgeTree, available: EdgeTree, counted: EdgeTree, *, parallel: bool) -> Relaxed[EdgeTree]:
    """Keys of all edges, in one pass from the last level to the first.

    ``available`` edges need no discovered target; only ``counted`` edges discover their source.
    """

    def step(above: Array, inputs: tuple[EdgeTree, EdgeTree, EdgeTree]) -> tuple[Array, Relaxed[EdgeTree]]:
        p, free, counts = inputs

        def key(name: str, target: Array) -> tuple[Array, Array]:
            bound = jnp.where(getattr(free, name), TOP, target)
            return jnp.minimum(getattr(p, name), bound), bound

        def reach(name: str, keys: Array) -> Array:
            return jnp.where(getattr(counts, name), keys, 0)

        (residual_mlp, bound_rm), (mlp, bound_m) = key("residual_mlp", above), key("mlp", above)
        middle = jnp.maximum(reach("residual_mlp", residual_mlp), reach("mlp", mlp))
        # With parallel blocks all edges of a layer enter the same node; the MLP's leave from where attention's do.
        node = above if parallel else middle
        (residual_attn, bound_ra), (attn, bound_a) = key("residual_attn", node), key("attn", node[:, None])
        below = jnp.maximum(reach("residual_attn", residual_attn), jnp.max(reach("attn", attn), axis=(0, 1)))
        below, middle = (jnp.maximum(below, middle),) * 2 if parallel else (below, middle)
        keys = EdgeTree(residual_attn, attn, residual_mlp, mlp)
        bounds = EdgeTree(bound_ra, bound_a, bound_rm, bound_m)
        sources = EdgeTree(below, below, middle, middle)
        seeds = jax.tree.map(jnp.less, keys, bounds)
        opens = jax.tree.map(lambda c, k, b: c & (k == b), counts, keys, sources)
        return below, Relaxed(keys, seeds, opens)

    n_tokens = priority.mlp.shape[-1]
    start = jnp.zeros(n_tokens, jnp.uint32)
    return jax.lax.scan(step, start, (priority, available, counted), reverse=True)[1]


def _when(condition: Bool[Array, ""], function: Callable[..., EdgeTree], value: EdgeTree, *operands: Any) -> EdgeTree:
    """``function(value, *operands)`` if the condition holds, else ``value``.

    A loop of at most one turn: ``lax.cond`` would run both branches under ``vmap``, this runs ``function`` only if the
    condition holds for an input of the batch. The turn uses its operands up, or the compiler would see constants of
    the loop and do their work before it, always.
    """

    def turn(state: tuple[Array, EdgeTree, Any]) -> tuple[Array, EdgeTree, Any]:
        _, value, operands = state
        return jnp.zeros((), bool), function(value, *operands), jax.tree.map(jnp.zeros_like, operands)

    return jax.lax.while_loop(lambda state: state[0], turn, (condition, value, operands))[1]
