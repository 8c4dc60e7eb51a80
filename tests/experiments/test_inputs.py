"""What experiments share."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.inputs import makeup_of
from jstrace.method.graph.composition import composed
from jstrace.method.graph.counting import Counts
from jstrace.method.graph.depth import by_quarter
from tests.conftest import TINY


def test_quarters_are_those_of_compositions() -> None:
    """Of six layers, which do not divide: layer l is in quarter floor(4 l / 6)."""
    rng = np.random.default_rng(0)
    counts = [
        Counts(
            rng.integers(1, 9, (2, 6)), rng.integers(1, 9, (2, 6)), rng.integers(1, 9, (2, 6, 3)), np.ones(2, int),
            np.ones(2, bool), np.ones((2, 10), int),
        )
        for _ in range(3)
    ]  # fmt: skip
    made = [composed(one, TINY) for one in counts]
    for k, row in enumerate(makeup_of(made, (0.1, 1.0))):
        layers = np.mean([one.layers[k] for one in made], axis=0)
        expected = [layers[:2].sum(), layers[2], layers[3:5].sum(), layers[5]]
        assert [row[f"quarter_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected)
        np.testing.assert_allclose(by_quarter(layers), expected)


def test_quarters_of_few_layers() -> None:
    np.testing.assert_array_equal(by_quarter(np.asarray([[1, 2, 3]])), [[1, 2, 3, 0]])
    np.testing.assert_array_equal(by_quarter(np.arange(8)), [1, 5, 9, 13])
