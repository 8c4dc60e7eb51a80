"""Weights as int8 give what the same rounded weights give in float32, in a fraction of the memory."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.scores.measured import Norm
from jstrace.models import (
    Decoder,
    EdgeTree,
    InputError,
    Model,
    ModelConfig,
    clean_forward,
    full_mask,
    live_rows,
    make_mesh,
    masked_forward,
    param_shardings,
    shapes,
    weight_bytes,
)
from jstrace.models.decoder import Layer
from jstrace.models.narrow import Narrow, narrowed, widened
from jstrace.models.params import narrow_params, narrow_places
from jstrace.scale import memory
from tests import oracle
from tests.conftest import SHAPES, SIZES, TINY, family_config, tiny_params

FLOAT32 = jnp.dtype("float32")
IDS = np.asarray([1, 5, 9, 33, 2, 7], np.int32)


def narrow_of(config: ModelConfig) -> dict[str, Any]:
    return narrow_params(config, tiny_params(config), FLOAT32)


def wide_of(params: dict[str, Any]) -> dict[str, Any]:
    """The same rounded numbers in float32."""
    wide = jax.tree.map(widened, params, is_leaf=lambda leaf: isinstance(leaf, Narrow))
    assert isinstance(wide, dict)
    return wide


@jax.jit
def passes(model: Model, masks: EdgeTree) -> list[Any]:
    """Scores and logits, soft masks with their gradients, and for one family hard masks of live rows."""

    def soft(mask: EdgeTree) -> jax.Array:
        return jax.nn.log_softmax(model(IDS, mask))[3]

    def hard(mask: EdgeTree) -> jax.Array:
        kept = jax.tree.map(lambda leaf: leaf > 0.4, mask)
        return masked_forward(model.decoder, jnp.asarray(IDS), kept, row_map=live_rows)

    clean = clean_forward(model.decoder, jnp.asarray(IDS), Norm(1))
    found = [clean, jax.vmap(jax.value_and_grad(soft))(masks)]
    return [*found, jax.vmap(hard)(masks)] if model.config == TINY else found


@pytest.mark.parametrize("family", SHAPES)
def test_equal_to_rounded_weights(family: str) -> None:
    """And the nodes of these are the sums of their edges."""
    config = family_config(family)
    params = narrow_of(config)
    narrow, wide = Model(Decoder(config, params)), Model(Decoder(config, wide_of(params)))
    rng, full = np.random.default_rng(0), narrow.full_mask(len(IDS))
    masks = jax.tree.map(lambda leaf: jnp.asarray(leaf * rng.random((2, *leaf.shape)), jnp.float32), full)
    found, expected = passes(narrow, masks), passes(wide, masks)
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-5)
    literal = oracle.Literal(config, wide_of(params), IDS)
    for node, edges, constants, whole in literal.nodes():
        np.testing.assert_allclose(sum(edges.values()) + constants, whole, atol=1e-9, err_msg=str(node))
    assert narrow.fingerprint() != wide.fingerprint()
    assert (narrow.weights, wide.weights, narrow.dtype) == ("int8", "", FLOAT32)
    assert Model.from_arrays(config, params).fingerprint() == wide.fingerprint()


def test_a_mesh_divides_values_and_scales() -> None:
    params, mesh = narrow_of(TINY), make_mesh(model=2)
    placed = jax.device_put(params, narrow_places(TINY, param_shardings(TINY, mesh), FLOAT32))
    one, many = Model(Decoder(TINY, params)), Model(Decoder(TINY, placed))
    masks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32)[None], one.full_mask(len(IDS)))
    for own, other in zip(*(jax.tree.leaves(passes(model, masks)) for model in (one, many)), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-5)
    assert placed["layers"]["q"].scale.addressable_shards[0].data.shape == (3, 1, 2, 6)
    assert placed["layers"]["o"].scale.is_fully_replicated
    assert one.fingerprint() == many.fingerprint()
    assert many.mesh is not None


def test_rounding() -> None:
    """To the nearest of 255 multiples of the scale; what is all zero stays so."""
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(5, 40, 3)).astype(np.float32)).at[1].set(0)
    found = narrowed(weight, (1,), FLOAT32)
    assert (found.values.dtype, found.scale.shape, found.shape) == (jnp.int8, (5, 1, 3), weight.shape)
    np.testing.assert_array_less(np.abs(widened(found) - weight), np.broadcast_to(found.scale / 2 + 1e-6, (5, 40, 3)))
    np.testing.assert_array_equal(np.abs(found.values).max(1)[[0, 2, 3, 4]], 127)
    assert not widened(found)[1].any()
    np.testing.assert_allclose(widened(narrowed(widened(found), (1,), FLOAT32)), widened(found), rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "qwen2_moe"])
def test_bytes(family: str) -> None:
    """Of what is stored; biases, norms, positions and routers stay wide."""
    config = family_config(family)
    params = narrow_of(config)
    assert weight_bytes(config, 4, narrow=True) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    kinds = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
        for tree in (params, shapes(config, FLOAT32, narrow=True))
    ]
    assert kinds[0] == kinds[1]


def test_layers_are_never_all_wide() -> None:
    """Not in a forward pass, and not for the gradients of a mask."""
    config = dataclasses.replace(TINY, n_layers=40, d_model=64, d_mlp=512)
    blank = jax.eval_shape(functools.partial(Decoder, config), shapes(config, FLOAT32, narrow=True))
    masks = jax.tree.map(lambda leaf: leaf.astype(np.float32), full_mask(config, 2))

    def loss(mask: EdgeTree, decoder: Decoder) -> jax.Array:
        return masked_forward(decoder, jnp.asarray(IDS[:2]), mask)[0]

    found = jax.jit(jax.grad(loss)).lower(masks, blank).compile().memory_analysis()
    assert found is not None
    assert found.temp_size_in_bytes < 0.2 * weight_bytes(config, 4)


def test_memory_is_planned_without_widening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before every call, so that it would be as slow as the call and hold all weights wide."""
    decoder = Decoder(TINY, narrow_of(TINY))
    monkeypatch.delattr(Layer, "weights")
    assert memory.holds(decoder, 1)
    assert memory.room_of_all(decoder, lambda _: 10) == 10


def test_traces_say_it(tmp_path: Path) -> None:
    """In their files, too; and other weights are refused, as int8 is by the scorer of wide ones."""
    params = narrow_of(TINY)
    narrow, wide = Model(Decoder(TINY, params)), Model(Decoder(TINY, wide_of(params)))
    scores = jax.tree.map(lambda leaf: leaf.astype(np.float32), wide.full_mask(len(IDS)))
    found, other = (jstrace.Trace.from_scores(model, IDS, scores, sizes=SIZES) for model in (narrow, wide))
    found.save(tmp_path / "trace.npz")
    again = jstrace.Trace.load(tmp_path / "trace.npz")
    assert (again, again.weights, other.weights) == (found, "int8", "")
    with pytest.raises(InputError, match=r"the trace was made with model [-\w]+, weights int8, this is [-\w]+;"):
        jstrace.evaluate(wide, again)
    with pytest.raises(InputError, match="a scorer for smollm2 alone, in weights that are not int8; fit one"):
        jstrace.trace(narrow, IDS, score="learned")
