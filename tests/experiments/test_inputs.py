"""What experiments share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.inputs import Table, makeup_of, merged
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


def test_tables_go_on(tmp_path: Path) -> None:
    """What a file has by the columns asked for, as text or number, is in it; other scores' rows stay, in order."""
    path = tmp_path / "new" / "table.csv"
    made = Table(path, "plan", "row")
    made.add([{"plan": "a", "row": 3, "tv": 0.5}])
    again = Table(path, "plan", "row")
    assert ("a", 3) in again
    assert ("a", "3") in again
    assert ("a", 4) not in again
    again.add([{"plan": "b", "row": 3, "tv": 0.25}])
    assert path.read_bytes() == b"plan,row,tv\na,3,0.5\nb,3,0.25\n"


def test_rows_of_other_scores_stay(tmp_path: Path) -> None:
    path, order = tmp_path / "curves.csv", ["l1", "rounds", "random"]
    merged(path, [{"score": "random", "tv": 1.0}, {"score": "l1", "tv": 0.5}], order)
    merged(path, [{"score": "l1", "tv": 0.4, "low": 0.3}], order)
    assert path.read_text() == "score,tv,low\nl1,0.4,0.3\nrandom,1.0,\n"
