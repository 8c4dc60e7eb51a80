"""Two-NN and anisotropy, on clouds of known shape."""

from __future__ import annotations

import numpy as np
import pytest

from jstrace.method.measure.geometry import anisotropy, geometry, two_nn

pytestmark = pytest.mark.quick


def manifold(n: int, dimension: int, ambient: int, seed: int = 0) -> np.ndarray:
    """Points of a curved manifold: even in ``dimension`` parameters, bent through sines into ``ambient``."""
    rng = np.random.default_rng(seed)
    flat = rng.uniform(size=(n, dimension)) @ rng.normal(size=(dimension, ambient))
    return np.concatenate([flat, 0.3 * np.sin(flat)], axis=1)


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_two_nn_of_manifolds(dimension: int) -> None:
    assert two_nn(manifold(2000, dimension, 20)) == pytest.approx(dimension, rel=0.08)


def test_two_nn_is_scikit_dimensions() -> None:
    """``skdim.id.TwoNN(discard_fraction=0, method="mle")`` of scikit-dimension 0.5.0, of the same points."""
    found = [two_nn(manifold(50, dimension, 20)) for dimension in (1, 2, 4)]
    assert found == pytest.approx(SKDIM, rel=1e-6)


SKDIM = (0.9289109773, 2.0347362646, 3.5883782112)


def test_twins_and_few_points() -> None:
    points = manifold(50, 2, 5)
    twins = np.concatenate([points, points[:1]])
    assert two_nn(twins) == pytest.approx(two_nn(points), rel=0.2), "points with twins have no ratio"
    assert np.isfinite(two_nn(twins))
    assert np.isnan(two_nn(points[:2]))
    assert np.isnan(two_nn(np.ones((9, 3))))
    assert two_nn(points * 1e6) == pytest.approx(two_nn(points)), "it has no scale"


def test_anisotropy_is_the_mean_cosine_of_pairs() -> None:
    points = np.random.default_rng(0).normal(size=(6, 4)) + 1
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(6) for j in range(6) if i != j]
    assert anisotropy(points) == pytest.approx(np.mean(pairs))
    assert anisotropy(np.ones((5, 3))) == pytest.approx(1.0)
    assert anisotropy(np.eye(4)) == pytest.approx(0.0)
    assert anisotropy(np.asarray([[1.0, 0], [-1, 0]])) == pytest.approx(-1.0)
    assert np.isnan(anisotropy(points[:1]))


def test_layers_are_apart() -> None:
    states = np.stack([manifold(30, 1, 4), manifold(30, 3, 4)]).astype(np.float32)
    found = geometry(states)
    assert found.dimension.tolist() == pytest.approx([two_nn(one.astype(np.float64)) for one in states])
    assert found.anisotropy[1] == pytest.approx(anisotropy(states[1].astype(np.float64)))
