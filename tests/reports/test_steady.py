"""Bands of repetitions, digits that they allow, and curves over operations: against planted numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from jstrace.method.plans import Plan
from jstrace.models import InputError
from jstrace.reports import computation, curves, exhibit, exhibits, models, page, pages, steady
from jstrace.reports.reading import read_results
from jstrace.reports.results import Results
from jstrace.runs.schema import Extras
from tests.planted import SIZES, falling, heights_of, write_run

N = 12
MOVED = np.asarray([-0.02, 0.0, 0.05], np.float32)
"""By how much repetitions differ from the run at every size."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of which all curves are repeated three times."""
    heights = heights_of(N)
    plan = Plan(ablations=("all", "residual+mlp"), baselines=("random", "random-proportional", "inverse"), sizes=SIZES)
    again = np.stack([[[falling(height) + moved] * len(plan.cases) for moved in MOVED] for height in heights])
    folder = write_run(
        tmp_path_factory.mktemp("runs"), "a", heights, heights, plan=plan, extras=Extras(repeats=3), repeats=again,
        save_strata=True, flops=True,
    )  # fmt: skip
    (run,) = read_results([folder])
    return run


def bands_of(figure: Figure) -> list[np.ndarray]:
    """The outlines of what is filled half."""
    found = [one for axes in figure.axes for one in axes.collections if one.get_alpha() == 0.5]
    return [one.get_paths()[0].vertices for one in found]


def test_the_band_is_of_the_medians_of_repetitions(planted: Results) -> None:
    case = planted.plan.case()
    middle = np.median(planted.curve(case, "tv"), axis=0)
    assert steady.repeated(planted, case).shape == (3, N, len(SIZES) + 1)
    np.testing.assert_allclose(steady.figures(planted, case), middle + MOVED[:, None], atol=1e-6)
    with page.style():
        figure = curves.tv(planted).draw(planted)
    outlines = bands_of(figure)
    assert len(outlines) == 2, "one for each ablation"
    for x, low, high in zip(planted.sizes, middle - 0.02, middle + 0.05, strict=True):
        heights = outlines[0][np.isclose(outlines[0][:, 0], x)][:, 1]
        assert [heights.min(), heights.max()] == pytest.approx([low, high], abs=1e-6)
    tv = next(one for one in exhibits.pictures([planted]) if one.kind == "tv")
    assert "Dark band: the lowest and the highest median" in tv.caption
    (row, *_) = curves.curves([planted]).to_pylist()
    assert row["tv_median_std"] == pytest.approx(MOVED.std(ddof=1), abs=1e-6)
    (row, *_) = curves.densities([planted]).to_pylist()
    assert row["density_median_std"] == pytest.approx(4 * MOVED.std(ddof=1), abs=1e-5), "over four decades"


def test_a_run_whose_repetitions_are_all_invalid_has_no_band(tmp_path: Path) -> None:
    heights = heights_of(N)
    folder = write_run(
        tmp_path, "a", heights, heights, plan=Plan(sizes=SIZES), extras=Extras(repeats=3), repeats=[None] * N
    )
    (run,) = read_results([folder])
    with page.style():
        assert not bands_of(curves.tv(run).draw(run))
    assert "tv_median_std" not in curves.curves([run]).column_names


def test_pages_of_inputs_have_the_band(planted: Results) -> None:
    html = pages.Pages(planted).page(0, ["l1/all"]).html
    assert html.count('"band":[[') == 1


@pytest.mark.parametrize(
    ("value", "spread", "printed"),
    [
        (0.183, 0.02, "0.18"), (0.183, 0.004, "0.183"), (0.183, 0.15, "0.2"), (0.18346, 0.0000002, "0.1835"),
        (-0.003, 0.02, "0.00"), (1234.5, 30.0, "1230"), (4.0912, 0.03, "4.09"), (0.18346, None, "0.1835"),
        (0.18346, float("nan"), "0.1835"), (float("nan"), 0.1, "–"), (None, 0.1, "–"), (12, 3.0, "12"),
        ("l1", 0.1, "l1"),
        (0.18346, 0.0, "0.1835"), (2.0, 0.3, "2.0"), (0.0, 0.02, "0.00"), (0.0, 1e-9, "0"),
    ],
)  # fmt: skip
def test_digits_that_are_certain(value: Any, spread: float | None, printed: str) -> None:
    assert exhibit.certain(value, spread) == printed


def test_cells_take_the_larger_uncertainty() -> None:
    """Of the interval that follows a column and of its deviation; bounds are printed like what they bound."""
    names = ["rho", "low", "high", "tv_median", "tv_median_std", "gap", "gap_low", "gap_high", "n"]
    rows = [
        dict(zip(names, (0.3846, 0.3046, 0.4646, 0.18346, 0.013, 0.11111, 0.1101, 0.1121, 12), strict=True)),
        dict(zip(names, (0.3846, None, None, 0.18346, None, float("nan"), float("nan"), float("nan"), 3), strict=True)),
    ]
    first, second = exhibit.cells(names, rows)
    assert first == ["0.38", "0.30", "0.46", "0.18", "0.013", "0.111", "0.110", "0.112", "12"]
    assert second == ["0.3846", "–", "–", "0.1835", "–", "–", "–", "–", "3"]


def test_curves_over_operations(planted: Results, tmp_path: Path) -> None:
    """Each size at the median of what it costs; inverse curves, of which none is known, over sizes."""
    over = computation.over(planted, "flops")
    case, inverse = planted.plan.case(), planted.plan.baseline("inverse")
    cost = computation.share(planted, case)
    np.testing.assert_allclose(computation.places(over, case), np.median(cost, axis=0))
    assert computation.places(planted, case).tolist() == planted.sizes.tolist()
    assert computation.places(over, inverse).tolist() == planted.sizes.tolist()
    with page.style():
        figure = curves.tv(over).draw(over)
    first = next(line for line in figure.axes[0].lines if line.get_color() == "#0072B2")
    np.testing.assert_allclose(first.get_xdata(), np.median(cost, axis=0))
    assert "operations" in figure.get_supxlabel()
    assert "construction" not in curves.tv(over).caption
    page.write_report(
        [planted.parts[0][0]],
        tmp_path / "out",
        axis="flops",
        figures=("tv", "random", "necessity"),
        tables=("density-flops",),
    )
    assert "as many edges of each kind" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(InputError, match="axis = 'time', expected one of edges, flops"):
        computation.over(planted, "time")


def test_density_over_operations(planted: Results) -> None:
    """Two decades, of which TV before the smallest trace's cost is that trace's: against small steps of the curve."""
    case = planted.plan.case()
    found = computation.density(planted, case)
    fine = np.linspace(-2, 0, 200_001)
    for cost, tv, one in zip(computation.share(planted, case), planted.curve(case, "tv"), found, strict=True):
        assert one == pytest.approx(np.trapezoid(np.interp(fine, np.log10(cost), tv), fine), abs=1e-3)
    (row, *_) = computation.densities([planted]).to_pylist()
    assert row["density_flops_median"] == pytest.approx(np.median(found))
    assert row["random_baseline_density_flops_gap"] == pytest.approx(0, abs=0.2)
    assert row["random_proportional_to_l1_density_flops_gap_low"] is not None


def test_networks_and_checkpoints_have_random_traces_beside_them(planted: Results) -> None:
    """Thin lines of both baselines in every panel of hubs; of checkpoints the densities, and the gap in the table."""
    with page.style():
        (hubs,) = (one for one in exhibits.pictures([planted]) if one.kind == "hubs")
        figure = hubs.draw()
        assert [len(axes.lines) for axes in figure.axes] == [6, 3, 6]
        assert "Thin lines: random traces" in hubs.caption
        revised = models.draw_revisions([planted, planted])
    assert [len(axes.lines) for axes in revised.axes[::2]] == [3, 3]
    row, *_ = models.revision_rows([planted, planted]).to_pylist()
    density = [planted.density(f"{name}/all") for name in ("l1", "random proportional to l1")]
    assert row["random_proportional_to_l1_density_gap"] == pytest.approx(np.mean(density[0] - density[1]))
