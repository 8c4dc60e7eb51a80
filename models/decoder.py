"""The one decoder: a Flax NNX module used as a typed pytree, its forward pass a pure function of an edge mask.

``masked_forward`` scans over stacked layers and multiplies every edge's vector by its mask (section 4 of the method);
what is ablated carries nothing, or a ``Replacement`` (section 8). The full pass is in ``clean``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from jstrace.errors import InputError
from jstrace.models import layers as fn
from jstrace.models import masked
from jstrace.models.config import ModelConfig
from jstrace.models.edges import AnyArray, EdgeTree
from jstrace.models.forms import Form, Step, forms_of, of_heads, over_forms
from jstrace.models.narrow import rows_product, widened
from jstrace.models.params import Params
from jstrace.models.platforms import usual_promotion
from jstrace.models.replacement import Replacement
from jstrace.models.rows import RowMap, every_row
from jstrace.models.slots import check_softmax


class Layer(nnx.Module):
    """Weights of one layer; in a ``Decoder`` every leaf is stacked on a leading layer axis, for ``jax.lax.scan``.

    Where layers are unlike, a ``Decoder`` has one that holds another for each form.
    """

    def __init__(self, weights: Mapping[str, Any]) -> None:
        for name, value in weights.items():
            setattr(self, name, Layer(value) if isinstance(value, Mapping) else nnx.Param(value))

    def stacks(self) -> list[Layer]:
        """The stacks of every form of layer."""
        stacks = {int(name): value for name, value in vars(self).items() if isinstance(value, Layer)}
        return [stacks[form] for form in range(len(stacks))] or [self]

    def weights(self) -> dict[str, Array]:
        """The arrays of one layer by name, wide: what every pass computes with."""
        return {name: widened(weight) for name, weight in self.stored().items()}

    def stored(self) -> dict[str, Any]:
        """The weights by name, as they are stored."""
        inner = {name: value.stored() for name, value in vars(self).items() if isinstance(value, Layer)}
        return inner or {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}


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
        self.final_norm = nnx.Param(params["final_norm"]) if "final_norm" in params else None
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
        """The nested dict of arrays, some of them ``Narrow``, that it was made of."""
        top = {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}
        return {**top, "layers": self.layers.stored()}

    def over(
        self, step: Step, start: Any, forms: tuple[Form, ...], *others: Any, remat: bool = False
    ) -> tuple[Any, Any]:
        """``forms.over_forms`` of its layers."""
        return over_forms(step, start, forms, self.config.form_of, self.layers.stacks(), *others, remat=remat)

    def embedded(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        """Level 0 of the graph: scaled embeddings, with learned positions where the family has them."""
        x = widened(self.embed[...][tokens])
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
        logits_of = functools.partial(self.next_token_logits, relevance=relevance)
        if n_outputs is None:
            return logits_of(x[length - 1])
        return jax.vmap(logits_of)(jax.lax.dynamic_slice_in_dim(x, length - n_outputs, n_outputs))

    def next_token_logits(self, x: Float[Array, "D"], *, relevance: bool = False) -> Float32[Array, "V"]:
        """Final norm and output head of one residual state, in float32."""
        norms = {"final_norm": self.final_norm, "final_norm_shift": self.final_norm_shift}
        w = {name: param[...] for name, param in norms.items() if param is not None}
        x = fn.norm(self.config, w, "final_norm", x, frozen=relevance)
        head = self.embed if self.head is None else self.head
        logits = rows_product(fn.contract, x, head[...])
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
    if replace is not None and pre_softmax:
        raise InputError("pre_softmax removes edges from the softmax, so that nothing is left to replace")
    check_softmax(model.config, pre_softmax=pre_softmax)
    forms = forms_of(model.config, tokens.shape[0], length)
    masked_layer = masked.zeroed if replace is None else masked.replaced

    def step(
        form: Form, state: masked.State, inputs: tuple[Layer, EdgeTree, Array, Replacement | None]
    ) -> tuple[masked.State, None]:
        layer, layer_edges, kind, other = inputs
        layer_edges, sight = of_heads(layer_edges, form.config), fn.of_kind(form.sights, kind)
        mix = functools.partial(masked.by_queries, n_queries, keep, layer_edges)
        given = masked.Given(layer.weights(), keep(layer_edges), sight, other, pre_softmax, row_map, mix, relevance)
        return masked_layer(form.config, given, state), None

    x, bare = model.embedded(tokens), None if replace is None else replace.bare()
    start = masked.State(x, jnp.ones(x.shape[:1], bool), jnp.zeros_like(x[0] if replace is None else x))
    state, _ = model.over(step, start, forms, edges, jnp.asarray(model.config.kinds), bare, remat=remat)
    return model.output_logits(state.x, tokens.shape[0] if length is None else length, n_outputs, relevance=relevance)
