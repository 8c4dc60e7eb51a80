"""Sums over weights are the same in parts as at once, and in parts they take little memory."""

from __future__ import annotations

import dataclasses
import gc
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.models import Decoder, fingerprints
from jstrace.models import shapes as param_shapes
from jstrace.models.presets import PRESETS
from tests.conftest import TINY, tiny_params

checksum = jax.jit(fingerprints._checksum, static_argnums=(1, 2))
DTYPES = ("float32", "bfloat16", "float16")


def leaf_of(shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", [None, "bfloat16"])
def test_parts_add_up(dtype: str, cast: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and parts of layers, rows that divide and rows that do not; one weight in another place is seen."""
    monkeypatch.setattr(fingerprints, "_PART", 40)
    shapes = {(6, 10, 4): 6, (3, 8, 5, 4): 12, (2, 3, 70): 6, (12, 5): 2, (13, 7): 13, (500,): 20, (5,): 1, (): 1}
    for shape, n_parts in shapes.items():
        leaf = leaf_of(shape, dtype)
        kind = leaf.dtype if cast is None else jnp.dtype(cast)
        whole = checksum(leaf, kind, 1)
        assert fingerprints._parts_of(leaf) == n_parts
        np.testing.assert_array_equal(checksum(leaf, kind, n_parts), whole)
        if n_parts > 1:
            moved = np.asarray(leaf)[[1, 0, *range(2, len(leaf))]]
            assert (checksum(jnp.asarray(moved), kind, n_parts) != whole).all()


def test_parts_are_small_in_every_model() -> None:
    """Of the paper's models, whose layers are large, and of those whose vocabulary is."""
    for config in PRESETS.values():
        for leaf in jax.tree.leaves(param_shapes(config, jnp.dtype("bfloat16"))):
            assert math.prod(leaf.shape) / fingerprints._n_parts(leaf.shape) <= 2 * fingerprints._PART


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_all_at_once_is_not_held(dtype: str) -> None:
    shape = (16, 128, 128)
    blank = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    program = jax.jit(lambda leaf: fingerprints._checksum(leaf, leaf.dtype, 16)).lower(blank).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.5 * blank.dtype.itemsize * math.prod(shape)  # a copy, and parts of it


def test_nothing_stays_in_memory() -> None:
    """Positions are computed by the program, also where a transformation closes over the weights."""
    config = dataclasses.replace(TINY, vocab_size=101)  # whose program nothing else has compiled
    decoder = Decoder(config, tiny_params(config))
    before, inside = held_bytes(), list[str]()
    outside = fingerprints.fingerprint(decoder)

    def closing(x: jax.Array) -> jax.Array:
        inside.append(fingerprints.fingerprint(decoder))
        return x

    jax.jit(closing)(1.0)
    jax.grad(closing)(1.0)
    with jax.disable_jit():
        closing(jnp.ones(()))
    assert inside == [outside] * 3
    assert held_bytes() - before < 1000


def held_bytes() -> int:
    """Of all arrays that there are."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())
