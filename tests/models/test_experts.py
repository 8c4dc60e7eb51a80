"""Mixtures of experts and sinks: blocks of rows against all experts, ties, memory, meshes, generated text."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, Model, ModelConfig, live_rows, plain_forward
from jstrace.models.experts import block_sizes, chosen_experts, routing
from jstrace.models.feed_forward import feed_forward
from jstrace.models.generating import continued
from jstrace.models.layers import attention_probs, masked_attention_probs
from jstrace.models.sharding import param_shardings
from tests.conftest import SIZES, TINY, family_config, tiny_params

CONFIG = dataclasses.replace(TINY, n_experts=5, n_chosen=2)


def layer_of(config: ModelConfig) -> dict[str, jax.Array]:
    return {name: stack[0] for name, stack in tiny_params(config)["layers"].items()}


def every_expert(config: ModelConfig, w: dict[str, Any], x: jax.Array) -> jax.Array:
    """All experts of all rows, times factors of which most are zero."""
    names = [name for name in ("up", "gate", "down") if name in w]
    outs = [feed_forward(config, {name: w[name][i] for name in names}, x) for i in range(config.n_experts)]
    return jnp.einsum("xrd,rx->rd", jnp.stack(outs), routing(config, w, x).factors)


@pytest.mark.parametrize("n_rows", [1, 15, 700])
def test_blocks_equal_every_expert(n_rows: int) -> None:
    """Few rows and many blocks; all rows, and live ones alone in a batch, with their gradients."""
    w = layer_of(CONFIG)
    x = jax.random.normal(jax.random.key(n_rows), (n_rows, CONFIG.d_model))
    x = x + 2 * w["router"][:, 1] * (n_rows == 700)  # one expert has more rows than a block
    assert n_rows < 700 or block_sizes(CONFIG, n_rows)[0] < int((routing(CONFIG, w, x).factors[:, 1] > 0).sum())
    live = jax.random.bernoulli(jax.random.key(1), 0.4, (3, n_rows))

    @jax.jit
    def run(x: jax.Array) -> tuple[jax.Array, ...]:
        function = functools.partial(chosen_experts, CONFIG)
        batch = jax.vmap(lambda live: live_rows(function, w, x, live, skips=True))(live)
        both = [of(CONFIG, w, x) for of in (chosen_experts, every_expert)]
        slopes = [
            jax.grad(lambda x, of=of: jnp.sum(jnp.sin(of(CONFIG, w, x))))(x) for of in (chosen_experts, every_expert)
        ]
        return batch, *both, *slopes

    batch, got, expected, slope, wanted = run(x)
    np.testing.assert_allclose(got, expected, atol=2e-4)
    np.testing.assert_allclose(jnp.where(live[..., None], batch - expected, 0), 0, atol=2e-4)
    np.testing.assert_allclose(slope, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("router", ["softmax", "chosen", "sigmoid", "mixer"])
def test_of_equal_logits_the_first_are_chosen(router: str) -> None:
    config = dataclasses.replace(CONFIG, router=router)
    w = {"router": jnp.zeros((config.d_model, 5)), "router_bias": jnp.zeros(5)}
    route = routing(config, w, jnp.ones((3, config.d_model)))
    np.testing.assert_array_equal(route.places, [[0, 1]] * 3)
    share = {"softmax": 0.2, "chosen": 0.5, "sigmoid": 0.5, "mixer": 0.2}[router]
    assert route.factors[0, 0] == pytest.approx(share)
    assert not route.factors[:, 2:].any()


def test_gradients_keep_no_weights_of_blocks() -> None:
    """Each block's are read again."""
    config = dataclasses.replace(CONFIG, n_experts=16, n_chosen=4, d_model=64, d_mlp=96)
    w = layer_of(config)
    run = jax.jit(jax.grad(lambda x: jnp.sum(chosen_experts(config, w, x) ** 2)))
    found = run.lower(jnp.zeros((64, 64))).compile().memory_analysis()
    stacks = sum(w[name].nbytes for name in ("up", "gate", "down"))
    assert found.temp_size_in_bytes < 2 * stacks


@pytest.mark.parametrize("family", ["gpt_oss", "qwen2_moe"])
def test_generated_text_is_that_of_whole_passes(family: str) -> None:
    """Kept keys are those after the norm that follows the rotation; sinks stay in every denominator."""
    config = family_config(family)
    decoder, tokens = Decoder(config, tiny_params(config)), [3, 1, 4, 1, 5]
    run = jax.jit(lambda tokens: continued(decoder, tokens, 5, jax.random.key(0), 0.0, count=3))
    got = run(jnp.asarray([*tokens, 0, 0, 0]))
    whole = jax.jit(lambda tokens, length: plain_forward(decoder, tokens, length=length))
    for token, logprob in zip(got.tokens.tolist(), got.logprobs.tolist(), strict=True):
        logits = whole(jnp.asarray([*tokens, *[0] * (8 - len(tokens))]), len(tokens))
        assert token == int(logits.argmax())
        assert logprob == pytest.approx(float(jax.nn.log_softmax(logits)[token]), abs=1e-4)
        tokens.append(token)


def test_experts_on_a_mesh() -> None:
    """Each is divided; traces and curves are those of one device."""
    config = family_config("gpt_oss")
    params, mesh = tiny_params(config), jstrace.make_mesh(data=2, model=2)
    divided = Model(Decoder(config, jax.device_put(params, param_shardings(config, mesh))))
    assert divided.decoder.params()["layers"]["up"].sharding.shard_shape((3, 4, 16, 24)) == (3, 4, 16, 12)
    one, two = (
        jstrace.evaluate(model, jstrace.trace(model, [5, 3, 8, 1, 9, 2], sizes=SIZES))
        for model in (Model(Decoder(config, params)), divided)
    )
    np.testing.assert_allclose(one.tv, two.tv, atol=1e-5)
    assert one.tv[-1] < 1e-6


def test_sinks_take_their_share() -> None:
    """Rows sum to less than one, whatever is far above; with a mask inside the softmax a sink has none."""
    logits = jnp.asarray([[[0.0, 1.0], [200.0, -300.0]]])
    visible, sink = jnp.tril(jnp.ones((2, 2), bool)), jnp.asarray([0.0])
    np.testing.assert_allclose(attention_probs(logits, visible, sink).sum(-1), [[0.5, 1.0]])
    np.testing.assert_allclose(attention_probs(logits, visible, jnp.asarray([500.0])).sum(-1), [[0.0, 0.0]])

    def inside(mask: jax.Array) -> jax.Array:
        return masked_attention_probs(logits, visible, mask, pre_softmax=True, sink=sink)

    np.testing.assert_allclose(inside(jnp.full((1, 2, 2), 0.5))[0, 0], [1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(inside(jnp.zeros((1, 2, 2))), 0)
    slope = jax.grad(lambda mask: inside(mask).sum())(jnp.zeros((1, 2, 2)))
    assert slope[0, 0, 0] == pytest.approx(1)
    assert np.isfinite(slope).all()
