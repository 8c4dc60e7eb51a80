"""Weights as int8 and int4 give what the same rounded weights give in float32, in a fraction of the memory."""

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
    fingerprints,
    full_mask,
    live_rows,
    make_mesh,
    masked_forward,
    narrow,
    param_shardings,
    shapes,
    weight_bytes,
)
from jstrace.models.decoder import Layer
from jstrace.models.layers import contract
from jstrace.models.narrow import Narrow, narrowed, rows_product, widened
from jstrace.models.params import narrow_params, narrow_places
from jstrace.scale import memory
from tests import oracle
from tests.conftest import SHAPES, SIZES, TINY, family_config, tiny_params

FLOAT32 = jnp.dtype("float32")
IDS = np.asarray([1, 5, 9, 33, 2, 7], np.int32)


def narrow_of(config: ModelConfig, way: str = "int8") -> dict[str, Any]:
    return narrow_params(config, tiny_params(config), FLOAT32, way)


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


@pytest.mark.parametrize(("family", "way"), [*((family, "int8") for family in SHAPES), ("llama", "int4")])
def test_equal_to_rounded_weights(family: str, way: str) -> None:
    """And the nodes of these are the sums of their edges."""
    config = family_config(family)
    params = narrow_of(config, way)
    own, wide = Model(Decoder(config, params)), Model(Decoder(config, wide_of(params)))
    rng, full = np.random.default_rng(0), own.full_mask(len(IDS))
    masks = jax.tree.map(lambda leaf: jnp.asarray(leaf * rng.random((2, *leaf.shape)), jnp.float32), full)
    found, expected = passes(own, masks), passes(wide, masks)
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5, rtol=1e-5)
    literal = oracle.Literal(config, wide_of(params), IDS)
    for node, edges, constants, whole in literal.nodes():
        np.testing.assert_allclose(sum(edges.values()) + constants, whole, atol=1e-9, err_msg=str(node))
    assert own.fingerprint() != wide.fingerprint()
    assert (own.weights, wide.weights, own.dtype) == (way, "", FLOAT32)
    assert Model.from_arrays(config, params).fingerprint() == wide.fingerprint()


def test_a_mesh_divides_values_and_scales() -> None:
    params, mesh = narrow_of(TINY), make_mesh(model=2)
    placed = jax.device_put(params, narrow_places(TINY, param_shardings(TINY, mesh), FLOAT32, "int8"))
    one, many = Model(Decoder(TINY, params)), Model(Decoder(TINY, placed))
    masks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32)[None], one.full_mask(len(IDS)))
    for own, other in zip(*(jax.tree.leaves(passes(model, masks)) for model in (one, many)), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-5)
    assert placed["layers"]["q"].scale.addressable_shards[0].data.shape == (3, 1, 2, 6)
    assert placed["layers"]["o"].scale.is_fully_replicated
    assert one.fingerprint() == many.fingerprint()
    assert many.mesh is not None


def test_a_mesh_divides_groups() -> None:
    """Of int4, which are whole on a device: three groups of the MLP's inputs are not halved."""
    mesh, config = make_mesh(model=2), dataclasses.replace(TINY, d_mlp=64)
    places = narrow_places(config, param_shardings(config, mesh), FLOAT32, "int4")
    params = narrow_of(config, "int4")
    placed = jax.device_put(params, places)
    assert placed["layers"]["down"].values.addressable_shards[0].data.shape == (3, 1, 16, 16)
    assert placed["layers"]["q"].scale.addressable_shards[0].data.shape == (3, 1, 1, 2, 6)
    jax.tree.map(np.testing.assert_array_equal, wide_of(placed), wide_of(params))
    sizes = [sum(shard.data.nbytes for shard in leaf.addressable_shards[:1]) for leaf in jax.tree.leaves(placed)]
    assert weight_bytes(config, 4, 2, narrow="int4") == sum(sizes)
    with pytest.raises(InputError, match="mesh model=2 does not divide 3 groups of weights"):
        narrow_places(TINY, param_shardings(TINY, mesh), FLOAT32, "int4")


def test_rounding() -> None:
    """To the nearest of 255 multiples of the scale; what is all zero stays so."""
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(5, 40, 3)).astype(np.float32)).at[1].set(0)
    found = narrowed(weight, (1,), FLOAT32, "int8")
    assert (found.values.dtype, found.scale.shape, found.shape) == (jnp.int8, (5, 1, 3), weight.shape)
    np.testing.assert_array_less(np.abs(widened(found) - weight), np.broadcast_to(found.scale / 2 + 1e-6, (5, 40, 3)))
    np.testing.assert_array_equal(np.abs(found.values).max(1)[[0, 2, 3, 4]], 127)
    assert not widened(found)[1].any()
    np.testing.assert_allclose(widened(narrowed(widened(found), (1,), FLOAT32, "int8")), widened(found), rtol=1e-6)
    half = narrowed(weight, (0, 1), FLOAT32, "int4")
    assert (half.values.dtype, half.values.shape, half.scale.shape) == (jnp.uint8, (5, 5, 4, 3), (5, 5, 1, 3))
    apart = np.abs(widened(half) - weight).reshape(5, 5, 8, 3) / np.where(half.scale == 0, 1, np.abs(half.scale))
    assert (half.shape, widened(half)[1].any()) == (weight.shape, False)
    assert 0.45 < apart.max() <= 1 + 1e-5, "what is furthest on the other side becomes 7 for 8"
    np.testing.assert_allclose(np.abs(widened(half)).reshape(5, 5, 8, 3).max(2), 8 * np.abs(half.scale)[:, :, 0])
    assert narrowed(weight[:, :39], (1,), FLOAT32, "int4").way == "int8"


def test_least_of_blocks() -> None:
    """Offsets are a part of a fingerprint, and blocks of files may hold -128."""
    block = narrow.Narrow(jnp.full((1, 1, 32), -128, jnp.int8), jnp.full((1, 1, 1), 512.0), jnp.ones((1, 1, 1)),
                          jnp.dtype("float16"), "stored", -1)  # fmt: skip
    assert not narrow.in_range(block)
    assert [name for name, *_ in fingerprints._arrays("up", block, None)] == ["up.values", "up.scale", "up.least"]


def test_vocabularies_are_wide_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, rows = (jax.random.normal(jax.random.key(n), (n, 16)) for n in (2, 96))
    for way in ("int8", "int4"):
        stored, out = narrowed(rows, (1,), FLOAT32, way), []
        for most in (16 * 96, 16 * 40):
            monkeypatch.setattr("jstrace.models.narrow.AT_ONCE", most)
            out.append(jax.vmap(functools.partial(rows_product, contract, rows=stored))(x))
        np.testing.assert_allclose(out[0], x @ widened(stored).T, atol=1e-5)
        np.testing.assert_allclose(*out, atol=1e-6)
    assert (narrow.parts_of_rows(96, 16), narrow.parts_of_rows(97, 16)) == (3, 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_of_a_vocabulary_are_wide_in_parts(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, which multiplies them in float32; gradients of parts that cancel are no coarser than those of all."""
    x, rows, seed = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 16), (96, 16), (96,)]))
    x, rows = x.astype(dtype), (rows + jnp.repeat(jnp.asarray([64.0, -64.0]), 48)[:, None]).astype(dtype)

    def weighted(x: jax.Array) -> jax.Array:
        return jax.vmap(functools.partial(rows_product, contract, rows=rows))(x) @ (1 + seed / 64)

    out = []
    for most in (16 * 96, 16 * 40):
        monkeypatch.setattr("jstrace.models.narrow.AT_ONCE", most)
        products = jax.vmap(functools.partial(rows_product, contract, rows=rows))(x)
        out.append((products, jax.grad(lambda x: weighted(x).sum())(x).astype(jnp.float32)))
    np.testing.assert_allclose(out[0][0], out[1][0], rtol=1e-6, atol=1e-4)
    expected = np.asarray(1 + seed / 64, np.float64) @ np.asarray(rows, np.float64)
    for _, gradient in out:
        np.testing.assert_allclose(gradient, np.tile(expected, (2, 1)), rtol=float(jnp.finfo(dtype).eps), atol=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_heads_of_halves_are_never_all_wide(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a head, a pass and its gradients take less than a third of it; in float32 it would take twice as much."""
    monkeypatch.setattr("jstrace.models.narrow.AT_ONCE", 2**18)
    config = dataclasses.replace(TINY, d_model=64, vocab_size=2**16)
    mask = jax.tree.map(lambda leaf: leaf.astype(np.float32), full_mask(config, 2))
    blank = jax.eval_shape(functools.partial(Decoder, config), shapes(config, jnp.dtype(dtype)))

    def loss(mask: EdgeTree, decoder: Decoder) -> jax.Array:
        return masked_forward(decoder, jnp.asarray(IDS[:2]), mask, remat=True)[0]

    for run in (loss, jax.grad(loss)):
        memory = jax.jit(run).lower(mask, blank).compile().memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 2 * config.vocab_size * config.d_model / 3


@pytest.mark.parametrize("family", ["gpt2", "qwen2_moe"])
def test_bytes(family: str) -> None:
    """Of what is stored; biases, norms, positions and routers stay wide."""
    config = family_config(family)
    for way in ("int8", "int4"):
        params = narrow_of(config, way)
        assert weight_bytes(config, 4, narrow=way) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        kinds = [
            [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
            for tree in (params, shapes(config, FLOAT32, narrow=way))
        ]
        assert kinds[0] == kinds[1]


def test_layers_are_never_all_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a forward pass, and not for the gradients of a mask; nor is a vocabulary."""
    monkeypatch.setattr("jstrace.models.narrow.AT_ONCE", 2**18)
    config = dataclasses.replace(TINY, n_layers=40, d_model=64, d_mlp=512, vocab_size=2**16)
    masks = jax.tree.map(lambda leaf: leaf.astype(np.float32), full_mask(config, 2))

    def loss(mask: EdgeTree, decoder: Decoder) -> jax.Array:
        return masked_forward(decoder, jnp.asarray(IDS[:2]), mask)[0]

    for way in ("int8", "int4"):
        blank = jax.eval_shape(functools.partial(Decoder, config), shapes(config, FLOAT32, narrow=way))
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
    own, wide = Model(Decoder(TINY, params)), Model(Decoder(TINY, wide_of(params)))
    scores = jax.tree.map(lambda leaf: leaf.astype(np.float32), wide.full_mask(len(IDS)))
    found, other = (jstrace.Trace.from_scores(model, IDS, scores, sizes=SIZES) for model in (own, wide))
    found.save(tmp_path / "trace.npz")
    again = jstrace.Trace.load(tmp_path / "trace.npz")
    assert (again, again.weights, other.weights) == (found, "int8", "")
    with pytest.raises(InputError, match=r"the trace was made with model [-\w]+, weights int8, this is [-\w]+;"):
        jstrace.evaluate(wide, again)
    with pytest.raises(InputError, match="a scorer for smollm2 alone, in weights that are not int8; fit one"):
        jstrace.trace(own, IDS, score="learned")
