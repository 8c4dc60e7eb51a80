"""Hubs and communities of runs: what the figure shows is what ``jstrace.analyse`` finds of the same texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import Model
from jstrace.reports import drawing, exhibits, networks, reading
from jstrace.reports import page as report
from jstrace.runs.data import Data, Row
from tests.planted import heights_of, write_run
from tests.stand_ins import Letters

TEXTS = ("hello there", "abc", "some more words", "nine", "ten and eleven")
SIZES = (1e-4, 0.04, 0.1, 0.5)


@pytest.fixture(scope="module")
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run whose strata are saved."""
    out = tmp_path_factory.mktemp("run") / "run"
    data = Data("d", tuple(Row(text) for text in TEXTS), ())
    runs.run(model, data, out, Plan(("l2", "l1"), sizes=SIZES), name="tiny", save_strata=True, part_inputs=2)
    return out


def test_numbers_are_those_of_analyse(model: Model, folder: Path) -> None:
    (run,) = reading.read_results([folder])
    chosen = networks.sample(run)
    assert chosen is not None
    assert chosen.inputs == (0, 1, 2, 3, 4)
    assert [run.sizes[k] for k in chosen.ks] == [1e-4, 0.04, 0.1, 0.5, 1.0]
    found = networks.networks(run, chosen)
    for row, text in enumerate(TEXTS):
        trace = jstrace.trace(model, text, score="l2", sizes=SIZES)
        for column, k in enumerate(chosen.ks):
            wanted = jstrace.analyse(trace, k)
            if wanted.network.n_edges < networks.FEWEST_EDGES:
                assert np.isnan([found.degree[row, column], found.modularity[row, column]]).all()
                continue
            assert found.modularity[row, column] == wanted.modularity
            assert found.degree[row, column] == networks.gini(wanted.in_degree + wanted.out_degree)
            assert found.betweenness[row, column] == networks.gini(wanted.betweenness)
            whole = wanted.communities(1000)
            tokens = [len({*wanted.network.position[wanted.community == one.number]}) for one in whole]
            mean = np.average(tokens, weights=[one.nodes for one in whole]) / len(trace.tokens)
            assert found.tokens[row, column] == pytest.approx(mean)
    assert np.isnan(found.degree[:, 0]).all(), "a ten thousandth of so few edges is none"
    assert np.isfinite(found.degree[:, -1]).all()


def test_gini() -> None:
    """Half the mean difference of two numbers over their mean."""
    values = np.random.default_rng(0).exponential(size=50)
    wanted = np.abs(values[:, None] - values).mean() / 2 / values.mean()
    assert networks.gini(values) == pytest.approx(wanted)
    assert networks.gini(np.ones(9)) == pytest.approx(0)
    assert networks.gini(np.asarray([0, 0, 0, 5])) == pytest.approx(3 / 4)
    assert np.isnan(networks.gini(np.zeros(3)))


def test_the_figure(folder: Path, tmp_path: Path) -> None:
    """With its words in the page, and labelled axes."""
    (run,) = reading.read_results([folder])
    (picture,) = (one for one in exhibits.pictures([run]) if one.kind == "hubs")
    with drawing.style():
        drawn = picture.draw()
    assert [axes.get_title() for axes in drawn.axes] == ["hubs: Gini over nodes", "modularity", "a community has"]
    assert [len(axes.lines) for axes in drawn.axes] == [2, 1, 2]
    assert drawn.get_size_inches()[0] == drawing.COLUMN
    for axes in drawn.axes:
        for line in axes.lines:
            assert ((line.get_ydata() >= -0.5) & (line.get_ydata() <= 1)).all()
    report.write_report([folder], tmp_path / "out", figures=("hubs",), tables=("validity",))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "5 of 5 inputs, evenly spaced over those with saved strata and at most 128 tokens, at 5 sizes" in page
    assert "Nothing is ablated here" in page
    assert (tmp_path / "out" / "figures" / "hubs.svg").is_file()


def test_only_what_is_saved_is_sampled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly, within what is affordable; not long inputs, nor those whose strata were removed."""
    (run,) = reading.read_results([folder])
    monkeypatch.setattr(networks, "_INPUTS", 3)
    assert networks.sample(run).inputs == (0, 2, 4)  # type: ignore[union-attr]
    monkeypatch.setattr(networks, "_PAIRS", 1)
    assert networks.sample(run).inputs == (0,)  # type: ignore[union-attr]
    monkeypatch.undo()
    monkeypatch.setattr(networks, "MOST_TOKENS", len("hello"))
    assert networks.sample(run).inputs == (1, 3)  # type: ignore[union-attr]
    monkeypatch.undo()
    files = sorted((folder / "strata").iterdir())
    content = files[0].read_bytes()
    try:
        files[0].unlink()
        left = networks.sample(run)
        assert left is not None
        assert 0 not in left.inputs
        assert len(networks.networks(run, left).degree) == len(left.inputs)
    finally:
        files[0].write_bytes(content)


def test_runs_without_strata_have_no_such_figure(tmp_path: Path) -> None:
    planted: Callable[..., Path] = functools.partial(write_run, tmp_path)
    (run,) = reading.read_results([planted("a", heights_of(4), heights_of(4))])
    assert networks.sample(run) is None
    assert "hubs" not in {picture.kind for picture in exhibits.pictures([run])}
    several = [planted(name, heights_of(4), heights_of(4), save_strata=name == "c") for name in "bc"]
    names = {picture.name for picture in exhibits.pictures(reading.read_results(several))}
    assert {name for name in names if name.startswith("hubs")} == {"hubs-2"}
