"""What reports show of generated text, geometry, pairs and checkpoints, where runs have them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from pyarrow import csv
from scipy import stats

from jstrace.method.plans import Plan
from jstrace.models import InputError
from jstrace.reports import drawing, exhibits, generations, geometries, models, pairs, reading
from jstrace.reports import page as report
from jstrace.runs.schema import Extras
from tests.planted import SIZES, heights_of, write_run

Planted = Callable[..., Path]
BOTH = Plan(ablations=("all", "residual+mlp"), sizes=SIZES)


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return functools.partial(write_run, tmp_path, plan=BOTH)


def generated(n_rows: int, steps: int) -> list[dict[str, object]]:
    return [
        {
            "row": row,
            "step": step,
            "generated_token": 3,
            "generated_text": f" w{step}",
            "generated_prob": 0.1 * (step + 1),
        }
        for row in range(n_rows)
        for step in range(steps)
    ]


def drawn(folder: Path, kind: str) -> Figure:
    runs = reading.read_results([folder])
    with drawing.style():
        (found,) = [picture for picture in exhibits.pictures(runs) if picture.kind == kind]
        figure = found.draw()
    words = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    assert figure.get_size_inches()[0] == drawing.COLUMN
    assert any(word.startswith("ablated: all") for word in words)
    assert any(word.startswith("ablated: residual+mlp") for word in words)
    return figure


def test_density_along_generated_text(planted: Planted, tmp_path: Path) -> None:
    """A row's line is its own, though one of its inputs is invalid; numbers come back from the table."""
    heights = np.tile([0.9, 0.6, 0.3], 5) + np.repeat(np.arange(5), 3) / 100
    options = {"extras": Extras(generate=3), "columns": generated(5, 3), "invalid": (4,)}
    folder = planted("a", heights, heights_of(15), **options)
    (run,) = reading.read_results([folder])
    lines = generations.along(run, run.density("l1/all"))
    assert lines.shape == (5, 3)
    assert np.isnan(lines).sum() == 1
    assert np.isnan(lines[1, 1]), "row 1, step 1"
    assert lines[2, 2] == run.density("l1/all")[run.valid["input"].to_pylist().index(8)]
    assert (run.n, run.clusters.tolist()) == (5, np.delete(np.repeat(np.arange(5), 3), 4).tolist())
    assert generations.within_rows(run, run.plan.case(), "step").mean == pytest.approx(-1.0)
    assert generations.within_rows(run, run.plan.case(), "generated_prob").n == 4, "of two steps there is no rho"
    axes = drawn(folder, "generation").axes
    assert [len(one.get_lines()) for one in axes] == [6, 6, 6], "five rows and their median"
    report.write_report([folder], tmp_path / "out")
    rows = csv.read_csv(tmp_path / "out" / "tables" / "generation.csv").to_pylist()
    assert [(row["step"], row["n"]) for row in rows[:3]] == [(0, 5), (1, 4), (2, 5)]
    assert rows[0]["density_median"] == pytest.approx(np.median(lines[:, 0]))
    assert rows[2]["prob_mean"] == pytest.approx(0.3)
    words = (tmp_path / "out" / "index.html").read_text()
    assert "15 of 15 predictions evaluated, 1 invalid" in words
    assert "So n counts rows of the data" in words
    assert "n = 5." in words
    assert "n = 14" not in words
    found = csv.read_csv(tmp_path / "out" / "tables" / "correlations.csv").to_pylist()
    assert {(row["n"], row["p"]) for row in found} <= {(5, None), (5, "nan")}, (
        "five texts are few, whatever their tokens"
    )
    assert "-1.00 (n = 4) with how far it is from the prompt" in words


def test_one_row_has_its_tokens_on_the_axis(planted: Planted) -> None:
    folder = planted("a", heights_of(3), heights_of(3), extras=Extras(generate=3), columns=generated(1, 3))
    last = drawn(folder, "generation").axes[-1]
    assert [label.get_text() for label in last.get_xticklabels()] == [" w0", " w1", " w2"]
    assert last.get_xlabel() == "generated token"


def test_geometry_and_density(planted: Planted, tmp_path: Path) -> None:
    heights = heights_of(12)
    shape = [{"dimension": [3.0, None, 5 * h], "anisotropy": [0.1, -h, 0.2]} for h in heights.tolist()]
    folder = planted("a", heights, heights_of(12, 1), extras=Extras(geometry=True), columns=shape)
    (run,) = reading.read_results([folder])
    assert geometries.layered(run, "dimension")[:, 2] == pytest.approx(5 * heights)
    assert len(drawn(folder, "geometry").axes) == 4
    report.write_report([folder], tmp_path / "out", tables=("geometry",), figures=("geometry",))
    rows = csv.read_csv(tmp_path / "out" / "tables" / "geometry.csv").to_pylist()
    found = {(row["condition"], row["measure"], row["layer"]): row for row in rows}
    assert len(found) == 2 * 2 * 3
    assert found["l1/all", "dimension", 2]["rho"] == pytest.approx(1.0)
    assert found["l1/all", "anisotropy", 1]["rho"] == pytest.approx(-1.0)
    assert found["l1/all", "dimension", 2]["median"] == pytest.approx(5 * np.median(heights))
    assert found["l1/all", "dimension", 0]["rho"] in ("nan", None), "constant"
    assert found["l1/all", "dimension", 1]["n"] == 0


def test_variants_that_cannot_be_printed(planted: Planted, tmp_path: Path) -> None:
    """What a file calls them is no part of the page's markup, nor of a figure's."""
    names = ["\0<script>", "$x_{\x1b}$"]
    folder = planted("a", heights_of(4), heights_of(4), pairs=[(str(n // 2), names[n % 2]) for n in range(4)])
    report.write_report([folder], tmp_path / "out", figures=("paired",), tables=("paired",))
    page = (tmp_path / "out" / "index.html").read_text()
    assert not {"\0", "\x1b"} & set(page)
    assert page.count("<script") == 1, "its own"
    ElementTree.fromstring((tmp_path / "out" / "figures" / "paired.svg").read_text())


def in_pairs(n: int) -> list[tuple[str, str]]:
    return [(str(pair), variant) for pair in range(n) for variant in ("plain", "shuffled", "wrong")]


def test_pairs_are_compared_within(planted: Planted, tmp_path: Path) -> None:
    """Against the first variant; a pair counts where both of its texts are valid."""
    rng, n = np.random.default_rng(0), 12
    plain = rng.uniform(0.2, 0.6, n)
    heights = np.stack([plain, plain + rng.uniform(0.1, 0.3, n), plain + rng.normal(0, 0.05, n)], axis=1).ravel()
    folder = planted("a", heights, heights, pairs=in_pairs(n), invalid=(3, 7))
    (run,) = reading.read_results([folder])
    assert [(one.variant, one.against, len(one.ours)) for one in pairs.pairs_of(run)] == [
        ("shuffled", "plain", 10),  # pair 1 lacks its plain text, pair 2 its shuffled one
        ("wrong", "plain", 11),
    ]
    axes = drawn(folder, "paired").axes
    assert len(axes[0].get_lines()[0].get_xdata()) == 10
    report.write_report([folder], tmp_path / "out", paired=True)
    rows = csv.read_csv(tmp_path / "out" / "tables" / "paired.csv").to_pylist()
    found = {(row["condition"], row["variant"], row["measure"]): row for row in rows}
    assert {measure for _, _, measure in found} == {"density", "TV at 0.1%", "TV at 1%", "TV at 10%"}
    kept = [pair for pair in range(n) if pair not in (1, 2)]
    gap = heights.reshape(n, 3)[kept, 1] - plain[kept]
    row = found["l1/all", "shuffled", "TV at 0.1%"]
    assert (row["n"], row["higher"]) == (10, 10)
    assert row["difference"] == pytest.approx(gap.mean(), rel=1e-5)
    assert row["low"] < row["difference"] < row["high"]
    assert row["sign_p"] == pytest.approx(2 / 2**10)
    assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(gap).pvalue)
    assert found["l1/all", "wrong", "density"]["wilcoxon_p"] > 0.01


def test_steps_of_a_pair_count_once(planted: Planted) -> None:
    """Along generated text each pair has the mean of its steps, and n counts pairs."""
    rng, n, steps = np.random.default_rng(2), 6, 3
    heights = rng.uniform(0.2, 0.9, (n, 2, steps))
    names = [(str(pair), variant) for pair in range(n) for variant in ("plain", "shuffled") for _ in range(steps)]
    folder = planted(
        "a",
        heights.ravel(),
        heights.ravel(),
        extras=Extras(generate=steps),
        columns=generated(2 * n, steps),
        pairs=names,
    )
    (run,) = reading.read_results([folder])
    (found,) = pairs.pairs_of(run)
    assert (found.n, len(found.ours), run.n, run.first.n) == (n, n * steps, n, n)
    row = next(row for row in pairs.table([run]).to_pylist() if row["measure"] == "TV at 0.1%")
    gap = (heights[:, 1] - heights[:, 0]).mean(axis=1)
    assert (row["n"], row["higher"], row["difference"]) == (n, (gap > 0).sum(), pytest.approx(gap.mean(), rel=1e-5))
    assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(gap).pvalue)


def test_differences_that_are_all_zero() -> None:
    assert np.isnan([pairs.sign_p(np.zeros(4)), pairs.wilcoxon_p(np.zeros(4))]).all()
    assert pairs.sign_p(np.asarray([0.0, 1.0, 2.0])) == 0.5, "zeros are left out"


def test_pairs_that_are_not_there(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4))
    with pytest.raises(InputError, match="a: no pairs of texts"):
        report.write_report([folder], tmp_path / "out", paired=True)
    alone = planted("b", heights_of(2), heights_of(2), pairs=[("0", "plain"), ("1", "shuffled")])
    (run,) = reading.read_results([alone])
    assert pairs.pairs_of(run) == []
    names = {picture.kind for picture in exhibits.pictures([run])}
    assert not {"generation", "geometry", "paired", "revisions"} & names


def test_checkpoints_stand_in_their_order(tmp_path: Path) -> None:
    """By the places of their manifests, from the one folder that holds them."""
    parent = tmp_path / "steps"
    parent.mkdir()
    for place, (name, height) in enumerate({"c": 0.9, "a": 0.5, "b": 0.3}.items()):
        about = {"revision": f"step {name}", "place": place}
        write_run(parent, name, np.full(4, height) + heights_of(4) / 100, heights_of(4), plan=BOTH, about=about)
    runs = reading.read_results([parent])
    assert [run.revision for run in runs] == ["step c", "step a", "step b"]
    assert models.revised(runs) == models.revised(runs[::-1]) == runs
    assert models.revised(runs[:1]) == []
    with drawing.style():
        figure = models.draw_revisions(runs)
    left, right = figure.axes[2:]
    assert [label.get_text() for label in left.get_xticklabels()] == ["step c", "step a", "step b"]
    (line,) = left.get_lines()
    assert line.get_ydata()[0] > line.get_ydata()[1] > line.get_ydata()[2]
    assert len(right.get_lines()) == 3
    report.write_report([parent], tmp_path / "out", tables=("revisions",), figures=("revisions",))
    rows = csv.read_csv(tmp_path / "out" / "tables" / "revisions.csv").to_pylist()
    assert [row["revision"] for row in rows[:3]] == ["step c", "step a", "step b"]
    assert rows[0]["tv_median_at_0.1%"] == pytest.approx(np.median(runs[0].curve("l1/all", "tv")[:, 1]))
    write_run(parent, "other", heights_of(4), heights_of(4), plan=BOTH)
    with pytest.raises(InputError, match="beside checkpoints of a model it holds other; name them one by one"):
        reading.read_results([parent])


def test_checkpoints_of_equal_weights(tmp_path: Path) -> None:
    """Two revisions may hold the same model: they are two runs."""
    for place in range(2):
        folder = write_run(
            tmp_path, f"m{place}", heights_of(3), heights_of(3), about={"revision": str(place), "place": place}
        )
        assert json.loads((folder / "manifest.json").read_text())["model"]["place"] == place
    assert len(reading.read_results([tmp_path / "m0", tmp_path / "m1"])) == 2
