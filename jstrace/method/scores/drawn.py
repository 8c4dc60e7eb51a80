"""Scores drawn at random, from an input's own key: what they keep is chance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from jstrace.models import EdgeTree
from jstrace.models.platforms import seeded

_NEVER = 1e30
"""A time after all others; finite, for who looks for infinities."""


def input_key(seed: Int[Array, ""] | int, tokens: Int[Array, "T"], length: Int[Array, ""] | int) -> Array:
    """The key of an input's random scores: of the seed, its tokens and their places, so that padding changes none.

    Other inputs get draws of their own, or a baseline's bands over inputs would lack the variance of the draw.
    """
    place = jnp.arange(tokens.shape[0], dtype=jnp.uint32)
    mixed = jax.vmap(lambda i, token: jax.random.fold_in(jax.random.fold_in(seeded(0), i), token))
    words = jax.random.key_data(mixed(place, tokens.astype(jnp.uint32)))
    low, high = jnp.sum(jnp.where((place < length)[:, None], words, 0), axis=0, dtype=jnp.uint32)
    return jax.random.fold_in(jax.random.fold_in(seeded(seed), low), high)


def random_scores(slots: EdgeTree, base: Array) -> EdgeTree:
    """Uniform scores in [0, 1), each from the key and its edge's own coordinates: padding changes none."""

    def uniform(number: int, shape: tuple[int, ...]) -> Array:
        bits = jax.random.key_data(_keys(jax.random.fold_in(base, number), shape))[..., 0]
        return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)

    return EdgeTree(**{name: uniform(number, slot.shape) for number, (name, slot) in enumerate(slots.items())})


def _keys(base: Array, shape: tuple[int, ...]) -> Array:
    """A key for each coordinate."""
    keys = base
    for depth, size in enumerate(shape):
        fold = jax.random.fold_in
        for axis in range(depth + 1):
            # Only the innermost map runs over new coordinates; the outer ones run over the keys made so far.
            fold = jax.vmap(fold, in_axes=(None, 0) if axis == 0 else (0, None))
        keys = fold(keys, jnp.arange(size, dtype=jnp.uint32))
    return keys


def random_node_scores(slots: EdgeTree, base: Array, *, parallel: bool) -> EdgeTree:
    """Scores whose order is that of drawing nodes: 1 / (1 + t), t being when an edge is taken, in (0, 1].

    Each step of the draw picks one of the nodes that are reached and have edges left, all alike, and takes its next
    edge: the residual one, then the MLP's, then attention's in random order. So does a clock at every node, which rings
    at rate 1 from when the node is reached, by the first edge that is taken out of it. Rings j of n, for n edges of
    attention, are at the j-th of n uniform numbers times one Gamma(n + 1) number, so no edge is sorted; and a node is
    reached from the levels after it alone, so one pass from the output to the input has all times.

    Args:
      slots: bool, which slots are edges.
      base: the input's key.
      parallel: whether attention's and the MLP's edges enter the same node.
    """
    uniform = random_scores(slots, jax.random.fold_in(base, 4))
    counts = jnp.sum(slots.attn, axis=(1, 3)).astype(jnp.float32)
    keys = _keys(jax.random.fold_in(base, 5), counts.shape)
    gamma = jax.vmap(jax.vmap(lambda key, shape: jax.random.gamma(key, shape, dtype=jnp.float32)))(keys, counts + 1)

    def layer(reached: Float32[Array, "T"], inputs: tuple[EdgeTree, EdgeTree, Array]) -> tuple[Array, EdgeTree]:
        drawn, there, scale = inputs
        residual_attn, residual_mlp, of_mlp = (
            -jnp.log1p(-u) for u in (drawn.residual_attn, drawn.residual_mlp, drawn.mlp)
        )
        if parallel:
            residual = after = reached + residual_attn
            mlp = before = residual + jnp.where(there.mlp, of_mlp, 0.0)
        else:
            after = reached + residual_mlp  # by which the node in the middle of the layer is reached
            mlp, residual = after + of_mlp, after + residual_attn
            before = residual
        attn = before[:, None] + scale[:, None] * drawn.attn
        read = jnp.min(jnp.where(there.attn, attn, _NEVER), axis=(0, 1))
        return jnp.minimum(residual, read), EdgeTree(residual_attn=residual, attn=attn, residual_mlp=after, mlp=mlp)

    start = jnp.where(slots.residual_attn[-1], 0.0, _NEVER).astype(jnp.float32)
    _, times = jax.lax.scan(layer, start, (uniform, slots, gamma), reverse=True)
    return jax.tree.map(lambda time: 1 / (1 + time), times)
