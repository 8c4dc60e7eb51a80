"""One layer under an edge mask: every edge's vector multiplied by its mask (sections 4 and 8 of the method).

What is ablated carries nothing, or a ``Replacement``. ``decoder.masked_forward`` scans over the layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jstrace.models import delta
from jstrace.models import layers as fn
from jstrace.models.attended import LINEAR, gated, gates, nothing
from jstrace.models.config import ModelConfig
from jstrace.models.edges import EdgeTree
from jstrace.models.mlp import edge_of
from jstrace.models.replacement import Replacement
from jstrace.models.rows import RowMap


class State(NamedTuple):
    """The residual stream, which of its tokens any edge reaches, and the state of those that none does.

    That state is one for all tokens where ablated edges carry nothing, and one a token where they are replaced.
    """

    x: Float[Array, "T D"]
    reached: Bool[Array, "T"]
    idle: Float[Array, "D"] | Float[Array, "T D"]


class Given(NamedTuple):
    """What one layer is computed with."""

    w: Mapping[str, Array]
    mask: EdgeTree
    sight: fn.Sight
    other: Replacement | None
    pre_softmax: bool
    row_map: RowMap
    mix: Callable[[_Mixing, Array, Array], Float[Array, "T H e"]]
    """``by_queries`` of the layer's edges."""
    relevance: bool

    def function(self, function: Callable[..., Any], config: ModelConfig) -> Callable[..., Any]:
        """One of ``layers``' functions of rows."""
        return functools.partial(function, config, relevance=self.relevance)


_Mixing = Callable[[Array, Array, Array], Array]
"""``(rows[T,...], visible[T,S], mask[H,T,S]) -> [T,H,e]``: the mixed values of some rows of ``_Attending``."""


def by_queries(
    size: int | None,
    keep: Callable[[EdgeTree], EdgeTree],
    edges: EdgeTree,
    mixing: _Mixing,
    q: Float[Array, "T *X"],
    visible: Bool[Array, "T S"],
) -> Float[Array, "T H e"]:
    """Mixed values of all queries, ``size`` of them at a time; their masks are made when it is their turn."""
    n_tokens, n_heads = q.shape[0], edges.attn.shape[0]
    if size is None or n_tokens <= size:
        return mixing(q, visible, keep(edges).attn)
    turns, over = -(-n_tokens // size), -n_tokens % size

    def turn(part: tuple[Array, Array, Array]) -> Array:
        own_q, own_visible, attn = part
        return mixing(own_q, own_visible, keep(dataclasses.replace(edges, attn=attn)).attn)

    def divided(x: Array, axis: int) -> Array:
        filler = x.dtype == bool  # what is no query sees all, as a softmax over nothing would be NaN
        wide = jnp.pad(x, [(0, over if at == axis else 0) for at in range(x.ndim)], constant_values=filler)
        return jnp.moveaxis(wide.reshape(*x.shape[:axis], turns, size, *x.shape[axis + 1 :]), axis, 0)

    mixed = jax.lax.map(turn, (divided(q, 0), divided(visible, 0), divided(edges.attn, 1)))
    return mixed.reshape(turns * size, n_heads, -1)[:n_tokens]


def zeroed(config: ModelConfig, given: Given, state: State) -> State:
    """One layer whose ablated edges carry nothing."""
    w, mask, sight, row_map = given.w, given.mask, given.sight, given.row_map
    targets = jnp.any((mask.attn != 0) & sight.visible, axis=(0, 2))
    # Keys of unreached tokens stay in the denominator: those of the idle state.
    read = _before_a(targets)
    idle = None if _zero_key(config) else state.idle
    attending = _attending(config, given, state.x, targets | (state.reached & read), read, idle)

    def mixing(rows: Array, visible: Array, attn_mask: Array) -> Array:
        if attending.k is None:
            return fn.mix_values(jnp.swapaxes(rows, 0, 1) * attn_mask.astype(jnp.float32), attending.v)
        logits = fn.attention_logits(config, rows, attending.k)
        how: dict[str, Any] = {"pre_softmax": given.pre_softmax, "sink": w.get("sink")}
        return fn.mix_values(fn.masked_attention_probs(logits, visible, attn_mask, **how), attending.v)

    mixed = given.function(gated, config)(w, given.mix(mixing, attending.rows, sight.visible), attending.gate)
    attn = row_map(given.function(fn.attention_output, config), fn.turned(w), mixed, targets)
    middle = fn.with_constants(w, _scaled(state.x, mask.residual_attn) + _only(targets, attn, mask.attn))
    reached = mask.mlp != 0
    edge = edge_of(config, w, state.x if config.parallel else middle, reached, row_map, relevance=given.relevance)
    edge = _scaled(edge, mask.mlp)
    if config.parallel:
        idle = fn.with_constants(w, jnp.zeros_like(state.idle[None]))[0]
        return State(middle + edge, reached | targets | (mask.residual_attn != 0), idle)
    x = fn.leaving(w, _scaled(middle, mask.residual_mlp) + edge)
    return State(x, reached | (mask.residual_mlp != 0), state.idle)


def replaced(config: ModelConfig, given: Given, state: State) -> State:
    """One layer whose ablated edges carry the replacement.

    A node after attention always hangs on its token's query, so nothing of it is constant; but nobody reads it where
    both of its edges to the MLP's side are ablated, and the node beyond it is then the same under every mask.
    """
    w, mask, other, row_map, n_tokens = given.w, given.mask, given.other, given.row_map, state.x.shape[0]
    assert other is not None
    whole = other.spread(n_tokens)
    values = (whole if other.per_token else other).values.astype(state.x.dtype)
    values = values[:, : config.n_value_heads, : config.value_width]
    targets = jnp.ones_like(state.reached) if config.parallel else (mask.mlp != 0) | (mask.residual_mlp != 0)
    read = _before_a(targets)
    attending = _attending(config, given, state.x, state.reached & read, read, state.idle)

    def mixing(rows: Array, visible: Array, attn: Array) -> Array:
        if attending.k is None:
            probs = jnp.swapaxes(rows, 0, 1)
        else:
            probs = fn.attention_probs(fn.attention_logits(config, rows, attending.k), visible, w.get("sink"))
        share = attn.astype(jnp.float32)
        own = fn.mix_values(probs * share, attending.v)
        return own + _mixed(probs * (1 - share), values, per_token=other.per_token)

    mixed = given.function(gated, config)(w, given.mix(mixing, attending.rows, given.sight.visible), attending.gate)
    attn = row_map(given.function(fn.attention_output, config), fn.turned(w), mixed, targets)
    states = whole.attn_input, whole.mlp_input, whole.mlp_output
    attn_input, mlp_input, mlp_output = (each.astype(state.x.dtype) for each in states)
    middle = fn.with_constants(w, _blended(state.x, mask.residual_attn, attn_input) + attn)
    edge = edge_of(config, w, state.x if config.parallel else middle, mask.mlp != 0, row_map, relevance=given.relevance)
    edge = _blended(edge, mask.mlp, mlp_output) if config.d_mlp else edge
    if config.parallel:
        return State(middle + edge, targets, state.idle)
    x = fn.leaving(w, _blended(middle, mask.residual_mlp, mlp_input) + edge)
    return State(x, targets, fn.leaving(w, mlp_input + mlp_output))


class _Attending(NamedTuple):
    """What attention makes of the states, all but the sums that masks are in."""

    rows: Float[Array, "T K G d"] | Float32[Array, "T H S"]
    """Queries, turned by their positions; without a softmax the factors themselves."""
    k: Float[Array, "S K d"] | None
    v: Float[Array, "S N e"]
    gate: Float[Array, "T H e"] | None


def _attending(
    config: ModelConfig,
    given: Given,
    x: Float[Array, "T D"],
    live: Bool[Array, "T"],
    read: Bool[Array, "T"],
    idle: Array | None,
) -> _Attending:
    """Of the rows that are live, and of the idle state elsewhere.

    Values that nobody reads are zero under bool masks: those of no number would make NaN of weights that are zero.
    """
    if config.mixer in LINEAR:
        rows = given.row_map(given.function(delta.project, config), given.w, x, live, idle)
        attention = given.function(LINEAR[config.mixer], config)(given.w, rows, given.sight.visible)
        each, k, v, gate = jnp.swapaxes(attention.factors, 0, 1), None, attention.values, attention.gate
    elif config.mixer == "none":
        factors, v = nothing(config, x, given.sight)
        each, k, gate = jnp.swapaxes(factors, 0, 1), None, None
    else:
        q, k, v = given.row_map(given.function(fn.project_qkv, config), given.w, x, live, idle)
        each, k = (fn.positioned(config, given.w, name, x, given.sight) for name, x in (("q", q), ("k", k)))
        gate = None
    if config.gated_attention:
        gate = given.row_map(given.function(gates, config), given.w, x, live, idle)
    used = jnp.any(given.mask.attn != 0, axis=(0, 1))
    return _Attending(each, k, _only(read & used, v, given.mask.attn), gate)


def _zero_key(config: ModelConfig) -> bool:
    """Whether the zero state has the zero key, so that unreached tokens need no work to stay in a softmax."""
    return config.norm != "layer" and not config.qkv_bias and not (config.parallel and config.o_bias)


def _only(wanted: Bool[Array, "R"], rows: Float[Array, "R *X"], mask: Array) -> Float[Array, "R *X"]:
    """Rows that are wanted, zeros elsewhere, which need not be finite; under soft masks all rows, for gradients."""
    return jnp.where(wanted.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0) if mask.dtype == bool else rows


def _mixed(probs: Float32[Array, "H T S"], values: Float[Array, "N K e"], *, per_token: bool) -> Float[Array, "T H e"]:
    """Weighted sum of replaced values: one for each source, or one for the first and one for all others."""
    if per_token:
        return fn.mix_values(probs, values)
    first, others = probs[..., :1], jnp.sum(probs[..., 1:], axis=-1, keepdims=True)
    return fn.mix_values(jnp.concatenate([first, others], axis=-1), values)


def _before_a(targets: Bool[Array, "T"]) -> Bool[Array, "T"]:
    """Tokens at or before a target: keys after the last one are not read."""
    return jax.lax.cummax(targets.astype(jnp.int32), reverse=True) > 0


def _scaled(x: Float[Array, "T D"], mask: Array) -> Float[Array, "T D"]:
    """Rows multiplied by their masks, zero where these are: soft ones in float32, and so their gradients."""
    if mask.dtype == bool:
        return jnp.where(mask[:, None], x, 0)
    return fn.weighted(x, mask.astype(jnp.float32)[:, None]).astype(x.dtype)


def _blended(x: Float[Array, "T D"], mask: Array, other: Float[Array, "T D"]) -> Float[Array, "T D"]:
    """``m x + (1 - m) other``, exactly ``x`` where m is one."""
    if mask.dtype == bool:
        return jnp.where(mask[:, None], x, other)
    soft = mask.astype(jnp.float32)[:, None]
    return (fn.weighted(x, soft) + fn.weighted(other, 1 - soft)).astype(x.dtype)
