"""Measures against their literal definitions."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jstrace.method.graph import sizes as sizes_of
from jstrace.method.graph.sizes import NUCLEUS_LEVELS
from jstrace.method.measure.measures import density, measure, nucleus_recovery
from jstrace.models.platforms import PLATFORMS
from tests import oracle
from tests.oracle_mlp import softmax

pytestmark = pytest.mark.quick

recovered = jax.jit(nucleus_recovery, static_argnames="platform")


def test_against_definitions() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 40)).astype(np.float32) * 3
    got = measure(jnp.asarray(logits), jnp.asarray(logits[-1]), 7)
    p = np.stack([softmax(row.astype(np.float64)) for row in logits])
    full = p[-1]
    np.testing.assert_allclose(got.tv, 0.5 * np.abs(p - full).sum(-1), atol=1e-6)
    np.testing.assert_allclose(got.kl, (full * np.log(full / p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(got.entropy, -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(got.surprisal, -np.log(p[:, 7]), rtol=1e-5)
    np.testing.assert_array_equal(got.rank, 1 + (p > p[:, 7:8]).sum(-1))
    np.testing.assert_array_equal(got.top_token, p.argmax(-1))
    assert got.tv[-1] == 0
    assert bool(got.nucleus[-1].all())


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["far", "near", "ties", "uniform"]))
@settings(max_examples=60, deadline=None)
def test_nucleus_equals_the_sorted_lists(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=30) * 2
    noise = {"far": 2.0, "near": 0.05, "ties": 0.0, "uniform": 0.0}[kind]
    other = base[None] + noise * rng.normal(size=(3, 30))
    if kind == "ties":
        base, other = np.round(base), np.round(base[None] + 0.3 * rng.normal(size=(3, 30)))
    if kind == "uniform":
        other = np.zeros((3, 30))
    reference = np.asarray(jax.nn.softmax(jnp.asarray(base, jnp.float32)))
    p = np.asarray(jax.nn.softmax(jnp.asarray(other, jnp.float32)))
    ordered, unordered = recovered(p, reference)
    for platform in PLATFORMS:
        again = recovered(p, reference, platform=platform)
        chex.assert_trees_all_equal(again, (ordered, unordered))
    for row in range(3):
        for column, level in enumerate(NUCLEUS_LEVELS):
            want, got = oracle.nucleus(reference, reference, level), oracle.nucleus(p[row], reference, level)
            assert bool(ordered[row, column]) == (want == got), (kind, row, level)
            assert bool(unordered[row, column]) == (set(want) == set(got)), (kind, row, level)


def test_impossible_tokens_do_not_give_nan() -> None:
    logits = jnp.asarray([[0.0, -1e9, 1.0], [0.0, 1.0, -1e9]])
    got = measure(logits, logits[0], 1)
    assert bool(jnp.isfinite(got.tv).all())
    assert bool(jnp.isfinite(got.entropy).all())
    assert got.kl[0] == 0


def test_density() -> None:
    ones = np.ones(27)
    assert density(sizes_of.SIZES, ones) == pytest.approx(5.0)
    assert density(sizes_of.SIZES, ones * 0) == 0
    assert density((0.1,), np.asarray([1.0, 0.0])) == pytest.approx(0.5)
    assert density((0.1, 1.0), np.asarray([1.0, 0.0, 0.0])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("sizes", "expected"), [((0.1, 0.5, 0.6), 1), ((0.1, 0.2, 0.5), 2), ((0.6, 0.7, 0.8), 2), ((0.2, 0.8, 1.0), 0)]
)
def test_selectivity_peaks_where_a_trace_is_not_nearly_the_model(sizes: tuple[float, ...], expected: int) -> None:
    assert sizes_of.most_selective(sizes, np.array([0.1, 0.2, 0.9, 0.0])) == expected
