"""Hidden states of an input on the host, for the shape of their cloud (``method.measure.geometry``)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from jstrace.method.measure.geometry import Geometry, geometry
from jstrace.models import AnyArray, Decoder, Model, hidden_states
from jstrace.models.platforms import usual_promotion
from jstrace.scale import batching, meshes


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
