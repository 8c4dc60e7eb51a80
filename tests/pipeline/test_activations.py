"""What a full pass computes on the way, against the literal oracle; generated text."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, Model
from tests import oracle
from tests.conftest import family_config, tiny_params

TOKENS = np.asarray([3, 1, 4, 1, 5], np.int32)


@pytest.mark.parametrize("family", ["mistral", "gpt_neox"])
def test_activations_equal_the_oracle(family: str) -> None:
    """On padded tokens, with windows, and with both kinds of blocks."""
    config = family_config(family)
    params = tiny_params(config)
    model = Model(Decoder(config, params))
    seen = jstrace.activations(model, TOKENS)
    literal = oracle.Literal(config, params, TOKENS)
    states = literal.states()
    levels = 1 if config.parallel else 2
    assert seen.residual.shape == (levels * config.n_layers + 1, len(TOKENS), config.d_model)
    np.testing.assert_allclose(seen.residual[:-1:levels], states["attn_input"], rtol=1e-4, atol=1e-4)
    if levels == 2:
        np.testing.assert_allclose(seen.residual[1::2], states["mlp_input"], rtol=1e-4, atol=1e-4)
    for layer in range(config.n_layers):
        weights = literal.layer(layer)
        logits, _ = literal.attention(layer, weights, states["attn_input"][layer])
        np.testing.assert_allclose(seen.attention[layer], literal.probabilities(weights, logits), atol=1e-5)
    np.testing.assert_allclose(seen.lens[-1], model(jnp.asarray(TOKENS)), rtol=1e-5, atol=1e-5)
    assert repr(seen) == f"Activations({len(seen.residual)} levels, 5 tokens, width {config.d_model})"


def test_generated_tokens_are_those_that_are_traced(tiny: Model) -> None:
    whole = jstrace.generate(tiny, TOKENS, 3)
    np.testing.assert_array_equal(whole, jstrace.trace_generation(tiny, TOKENS, 3, sizes=(0.5,)).tokens)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: jstrace.activations(model, np.ones((2, 3), np.int32)), "takes one input"),
        (lambda model: jstrace.activations(model, []), "token"),
        (lambda model: jstrace.generate(model, np.ones((2, 3), np.int32), 2), "takes one prompt"),
        (lambda model: jstrace.generate(model, TOKENS, 0), "expected a number of tokens to generate"),
    ],
)
def test_bad_arguments_are_one_line(tiny: Model, call: object, message: str) -> None:
    with pytest.raises(jstrace.InputError, match=message):
        call(tiny)  # type: ignore[operator]
