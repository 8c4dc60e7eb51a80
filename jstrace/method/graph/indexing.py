"""Edges by index: row-major over the families of an ``EdgeTree``, in the order of its fields (section 3)."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jstrace.models import EdgeTree


def flat(edges: EdgeTree) -> Array:
    """All values in the order of edge indices, ``[E_slots]``."""
    return jnp.concatenate([jnp.ravel(values) for _, values in edges.items()])


def unflat(values: Array, like: EdgeTree) -> EdgeTree:
    """The inverse of ``flat``; ``like`` gives the shapes."""
    parts, start = {}, 0
    for name, shape in ((name, leaf.shape) for name, leaf in like.items()):
        size = math.prod(shape)
        parts[name] = values[start : start + size].reshape(shape)
        start += size
    return EdgeTree(**parts)


def picked(tree: EdgeTree, index: Int[Array, "N"]) -> EdgeTree:
    """For each kind its values at edge indices, anything where an index is another kind's."""
    parts, start = {}, 0
    for name, leaf in tree.items():
        parts[name] = leaf.ravel().at[index - start].get(mode="clip")
        start += leaf.size
    return EdgeTree(**parts)


def joined(parts: EdgeTree, index: Int[Array, "N"], like: EdgeTree) -> Array:
    """The value of the kind that each edge index belongs to in ``like``; 0 beyond the last slot."""
    out, start = jnp.zeros(index.shape, parts.mlp.dtype), 0
    for (_, values), (_, leaf) in zip(parts.items(), like.items(), strict=True):
        out = jnp.where((index >= start) & (index < start + leaf.size), values, out)
        start += leaf.size
    return out


def replaced(tree: EdgeTree, index: Int[Array, "N"], values: Array, where: Bool[Array, "N"]) -> EdgeTree:
    """The tree with the values at edge indices, which increase, where ``where`` holds, which is first.

    In one scatter of places that increase: otherwise XLA for TPUs sorts them first, and takes half a minute more.
    """
    whole = flat(tree)
    beyond = whole.shape[0] + jnp.arange(index.shape[0], dtype=index.dtype)
    place = jnp.where(where, index, beyond)
    put = whole.at[place].set(values.astype(whole.dtype), mode="drop", indices_are_sorted=True, unique_indices=True)
    return unflat(put, tree)


def endpoints(index: Int[Array, "N"], like: EdgeTree, *, parallel: bool) -> tuple[Int[Array, "N"], Int[Array, "N"]]:
    """Source and target node of edges given by index; a node's number is ``level * T + token``."""
    n_layers, n_heads, n_tokens, _ = like.attn.shape
    per_kind = n_layers * n_tokens
    in_attn = (index >= per_kind) & (index < per_kind + like.attn.size)
    rest = jnp.where(index < per_kind, index, jnp.where(in_attn, index - per_kind, index - like.attn.size))
    # Residual and MLP families now count 0 .. 3 L T; attention counts its own slots.
    kind, place = rest // per_kind, rest % per_kind
    layer = jnp.where(in_attn, rest // (n_heads * n_tokens * n_tokens), place // n_tokens)
    target = jnp.where(in_attn, rest // n_tokens % n_tokens, place % n_tokens)
    source = jnp.where(in_attn, rest % n_tokens, target)
    level = layer if parallel else 2 * layer + jnp.where(in_attn | (kind == 0), 0, 1)
    return level * n_tokens + source, (level + 1) * n_tokens + target
