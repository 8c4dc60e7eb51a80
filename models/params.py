"""The weights of a decoder: each declared once, with its shape; layers stacked on a leading axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.models.config import ModelConfig

Params = Mapping[str, Any]
"""Nested dict of arrays: ``embed``, ``final_norm``, ``head`` (untied only) and ``layers`` with a dict of stacks."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declaration of one weight; ``axes`` name its dimensions with the letters of ``models.edges``."""

    axes: tuple[str, ...]
    init: str = "normal"
    """``normal``, or ``ones`` for norms."""


def declare(config: ModelConfig) -> dict[str, Any]:
    """Every weight that ``config`` calls for, as a nested dict of ``Weight``."""
    layers = {
        "attn_norm": Weight(("L", "D"), "ones"),
        "q": Weight(("L", "D", "H", "d")),
        "k": Weight(("L", "D", "K", "d")),
        "v": Weight(("L", "D", "K", "d")),
        "o": Weight(("L", "H", "d", "D")),
        "mlp_norm": Weight(("L", "D"), "ones"),
        "gate": Weight(("L", "D", "F")),
        "up": Weight(("L", "D", "F")),
        "down": Weight(("L", "F", "D")),
    }
    weights = {"embed": Weight(("V", "D")), "layers": layers, "final_norm": Weight(("D",), "ones")}
    if not config.tied_head:
        weights["head"] = Weight(("V", "D"))
    return weights


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Length of every axis letter that a weight can have."""
    return {
        "L": config.n_layers,
        "D": config.d_model,
        "H": config.n_heads,
        "K": config.n_kv_heads,
        "d": config.head_dim,
        "F": config.d_mlp,
        "V": config.vocab_size,
    }


def shapes(config: ModelConfig, dtype: jnp.dtype) -> dict[str, Any]:
    """``jax.ShapeDtypeStruct`` of every weight, without allocating any."""
    sizes = axis_sizes(config)

    def shape(weight: Weight) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in weight.axes), dtype)

    return jax.tree.map(shape, declare(config), is_leaf=lambda node: isinstance(node, Weight))


def n_params(config: ModelConfig) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config, jnp.dtype("float32"))))


def random_params(config: ModelConfig, *, key: jax.Array, dtype: jnp.dtype, scale: float = 0.02) -> dict[str, Any]:
    """Normal weights of standard deviation ``scale`` and norms of one, for tests and measurements of speed."""
    declared, tree = jax.tree.flatten(declare(config), is_leaf=lambda node: isinstance(node, Weight))
    blanks = jax.tree.leaves(shapes(config, dtype))

    def draw(index: int, weight: Weight, blank: jax.ShapeDtypeStruct) -> jax.Array:
        if weight.init == "ones":
            return jnp.ones(blank.shape, blank.dtype)
        return scale * jax.random.normal(jax.random.fold_in(key, index), blank.shape, blank.dtype)

    return jax.tree.unflatten(tree, [draw(i, w, b) for i, (w, b) in enumerate(zip(declared, blanks, strict=True))])
