"""The one decoder: a Flax NNX module used as a typed pytree, its forward pass a pure function of an edge mask.

Both passes scan over stacked layers. ``masked_forward`` multiplies every edge's vector by its mask (section 4 of the
method); ``clean_forward`` returns what the edge scores need as a value, without hooks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from jstrace.models import layers as fn
from jstrace.models.config import ModelConfig
from jstrace.models.edges import AnyArray, EdgeTree
from jstrace.models.params import Params
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

    Calling it runs ``masked_forward``: ``model(tokens[T], mask) -> logits[V]`` for the token after the last.
    """

    def __init__(self, config: ModelConfig, params: Params) -> None:
        self.config = config
        self.embed = nnx.Param(params["embed"])
        self.positions = nnx.Param(params["positions"]) if "positions" in params else None
        self.layers = Layer(params["layers"])
        self.final_norm = nnx.Param(params["final_norm"])
        self.final_norm_shift = nnx.Param(params["final_norm_shift"]) if "final_norm_shift" in params else None
        self.head = nnx.Param(params["head"]) if "head" in params else None

    def __call__(self, tokens: Int[AnyArray, "T"], mask: EdgeTree, *, pre_softmax: bool = False) -> Float32[Array, "V"]:
        """Next-token logits under an edge mask (bool, or float in [0, 1] for soft masks)."""
        mask = jax.tree.map(jnp.asarray, mask)
        return masked_forward(self, jnp.asarray(tokens), mask, pre_softmax=pre_softmax)

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

    def next_token_logits(self, x: Float[Array, "D"]) -> Float32[Array, "V"]:
        """Final norm and output head of one residual state, in float32."""
        w = {"final_norm": self.final_norm[...]}
        if self.final_norm_shift is not None:
            w["final_norm_shift"] = self.final_norm_shift[...]
        x = fn.norm(self.config, w, "final_norm", x)
        head = self.embed if self.head is None else self.head
        logits = fn.contract("d,vd->v", x, head[...], out=jnp.float32)
        return fn.softcap(logits, self.config.logit_softcap)


def project_qkv(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"]
) -> tuple[Float[Array, "R K G d"], Float[Array, "R K d"], Float[Array, "R K d"]]:
    """Queries (by key/value head and group), keys and values of rows of the residual stream; no positions yet."""
    x = fn.norm(config, w, "attn_norm", x) if config.pre_norm else x
    q, k, v = (fn.contract("rd,dhe->rhe", x, w[name]) for name in ("q", "k", "v"))
    if config.qkv_bias:
        q, k, v = q + w["q_bias"], k + w["k_bias"], v + w["v_bias"]
    if config.qk_norm != "none":
        q, k = fn.normed_heads(config, w["q_norm"], q), fn.normed_heads(config, w["k_norm"], k)
    return q.reshape(-1, config.n_kv_heads, config.n_groups, config.head_dim), k, v


def project_out(w: Mapping[str, Array], mixed: Float[Array, "R H d"]) -> Float[Array, "R D"]:
    """Sum over heads of W_O applied to the mixed values: the sum of the attention edges before any norm."""
    return fn.contract("rhe,hed->rd", mixed, w["o"])


def attention_output(config: ModelConfig, w: Mapping[str, Array], mixed: Float[Array, "R H d"]) -> Float[Array, "R D"]:
    """What attention adds to the residual stream, without the constants of the node; ``w`` as ``_turned`` gives it."""
    out = fn.contract("rhe,ehd->rd", mixed, w["o"])
    return fn.norm(config, w, "attn_post_norm", out) if config.post_norm else out


def _turned(w: Mapping[str, Array]) -> dict[str, Array]:
    """Weights with W_O as ``[d, H, D]``: as XLA on CPUs multiplies by it: blocks of rows share the copy."""
    return {**w, "o": jnp.transpose(w["o"], (1, 0, 2))}


def mlp(config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"]) -> Float[Array, "R D"]:
    """The MLP edge of rows of the residual stream, its norms included."""
    x = fn.norm(config, w, "mlp_norm", x) if config.pre_norm else x
    out = fn.mlp(config, w, x)
    return fn.norm(config, w, "mlp_post_norm", out) if config.post_norm else out


def with_constants(w: Mapping[str, Array], x: Float[Array, "R D"]) -> Float[Array, "R D"]:
    """Plus what a node gets beside its edges: the bias of attention's output."""
    return x + w["o_bias"] if "o_bias" in w else x


# --- the clean pass -------------------------------------------------------------------------------------------------


@runtime_checkable
class Importance(Protocol):
    """An edge score: how much an edge brings, given its vector and the node that it enters (Eq. 1); both in float32.

    One of your own goes to ``jstrace.trace(importance=)``. It must be hashable and compare by value, as a frozen
    dataclass does, since programs are compiled for it. Where it has a true attribute ``shares``, the score of an edge
    is its share of all those into the same node, and magnitudes must not be negative; otherwise the value itself is the
    score, of any sign. An attribute ``name`` is what tables call it; otherwise its class's name is.
    """

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """Magnitude of residual and MLP edges."""
        ...

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """Magnitude of the edges ``probs[h,i,j] * values[h,j]``, where ``values`` are the W_O v of each head.

        Under a linearised post-norm ``probs`` carry the inverse RMS of their target and ``values`` the norm's weight.
        """
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Clean:
    """What a clean pass returns: next-token logits and the magnitude of every edge."""

    logits: Float32[Array, "V"]
    magnitudes: EdgeTree


def clean_forward(
    model: Decoder, tokens: Int[Array, "T"], measure: Importance, *, length: Int[Array, ""] | int | None = None
) -> Clean:
    """The full forward pass, with the magnitude of each edge's vector at the node that it enters.

    Norms after a sub-layer and the final norm are linearised (section 1): attention vectors carry the post-norm's
    weight and the inverse RMS of all attention at their target; vectors into the output node carry the final norm's
    weight, and under LayerNorm lose their mean. Tokens from ``length`` on are padding: they change nothing before
    them, and their magnitudes mean nothing. A measure may return several values of an edge as a tuple.
    """
    config = model.config
    sights = fn.sights(config, tokens.shape[0], length)

    def step(x: Array, inputs: tuple[Layer, Array, Array]) -> tuple[Array, EdgeTree]:
        layer, kind, last = inputs
        w = layer.weights()
        probs, values, attn = _attended(config, w, x, jax.tree.map(lambda table: table[kind], sights))
        final = functools.partial(_into_output, model, last)
        middle = with_constants(w, x + attn)
        edge = mlp(config, w, x if config.parallel else middle)
        out = middle + edge
        node, wide_x = final(out), x.astype(jnp.float32)
        if config.parallel:
            attention = measure.attention(probs, final(values), node)
            one = measure.vector(final(x), node)
            return out, EdgeTree(one, attention, jax.tree.map(jnp.zeros_like, one), measure.vector(final(edge), node))
        wide_middle = middle.astype(jnp.float32)
        return out, EdgeTree(
            residual_attn=measure.vector(wide_x, wide_middle),
            attn=measure.attention(probs, values, wide_middle),
            residual_mlp=measure.vector(final(middle), node),
            mlp=measure.vector(final(edge), node),
        )

    layers = jnp.arange(config.n_layers)
    x, magnitudes = jax.lax.scan(
        step, model.embedded(tokens), (model.layers, jnp.asarray(config.kinds), layers == config.n_layers - 1)
    )
    return Clean(model.next_token_logits(x[_last(tokens, length)]), magnitudes)


def _attended(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "T D"], sight: fn.Sight
) -> tuple[Float32[Array, "H T S"], Float32[Array, "H S D"], Float[Array, "T D"]]:
    """Factors ``[H,T,S]`` and vectors ``[H,S,D]`` whose products are the attention edges, and the edges' sum."""
    q, k, v = project_qkv(config, w, x)
    logits = fn.attention_logits(config, fn.rotate(q, sight.cos, sight.sin), fn.rotate(k, sight.cos, sight.sin))
    probs = fn.attention_probs(logits, sight.visible)
    mixed = fn.mix_values(probs, v)
    grouped_o = w["o"].reshape(config.n_kv_heads, config.n_groups, config.head_dim, config.d_model)
    values = fn.contract("ske,kged->kgsd", v, grouped_o, out=jnp.float32)
    values = values.reshape(config.n_heads, x.shape[0], config.d_model)
    whole = project_out(w, mixed)
    if not config.post_norm:
        return probs, values, whole
    inverse = fn.inverse_rms(whole, config.norm_eps)
    weight = fn.gain(config, w["attn_post_norm"])
    normed = fn.norm(config, w, "attn_post_norm", whole)
    return probs * inverse[None, :, 0, None], values * weight, normed


def _into_output(model: Decoder, last: Bool[Array, ""], x: Float[Array, "*R D"]) -> Float32[Array, "*R D"]:
    """Vectors in float32; under the final norm's linear part if the layer is the last one."""
    wide = x.astype(jnp.float32)
    if model.config.norm == "layer":
        wide = wide - jnp.where(last, jnp.mean(wide, axis=-1, keepdims=True), 0.0)
    return wide * jnp.where(last, fn.gain(model.config, model.final_norm[...]), 1.0)


# --- the masked pass ------------------------------------------------------------------------------------------------


def same(edges: EdgeTree) -> EdgeTree:
    """The mask of edges that are a mask already."""
    return edges


def masked_forward(
    model: Decoder,
    tokens: Int[Array, "T"],
    edges: EdgeTree,
    *,
    keep: Callable[[EdgeTree], EdgeTree] = same,
    length: Int[Array, ""] | int | None = None,
    pre_softmax: bool = False,
    row_map: RowMap = every_row,
) -> Float32[Array, "V"]:
    """Next-token logits with every edge's vector multiplied by its mask (section 4; Eq. 3 of the paper).

    Args:
      model: the decoder.
      tokens: token ids, of which those from ``length`` on are padding.
      edges: masks, or anything with the same axes that ``keep`` turns into masks, one layer at a time: with uint8
        strata the masks of all sizes never exist at once.
      keep: from one layer's slice of ``edges`` to its mask, bool or float.
      length: number of true tokens; all by default.
      pre_softmax: let attention masks enter the softmax instead of following it.
      row_map: how per-token functions are applied; see ``models.rows``.
    """
    config = model.config
    sights = fn.sights(config, tokens.shape[0], length)
    qkv_rows, out_rows, mlp_rows = (functools.partial(f, config) for f in (project_qkv, attention_output, mlp))

    def step(state: _State, inputs: tuple[Layer, EdgeTree, Array]) -> tuple[_State, None]:
        layer, layer_edges, kind = inputs
        w, mask = layer.weights(), keep(layer_edges)
        sight = jax.tree.map(lambda table: table[kind], sights)
        targets = jnp.any((mask.attn != 0) & sight.visible, axis=(0, 2))
        # Keys of unreached tokens stay in the denominator: those of the idle state. Keys after the last target are
        # not read.
        sources = state.reached & (jax.lax.cummax(targets.astype(jnp.int32), reverse=True) > 0)
        q, k, v = row_map(qkv_rows, w, state.x, targets | sources, None if config.zero_key else state.idle)
        logits = fn.attention_logits(config, fn.rotate(q, sight.cos, sight.sin), fn.rotate(k, sight.cos, sight.sin))
        probs = fn.masked_attention_probs(logits, sight.visible, mask.attn, pre_softmax=pre_softmax)
        attn = row_map(out_rows, _turned(w), fn.mix_values(probs, v), targets)
        middle = with_constants(w, _scaled(state.x, mask.residual_attn) + attn)
        edge = _scaled(row_map(mlp_rows, w, state.x if config.parallel else middle, mask.mlp != 0), mask.mlp)
        reached = mask.mlp != 0
        if config.parallel:
            idle = with_constants(w, jnp.zeros_like(state.idle[None]))[0]
            return _State(middle + edge, reached | targets | (mask.residual_attn != 0), idle), None
        return _State(_scaled(middle, mask.residual_mlp) + edge, reached | (mask.residual_mlp != 0), state.idle), None

    x = model.embedded(tokens)
    start = _State(x, jnp.ones(x.shape[:1], bool), jnp.zeros_like(x[0]))
    state, _ = jax.lax.scan(step, start, (model.layers, edges, jnp.asarray(config.kinds)))
    return model.next_token_logits(state.x[_last(tokens, length)])


class _State(NamedTuple):
    """The residual stream, which of its tokens any edge reaches, and the state of those that none does."""

    x: Float[Array, "T D"]
    reached: Bool[Array, "T"]
    idle: Float[Array, "D"]


def _scaled(x: Float[Array, "T D"], mask: Array) -> Float[Array, "T D"]:
    return x * mask.astype(x.dtype)[:, None]


def _last(tokens: Array, length: Any) -> Any:
    return (tokens.shape[0] if length is None else length) - 1
