"""Two or three products with an activation between them: an MLP, or one expert of many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jstrace.models.config import ModelConfig
from jstrace.models.layers import contract
from jstrace.models.relevance import in_proportion, with_slope

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def _xielu(w: Mapping[str, Array], x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Quadratic above zero and an exponential integrated below, with numbers of the layer (arXiv 2411.13010)."""
    above, below = jax.nn.softplus(w["alpha_p"]), w["beta"] + jax.nn.softplus(w["alpha_n"])
    return jnp.where(x > 0, above * x * x, (jnp.expm1(jnp.minimum(x, w["eps"])) - x) * below) + w["beta"] * x


def feed_forward(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> Float[Array, "R D"]:
    """``down(act(gate x) * up x)``, or ``down(act(up x))`` without a gate; biases where there are any.

    With ``relevance`` gradients take the activation ``in_proportion``, and half of them goes to each factor of a gate.
    """
    if config.gate_clamp is not None:
        hidden = _clamped(config.gate_clamp, _affine(w, "gate", x), _affine(w, "up", x), relevance=relevance)
        return _affine(w, "down", hidden)
    activation = functools.partial(_xielu, w) if config.activation == "xielu" else _ACTIVATIONS[config.activation]
    if relevance:
        activation = functools.partial(in_proportion, activation)
    hidden = _affine(w, "up", x)
    hidden = activation(_affine(w, "gate", x)) * hidden if config.gated_mlp else activation(hidden)
    if relevance and config.gated_mlp:
        hidden = with_slope(hidden, hidden, 0.5)
    return _affine(w, "down", hidden)


def _clamped(clamp: tuple[float, ...], gate: Array, up: Array, *, relevance: bool) -> Array:
    alpha, limit = clamp

    def act(x: Array) -> Array:
        x = jnp.minimum(x, limit)
        return x * jax.nn.sigmoid(alpha * x)

    def bounded(x: Array) -> Array:
        return jnp.clip(x, -limit, limit)

    if not relevance:
        return act(gate) * (bounded(up) + 1)
    hidden = in_proportion(act, gate) * (in_proportion(bounded, up) + 1)
    return with_slope(hidden, hidden, 0.5)


def _affine(w: Mapping[str, Array], name: str, x: Float[Array, "R N"]) -> Float[Array, "R M"]:
    out = contract("rn,nm->rm", x, w[name])
    return out + w[f"{name}_bias"] if f"{name}_bias" in w else out
