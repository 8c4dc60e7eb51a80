"""Greedy best-first extraction on the device, all sizes at once, without a heap (section 3 of the method).

One backward pass gives every edge the key at which best-first search takes it (``relaxation``). Edges of equal key
form a group; where a cut falls inside a group, the same pass runs within it, on the edges and nodes that the group
discovered, until no cut straddles a group. Groups at cuts are small, so they are refined in a compact buffer; where
they are not (many equal or random scores), the same refinement runs on the whole graph.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jstrace.method.conditions import checked_frozen
from jstrace.method.graph import full_graph, indexing
from jstrace.method.graph import sizes as sizes_of
from jstrace.method.graph.sizes import NO_EDGE, SIZES, checked_sizes
from jstrace.method.search.first_pass import FirstPass, divide, find_falls, priorities, ranked
from jstrace.method.search.ordering import marked
from jstrace.method.search.refinement import (
    Cuts,
    Pool,
    make_pool,
    refine,
    select_for,
    select_sorted,
    split,
    straddling,
)
from jstrace.method.search.relaxation import Relaxed, most_by_source, output_bounds, relax_list, relax_tree
from jstrace.models import AnyArray, EdgeTree, InputError, ModelConfig
from jstrace.models.platforms import usual_promotion
from jstrace.models.slots import check_outputs, on_host


def extract(
    scores: EdgeTree,
    sizes: Sequence[float] = SIZES,
    *,
    config: ModelConfig,
    length: int | Int[Array, ""] | None = None,
    counts: Int[AnyArray, "Z"] | None = None,
    frozen: Sequence[str] = (),
    n_outputs: int = 1,
) -> EdgeTree:
    """Strata of one input: for every edge the index of the smallest trace that holds it.

    A pure function, the same under ``jax.jit`` and ``jax.vmap``, in one program with some 45 bytes a slot, which
    batches of ``jstrace.trace`` do without. Which slots are edges follows from the config and the
    number of tokens; of every edge any finite score will do, and what stands in the other slots is not read.

    Args:
      scores: float32 ``[L,T]``, ``[L,H,T,T]``, ``[L,T]``, ``[L,T]``; the larger, the earlier.
      sizes: fractions of the number of edges E, strictly increasing; trace k holds ``floor(sizes[k] * E)`` edges.
      config: the model's config.
      length: number of true tokens, where those from there on are padding; all T by default.
      counts: edges of each trace, increasing, instead of sizes; needed where ``length`` is not known before the call.
      frozen: components that rank before all others: any of "residual", "attention", "mlp".
      n_outputs: tokens, the last ones, whose nodes on the last level are outputs: those before each token of an answer.

    Returns:
      uint8 strata: k, or Z for edges in no trace, or 255 for slots that are no edge; ``strata <= k`` is mask k. Under
      ``jax.jit``, where values are not known, scores that are not finite give 255 everywhere.

    Examples:
      >>> strata = jstrace.extract(trace.scores, config=model.config)
      >>> strata == trace.strata
      True

    Raises:
      InputError: sizes, counts or component names that make no sense, scores of another shape, or not finite.
    """
    if not isinstance(scores, EdgeTree):
        raise InputError(f"scores are {type(scores).__name__}, expected an EdgeTree")
    scores = jax.tree.map(jnp.asarray, scores)
    n_tokens = scores.residual_attn.shape[-1]
    scores.check("scores", config, n_tokens, "floats")
    full_graph.check_slots(config, n_tokens)
    true = n_tokens if length is None else length
    full_graph.check_length(true, n_tokens)
    check_outputs(n_outputs, n_tokens if isinstance(true, jax.core.Tracer) else int(true))
    cuts = _cuts(sizes, counts, config, true, n_tokens, n_outputs)
    how: dict[str, Any] = {"config": config, "frozen": checked_frozen(frozen), "n_outputs": int(n_outputs)}
    strata, finite = _extract(scores, cuts, true, **how)
    if not isinstance(finite, jax.core.Tracer) and not finite:
        raise InputError("scores hold NaN or infinities at edges; every edge needs a finite score")
    return strata


def _cuts(
    sizes: Sequence[float], counts: Any, config: ModelConfig, length: Any, n_tokens: int, n_outputs: int
) -> Int[AnyArray, "Z"]:
    """Edges of each trace."""
    known = not isinstance(length, jax.core.Tracer)
    if counts is None:
        if not known:
            raise InputError("the length is not known before the call: give counts of edges rather than sizes")
        return sizes_of.counts(checked_sizes(sizes), full_graph.n_edges(config, int(length), n_outputs))
    if np.ndim(counts) != 1 or not 1 <= len(counts) <= sizes_of.MAX_SIZES:
        raise InputError(f"counts of shape {np.shape(counts)}, expected 1 to {sizes_of.MAX_SIZES} numbers of edges")
    given = counts if isinstance(counts, jax.Array) else np.asarray(counts)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise InputError(f"counts are {given.dtype}, expected integers")
    numbers = on_host(given)
    if numbers is not None and (numbers.min() < 0 or np.any(numbers[1:] < numbers[:-1])):
        raise InputError("counts must not be negative, nor decrease")
    if isinstance(given, np.ndarray):
        given = np.minimum(given, np.iinfo(np.int32).max)  # more than there are edges, in any case
    return jnp.asarray(given, jnp.int32)


@functools.partial(jax.jit, static_argnames=("config", "frozen", "n_outputs"))
@usual_promotion()
def _extract(
    scores: EdgeTree,
    cuts: Int[AnyArray, "Z"],
    length: Any,
    *,
    config: ModelConfig,
    frozen: tuple[str, ...],
    n_outputs: int,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    """Strata, 255 everywhere unless the scores of all edges are finite, and whether they are."""
    scores = jax.tree.map(lambda score: score.astype(jnp.float32), scores)
    slots = full_graph.edge_slots(config, scores.mlp.shape[-1], length, n_outputs=n_outputs)
    finite = jnp.stack(
        [
            jnp.all(jnp.isfinite(score) | ~slot)
            for (_, score), (_, slot) in zip(scores.items(), slots.items(), strict=True)
        ]
    ).all()
    known = marked(scores, slots)
    known = ranked(known) if frozen else known
    step = functools.partial(extract_padded, parallel=config.parallel, frozen=frozen, n_outputs=n_outputs)
    strata, complete = step(known, cuts, length)

    def whole(_: EdgeTree, scores: EdgeTree, cuts: Array, length: Array) -> EdgeTree:
        return step(scores, cuts, length, whole=True)[0]

    strata = _when(~complete, whole, strata, known, jnp.asarray(cuts), jnp.asarray(length))
    return jax.tree.map(lambda stratum: jnp.where(finite, stratum, NO_EDGE).astype(jnp.uint8), strata), finite


def extract_padded(
    scores: EdgeTree,
    counts: Int[AnyArray, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...] = (),
    whole: bool = False,
    platform: str | None = None,
    n_outputs: int = 1,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    """Strata of one input of which only the first ``length`` tokens are true; ``counts`` are edges per trace.

    Where a size repeats or is empty, the first trace that holds an edge counts.

    Args:
      scores: float32; ``NO_SCORE`` in slots that are no edge, and with ``frozen`` not negative.
      counts: edges of each trace.
      length: number of true tokens.
      parallel: whether a layer is one level of nodes or two.
      frozen: components that rank before all others.
      whole: refine groups of any size, on arrays of all edges: the slow way, with some 60 bytes a slot.
      platform: whose form to take, as in ``models.form``; ``whole`` has one alone.
      n_outputs: the last so many true tokens are outputs.

    Returns:
      The strata, and whether they are right: without ``whole`` the edges of groups at cuts may be too many for a pool.
    """
    if whole:
        return _on_all_edges(scores, counts, length, parallel=parallel, frozen=frozen, n_outputs=n_outputs)
    how: dict[str, Any] = {"frozen": frozen, "platform": platform, "n_outputs": n_outputs}
    return _in_a_pool(scores, counts, length, parallel=parallel, **how)


def _in_a_pool(
    scores: EdgeTree,
    counts: Int[AnyArray, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    platform: str | None,
    n_outputs: int,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    first = FirstPass.of(scores, length, parallel=parallel, frozen=frozen, n_outputs=n_outputs)
    cuts = _opened(counts)
    fall = find_falls(first, cuts, platform)
    n_slots = sum(leaf.size for _, leaf in scores.items())
    capacity = pool_capacity(n_slots)
    strata, index, n_pending = divide(first, cuts, fall, capacity, platform)
    complete = n_pending <= capacity
    ends = indexing.endpoints(index, scores, parallel=parallel)
    nodes = first.nodes(parallel=parallel)
    rank = indexing.joined(priorities(indexing.picked(scores, index), frozen), index, scores)
    source, target = (nodes.at[end].get(mode="clip") for end in ends)
    key = jnp.minimum(rank, target)
    valid, most = index < n_slots, most_by_source(ends[0], nodes.shape[0], platform)
    stratum = indexing.joined(indexing.picked(strata, index), index, scores).astype(jnp.int32)
    fresh = straddling(cuts, fall)
    refined = refine(
        make_pool(rank, key < target, key == source, stratum, valid, platform),
        dataclasses.replace(fresh, open=fresh.open & complete),
        lambda pool: relax_list(pool.rank, pool.seed, pool.opens, ends, most),
        select_for(capacity, counts.shape[0], platform),
        platform,
    )
    return indexing.replaced(strata, index, refined, valid), complete


def _on_all_edges(
    scores: EdgeTree,
    counts: Int[AnyArray, "Z"],
    length: Int[Array, ""] | int,
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    n_outputs: int,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    priority = priorities(scores, frozen)
    n_tokens = scores.mlp.shape[-1]
    first = relax_tree(priority, output_bounds(n_tokens, length, n_outputs), parallel=parallel)
    n_sizes, key, cuts = counts.shape[0], indexing.flat(first.key), _opened(counts)
    everyone = jnp.zeros(key.shape, jnp.int32)
    fall = select_sorted(key, everyone, cuts, span=2**32)
    fresh = straddling(cuts, fall)
    stratum, pending = split(key, everyone, cuts, fall, fresh)
    flat_priority, seed, opens = indexing.flat(priority), indexing.flat(first.seed), indexing.flat(first.opens)

    def relax_whole(pool: Pool) -> Relaxed[Array]:
        rank, free, counted = (indexing.unflat(part, priority) for part in (pool.rank, pool.seed, pool.opens))
        nothing = jnp.zeros(n_tokens, jnp.uint32)
        result = relax_tree(rank, nothing, parallel=parallel, free=free, counted=counted)
        return Relaxed(indexing.flat(result.key), indexing.flat(result.seed), indexing.flat(result.opens))

    pool = make_pool(flat_priority, seed, opens, stratum, pending)
    stratum = refine(pool, fresh, relax_whole, select_for(key.shape[0], n_sizes))
    strata = indexing.unflat(jnp.where(key > 0, stratum, NO_EDGE).astype(jnp.uint8), priority)
    return strata, jnp.ones((), bool)


def _opened(counts: Int[AnyArray, "Z"]) -> Cuts:
    """All cuts in one group, that of all edges."""
    n_sizes = counts.shape[0]
    return Cuts(jnp.zeros(n_sizes, jnp.int32), counts.astype(jnp.int32), jnp.ones(n_sizes, bool))


def pool_capacity(n_slots: int) -> int:
    """Edges that the compact buffer holds, for a graph of ``n_slots`` slots."""
    return min(n_slots, max(2048, n_slots // 128))


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
