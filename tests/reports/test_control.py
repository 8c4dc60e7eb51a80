"""The control in reports: planted selectivity comes back, in the figure, in words and in the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import csv
from scipy import stats

from jstrace.method.plans import Plan
from jstrace.reports import control, curves, drawing, exhibits, reading, statistics
from jstrace.reports import page as report
from tests.planted import SIZES, falling, heights_of, write_run

PLAN = Plan(("l1", "rounds"), ("all", "residual+mlp"), ("inverse",), SIZES, replacements=("mean",), selectivity=2)
NAMES = ["rounds/all/mean", "rounds/residual+mlp/mean"]
N = 12
HEIGHTS = heights_of(N)


def foreign_of(n: int) -> np.ndarray:
    """Foreign TV: 0.9 up to the third size for the first curve, to the fourth for the second, then the own and 0.1."""
    own = np.stack([falling(height) for height in HEIGHTS[:n]])[:, None, None].repeat(2, axis=1).repeat(2, axis=2)
    found = own + np.float32(0.1)
    found[:, 0, :, 2], found[:, 1, :, 3] = 0.9, 0.9
    found[:, :, 1] += 0.02
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    foreign = foreign_of(N)
    foreign[4] = np.nan
    return write_run(tmp_path, "a", HEIGHTS, HEIGHTS, plan=PLAN, foreign=foreign, invalid=(7,))


def test_planted_selectivity_comes_back(folder: Path) -> None:
    """Over the inputs that have a control, with the interval of the mean."""
    (run,) = reading.read_results([folder])
    assert [case.name for case in run.controlled] == NAMES
    here = [n for n in range(N) if n not in (4, 7)]
    found = control.selectivity(run, run.controlled[1])
    assert found.n == len(here)
    own, foreign = np.stack([falling(height) for height in HEIGHTS[here]]), foreign_of(N)[here, 1].mean(axis=1)
    np.testing.assert_allclose(found.own, own.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.foreign, foreign.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.selectivity, (foreign - own).mean(axis=0), rtol=1e-5)
    assert (found.peak, control.selectivity(run, run.controlled[0]).peak) == (3, 2)
    error = (foreign - own)[:, 3].std(ddof=1) / np.sqrt(len(here))
    assert found.high[3] - found.low[3] == pytest.approx(2 * stats.t.ppf(0.975, len(here) - 1) * error, rel=0.15)
    assert found.low[3] < found.selectivity[3] < found.high[3]
    again = control.selectivity(run, run.controlled[1])
    np.testing.assert_array_equal(found.low, again.low, "the bootstrap has a seed")


def test_few_inputs_have_no_interval(tmp_path: Path) -> None:
    few = statistics.FEW - 1
    run_folder = write_run(tmp_path, "a", HEIGHTS[:few], HEIGHTS[:few], plan=PLAN, foreign=foreign_of(few))
    (run,) = reading.read_results([run_folder])
    found = control.selectivity(run, run.controlled[0])
    assert np.isnan([found.low, found.high]).all()
    assert np.isfinite(found.selectivity).all()
    report.write_report([run_folder], tmp_path / "out", figures=["selectivity"])
    assert f"at 1% of the edges (n = {few})" in (tmp_path / "out" / "index.html").read_text()


def test_figure_words_and_tables(folder: Path, tmp_path: Path) -> None:
    (run,) = reading.read_results([folder])
    peaks = [control.selectivity(run, case) for case in run.controlled]
    with drawing.style():
        (picture,) = [picture for picture in exhibits.pictures([run]) if picture.kind == "selectivity"]
        figure = picture.draw()
    ablated = ["ablated: all\nreplaced by: mean", "ablated: residual+mlp\nreplaced by: mean"]
    assert [axes.get_title() for axes in figure.axes] == [f"rounds\n{words}" for words in ablated]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["TV, foreign predictions", "TV, own prediction", "selectivity"]
    own, foreign, selectivity, dot = figure.axes[1].lines
    for line, expected in ((own, peaks[1].own), (foreign, peaks[1].foreign), (selectivity, peaks[1].selectivity)):
        np.testing.assert_array_equal(line.get_ydata(), expected)
    assert dot.get_xdata() == 0.1
    report.write_report([folder], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for name, at, found in zip(NAMES, ("1%", "10%"), peaks, strict=True):
        k = found.peak
        value = f"{found.selectivity[k]:.2f} [{found.low[k]:.2f}, {found.high[k]:.2f}]"
        assert f"{name} {value} at {at} of the edges (n = 10)" in page
    rows = csv.read_csv(tmp_path / "out" / "tables" / "selectivity.csv").to_pylist()
    places = [(row["condition"], row["peak_size"], row["n"]) for row in rows]
    assert places == [(NAMES[0], 0.01, 10), (NAMES[1], 0.1, 10)]
    assert [row["selectivity"] for row in rows] == pytest.approx([one.selectivity[one.peak] for one in peaks])
    rows = csv.read_csv(tmp_path / "out" / "tables" / "curves.csv").to_pylist()
    for row in rows:
        told = row["condition"] in NAMES
        assert (row["selectivity_mean"] is not None) == (row["foreign_tv_mean"] is not None) == told, row
    of = [row["selectivity_mean"] for row in rows if row["condition"] == NAMES[0]]
    assert of == pytest.approx(peaks[0].selectivity.tolist())


def test_runs_without_it_show_nothing(folder: Path, tmp_path: Path) -> None:
    """Of several runs those that have it have a figure; alone one without it has no word of it."""
    plain = write_run(tmp_path, "b", HEIGHTS, HEIGHTS, plan=Plan(sizes=SIZES))
    runs = reading.read_results([plain, folder])
    assert [picture.name for picture in exhibits.pictures(runs) if picture.kind == "selectivity"] == ["selectivity-2"]
    both = curves.curves(runs).to_pylist()
    assert {row["selectivity_mean"] for row in both if row["model"] == "b"} == {None}
    report.write_report([plain], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("selectivity*"))
    for path in (tmp_path / "out" / "index.html", tmp_path / "out" / "tables" / "curves.csv"):
        assert "selectivity" not in path.read_text()
