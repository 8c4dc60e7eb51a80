"""A pass over stacked layers gives what ``jax.lax.scan`` gives, in every dtype, and copies no weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.method.scores.measured import Norm
from jstrace.models import Decoder, EdgeTree, ModelConfig, clean_forward, masked_forward, platforms, shapes
from jstrace.models.platforms import over_layers
from tests.conftest import TINY

pytestmark = pytest.mark.quick

N_LAYERS, WIDTH = 5, 16
DTYPES = ("float32", "bfloat16", "float16")


def stacks(dtype: str) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=(N_LAYERS, WIDTH, WIDTH)) / 4, dtype) for name in ("one", "two")}


def passed(layers: dict[str, jax.Array], soft: jax.Array, scan: object, remat: bool) -> tuple[jax.Array, jax.Array]:
    """Some arithmetic of two stacks, and something of every layer."""

    def step(x: jax.Array, inputs: tuple[dict[str, jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        layer, share = inputs
        inner = jnp.tanh(x @ layer["one"]).astype(jnp.float32) * share
        return x + (inner @ layer["two"].astype(jnp.float32)).astype(x.dtype), inner.sum()

    start = jnp.ones((3, WIDTH), layers["one"].dtype)
    if scan is over_layers:
        return over_layers(step, start, layers, soft, remat=remat)
    return jax.lax.scan(step, start, (layers, soft))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("remat", [False, True])
def test_it_is_a_scan(dtype: str, remat: bool) -> None:
    """Its results, and its gradients in the weights and in what else has a layer axis; under vmap, too."""
    soft = jnp.linspace(0.1, 1.0, N_LAYERS)

    def loss(layers: dict[str, jax.Array], soft: jax.Array, scan: object) -> jax.Array:
        x, kept = passed(layers, soft, scan, remat)
        return jnp.square(x.astype(jnp.float32)).mean() + kept.sum()

    for scan in (over_layers, jax.lax.scan):
        value = jax.jit(passed, static_argnums=(2, 3))(stacks(dtype), soft, scan, remat)
        many = jax.vmap(lambda one, scan=scan: passed(stacks(dtype), one, scan, remat))(jnp.stack([soft, soft / 2]))
        slope = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(stacks(dtype), soft, scan)
        if scan is over_layers:
            found = value, many, slope
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}[dtype]
    chex.assert_trees_all_close(found, (value, many, slope), atol=tolerance, rtol=tolerance)
    assert float(jnp.abs(slope[0]["one"].astype(jnp.float32)).max()) > 0.01


def small() -> tuple[ModelConfig, Any, Any, EdgeTree]:
    """A config whose weights are much larger than what is computed of them; shapes of a decoder, tokens and mask."""
    config = dataclasses.replace(TINY, n_layers=12, d_model=128, d_mlp=1024, vocab_size=64)
    decoder = jax.eval_shape(lambda params: Decoder(config, params), shapes(config, jnp.dtype("bfloat16")))
    rows = jax.ShapeDtypeStruct((config.n_layers, 4), jnp.float32)
    maps = jax.ShapeDtypeStruct((config.n_layers, config.n_heads, 4, 4), jnp.float32)
    return config, decoder, jax.ShapeDtypeStruct((4,), jnp.int32), EdgeTree(rows, maps, rows, rows)


def test_narrow_weights_are_not_copied() -> None:
    """What forward and backward passes take beside bfloat16 weights is less than a half of them."""
    _, decoder, tokens, mask = small()
    weights = sum(leaf.size * 2 for leaf in jax.tree.leaves(decoder.layers))

    def logit(mask: EdgeTree, decoder: Any, tokens: Any, remat: bool) -> jax.Array:
        return masked_forward(decoder, tokens, mask, remat=remat)[3]

    programs = {
        "masked": jax.jit(masked_forward).lower(decoder, tokens, mask),
        "clean": jax.jit(lambda decoder, tokens: clean_forward(decoder, tokens, Norm(1))).lower(decoder, tokens),
        "gradient": jax.jit(jax.grad(logit), static_argnums=3).lower(mask, decoder, tokens, False),
        "gradient, remat": jax.jit(jax.grad(logit), static_argnums=3).lower(mask, decoder, tokens, True),
    }
    for name, program in programs.items():
        memory = program.compile().memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < weights / 2, name


def test_other_platforms_take_layers_as_they_come() -> None:
    """Barriers and wide sums are for XLA's CPU backend alone, also where programs are compiled for other devices."""
    _, decoder, tokens, mask = small()
    for platform, here in ((None, True), ("cpu", True), ("tpu", False), ("gpu", False)):
        with platforms.assumed(platform):
            text = str(jax.make_jaxpr(lambda *given: masked_forward(*given))(decoder, tokens, mask))
        assert ("optimization_barrier" in text) is here, platform
