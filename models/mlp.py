"""The MLP edge of a layer: one MLP, or the experts that a router chooses, with the norms around it."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jstrace.models.config import ModelConfig
from jstrace.models.experts import chosen_experts, shared_expert
from jstrace.models.feed_forward import feed_forward
from jstrace.models.layers import norm
from jstrace.models.rows import RowMap, every_row


def mlp(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> Float[Array, "R D"]:
    """The MLP edge of rows of the residual stream, its norms included.

    With ``relevance`` gradients take norms for linear, what a router says for constant, and the rest as
    ``feed_forward`` does.
    """
    if not config.n_experts and config.d_mlp:
        return _alone(config, w, x, relevance=relevance)
    return edge_of(config, w, x, jnp.ones(x.shape[0], bool), every_row, relevance=relevance)


def edge_of(
    config: ModelConfig,
    w: Mapping[str, Array],
    x: Float[Array, "R D"],
    live: Bool[Array, "R"],
    row_map: RowMap,
    *,
    relevance: bool = False,
) -> Float[Array, "R D"]:
    """The same of the rows that are live; others may get anything."""
    if not config.d_mlp:
        return jnp.zeros_like(x)
    if not config.n_experts:
        return row_map(functools.partial(_alone, config, relevance=relevance), w, x, live)
    normed = norm(config, w, "mlp_norm", x, frozen=relevance) if config.pre_norm else x
    read = x if config.own_norms else normed
    out = row_map(functools.partial(chosen_experts, config, relevance=relevance), w, read, live, skips=True)
    if config.d_shared:
        out = out + row_map(functools.partial(shared_expert, config, relevance=relevance), w, normed, live)
    return norm(config, w, "mlp_post_norm", out, frozen=relevance) if config.post_norm else out


def _alone(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> Float[Array, "R D"]:
    x = norm(config, w, "mlp_norm", x, frozen=relevance) if config.pre_norm else x
    out = feed_forward(config, w, x, relevance=relevance)
    return norm(config, w, "mlp_post_norm", out, frozen=relevance) if config.post_norm else out
