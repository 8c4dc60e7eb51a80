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
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jstrace import graph
from jstrace.models import EdgeTree, InputError, ModelConfig
from jstrace.refinement import TOP, Cuts, Pool, Relaxed, make_pool, refine, relax_list, select_for, select_sorted, split

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
        jnp.asarray(graph.counts(sizes, edges)),
        n_tokens,
        parallel=config.parallel,
        frozen=checked_frozen(frozen),
    )


def _check_shapes(scores: EdgeTree, config: ModelConfig) -> None:
    n_tokens = scores.residual_attn.shape[-1]
    rows = (config.n_layers, n_tokens)
    expected = (rows, (config.n_layers, config.n_heads, n_tokens, n_tokens), rows, rows)
    for (name, leaf), shape in zip(scores.items(), expected, strict=True):
        if leaf.shape != shape:
            raise InputError(f"scores {name} have shape {leaf.shape}, expected {shape}")


def checked_frozen(frozen: Sequence[str]) -> tuple[str, ...]:
    """The component names, or an ``InputError`` that lists those there are."""
    unknown = [name for name in frozen if name not in _FROZEN_FAMILIES]
    if isinstance(frozen, str) or unknown:
        raise InputError(f"frozen = {frozen!r}, expected a sequence of {', '.join(_FROZEN_FAMILIES)}")
    return tuple(frozen)


def extract_padded(
    scores: EdgeTree,
    cuts: Int[Array, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...] = (),
) -> EdgeTree:
    """Strata of one input of which only the first ``length`` tokens are true; ``cuts`` are edges per trace.

    Padded slots carry negative scores. Where a size repeats or is empty, the first trace that holds an edge counts.
    ``parallel`` says whether a layer is one level of nodes or two.
    """
    priority = _priorities(scores, frozen)
    keys = _first_pass(priority, length, parallel=parallel)
    return graph.unflat(_strata(priority, keys, cuts, parallel=parallel), priority)


_extract = jax.jit(extract_padded, static_argnames=("parallel", "frozen"))


def _first_pass(priority: EdgeTree, length: Int[Array, ""] | int, *, parallel: bool) -> Relaxed[EdgeTree]:
    available = _into_output(priority, length, parallel=parallel)
    return relax_tree(priority, available, jax.tree.map(lambda p: p > 0, priority), parallel=parallel)


# --- keys -----------------------------------------------------------------------------------------------------------


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


@functools.partial(jax.jit, static_argnames="parallel")
def _count_reachable(scores: EdgeTree, *, parallel: bool) -> Int[Array, ""]:
    keys = _first_pass(_priorities(scores, ()), scores.mlp.shape[-1], parallel=parallel)
    return jnp.sum(graph.flat(keys.key) > 0)


# --- cuts ------------------------------------------------------------------------------------------------------------


def _strata(priority: EdgeTree, first: Relaxed[EdgeTree], counts: Int[Array, "Z"], *, parallel: bool) -> Array:
    """Strata of all slots, flat, from the first pass."""
    n_sizes = counts.shape[0]
    key = graph.flat(first.key)
    cuts = Cuts(jnp.zeros(n_sizes, jnp.int32), counts.astype(jnp.int32), jnp.ones(n_sizes, bool))
    everyone = jnp.zeros(key.shape, jnp.int32)
    stratum, pending, cuts = split(key, everyone, cuts, select_sorted(key, everyone, cuts, span=2**32))
    flat_priority, seed, opens = graph.flat(priority), graph.flat(first.seed), graph.flat(first.opens)

    capacity = pool_capacity(key.shape[0])
    fits = jnp.sum(pending) <= capacity
    index = jnp.nonzero(pending & fits, size=capacity, fill_value=key.shape[0])[0]

    def picked(values: Array) -> Array:
        return values.at[index].get(mode="fill", fill_value=0)

    sources, targets = graph.endpoints(index, priority, parallel=parallel)
    n_nodes = graph.n_slot_nodes(priority, parallel=parallel)
    small = make_pool(picked(flat_priority), picked(seed), picked(opens), picked(stratum), index < key.shape[0])
    refined = refine(
        small,
        dataclasses.replace(cuts, open=cuts.open & fits),
        lambda pool: relax_list(pool, sources, targets, n_nodes),
        select_for(capacity, n_sizes),
    )
    stratum = stratum.at[index].set(refined, mode="drop")

    def relax_whole(pool: Pool) -> Relaxed[Array]:
        trees = (graph.unflat(part, priority) for part in (pool.rank, pool.seed, pool.opens))
        result = relax_tree(*trees, parallel=parallel)
        return Relaxed(graph.flat(result.key), graph.flat(result.seed), graph.flat(result.opens))

    def whole(stratum: Array, pending: Array, flat_priority: Array, seed: Array, opens: Array, cuts: Cuts) -> Array:
        pool = make_pool(flat_priority, seed, opens, stratum, pending)
        return refine(pool, cuts, relax_whole, select_for(key.shape[0], n_sizes))

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
