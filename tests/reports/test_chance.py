"""What random traces have stands beside what a run claims, and claims that hold it are in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import csv
from scipy import stats

from jstrace.method.plans import Plan
from jstrace.reports import chance, drawing, exhibits, generations, makeup, pairs, reading, statistics
from jstrace.reports import page as report
from jstrace.runs.schema import Extras
from tests.planted import PLAN, SIZES, heights_of, write_run

pytestmark = pytest.mark.quick
N = 24
ENTROPIES = np.linspace(0.1, 3.0, N)
OWN, ALIKE = np.linspace(0.3, 0.6, N) + np.random.default_rng(4).normal(0, 0.05, (2, N))
"""Both grow with entropy: random traces that are as good, and"""
APART = 0.4 + heights_of(N) / 2
"""random traces that are worse, and do not."""


def made(folder: Path, name: str) -> list[dict[str, Any]]:
    (run,) = reading.read_results([folder])
    (table,) = [table for table in exhibits.tables([run]) if table.name == name]
    return table.compute().to_pylist()


@pytest.mark.parametrize(("random", "grey"), [(APART, False), (ALIKE, True)])
def test_correlations_and_curves_have_chance_beside_them(tmp_path: Path, random: np.ndarray, grey: bool) -> None:
    folder = write_run(tmp_path, "a", OWN, ENTROPIES, random=random)
    rows = {(row["condition"], row["measure"], row["with"]): row for row in made(folder, "correlations")}
    row = rows["l1/all", "density", "entropy"]
    assert row["random_baseline_rho"] == pytest.approx(stats.spearmanr(random, ENTROPIES).statistic)
    assert row["as_random"] is grey
    assert row["low"] < row["rho"] < row["high"]
    assert rows["random baseline/all", "density", "entropy"]["as_random"] is None, "chance is no claim"
    assert rows["l1/all", "density", "frequency"]["as_random"] is None, "no interval, no answer"
    first, *_ = [row for row in made(folder, "curves") if row["condition"] == "l1/residual+mlp"]
    _, low, high = statistics.means_of((OWN - random)[:, None])
    assert first["random_baseline_tv_median"] == pytest.approx(np.median(random), rel=1e-6)
    assert first["random_baseline_tv_gap"] == pytest.approx((OWN - random).mean(), abs=1e-6)
    assert [first[f"random_baseline_tv_gap_{end}"] for end in ("low", "high")] == pytest.approx([*low, *high], abs=1e-6)
    assert first["as_random"] is grey
    (density, *_) = made(folder, "density")
    assert density["as_random"] is grey
    assert {row["as_random"] for row in made(folder, "curves") if row["condition"].endswith("inverse")} == {None}
    fall = next(row for row in made(folder, "phases") if row["phase"] == "refinement")
    assert fall["random_baseline_tv_from"] == pytest.approx(np.median(random), rel=1e-6)
    assert fall["random_baseline_fall_per_decade"] == pytest.approx(np.median(random) / 2, rel=1e-6)
    (figure,) = [one for one in exhibits.pictures(reading.read_results([folder])) if one.kind == "correlation"]
    with drawing.style():
        title = figure.draw().axes[0].title
    assert title.get_text().endswith(f"\nrandom baseline: {row['random_baseline_rho']:.2f}")
    assert (title.get_color() != "k") == grey


def test_random_sets_are_removed_too(tmp_path: Path) -> None:
    plan = Plan(baselines=("inverse", "random-inverse"), sizes=SIZES)
    folder = write_run(tmp_path, "a", OWN, ENTROPIES, random=APART, plan=plan)
    rows = {(row["condition"], row["size"]): row for row in made(folder, "curves")}
    row = rows["l1/all/inverse", SIZES[-1]]
    assert row["random_baseline_tv_median"] == pytest.approx(np.median(APART), rel=1e-6)
    assert row["as_random"] is False
    assert rows["l1/all", SIZES[0]]["as_random"] is None, "no random traces are kept"
    (figure,) = [one for one in exhibits.pictures(reading.read_results([folder])) if one.kind == "necessity"]
    with drawing.style():
        assert len(figure.draw().axes[0].lines) == 2
    assert "as much is removed of random traces" in figure.caption


def test_makeup_and_figures(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", OWN, ENTROPIES, random=APART)
    (run,) = reading.read_results([folder])
    theirs = makeup.makeup_of(run, "random baseline")
    rows = [row for row in made(folder, "makeup") if row["source"] == "l1"]
    assert [row["random_baseline_mlp"] for row in rows] == pytest.approx(theirs.types[:, 2].tolist())
    assert [row["random_baseline_quarter_1"] for row in rows] == pytest.approx(theirs.quarters[:, 0].tolist())
    layers = [row["random_baseline_share"] for row in made(folder, "layers") if row["source"] == "l1"]
    assert layers == pytest.approx(theirs.layers.ravel().tolist())
    _, held = makeup.concentration(run, "random baseline")
    assert [row["random_baseline_top_50%"] for row in made(folder, "core")][:6] == pytest.approx(held[:, 8].tolist())
    with drawing.style():
        drawn = {picture.kind: picture for picture in exhibits.pictures([run])}
        lines = drawn["tv"].draw().axes[0].lines
        assert len(drawn["random"].draw().axes[0].lines) == 2, "there it has a line of its own"
        assert len(drawn["makeup"].draw().axes[0].lines) == 2, "two bounds between three types"
    assert any(
        np.allclose(line.get_ydata(), np.median(run.curve("random baseline/all", "tv"), axis=0)) for line in lines
    )
    assert "Thin lines: random traces of the same size (random baseline)." in drawn["tv"].caption
    assert "Thin lines" not in drawn["nucleus"].caption


def test_rows_that_claim_nothing_are_grey_on_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", OWN, ENTROPIES, random=ALIKE)
    report.write_report([folder], tmp_path / "out", tables=["correlations"], figures=["correlation"])
    page = (tmp_path / "out" / "index.html").read_text()
    rows = csv.read_csv(tmp_path / "out" / "tables" / "correlations.csv").to_pylist()
    grey = [row for row in rows if row["as_random"]]
    assert page.count('<tr class="chance">') == len(grey) > 0
    assert "In grey: the interval holds" in page
    plain = write_run(tmp_path, "b", OWN, ENTROPIES, plan=Plan(sizes=SIZES))
    report.write_report([plain], tmp_path / "plain")
    assert "as_random" not in (tmp_path / "plain" / "tables" / "correlations.csv").read_text()
    words = (tmp_path / "plain" / "index.html").read_text()
    assert '<tr class="chance">' not in words
    assert "random traces of the same size" not in words


def test_models_pairs_and_generations(tmp_path: Path) -> None:
    """Wherever there is a correlation or a difference of a curve that random traces have, too."""
    one = write_run(tmp_path, "a", OWN, ENTROPIES, random=APART)
    two = write_run(tmp_path, "b", OWN[::-1].copy(), ENTROPIES, random=APART)
    runs = reading.read_results([one, two])
    (table,) = [table for table in exhibits.tables(runs) if table.name == "between-models"]
    row = next(row for row in table.compute().to_pylist() if row["model"] != row["other"])
    assert row["random_baseline_rho"] == pytest.approx(1.0)
    assert row["as_random"] is False
    names = [(str(pair), variant) for pair in range(N // 2) for variant in ("plain", "shuffled")]
    (run,) = reading.read_results([write_run(tmp_path, "c", OWN, ENTROPIES, random=ALIKE, pairs=names)])
    row = next(row for row in pairs.table([run]).to_pylist() if row["measure"] == "TV at 0.1%")
    assert row["random_baseline_difference"] == pytest.approx((ALIKE[1::2] - ALIKE[::2]).mean(), rel=1e-5)
    assert row["as_random"] is (row["low"] <= row["random_baseline_difference"] <= row["high"])
    steps = [
        {"row": n // 3, "step": n % 3, "generated_token": 3, "generated_text": "w", "generated_prob": 0.5}
        for n in range(N)
    ]
    folder = write_run(tmp_path, "d", OWN, ENTROPIES, random=APART, extras=Extras(generate=3), columns=steps, plan=PLAN)
    (run,) = reading.read_results([folder])
    medians = [row["random_baseline_density_median"] for row in generations.table([run]).to_pylist()][:3]
    density = run.density("random baseline/all").reshape(-1, 3)
    assert medians == pytest.approx(np.median(density, axis=0).tolist())


def test_what_an_interval_holds() -> None:
    assert chance.held([]) == {}
    assert chance.held([(0.1, 0.3, 0.2)]) == {"as_random": True}
    assert chance.held([(0.1, 0.3, 0.4), (0.1, 0.3, np.nan)]) == {"as_random": False}
    assert chance.held([(np.nan, np.nan, 0.4)]) == {"as_random": None}
    several = chance.held([(np.asarray([0.0, 1.0, np.nan]), np.asarray([2.0, 2.0, np.nan]), 0.5)])["as_random"]
    assert several.tolist() == [True, False, None]
