"""Text that a model goes on with: keys and values of the prefix are computed once and kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from jstrace.models import layers as fn
from jstrace.models.clean import layer_states, over_clean_layers
from jstrace.models.decoder import Decoder, Layer
from jstrace.models.edges import AnyArray, ByValue
from jstrace.models.forms import Form, forms_of
from jstrace.models.platforms import usual_promotion

CHOSEN = -1
"""In the place of a token that is given: it is to be chosen."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Continued(ByValue):
    """Tokens that a model added to a prompt."""

    tokens: Int[AnyArray, "*N"]
    logprobs: Float32[AnyArray, "*N"]
    """Of each under the model's own prediction, at temperature 1; NaN where that is not finite."""


@usual_promotion()
def continued(
    model: Decoder,
    tokens: Int[Array, "T"],
    length: Int[Array, ""] | int,
    key: Array,
    temperature: Float32[Array, ""] | float,
    given: Int[Array, "N"] | None = None,
    *,
    count: int,
) -> Continued:
    """``count`` tokens after a prompt: a pass over the prompt, then one over a single token for each.

    Args:
      model: the decoder.
      tokens: the prompt, padded to at least ``length + count`` tokens.
      length: true tokens of the prompt; with longrope, that and ``length + count - 1`` are on one side of its switch.
      key: of draws; each token's is folded from it and the number of tokens before it.
      temperature: that logits are divided by before a draw; at 0 the most probable token is taken.
      given: tokens that are taken whatever is predicted; ``CHOSEN`` where one is to be chosen, by default all.
      count: tokens to add; static.
    """
    forms = forms_of(model.config, tokens.shape[0], length)
    known = jnp.full(count, CHOSEN, jnp.int32) if given is None else given
    x, cache = over_clean_layers(model, tokens, forms, lambda _, states: states.attended.kept)

    def step(state: tuple[Array, Any, Array], added: Array) -> tuple[tuple[Array, Any, Array], Continued]:
        tokens, cache, logits = state
        place = length + added
        token = _chosen(logits, jax.random.fold_in(key, place), temperature)
        token = jnp.where(known[added] == CHOSEN, token, known[added])
        logprob = jnp.where(jnp.all(jnp.isfinite(logits)), jax.nn.log_softmax(logits)[token], jnp.nan)
        tokens = tokens.at[place].set(token)
        x, cache = _over_one(model, jax.lax.dynamic_slice_in_dim(model.embedded(tokens), place, 1), cache, place, forms)
        return (tokens, cache, model.next_token_logits(x[0])), Continued(token, logprob)

    start = (tokens, cache, model.next_token_logits(x[length - 1]))
    _, generated = jax.lax.scan(step, start, jnp.arange(count))
    return generated


def _chosen(logits: Float32[Array, "V"], key: Array, temperature: Float32[Array, ""] | float) -> Int[Array, ""]:
    """The most probable token, or a draw."""
    warm = jnp.asarray(temperature, jnp.float32)
    drawn = jax.random.categorical(key, logits / jnp.where(warm > 0, warm, 1.0))
    return jnp.where(warm > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)


def _over_one(
    model: Decoder, x: Float[Array, "1 D"], cache: Any, place: Int[Array, ""], forms: tuple[Form, ...]
) -> tuple[Float[Array, "1 D"], Any]:
    """The last state of the token at ``place``, and the cache with it."""

    def step(form: Form, x: Array, inputs: tuple[Layer, Array, Any]) -> tuple[Array, Any]:
        layer, kind, cached = inputs
        sight = fn.of_kind(form.sights, kind)
        own = jax.tree.map(lambda table: jax.lax.dynamic_slice_in_dim(table, place, 1), sight)

        def held(*new: Array) -> Any:
            return tuple(_with_row(old, update, place) for old, update in zip(cached, new, strict=False))

        states = layer_states(form.config, layer.weights(), x, own, held)
        return states.out, states.wide(model.config).attended.kept

    return model.over(step, x, forms, jnp.asarray(model.config.kinds), cache)


def _with_row(held: Float[Array, "S K d"], row: Float[Array, "1 M e"], place: Int[Array, ""]) -> Float[Array, "S M e"]:
    """What is kept of a layer's heads, with the row of one more token."""
    own = held[:, : row.shape[1], : row.shape[2]]
    return jax.lax.dynamic_update_slice_in_dim(own, row.astype(held.dtype), place, 0)
