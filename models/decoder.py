"""The one decoder: a Flax NNX module used as a typed pytree, its forward pass a pure function of an edge mask.

Both passes scan over stacked layers. ``masked_forward`` multiplies every edge's vector by its mask (section 4 of the
method); ``clean_forward`` returns what the edge scores need as a value, without hooks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

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
    """A pre-norm decoder (RMSNorm, rotary positions, grouped-query attention, gated MLP).

    Calling it runs ``masked_forward``: ``model(tokens[T], mask) -> logits[V]`` for the token after the last.
    """

    def __init__(self, config: ModelConfig, params: Params) -> None:
        self.config = config
        self.embed = nnx.Param(params["embed"])
        self.layers = Layer(params["layers"])
        self.final_norm = nnx.Param(params["final_norm"])
        self.head = nnx.Param(params["head"]) if "head" in params else None

    def __call__(self, tokens: Int[AnyArray, "T"], mask: EdgeTree, *, pre_softmax: bool = False) -> Float32[Array, "V"]:
        """Next-token logits under an edge mask (bool, or float in [0, 1] for soft masks)."""
        mask = jax.tree.map(jnp.asarray, mask)
        return masked_forward(self, jnp.asarray(tokens), mask, pre_softmax=pre_softmax)

    def next_token_logits(self, x: Float[Array, "D"]) -> Float32[Array, "V"]:
        """Final norm and output head of one residual state, in float32."""
        x = fn.rms_norm(x, self.final_norm[...], self.config.norm_eps)
        head = self.embed if self.head is None else self.head
        return fn.contract("d,vd->v", x, head[...], out=jnp.float32)


def project_qkv(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"]
) -> tuple[Float[Array, "R K G d"], Float[Array, "R K d"], Float[Array, "R K d"]]:
    """Queries (by key/value head and group), keys and values of rows of the residual stream; no positions yet."""
    x = fn.rms_norm(x, w["attn_norm"], config.norm_eps)
    q = fn.contract("rd,dhe->rhe", x, w["q"]).reshape(-1, config.n_kv_heads, config.n_groups, config.head_dim)
    return q, fn.contract("rd,dke->rke", x, w["k"]), fn.contract("rd,dke->rke", x, w["v"])


def project_out(w: Mapping[str, Array], mixed: Float[Array, "R H d"]) -> Float[Array, "R D"]:
    """Sum over heads of W_O applied to the mixed values."""
    return fn.contract("rhe,hed->rd", mixed, w["o"])


def mlp(config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"]) -> Float[Array, "R D"]:
    """The MLP edge of rows of the residual stream, its norm included."""
    return fn.swiglu(fn.rms_norm(x, w["mlp_norm"], config.norm_eps), w["gate"], w["up"], w["down"])


# --- the clean pass -------------------------------------------------------------------------------------------------


@runtime_checkable
class Measure(Protocol):
    """How large an edge is, given its vector and the node that it enters (Eq. 1); both in float32."""

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """Magnitude of residual and MLP edges."""
        ...

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """Magnitude of the edges ``probs[h,i,j] * values[h,j]``, where ``values`` are the W_O v of each head."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Clean:
    """What a clean pass returns: next-token logits and the magnitude of every edge."""

    logits: Float32[Array, "V"]
    magnitudes: EdgeTree


def clean_forward(
    model: Decoder, tokens: Int[Array, "T"], measure: Measure, *, length: Int[Array, ""] | int | None = None
) -> Clean:
    """The full forward pass, with the magnitude of each edge's vector at the node that it enters.

    The final norm is linearised onto the last node: vectors into level 2L carry its weight. Tokens from ``length`` on
    are padding: they change nothing before them, and their magnitudes mean nothing.
    """
    config, n_tokens = model.config, tokens.shape[0]
    cos, sin = fn.rope_tables(config, n_tokens)
    visible = fn.causal(n_tokens)
    gains = jnp.ones((config.n_layers, config.d_model), jnp.float32)
    gains = gains.at[-1].set(model.final_norm[...].astype(jnp.float32))

    def step(x: Array, inputs: tuple[Layer, Array]) -> tuple[Array, EdgeTree]:
        layer, gain = inputs
        w = layer.weights()
        q, k, v = project_qkv(config, w, x)
        logits = fn.attention_logits(fn.rotate(q, cos, sin), fn.rotate(k, cos, sin))
        probs = fn.attention_probs(logits, visible)
        middle = x + project_out(w, fn.mix_values(probs, v))
        mlp_edge = mlp(config, w, middle)
        out = middle + mlp_edge
        grouped_o = w["o"].reshape(config.n_kv_heads, config.n_groups, config.head_dim, config.d_model)
        values = fn.contract("ske,kged->kgsd", v, grouped_o, out=jnp.float32)
        node, last = middle.astype(jnp.float32), out.astype(jnp.float32) * gain
        return out, EdgeTree(
            residual_attn=measure.vector(x.astype(jnp.float32), node),
            attn=measure.attention(probs, values.reshape(config.n_heads, n_tokens, -1), node),
            residual_mlp=measure.vector(middle.astype(jnp.float32) * gain, last),
            mlp=measure.vector(mlp_edge.astype(jnp.float32) * gain, last),
        )

    x, magnitudes = jax.lax.scan(step, model.embed[...][tokens], (model.layers, gains))
    return Clean(model.next_token_logits(x[_last(tokens, length)]), magnitudes)


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
    config, n_tokens = model.config, tokens.shape[0]
    cos, sin = fn.rope_tables(config, n_tokens)
    visible = fn.causal(n_tokens)

    def qkv_rows(w: Mapping[str, Array], x: Array) -> tuple[Array, ...]:
        return project_qkv(config, w, x)

    def mlp_rows(w: Mapping[str, Array], x: Array) -> Array:
        return mlp(config, w, x)

    def step(carry: tuple[Array, Array], inputs: tuple[Layer, EdgeTree]) -> tuple[tuple[Array, Array], None]:
        x, reached = carry
        layer, layer_edges = inputs
        w, mask = layer.weights(), keep(layer_edges)
        targets = jnp.any((mask.attn != 0) & visible, axis=(0, 2))
        # Keys of unreached tokens stay in the denominator, but they are zero; keys after the last target are not read.
        sources = reached & (jax.lax.cummax(targets.astype(jnp.int32), reverse=True) > 0)
        q, k, v = row_map(qkv_rows, w, x, targets | sources)
        logits = fn.attention_logits(fn.rotate(q, cos, sin), fn.rotate(k, cos, sin))
        probs = fn.masked_attention_probs(logits, visible, mask.attn, pre_softmax=pre_softmax)
        attn = row_map(project_out, {"o": w["o"]}, fn.mix_values(probs, v), targets)
        x = _scaled(x, mask.residual_attn) + attn
        x = _scaled(x, mask.residual_mlp) + _scaled(row_map(mlp_rows, w, x, mask.mlp != 0), mask.mlp)
        return (x, (mask.residual_mlp != 0) | (mask.mlp != 0)), None

    start = (model.embed[...][tokens], jnp.ones(n_tokens, bool))
    (x, _), _ = jax.lax.scan(step, start, (model.layers, edges))
    return model.next_token_logits(x[_last(tokens, length)])


def _scaled(x: Float[Array, "T D"], mask: Array) -> Float[Array, "T D"]:
    return x * mask.astype(x.dtype)[:, None]


def _last(tokens: Array, length: Any) -> Any:
    return (tokens.shape[0] if length is None else length) - 1
