"""Models beside each other, from planted runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import csv

from experiments import models_compared
from jstrace.method.plans import Plan
from tests.planted import SIZES, heights_of, write_run

PAPER = Plan(ablations=("all", "residual+mlp"), replacements=("zero", "mean"), sizes=SIZES)
SCORES = Plan(("l1*gradient", "rounds"), ("all", "residual+mlp"), replacements=("mean",), sizes=SIZES)
N = {"smollm2": 6, "gemma": 4}
"""Inputs of the models, of which the larger has the first ones alone."""


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, (model, n) in enumerate(N.items()):
        write_run(tmp_path, f"{model}-paper", heights_of(n, seed), heights_of(n), plan=PAPER)
        write_run(tmp_path, f"{model}-scores", heights_of(n, seed + 5), heights_of(n), plan=SCORES)
    monkeypatch.setattr(sys, "argv", ["models_compared.py", str(tmp_path), str(tmp_path / "out")])
    models_compared.main()
    return tmp_path / "out"


def rows_of(folder: Path, name: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = csv.read_csv(folder / "tables" / f"{name}.csv").to_pylist()
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_trends_are_means_over_all_and_over_shared_inputs(compared: Path) -> None:
    for seed, model in enumerate(N):
        label, heights = models_compared.MODELS[model].label, heights_of(N[model], seed)
        for over, n in (("all", N[model]), ("shared", 4)):
            rows = rows_of(compared, "trends", kind="paper", condition="l1/all", model=label, over=over)
            assert [row["size"] for row in rows] == [*SIZES, 1.0]
            assert {row["n"] for row in rows} == {n}
            assert rows[0]["tv"] == pytest.approx(heights[:n].mean(), rel=1e-3)
            assert rows[-1]["tv"] == 0
    changed = rows_of(compared, "changes", kind="paper", condition="l1/all", size=SIZES[0])
    assert [row["n"] for row in changed] == [4]
    expected = (heights_of(4, 1) - heights_of(6, 0)[:4]).mean()
    assert changed[0]["change"] == pytest.approx(expected, rel=1e-3)


def test_what_is_kept_of_ablatable_edges_nests(compared: Path) -> None:
    rows = rows_of(compared, "kept", kind="paper", condition="l1/residual+mlp", model="Gemma 3 270M")
    shares = [row["kept"] for row in rows[: len(SIZES) + 1]]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert not rows_of(compared, "kept", condition="l1/all"), "there all edges can be ablated"


def test_every_table_and_figure_is_there(compared: Path) -> None:
    """Of kinds that no model has there are none, and no model is named that has no run."""
    assert {path.name for path in compared.glob("*.png")} == {"curves.png", "scores.png", "trend.png", "kept.png"}
    tables = {path.stem for path in (compared / "tables").glob("*.csv")}
    assert {"curves", "densities", "correlations", "between_models", "trends", "changes", "kept"} <= tables
    assert "selectivity" not in tables
    assert {row["model"] for row in rows_of(compared, "curves")} == {"SmolLM2 135M", "Gemma 3 270M"}
    assert {row["kind"] for row in rows_of(compared, "curves")} == {"paper", "scores"}


def test_later_runs_are_kept_beside_earlier_ones(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model and kind that run again the rows are the new ones, of all others they stay; figures of theirs, too."""
    before, drawn = rows_of(compared, "trends"), (compared / "curves.png").read_bytes()
    later = tmp_path / "later"
    later.mkdir()
    write_run(later, "gemma-scores", heights_of(3, 9), heights_of(3), plan=SCORES)
    plan = Plan(("l1", "fitted"), ("all",), replacements=("mean",), sizes=SIZES, selectivity=1)
    told = np.full((5, 1, 1, len(SIZES) + 1), 0.9, np.float32)
    write_run(later, "gemma-fitted", heights_of(5, 3), heights_of(5), plan=plan, foreign=told)
    monkeypatch.setattr(sys, "argv", ["models_compared.py", str(later), str(compared), "--keep"])
    models_compared.main()
    after = rows_of(compared, "trends")
    again = [row for row in after if (row["kind"], row["model"]) == ("scores", "Gemma 3 270M")]
    assert {row["n"] for row in again} == {3}
    others = [row for row in after if row["kind"] != "fitted" and row not in again]
    assert others == [row for row in before if (row["kind"], row["model"]) != ("scores", "Gemma 3 270M")]
    assert (compared / "curves.png").read_bytes() == drawn
    assert (compared / "fitted.png").exists()
    (row,) = rows_of(compared, "controls", size=SIZES[0])
    assert (row["condition"], row["n"], row["foreign_tv"]) == ("fitted/all/mean", 5, pytest.approx(0.9))
    assert row["own_tv"] == pytest.approx(heights_of(5, 3).mean(), rel=1e-3)
    assert row["selectivity"] == pytest.approx(row["foreign_tv"] - row["own_tv"], abs=2e-4)


def test_shares_are_interpolated_by_their_logarithms() -> None:
    shares, values = np.asarray([0.0, 0.01, 0.1, 1.0]), np.asarray([9.0, 1.0, 0.5, 0.0])
    assert models_compared.interpolated(0.1, shares, values) == pytest.approx(0.5)
    assert models_compared.interpolated(10**-1.5, shares, values) == pytest.approx(0.75)
    assert np.isnan(models_compared.interpolated(0.001, shares, values))
    with pytest.raises(AssertionError, match="nest"):
        models_compared.interpolated(0.1, shares[::-1], values)
