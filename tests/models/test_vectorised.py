"""Sorting, finding and counting as on TPUs equal numpy's, ties included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jstrace.models.rows import argsort, cumulative, first_true

LENGTHS = (1, 2, 127, 128, 129, 1000, 128 * 128 + 1)
"""About the widths of one and of two levels."""


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("levels", [1, 3, 2**32])
def test_argsort(n: int, levels: int) -> None:
    """Stable; the largest key of all is one like others."""
    keys = np.random.default_rng(n).integers(0, levels, n).astype(np.uint32)
    keys[:: max(1, n // 3)] = 0xFFFFFFFF
    np.testing.assert_array_equal(jax.jit(argsort)(keys), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
def test_first_true(n: int, share: float) -> None:
    mask = np.random.default_rng(n).random(n) < share
    places = np.nonzero(mask)[0]
    for size in (1, 5, n):
        expected = np.full(size, n)
        expected[: len(places)] = places[:size]
        np.testing.assert_array_equal(first_true(jnp.asarray(mask), size), expected)


@given(seed=st.integers(0, 2**31), n=st.sampled_from(LENGTHS))
@settings(max_examples=15, deadline=None)
def test_cumulative(seed: int, n: int) -> None:
    """Beyond what float32 counts exactly."""
    counts = np.random.default_rng(seed).integers(0, 2**31 // n, n).astype(np.int32)
    np.testing.assert_array_equal(cumulative(jnp.asarray(counts)), np.cumsum(counts))


def test_batches() -> None:
    """Under vmap, as in a batch of inputs."""
    keys = np.random.default_rng(0).integers(0, 9, (3, 300)).astype(np.uint32)
    np.testing.assert_array_equal(jax.vmap(argsort)(keys), np.argsort(keys, axis=1, kind="stable"))
    expected = [[*np.nonzero(row)[0], *[300] * 300][:300] for row in keys > 4]
    np.testing.assert_array_equal(jax.vmap(lambda row: first_true(row, 300))(keys > 4), expected)
