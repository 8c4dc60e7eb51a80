"""What a full pass of one input computes on the way (``jstrace.activations``), and the geometry of its states."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from jstrace.method.graph import full_graph
from jstrace.method.measure.geometry import Geometry, geometry
from jstrace.models import AnyArray, Decoder, InputError, Model, hidden_states
from jstrace.models.clean import LayerStates, over_clean_layers
from jstrace.models.edges import ByValue
from jstrace.models.forms import forms_of
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.inputs import Tokens, token_texts, tokenised
from jstrace.scale import batching, meshes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Activations(ByValue):
    """The residual stream, attention probabilities and the logit lens of one input; float32 on the host.

    Examples:
      >>> jstrace.activations(model, text)
      Activations(7 levels, 7 tokens, width 32)
    """

    residual: Float32[np.ndarray, "N T D"]
    """The residual stream at the N levels of the graph: embeddings, then after attention and after the MLP of each
    layer, or once a layer where blocks are parallel."""
    attention: Float32[np.ndarray, "L H T T"]
    """How much each head of each layer reads, ``[layer, head, target token, source token]``; of a linear attention the
    factors of its values, of either sign, before the norm of the head's output."""
    lens: Float32[np.ndarray, "N V"]
    """Logits that the final norm and the head make of the last token's residual stream at each level (the logit lens);
    those of the last level are the model's."""
    token_texts: tuple[str, ...] | None
    """Each token as text, if the model has a tokenizer."""

    def __repr__(self) -> str:
        levels, n_tokens, width = self.residual.shape
        return f"Activations({levels} levels, {n_tokens} tokens, width {width})"


def activations(model: Model, tokens: Tokens) -> Activations:
    """What the full pass of one input computes on the way.

    Args:
      model: from ``jstrace.load``.
      tokens: a text, or its token ids.

    Examples:
      >>> seen = jstrace.activations(model, text)
      >>> seen.attention[2, 0, -1].shape  # what head 0 of layer 2 reads at the last token
      (7,)
      >>> seen.lens.argmax(axis=-1).shape  # what each level would predict
      (7,)

    Raises:
      InputError: several inputs, none, or more tokens than the model has positions for.
    """
    single, rows = tokenised(model, tokens)
    if not single:
        raise InputError("activations takes one input: a text or its token ids")
    length = len(rows[0])
    full_graph.check_slots(model.config, length, batching.bucket)
    ids, _ = batching.padded(rows, batching.bucket(length), 1)
    residual, attention, lens = jax.device_get(_computed(model.decoder, ids[0], np.int32(length)))
    texts = token_texts(model, rows[0])
    return Activations(residual[:, :length], attention[..., :length, :length], lens, texts)


@jax.jit
@usual_promotion()
def _computed(
    decoder: Decoder, tokens: Int[AnyArray, "T"], length: Int[AnyArray, ""]
) -> tuple[Float32[Array, "N T D"], Float32[Array, "L H T T"], Float32[Array, "N V"]]:
    config = decoder.config

    def taken(x: Array, states: LayerStates) -> tuple[Array, Array]:
        levels = (x,) if config.parallel else (x, states.middle)
        return jnp.stack(levels), states.attended.factors

    forms = forms_of(config, tokens.shape[0], length)
    last, (levels, attention) = over_clean_layers(decoder, jnp.asarray(tokens), forms, taken)
    residual = jnp.concatenate([levels.reshape(-1, *last.shape), last[None]])
    lens = jax.vmap(decoder.next_token_logits)(residual[:, length - 1])
    return residual.astype(jnp.float32), attention, lens


def geometry_of(model: Model, tokens: Int[np.ndarray, "T"]) -> Geometry:
    """Intrinsic dimension and anisotropy of the states of all tokens after each layer, before the final norm.

    Of an input by itself, so that no digit of it depends on what else is computed.
    """
    batch = meshes.placed(batching.padded([tokens], batching.bucket(len(tokens)), 1), model.mesh)
    states = meshes.fetched(states_batch(model.decoder, *batch, mesh=model.mesh))[0]
    return geometry(np.asarray(states)[:, : len(tokens)])


@functools.partial(jax.jit, static_argnames=("mesh",))
@usual_promotion()
def states_batch(
    decoder: Decoder, tokens: Int[AnyArray, "B T"], lengths: Int[AnyArray, "B"], *, mesh: Mesh | None = None
) -> Float32[Array, "B L T D"]:
    """The residual stream after each layer of a padded batch."""

    def run(decoder: Decoder, tokens: Array, lengths: Array) -> Array:
        def of_input(tokens: Array, length: Array) -> Array:
            stream = hidden_states(
                decoder, tokens, length=length, take=lambda states: states.mlp_input + states.mlp_output
            )
            return stream.astype(jnp.float32)

        return jax.vmap(of_input)(tokens, lengths)

    return meshes.over_inputs(run, mesh, tokens.shape[0])(decoder, tokens, lengths)
