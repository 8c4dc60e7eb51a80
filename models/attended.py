"""What the attention of a layer makes of the states of a full pass: factors, values and gates, whatever the mixer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jstrace.models import delta, mamba
from jstrace.models import layers as fn
from jstrace.models.config import ModelConfig
from jstrace.models.edges import Score
from jstrace.models.forms import wide

LINEAR = {"delta": delta.attended, "mamba": mamba.attended}
"""Of attention without a softmax: factors, values and gates from projections."""
Held = Callable[..., Any]
"""From what is kept of a layer's own tokens to that of all tokens that they see."""


def gates(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> Float[Array, "R H e"]:
    """What rows of the residual stream multiply their heads by: constants in gradients with ``relevance``."""
    x = fn.norm(config, w, "attn_norm", x, frozen=relevance) if config.pre_norm else x
    factors = jax.nn.sigmoid(fn.contract("rd,dhe->rhe", x, w["o_gate"]))
    return jax.lax.stop_gradient(factors) if relevance else factors


def gated(
    config: ModelConfig,
    w: Mapping[str, Array],
    mixed: Float[Array, "R H e"],
    gate: Float[Array, "R H e"] | None,
    *,
    relevance: bool = False,
) -> Float[Array, "R H e"]:
    """What heads mix, under their gates; where attention has no softmax, normalised."""
    if gate is None:
        return mixed
    if config.mixer == "softmax":
        return (mixed * gate).astype(mixed.dtype)
    scale = _inverse(config, mixed, gate)
    scale = jax.lax.stop_gradient(scale) if relevance else scale
    return (mixed.astype(jnp.float32) * scale * _weighted(config, w, gate)).astype(mixed.dtype)


def _inverse(config: ModelConfig, mixed: Float[Array, "R H e"], gate: Float[Array, "R H e"]) -> Float32[Array, "R H 1"]:
    """One over the root mean square of what a head mixes, or of what a group of heads does under its gates."""
    if config.mixer == "delta":
        return fn.inverse_rms(mixed, config.norm_eps if config.delta_eps is None else config.delta_eps)
    groups = (mixed.astype(jnp.float32) * gate).reshape(mixed.shape[0], config.n_kv_heads, -1)
    return jnp.repeat(fn.inverse_rms(groups, config.norm_eps), config.n_groups, axis=1)


def _weighted(config: ModelConfig, w: Mapping[str, Array], gate: Float[Array, "R H e"]) -> Float[Array, "R H e"]:
    """Gates, with the weight of the norm of what heads mix where there is one."""
    return gate if config.mixer == "softmax" else w["o_norm"].astype(jnp.float32) * gate


class Attended(NamedTuple):
    """Of a layer: ``factors[h,i,j]`` and ``values[j]``, under the gate of the target, make the attention edges."""

    kept: tuple[Float[Array, "S N M"], ...]
    """What later tokens need: turned keys and values, or without a softmax projections (``delta``)."""
    factors: Float32[Array, "H T S"]
    """How much each head reads of each source."""
    values: Float[Array, "S N e"]
    """Of N heads, which share them by groups."""
    gate: Float[Array, "T H e"] | None

    def mixed(self, config: ModelConfig, w: Mapping[str, Array]) -> Float[Array, "T H e"]:
        """What each head gives to the output projection."""
        return gated(config, w, fn.mix_values(self.factors, self.values), self.gate)

    def wide(self, config: ModelConfig) -> Attended:
        """With zeros for what other forms of layers have and this one does not, but for gates."""
        n_heads, _, value = config.widest
        lacking = len(_kept_shapes(config)) - len(self.kept)
        padded = self.kept + lacking * (jnp.zeros((self.values.shape[0], 1, 1), self.values.dtype),)
        return Attended(
            tuple(wide(each, *shape) for each, shape in zip(padded, _kept_shapes(config), strict=True)),
            wide(self.factors, config.n_heads, *self.factors.shape[1:]),
            wide(self.values, n_heads, value),
            self.gate,
        )


def _kept_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """The largest of all forms of layers."""

    def of_form(form: ModelConfig) -> tuple[tuple[int, int], ...]:
        key, value = (form.n_kv_heads, form.head_dim), (form.n_value_heads, form.value_width)
        return (key, key, value, (form.n_heads, 2)) if form.mixer in LINEAR else (key, value)

    each = itertools.zip_longest(*map(of_form, config.layer_forms), fillvalue=(1, 1))
    return [(max(heads), max(widths)) for heads, widths in (zip(*shapes, strict=True) for shapes in each)]


def attended(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "T D"], sight: fn.Sight, held: Held | None = None
) -> Attended:
    """The attention of a layer's input; ``held`` adds what was computed of other tokens before."""
    if config.mixer == "none":
        return Attended((), *nothing(config, x, sight), None)
    if config.mixer in LINEAR:
        own = delta.project(config, w, x)
        cached = (own.q, own.k, own.v, jnp.stack([own.decay, own.strength], axis=-1))
        cached = cached if held is None else held(*cached)
        q, k, v, rates = cached
        rows = delta.Projected(q, k, v, own.gate, decay=rates[..., 0], strength=rates[..., 1])
        return Attended(cached, *LINEAR[config.mixer](config, w, rows, sight.visible))
    q, k, v = fn.project_qkv(config, w, x)
    keys = fn.positioned(config, w, "k", k, sight)
    if held is not None:
        keys, v = held(keys, v)
    logits = fn.attention_logits(config, fn.positioned(config, w, "q", q, sight), keys)
    factors = fn.attention_probs(logits, sight.visible, w.get("sink"))
    return Attended((keys, v), factors, v, gates(config, w, x) if config.gated_attention else None)


def nothing(
    config: ModelConfig, x: Float[Array, "T D"], sight: fn.Sight
) -> tuple[Float32[Array, "H T S"], Float[Array, "S N e"]]:
    """Factors and values of a layer without attention, all zero."""
    values = jnp.zeros((sight.visible.shape[1], config.n_value_heads, config.value_width), x.dtype)
    return jnp.zeros((config.n_heads, *sight.visible.shape), jnp.float32), values


class AttentionEdges(NamedTuple):
    """The vectors of a layer's attention edges, as factors of them."""

    factors: Float32[Array, "H T S"]
    values: Float[Array, "H S D"] | Float[Array, "S N e"]
    """Vectors ``[H,S,D]``; where there is a gate values, which it and ``o`` make vectors of."""
    gate: Float[Array, "T H e"] | None
    o: Float[Array, "H e D"]

    def magnitudes(
        self, measure: Score, node: Float32[Array, "T D"], final: Callable[[Array], Array] = lambda vectors: vectors
    ) -> Any:
        """What ``measure`` says of ``factors * final(values)``, ``[H,T,S]``; under gates one target at a time.

        A sign goes from the factor into the value, so that no measure sees negative factors.
        """
        if self.gate is None:
            return measure.attention(self.factors, final(self.values), node)
        groups = self.gate.shape[1] // self.values.shape[1]
        values = jnp.repeat(jnp.swapaxes(self.values, 0, 1), groups, axis=0)

        def target(inputs: tuple[Array, Array, Array]) -> Any:
            factors, gate, own = inputs
            vectors = fn.contract(
                "hse,hed->hsd", (values * gate[:, None]).astype(values.dtype), self.o, out=jnp.float32
            )
            vectors = final(vectors * jnp.sign(factors)[:, :, None])
            return jax.tree.map(
                lambda leaf: leaf[:, 0], measure.attention(jnp.abs(factors)[:, None], vectors, own[None])
            )

        each = jnp.swapaxes(self.factors, 0, 1), self.gate, node
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), jax.lax.map(target, each))


def attention_edges(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "T D"], sight: fn.Sight
) -> tuple[AttentionEdges, Float[Array, "T D"]]:
    """The attention edges of a layer's input, and their sum; norms after them are linearised."""
    attention = attended(config, w, x, sight)
    if attention.gate is not None:
        gate, mixed = attention.gate, fn.mix_values(attention.factors, attention.values)
        factors = attention.factors
        if config.mixer in LINEAR:
            factors = factors * jnp.swapaxes(_inverse(config, mixed, gate)[..., 0], 0, 1)[:, :, None]
        whole = fn.contract("rhe,hed->rd", gated(config, w, mixed, gate), w["o"])
        return AttentionEdges(factors, attention.values, _weighted(config, w, gate), w["o"]), whole
    probs, v = attention.factors, attention.values
    if config.mixer == "none":
        vectors = jnp.zeros((config.n_heads, v.shape[0], config.d_model), jnp.float32)
        return AttentionEdges(probs, vectors, None, vectors[:, :0]), jnp.zeros_like(x)
    mixed = fn.mix_values(probs, v)
    grouped_o = w["o"].reshape(config.n_kv_heads, config.n_groups, config.value_width, config.d_model)
    values = fn.contract("ske,kged->kgsd", v, grouped_o, out=jnp.float32)
    values = values.reshape(config.n_heads, x.shape[0], config.d_model)
    whole = fn.contract("rhe,hed->rd", mixed, w["o"])
    if not config.post_norm:
        return AttentionEdges(probs, values, None, w["o"]), whole
    inverse = fn.inverse_rms(whole, config.norm_eps)
    weight = fn.gain(config, w["attn_post_norm"])
    normed = fn.norm(config, w, "attn_post_norm", whole)
    return AttentionEdges(probs * inverse[None, :, 0, None], values * weight, None, w["o"]), normed
