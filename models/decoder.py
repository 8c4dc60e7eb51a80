"""The one decoder: a Flax NNX module used as a typed pytree, its forward pass a pure function of an edge mask.

``masked_forward`` scans over stacked layers and multiplies every edge's vector by its mask (section 4 of the method);
what is ablated carries nothing, or a ``Replacement`` (section 8). The full pass is in ``clean``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from jstrace.errors import InputError
from jstrace.models import layers as fn
from jstrace.models.config import ModelConfig
from jstrace.models.edges import AnyArray, EdgeTree
from jstrace.models.params import Params
from jstrace.models.platforms import over_layers, usual_promotion
from jstrace.models.replacement import Replacement
from jstrace.models.rows import RowMap, every_row


class Layer(nnx.Module):
    """Weights of one layer; in a ``Decoder`` every leaf is stacked on a leading layer axis, for ``jax.lax.scan``."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        for name, value in weights.items():
            setattr(self, name, nnx.Param(value))

    def weights(self) -> dict[str, Array]:
        """The bare arrays by name."""
        return {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}


class Decoder(nnx.Module):
    """A decoder of any supported family, as its config describes it.

    Calling it runs ``masked_forward``: ``model(tokens[T], mask) -> logits[V]`` for the token after the last;
    ``clean.plain_forward`` is the pass without masks.
    """

    def __init__(self, config: ModelConfig, params: Params) -> None:
        self.config = config
        self.embed = nnx.Param(params["embed"])
        self.positions = nnx.Param(params["positions"]) if "positions" in params else None
        self.layers = Layer(params["layers"])
        self.final_norm = nnx.Param(params["final_norm"])
        self.final_norm_shift = nnx.Param(params["final_norm_shift"]) if "final_norm_shift" in params else None
        self.head = nnx.Param(params["head"]) if "head" in params else None
        self.head_bias = nnx.Param(params["head_bias"]) if "head_bias" in params else None

    def __call__(
        self,
        tokens: Int[AnyArray, "T"],
        mask: EdgeTree,
        *,
        replace: Replacement | None = None,
        pre_softmax: bool = False,
    ) -> Float32[Array, "V"]:
        """Next-token logits under an edge mask (bool, or float in [0, 1] for soft masks)."""
        mask = jax.tree.map(jnp.asarray, mask)
        return masked_forward(self, jnp.asarray(tokens), mask, replace=replace, pre_softmax=pre_softmax)

    def params(self) -> dict[str, Any]:
        """The nested dict of arrays that it was made of."""
        top = {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}
        return {**top, "layers": self.layers.weights()}

    def embedded(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        """Level 0 of the graph: scaled embeddings, with learned positions where the family has them."""
        x = self.embed[...][tokens]
        if self.config.embed_scale != 1:
            x = x * jnp.asarray(self.config.embed_scale, x.dtype)
        if self.positions is None:
            return x
        return x + self.positions[...].at[jnp.arange(tokens.shape[0])].get(mode="clip")

    def output_logits(
        self,
        x: Float[Array, "T D"],
        length: Int[Array, ""] | int,
        n_outputs: int | None,
        *,
        relevance: bool = False,
    ) -> Float32[Array, "*A V"]:
        """Logits after the last of ``length`` tokens, ``[V]``, or after each of the last ``n_outputs``, ``[A, V]``."""
        one = functools.partial(self.next_token_logits, relevance=relevance)
        if n_outputs is None:
            return one(x[length - 1])
        return jax.vmap(one)(jax.lax.dynamic_slice_in_dim(x, length - n_outputs, n_outputs))

    def next_token_logits(self, x: Float[Array, "D"], *, relevance: bool = False) -> Float32[Array, "V"]:
        """Final norm and output head of one residual state, in float32."""
        w = {"final_norm": self.final_norm[...]}
        if self.final_norm_shift is not None:
            w["final_norm_shift"] = self.final_norm_shift[...]
        x = fn.norm(self.config, w, "final_norm", x, frozen=relevance)
        head = self.embed if self.head is None else self.head
        logits = fn.contract("d,vd->v", x, head[...], out=jnp.float32)
        if self.head_bias is not None:
            logits = logits + self.head_bias[...].astype(jnp.float32)
        return fn.softcap(logits, self.config.logit_softcap, relevance=relevance)


@usual_promotion()
def masked_forward(
    model: Decoder,
    tokens: Int[Array, "T"],
    edges: EdgeTree,
    *,
    keep: Callable[[EdgeTree], EdgeTree] = lambda edges: edges,
    replace: Replacement | None = None,
    length: Int[Array, ""] | int | None = None,
    pre_softmax: bool = False,
    row_map: RowMap = every_row,
    remat: bool = False,
    n_queries: int | None = None,
    n_outputs: int | None = None,
    relevance: bool = False,
) -> Float32[Array, "*A V"]:
    """Next-token logits with every edge's vector multiplied by its mask (section 4; Eq. 3 of the paper).

    Args:
      model: the decoder.
      tokens: token ids, of which those from ``length`` on are padding.
      edges: masks, or anything with the same axes that ``keep`` turns into masks, one layer at a time: with uint8
        strata the masks of all sizes never exist at once.
      keep: from one layer's slice of ``edges`` to its mask, bool or float.
      replace: what ablated edges carry (section 8); nothing by default.
      length: number of true tokens; all by default.
      pre_softmax: let attention masks enter the softmax instead of following it; without ``replace`` alone.
      row_map: how per-token functions are applied; see ``models.rows``.
      remat: keep the residual stream alone of every layer for the backward pass, and compute the rest again.
      n_queries: tokens whose attention is computed at once; all by default. No ``[H,T,T]`` array of it exists then.
      n_outputs: give the logits after each of the last so many tokens, ``[A, V]``, rather than after the last, ``[V]``.
      relevance: make gradients those of relevance propagation (RelP), in which a layer is linear: scales of norms,
        attention probabilities and ratios of activations are constants, and gates pass half to each factor.
    """
    config = model.config
    if replace is not None and pre_softmax:
        raise InputError("pre_softmax removes edges from the softmax, so that nothing is left to replace")
    sights = fn.sights(config, tokens.shape[0], length)
    one = functools.partial(_zeroed if replace is None else _replaced, config)

    def step(state: _State, inputs: tuple[Layer, EdgeTree, Array, Replacement | None]) -> tuple[_State, None]:
        layer, layer_edges, kind, other = inputs
        sight, mix = fn.of_kind(sights, kind), functools.partial(_by_queries, n_queries, keep, layer_edges)
        given = _Given(layer.weights(), keep(layer_edges), sight, other, pre_softmax, row_map, mix, relevance)
        return one(given, state), None

    x, bare = model.embedded(tokens), None if replace is None else replace.bare()
    start = _State(x, jnp.ones(x.shape[:1], bool), jnp.zeros_like(x[0] if replace is None else x))
    state, _ = over_layers(step, start, model.layers, edges, jnp.asarray(config.kinds), bare, remat=remat)
    n_tokens = tokens.shape[0] if length is None else length
    return model.output_logits(state.x, n_tokens, n_outputs, relevance=relevance)


class _State(NamedTuple):
    """The residual stream, which of its tokens any edge reaches, and the state of those that none does.

    That state is one for all tokens where ablated edges carry nothing, and one a token where they are replaced.
    """

    x: Float[Array, "T D"]
    reached: Bool[Array, "T"]
    idle: Float[Array, "D"] | Float[Array, "T D"]


class _Given(NamedTuple):
    """What one layer is computed with."""

    w: Mapping[str, Array]
    mask: EdgeTree
    sight: fn.Sight
    other: Replacement | None
    pre_softmax: bool
    row_map: RowMap
    mix: Callable[[_Mixing, Array, Array], Float[Array, "T H d"]]
    """``_by_queries`` of the layer's edges."""
    relevance: bool

    def function(self, function: Callable[..., Any], config: ModelConfig) -> Callable[..., Any]:
        """One of ``layers``' functions of rows."""
        return functools.partial(function, config, relevance=self.relevance)


_Mixing = Callable[[Array, Array, Array], Array]
"""``(q[T,K,G,d], visible[T,S], mask[H,T,S]) -> [T,H,d]``: the mixed values of some queries."""


def _by_queries(
    size: int | None,
    keep: Callable[[EdgeTree], EdgeTree],
    edges: EdgeTree,
    mixing: _Mixing,
    q: Float[Array, "T K G d"],
    visible: Bool[Array, "T S"],
) -> Float[Array, "T H d"]:
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

    found = jax.lax.map(turn, (divided(q, 0), divided(visible, 0), divided(edges.attn, 1)))
    return found.reshape(turns * size, n_heads, -1)[:n_tokens]


def _zeroed(config: ModelConfig, given: _Given, state: _State) -> _State:
    """One layer whose ablated edges carry nothing."""
    w, mask, sight, row_map = given.w, given.mask, given.sight, given.row_map
    targets = jnp.any((mask.attn != 0) & sight.visible, axis=(0, 2))
    # Keys of unreached tokens stay in the denominator: those of the idle state.
    read = _before_a(targets)
    idle = None if config.zero_key else state.idle
    q, k, v = _attending(config, given, state.x, targets | (state.reached & read), read, idle)

    def mixing(q: Array, visible: Array, kept: Array) -> Array:
        logits = fn.attention_logits(config, q, k)
        return fn.mix_values(fn.masked_attention_probs(logits, visible, kept, pre_softmax=given.pre_softmax), v)

    mixed = given.mix(mixing, q, sight.visible)
    attn = row_map(given.function(fn.attention_output, config), fn.turned(w), mixed, targets)
    middle = fn.with_constants(w, _scaled(state.x, mask.residual_attn) + _only(targets, attn, mask.attn))
    reached = mask.mlp != 0
    edge = row_map(given.function(fn.mlp, config), w, state.x if config.parallel else middle, reached)
    edge = _scaled(edge, mask.mlp)
    if config.parallel:
        idle = fn.with_constants(w, jnp.zeros_like(state.idle[None]))[0]
        return _State(middle + edge, reached | targets | (mask.residual_attn != 0), idle)
    return _State(_scaled(middle, mask.residual_mlp) + edge, reached | (mask.residual_mlp != 0), state.idle)


def _replaced(config: ModelConfig, given: _Given, state: _State) -> _State:
    """One layer whose ablated edges carry the replacement.

    A node after attention always hangs on its token's query, so nothing of it is constant; but nobody reads it where
    both of its edges to the MLP's side are ablated, and the node beyond it is then the same under every mask.
    """
    w, mask, other, row_map, n_tokens = given.w, given.mask, given.other, given.row_map, state.x.shape[0]
    assert other is not None
    whole = other.spread(n_tokens)
    values = (whole if other.per_token else other).values.astype(state.x.dtype)
    targets = jnp.ones_like(state.reached) if config.parallel else (mask.mlp != 0) | (mask.residual_mlp != 0)
    read = _before_a(targets)
    q, k, v = _attending(config, given, state.x, state.reached & read, read, state.idle)

    def mixing(q: Array, visible: Array, attn: Array) -> Array:
        probs = fn.attention_probs(fn.attention_logits(config, q, k), visible)
        kept = attn.astype(jnp.float32)
        return fn.mix_values(probs * kept, v) + _mixed(probs * (1 - kept), values, per_token=other.per_token)

    mixed = given.mix(mixing, q, given.sight.visible)
    attn = row_map(given.function(fn.attention_output, config), fn.turned(w), mixed, targets)
    states = whole.attn_input, whole.mlp_input, whole.mlp_output
    attn_input, mlp_input, mlp_output = (each.astype(state.x.dtype) for each in states)
    middle = fn.with_constants(w, _blended(state.x, mask.residual_attn, attn_input) + attn)
    edge = row_map(given.function(fn.mlp, config), w, state.x if config.parallel else middle, mask.mlp != 0)
    edge = _blended(edge, mask.mlp, mlp_output)
    if config.parallel:
        return _State(middle + edge, targets, state.idle)
    return _State(_blended(middle, mask.residual_mlp, mlp_input) + edge, targets, mlp_input + mlp_output)


def _attending(
    config: ModelConfig,
    given: _Given,
    x: Float[Array, "T D"],
    live: Bool[Array, "T"],
    read: Bool[Array, "T"],
    idle: Array | None,
) -> tuple[Float[Array, "T K G d"], Float[Array, "S K d"], Float[Array, "S K d"]]:
    """Queries and keys, turned, and values of the rows that are live, and of the idle state elsewhere.

    Values that nobody reads are zero under bool masks: those of no number would make NaN of weights that are zero.
    """
    q, k, v = given.row_map(given.function(fn.project_qkv, config), given.w, x, live, idle)
    cos, sin = given.sight.cos, given.sight.sin
    used = jnp.any(given.mask.attn != 0, axis=(0, 1))
    return fn.rotate(q, cos, sin), fn.rotate(k, cos, sin), _only(read & used, v, given.mask.attn)


def _only(wanted: Bool[Array, "R"], rows: Float[Array, "R *X"], mask: Array) -> Float[Array, "R *X"]:
    """Rows that are wanted, zeros elsewhere, which need not be finite; under soft masks all rows, for gradients."""
    return jnp.where(wanted.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0) if mask.dtype == bool else rows


def _mixed(probs: Float32[Array, "H T S"], values: Float[Array, "N K d"], *, per_token: bool) -> Float[Array, "T H d"]:
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
