"""The clean pass: the full forward pass, and as a value what edge scores and replacements need of it, without hooks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jstrace.models import layers as fn
from jstrace.models.attended import Attended, AttentionEdges, Held, attended, attention_edges
from jstrace.models.config import ModelConfig
from jstrace.models.decoder import Decoder, Layer
from jstrace.models.edges import ByValue, EdgeTree, Score
from jstrace.models.forms import Form, forms_of, wide
from jstrace.models.mlp import mlp
from jstrace.models.platforms import usual_promotion
from jstrace.models.replacement import Replacement


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Clean(ByValue):
    """What a clean pass returns: next-token logits, of one output or several, and the magnitude of every edge."""

    logits: Float32[Array, "*A V"]
    magnitudes: EdgeTree


@usual_promotion()
def clean_forward(
    model: Decoder,
    tokens: Int[Array, "T"],
    measure: Score,
    *,
    length: Int[Array, ""] | int | None = None,
    n_outputs: int | None = None,
) -> Clean:
    """The full forward pass, with the magnitude of each edge's vector at the node that it enters.

    Norms after a sub-layer and the final norm are linearised (section 1): attention vectors carry the post-norm's
    weight and the inverse RMS of all attention at their target; vectors into the output node carry the final norm's
    weight, and under LayerNorm lose their mean. Tokens from ``length`` on are padding: they change nothing before
    them, and their magnitudes mean nothing. A measure may return several values of an edge as a tuple. With
    ``n_outputs`` the logits are those after each of the last so many tokens, ``[A, V]``.
    """
    forms, n_heads = forms_of(model.config, tokens.shape[0], length), model.config.n_heads

    def measured(edges: AttentionEdges, node: Array, *final: Callable[[Array], Array]) -> Any:
        leaves = edges.magnitudes(measure, node, *final)
        return jax.tree.map(lambda each: wide(each, n_heads, *each.shape[1:]), leaves)

    def step(form: Form, x: Array, inputs: tuple[Layer, Array, Array]) -> tuple[Array, EdgeTree]:
        layer, kind, last = inputs
        config, w = form.config, layer.weights()
        edges, attn = attention_edges(config, w, x, fn.of_kind(form.sights, kind))
        final = functools.partial(_into_output, model, last)
        middle = fn.with_constants(w, x + attn)
        edge = mlp(config, w, x if config.parallel else middle)
        left, edge = fn.leaving(w, middle), fn.leaving(w, edge)
        out = left + edge
        node, wide_x = final(out), x.astype(jnp.float32)
        if config.parallel:
            attention = measured(edges, node, final)
            skip = measure.vector(final(x), node)
            return out, EdgeTree(skip, attention, jax.tree.map(jnp.zeros_like, skip), measure.vector(final(edge), node))
        wide_middle = middle.astype(jnp.float32)
        return out, EdgeTree(
            residual_attn=measure.vector(wide_x, wide_middle),
            attn=measured(edges, wide_middle),
            residual_mlp=measure.vector(final(left), node),
            mlp=measure.vector(final(edge), node),
        )

    kinds, last = jnp.asarray(model.config.kinds), jnp.arange(model.config.n_layers) == model.config.n_layers - 1
    x, magnitudes = model.over(step, model.embedded(tokens), forms, kinds, last)
    logits = model.output_logits(x, tokens.shape[0] if length is None else length, n_outputs)
    return Clean(logits, magnitudes)


def _into_output(model: Decoder, last: Bool[Array, ""], x: Float[Array, "*R D"]) -> Float32[Array, "*R D"]:
    """Vectors in float32; under the final norm's linear part if the layer is the last one."""
    wide = x.astype(jnp.float32)
    if model.final_norm is None:
        return wide
    if model.config.norm == "layer":
        wide = wide - jnp.where(last, jnp.mean(wide, axis=-1, keepdims=True), 0.0)
    return wide * jnp.where(last, fn.gain(model.config, model.final_norm[...]), 1.0)


class LayerStates(NamedTuple):
    """What a layer of the full pass makes of the residual stream of some tokens."""

    attended: Attended
    middle: Float[Array, "T D"]
    """The residual stream after attention."""
    edge: Float[Array, "T D"]
    """What the MLP adds."""
    out: Float[Array, "T D"]
    """The residual stream after the layer."""

    def wide(self, config: ModelConfig) -> LayerStates:
        """With zeros for the heads and widths that other forms of layers have and this one does not."""
        return self._replace(attended=self.attended.wide(config))


def layer_states(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "T D"], sight: fn.Sight, held: Held | None = None
) -> LayerStates:
    """One layer of the full pass; ``held`` adds keys and values that were computed before."""
    attention = attended(config, w, x, sight, held)
    mixed = attention.mixed(config, w)
    middle = fn.with_constants(w, x + fn.attention_output(config, fn.turned(w), mixed))
    edge = mlp(config, w, x if config.parallel else middle)
    return LayerStates(attention, middle, edge, fn.leaving(w, middle + edge))


def over_clean_layers(
    model: Decoder,
    tokens: Int[Array, "T"],
    forms: tuple[Form, ...],
    take: Callable[[Float[Array, "T D"], LayerStates], Any],
) -> tuple[Float[Array, "T D"], Any]:
    """The residual stream after all layers, and what ``take`` gives of each layer's input and states, stacked.

    ``take`` gives one shape in all forms of layers (``LayerStates.wide``).
    """

    def step(form: Form, x: Array, inputs: tuple[Layer, Array]) -> tuple[Array, Any]:
        layer, kind = inputs
        states = layer_states(form.config, layer.weights(), x, fn.of_kind(form.sights, kind))
        return states.out, take(x, states.wide(model.config))

    return model.over(step, model.embedded(tokens), forms, jnp.asarray(model.config.kinds))


@usual_promotion()
def plain_forward(
    model: Decoder, tokens: Int[Array, "T"], *, length: Int[Array, ""] | int | None = None, every: bool = False
) -> Float32[Array, "*T V"]:
    """Logits of the full pass, without masks: for the token after the last, ``[V]``, or after every one, ``[T, V]``.

    Args:
      model: the decoder.
      tokens: token ids, of which those from ``length`` on are padding.
      length: number of true tokens; all by default.
      every: whether the logits after every token are wanted; those after padding mean nothing.
    """
    x, _ = over_clean_layers(model, tokens, forms_of(model.config, tokens.shape[0], length), lambda *_: None)
    if every:
        return jax.vmap(model.next_token_logits)(x)
    return model.output_logits(x, tokens.shape[0] if length is None else length, None)


@usual_promotion()
def hidden_states(
    model: Decoder,
    tokens: Int[Array, "T"],
    *,
    length: Int[Array, ""] | int | None = None,
    take: Callable[[Replacement], Any] = lambda states: states,
) -> Any:
    """The states of a clean pass that other passes may carry in the place of ablated edges: ``[L, T, ...]`` each.

    Those of a token do not depend on the tokens after it, so a prefix of them is what a prefix of the tokens gives (but
    where longrope, which goes by the length, changes its frequencies).

    Args:
      model: the decoder.
      tokens: token ids.
      length: number of true tokens; all by default.
      take: from the states of a layer, ``[T, ...]`` each, to what is kept of them; all by default.

    Returns:
      What ``take`` gives, on a leading axis of layers.
    """

    def taken(x: Array, states: LayerStates) -> Any:
        return take(Replacement(x, states.attended.values, states.middle, states.edge, per_token=True))

    return over_clean_layers(model, tokens, forms_of(model.config, tokens.shape[0], length), taken)[1]
