"""Sums over weights are the same in parts as at once, and in parts they take little memory."""

from __future__ import annotations

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

fingerprints = importlib.import_module("jstrace.models.fingerprints")  # the package has a function of that name
DTYPES = ("float32", "bfloat16", "float16")


def leaf_of(shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", [None, "bfloat16"])
def test_parts_add_up(dtype: str, cast: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers, rows that divide and rows that do not, and one weight in another place is seen."""
    for shape, n_parts in (((6, 10, 4), 6), ((12, 5), 2), ((13, 7), 13), ((5,), 1), ((), 1)):
        leaf = leaf_of(shape, dtype)
        kind = leaf.dtype if cast is None else jnp.dtype(cast)
        whole = fingerprints._sums(leaf, kind, 0)
        monkeypatch.setattr(fingerprints, "_PART", 40)
        assert fingerprints._n_parts(shape) == n_parts
        np.testing.assert_array_equal(fingerprints._checksum(leaf, kind), whole)
        if n_parts > 1:
            moved = leaf.at[0].set(leaf[1]).at[1].set(leaf[0])
            assert (fingerprints._checksum(moved, kind) != whole).all()


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_all_at_once_is_not_held(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (16, 128, 128)
    monkeypatch.setattr(fingerprints, "_PART", math.prod(shape) // 16)
    blank = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    program = jax.jit(lambda leaf: fingerprints._checksum(leaf, leaf.dtype)).lower(blank).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.5 * blank.dtype.itemsize * math.prod(shape)  # a copy, and parts of it
