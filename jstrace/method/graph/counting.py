"""Strata on the device: masks from them (sections 3 and 6 of the method), and what traces are made of.

``composition`` turns counts into shares.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from jstrace.method.graph.flops import WORK, LayerWork, needed, of_layer
from jstrace.models import AnyArray, EdgeTree, ModelConfig
from jstrace.models.edges import ByValue


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Counts(ByValue):
    """Per size, the last row being the full graph."""

    residual: Int[AnyArray, "*B Z1 L"]
    """Edges of each component: the residual stream of a layer (both kinds),"""
    mlp: Int[AnyArray, "*B Z1 L"]
    """its MLP,"""
    heads: Int[AnyArray, "*B Z1 L H"]
    """and each of its heads."""
    nodes: Int[AnyArray, "*B Z1"]
    """Nodes reached: the output and the source of every edge."""
    input_reached: Bool[AnyArray, "*B Z1"]
    """Whether an edge leaves a node of level 0."""
    work: Int[AnyArray, "*B Z1 W"]
    """What a pass has to compute (``flops.WORK``), of one form of layers after the other."""


def count(strata: EdgeTree, n_sizes: int, config: ModelConfig) -> Counts:
    """Counts of the edges of every trace from strata (uint8) of one input."""
    after_even = jnp.minimum(strata.residual_attn, strata.attn.min(axis=(1, 2)))
    after_odd = jnp.minimum(strata.residual_mlp, strata.mlp)
    if config.parallel:
        after_even, after_odd = jnp.minimum(after_even, after_odd), jnp.full_like(after_odd, 255)

    def over(form: ModelConfig, layers: Any) -> LayerWork:
        return jax.vmap(functools.partial(of_layer, config=form, xp=jnp))(*layers)

    pairs = [form[name] for form in needed(strata, config, over, jnp) for name in WORK]

    def at(k: Array) -> tuple[Array, ...]:
        held = functools.partial(_held, k=k)
        residual = held(strata.residual_attn) + held(strata.residual_mlp)
        nodes = 1 + jnp.sum(held(after_even) + held(after_odd))
        work = jnp.stack([jnp.sum((first <= k) * many, dtype=jnp.int32) for first, many in pairs])
        return residual, held(strata.mlp), held(strata.attn, 2), nodes, jnp.any(after_even[0] <= k), work

    return Counts(*jax.lax.map(at, jnp.arange(n_sizes + 1, dtype=jnp.uint8)))


def _held(strata: Array, n_axes: int = 1, *, k: Array) -> Int[Array, "..."]:
    """How many edges of each component the trace ``k`` holds: those of the last ``n_axes``."""
    return jnp.sum(strata <= k, axis=tuple(range(-n_axes, 0)), dtype=jnp.int32)


def kept(strata: EdgeTree, ranges: UInt8[Array, "3 2"]) -> EdgeTree:
    """Mask of the edges whose strata lie in the ranges of their kind, as ``Condition.ranges`` gives them."""

    def within(stratum: Array, kind: int) -> Array:
        return (stratum >= ranges[kind, 0]) & (stratum < ranges[kind, 1])

    return EdgeTree(
        residual_attn=within(strata.residual_attn, 0),
        attn=within(strata.attn, 1),
        residual_mlp=within(strata.residual_mlp, 0),
        mlp=within(strata.mlp, 2),
    )
