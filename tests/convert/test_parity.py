"""Every family against transformers' own torch modules, in float32."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jstrace
from jstrace.method.graph import full_graph
from jstrace.models import Decoder, Model, clean_forward, masked_forward
from tests import hf_models
from tests.models.test_decoder import ones

LENGTHS = (1, 16, 17, 40)
"""Within windows and beyond; up to longrope's switch and after it."""


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    folder = tmp_path_factory.mktemp("model")
    torch_model = hf_models.make(hf_models.VARIANTS[request.param], folder)
    return jstrace.load(str(folder)), torch_model


class Probabilities:
    """A measure that hands attention probabilities through."""

    def vector(self, edge: jax.Array, node: jax.Array) -> jax.Array:
        return edge[:, 0]

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> jax.Array:
        return probs


class Projection:
    """A measure that is linear in the edge, so that the edges of a node must sum to the node's own value."""

    def __init__(self, direction: np.ndarray) -> None:
        self.direction = jnp.asarray(direction, jnp.float32)

    def vector(self, edge: jax.Array, node: jax.Array) -> jax.Array:
        return edge @ self.direction

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> jax.Array:
        return probs * (values @ self.direction)[:, None, :]


PROBABILITIES = Probabilities()


def tokens_of(n_tokens: int) -> np.ndarray:
    return np.random.default_rng(n_tokens).integers(0, 97, n_tokens)


@functools.partial(jax.jit, static_argnames="measure")
def clean(decoder: Decoder, tokens: jax.Array, length: int, *, measure: Any) -> Any:
    return clean_forward(decoder, tokens, measure, length=length)


masked = jax.jit(masked_forward)


@pytest.mark.quick
@pytest.mark.parametrize("pair", hf_models.VARIANTS, indirect=True)
def test_logits_and_attention(pair: tuple[Model, Any]) -> None:
    """At every length, padded to one shape; theirs in double precision, so that the bound is on our own error alone."""
    model, torch_model = pair[0], copy.deepcopy(pair[1]).double()
    if model.config.rope_long_divisors is not None:
        assert (model.config.rope_switch, model.config.rope_magnitude) == (16, pytest.approx(math.sqrt(1.5)))
    for n_tokens in LENGTHS:
        tokens = tokens_of(n_tokens)
        with torch.no_grad():
            theirs = torch_model(torch.tensor(tokens)[None], output_attentions=True)
        expected = theirs.logits[0, -1].numpy()
        padded = jnp.asarray(np.pad(tokens, (0, max(LENGTHS) - n_tokens)))
        ours = clean(model.decoder, padded, n_tokens, measure=PROBABILITIES)
        np.testing.assert_allclose(ours.logits, expected, atol=1e-5 * np.abs(expected).max())
        everything = ones(model.config, max(LENGTHS))
        logits = masked(model.decoder, padded, everything, length=n_tokens)
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
        factors = np.asarray(ours.magnitudes.attn)[..., :n_tokens, :n_tokens]
        probs = factors / factors.sum(-1, keepdims=True)  # under a post-norm they carry its inverse RMS
        np.testing.assert_allclose(probs, np.stack([a[0].numpy() for a in theirs.attentions]), atol=1e-5)
        unseen = ~np.asarray(full_graph.edge_slots(model.config, n_tokens, n_tokens).attn)
        reached = np.asarray(full_graph.edge_slots(model.config, n_tokens, n_tokens).mlp)[:, None, :, None]
        assert (factors[unseen & reached] == 0).all(), "what is no edge has no attention"


@pytest.mark.parametrize("pair", hf_models.VARIANTS, indirect=True)
def test_every_edge_sum(pair: tuple[Model, Any]) -> None:
    """Edges plus constants equal transformers' hidden states, at every node, in a random direction."""
    model, torch_model = pair
    tokens, config = tokens_of(12), model.config
    direction = np.random.default_rng(3).normal(size=config.d_model).astype(np.float32)
    states = hidden_states(torch_model, tokens)
    edges = clean(model.decoder, jnp.asarray(tokens), 12, measure=Projection(direction)).magnitudes
    attended = edges.residual_attn + edges.attn.sum((1, 3))
    w = model.decoder.layers.weights()
    constants = (w["o_bias"] if "o_bias" in w else jnp.zeros((config.n_layers, config.d_model))) @ direction
    tolerance = 2e-5 * np.abs(np.stack(states)).max() * np.abs(direction).sum()
    last = config.n_layers - 1
    for layer in range(config.n_layers):
        if config.parallel:
            node = attended[layer] + edges.mlp[layer] + (constants[layer, None] if layer < last else 0)
        else:
            node = edges.residual_mlp[layer] + edges.mlp[layer]
            if layer < last:
                middle = attended[layer] + constants[layer]
                np.testing.assert_allclose(middle, edges.residual_mlp[layer], atol=tolerance)
        if layer < last:
            np.testing.assert_allclose(node, states[layer + 1] @ direction, atol=tolerance)
    np.testing.assert_allclose(node, final_linear(model, states[-1]) @ direction, atol=5 * tolerance)


def final_linear(model: Model, x: np.ndarray) -> np.ndarray:
    """The final norm's linear part of the last node, without the output biases that no edge holds."""
    config, decoder = model.config, model.decoder
    if config.parallel:
        x = x - np.asarray(decoder.layers.weights()["o_bias"][-1])
    centred = x - x.mean(-1, keepdims=True) if config.norm == "layer" else x
    return centred * (np.asarray(decoder.final_norm[...]) + config.norm_offset)


def hidden_states(torch_model: Any, tokens: np.ndarray) -> list[np.ndarray]:
    """The residual stream before each layer and before the final norm."""
    found = []
    base = torch_model.base_model
    norm = next(getattr(base, name) for name in ("norm", "ln_f", "final_layer_norm") if hasattr(base, name))
    with torch.no_grad():
        hook = norm.register_forward_pre_hook(lambda module, args: found.append(args[0][0].numpy()))
        states = torch_model(torch.tensor(tokens)[None], output_hidden_states=True).hidden_states
    hook.remove()
    return [state[0].numpy() for state in states[:-1]] + found
