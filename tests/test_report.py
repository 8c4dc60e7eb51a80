"""Reports: planted numbers come back, pages are safe, figures show what there is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from scipy import stats

from jstrace import contents, figures, report, results, run_folder, runs, statistics, tables
from jstrace.data import Data, Row
from jstrace.evaluation import Evaluation
from jstrace.model import Model
from jstrace.models import EdgeTree, InputError
from jstrace.pipeline import Invalid, Outcome, Plan
from jstrace.tables import Entry, Part
from tests.conftest import TINY
from tests.stand_ins import Letters

SIZES = (1e-4, 1e-3, 1e-2, 0.1, 0.5)
PLAN = Plan(ablations=("all", "residual+mlp"), baselines=("random", "inverse"), sizes=SIZES)
N_TOKENS, N_EDGES = 4, 3 * (3 * 4 + 4 * 10)

Planted = Callable[..., Path]


def falling(height: float) -> np.ndarray:
    """A curve of TV whose density grows with its height, zero at the full graph."""
    return np.asarray([height] * 3 + [height / 2, height / 4, 0.0], np.float32)


def evaluation_of(height: float, entropy: float, inverse: bool, ablate: str) -> Evaluation:
    tv = falling(height)[::-1].copy() if inverse else falling(height)
    order = np.arange(6)[:, None] >= np.arange(12)[None] / 3 + 1
    return Evaluation(
        sizes=SIZES, tv=tv, kl=tv, nucleus=order, nucleus_unordered=order, top_token=np.zeros(6, np.int32),
        entropy=np.full(6, entropy, np.float32), surprisal=np.full(6, 2 * entropy, np.float32),
        rank=np.ones(6, np.int32), density=None if inverse else float(np.trapezoid(tv, np.log10([*SIZES, 1.0]))),
        full_tokens=np.zeros(3, np.int32), full_probs=np.full(3, 0.2, np.float32), ablate=ablate, inverse=inverse,
    )  # fmt: skip


def strata_of(rng: np.random.Generator, least: int) -> EdgeTree:
    shape, maps = (3, N_TOKENS), (3, 4, N_TOKENS, N_TOKENS)
    return EdgeTree(*(rng.integers(least, 6, s).astype(np.uint8) for s in (shape, maps, shape, shape)))


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """Writes a run with given heights of curves and entropies."""

    def write(
        name: str,
        heights: np.ndarray,
        entropies: np.ndarray,
        *,
        plan: Plan = PLAN,
        texts: list[str] | None = None,
        invalid: tuple[int, ...] = (),
        first: int = 0,
        least: list[int] | None = None,
    ) -> Path:
        folder, rng = tmp_path / name, np.random.default_rng(0)
        rows = [Row(text) for text in (texts or [f"text {n}" for n in range(len(heights))])]
        config = run_folder.configuration(plan, Data("d", tuple(rows), ()), save_strata=False)
        config |= {"model": name[:1], "tokens": ""}
        facts: dict[str, Any] = {
            "model": {"name": f"models/{name}", "dtype": "float32", "config": {"n_layers": 3, "n_heads": 4}},
            "data": {"name": "planted", "rows": len(rows), "corpus_tokens": 9},
            "conditions": [case.name for case in plan.cases],
            "sources": [source.name for source in plan.sources],
            "nucleus_levels": [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99],
        }
        hardware = {"devices": 1, "device": "cpu", "cpu": "some"}
        folder.mkdir()
        wanted = tables.schemas(plan, save_strata=False)
        run_folder.opened(folder, config, facts, {"versions": {"jax": "1"}, "hardware": hardware}, list(wanted))
        entries = []
        for n, (height, entropy) in enumerate(zip(heights, entropies, strict=True)):
            evaluations = tuple(
                evaluation_of(height, entropy, case.condition.inverse, case.condition.ablate) for case in plan.cases
            )
            strata = tuple(strata_of(rng, least[n] if least else 0) for _ in plan.sources)
            tokens = np.arange(N_TOKENS, dtype=np.int32)
            found = Invalid("planted") if n in invalid else Outcome(tokens, N_EDGES, strata, evaluations)
            entries.append(Entry(first + n, rows[n], tokens, None, found))
        made = tables.part_tables(
            entries, plan, wanted, parallel=TINY.parallel, word=Letters().token, count=lambda token: 7 + token
        )
        tables.write_part(folder, Part(first, first + len(rows) - 1), made, run_folder.mark_of(config))
        return folder

    return write


def heights_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 1.0, n)


# --- statistics -----------------------------------------------------------------------------------------------------


def test_planted_correlations_come_back() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    for planted_rho in (-0.8, -0.3, 0.0, 0.5, 0.9):
        y = planted_rho * x + np.sqrt(1 - planted_rho**2) * rng.normal(size=400)
        expected = 6 / np.pi * np.arcsin(planted_rho / 2)  # of the ranks of normal variables
        found = statistics.spearman(np.exp(x), y**3)
        assert found.rho == pytest.approx(expected, abs=0.12)
        assert found.low < found.rho < found.high
        width = 2 * 1.96 * 1.06 * (1 - found.rho**2) / np.sqrt(400)  # asymptotically, for ranks
        assert found.high - found.low == pytest.approx(width, rel=0.25)
        assert (found.p < 1e-3) == (abs(planted_rho) > 0.2)
        assert found.n == 400
        assert found.rho == stats.spearmanr(x, y).statistic
    assert statistics.spearman(x, y) == statistics.spearman(x, y), "the bootstrap has a seed"


def test_correlations_that_are_not_defined() -> None:
    for x, y in (([1.0, 2.0], [2.0, 1.0]), ([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]), ([], [])):
        found = statistics.spearman(np.asarray(x, float), np.asarray(y, float))
        assert np.isnan([found.rho, found.low, found.high, found.p]).all()
    noise = np.asarray([2.9968286, 2.9968295, 2.9968286, 2.9968295])
    assert np.isnan(statistics.spearman(noise, -noise).rho), "rounding is no correlation"
    found = statistics.spearman(np.asarray([1.0, 2.0, np.nan, 4.0]), np.asarray([1.0, 2.0, 3.0, 0.0]))
    assert found.n == 3


def test_density_and_entropy_of_a_run(planted: Planted) -> None:
    heights = heights_of(60)
    (run,) = results.read_results([planted("a", heights, 10 - 5 * heights)])
    found = statistics.correlations([run]).to_pylist()
    rows = {(r["condition"], r["with"]): r for r in found if r["measure"] == "density"}
    assert {r["rho"] is None or np.isnan(r["rho"]) for r in found if r["measure"] != "density"} == {True}, "one shape"
    assert rows["l1/all", "entropy"]["rho"] == pytest.approx(-1)
    assert rows["l1/residual+mlp", "loss"]["rho"] == pytest.approx(-1)
    assert rows["l1/all", "frequency"]["rho"] is None or np.isnan(rows["l1/all", "frequency"]["rho"])
    assert not any("inverse" in condition for condition, _ in rows)


def test_models_on_shared_inputs(planted: Planted) -> None:
    """Two models agree on what they share, in another order; a third one is their reverse; others share too little."""
    heights = heights_of(50)
    texts = [f"text {n}" for n in range(50)]
    order = np.random.default_rng(5).permutation(50)
    a = planted("a", heights, heights, texts=texts, invalid=(3,))
    b = planted(
        "b", heights[order] ** 2, heights, texts=[texts[n] for n in order[:40]] + [f"new {n}" for n in range(10)]
    )
    c = planted("c", 1.2 - heights, heights, texts=texts)
    d = planted("d", heights, heights, texts=[f"other {n}" for n in range(50)])
    found = results.read_results([a, b, c, d])
    shared = len(set(order[:40]) - {3})
    matrix = statistics.between_models(found, "l1/all")
    assert matrix[0][1].rho == pytest.approx(1)
    assert matrix[0][1].n == matrix[1][0].n == shared
    assert matrix[0][2].rho == pytest.approx(-1)
    assert matrix[1][2].rho == pytest.approx(-1)
    assert np.isnan(matrix[0][3].rho)
    assert matrix[0][0].n == 49, "the invalid input is left out"
    pairs = statistics.model_pairs(found).to_pylist()
    assert len(pairs) == 16 * 4
    assert statistics.shared_conditions(found) == [
        "l1/all", "random baseline/all", "l1/residual+mlp", "random baseline/residual+mlp"
    ]  # fmt: skip


def test_curves_phases_and_nuclei(planted: Planted) -> None:
    heights = np.linspace(0.2, 1.0, 5)
    (run,) = results.read_results([planted("a", heights, heights)])
    rows = [r for r in statistics.curves([run]).to_pylist() if r["condition"] == "l1/all"]
    assert [r["size"] for r in rows] == [*SIZES, 1.0]
    np.testing.assert_allclose([r["tv_median"] for r in rows], falling(0.6), atol=1e-6)
    np.testing.assert_allclose([r["tv_q25"] for r in rows], falling(0.4), atol=1e-6)
    falls = {r["phase"]: r for r in statistics.phases([run]).to_pylist() if r["condition"] == "l1/all"}
    assert set(falls) == {"construction", "refinement"}, "no size is below the construction phase"
    assert falls["construction"]["fall_per_decade"] == pytest.approx(0)
    assert falls["refinement"]["fall_per_decade"] == pytest.approx(0.3)
    needed = statistics.nucleus_sizes(run, "l1/all")
    assert needed.shape == (5, 12)
    assert needed[0].tolist() == [1e-3] + [1e-2] * 3 + [0.1] * 3 + [0.5] * 3 + [1.0] * 2
    levels = [r for r in statistics.nuclei([run]).to_pylist() if r["condition"] == "l1/all"]
    assert [r["share_full_graph"] for r in levels] == [0.0] * 10 + [1.0] * 2


def test_a_nucleus_must_stay_recovered() -> None:
    class Once:
        sizes = np.asarray([0.1, 0.2, 0.3, 1.0])

        def nucleus(self, _: str) -> np.ndarray:
            rows = [[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]  # rounding can spoil the full graph's own
            return np.asarray(rows, bool)[..., None]

    assert statistics.nucleus_sizes(Once(), "")[:, 0].tolist() == [0.3, 1.0, 0.1, 1.0]


def test_makeup_and_cores(planted: Planted) -> None:
    """Against means of the shares of each input, from the table itself."""
    (run,) = results.read_results([planted("a", heights_of(6), heights_of(6), invalid=(2,))])
    folder, _ = run.parts[0]
    rows = [r for r in parquet.read_table(folder / "components").to_pylist() if r["source"] == "l1"]
    shares = np.asarray([[*r["residual"], *r["mlp"], *r["heads"]] for r in rows], float).reshape(5, 6, -1)
    shares /= np.maximum(shares.sum(-1, keepdims=True), 1)
    shares[0, 0] = 0
    made = statistics.makeup(run, "l1")
    for part in made:
        np.testing.assert_allclose(part.sum(axis=-1), 1)
    np.testing.assert_allclose(
        made.types[2], shares[:, 2].mean(0) @ np.repeat(np.eye(3), (3, 3, 12), axis=0)[:, [0, 2, 1]]
    )
    by_layer = np.concatenate([np.eye(3), np.eye(3), np.repeat(np.eye(3), 4, axis=0)])
    np.testing.assert_allclose(made.layers[3], shares[:, 3].mean(0) @ by_layer)
    np.testing.assert_allclose(made.quarters[3], [*made.layers[3], 0][:1] + [*made.layers[3][1:], 0][:3])
    fractions, held = statistics.concentration(run, "l1")
    assert len(fractions) == 3 + 3 + 12
    np.testing.assert_allclose(held[4], np.cumsum(np.sort(shares[:, 4].mean(0))[::-1]))
    assert {row["source"] for row in statistics.cores([run]).to_pylist()} == {"l1", "random baseline"}
    assert statistics.layers([run]).num_rows == 2 * 6 * 3


def test_empty_traces_are_left_out(planted: Planted) -> None:
    """At size 0 half of the inputs have no edge, at size 1 none has one."""
    (run,) = results.read_results([planted("a", heights_of(4), heights_of(4), least=[0, 2, 0, 2])])
    made = statistics.makeup(run, "l1")
    np.testing.assert_allclose(made.types[0].sum(), 1)
    (run,) = results.read_results([planted("b", heights_of(2), heights_of(2), least=[2, 3])])
    made = statistics.makeup(run, "l1")
    assert np.isnan(made.types[:2]).all()
    assert np.isfinite(made.types[2:]).all()


# --- reading --------------------------------------------------------------------------------------------------------


def test_folders_of_hosts_make_one_run(planted: Planted) -> None:
    heights, texts = heights_of(8), [f"text {n}" for n in range(4)]
    one = planted("a", heights[:4], heights[:4], texts=texts)
    two = planted("aa", heights[4:], heights[4:], texts=texts, first=4)
    other = planted("b", heights[:4], heights[:4])
    found = results.read_results([two, other, one])
    assert [run.valid.num_rows for run in found] == [8, 4]
    assert found[0].inputs["input"].to_pylist() == list(range(8))
    assert found[0].curve("l1/all", "tv")[:, 0] == pytest.approx(heights)
    with pytest.raises(InputError, match="more than one of them holds input 0"):
        results.read_results([one, planted("aaa", heights[:4], heights[:4], texts=texts)])


def test_names_that_cannot_be_printed(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4), texts=["nul \0 and \x1b[31m", "b", "c", "d"])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["name"] = "_a\x01b\n$x_{y}$"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (label,) = report.write_report([folder], tmp_path / "out")
    assert label == " _a·b·$x_{y}$"
    page = (tmp_path / "out" / "index.html").read_text()
    assert not {"\0", "\x1b", "\x01"} & set(page)


@pytest.mark.parametrize(
    "change",
    [
        {"sessions": None},
        {"sessions": [None]},
        {"config": {}},
        {"conditions": ["l1/all", "more"]},
        {"nucleus_levels": [0.5]},
        {"model": {"name": 5}},
        {"model": {"name": "\udcff", "dtype": "", "config": {"n_layers": 3}}},
        {"data": []},
    ],
)
def test_manifests_that_somebody_changed(planted: Planted, change: dict[str, Any]) -> None:
    folder = planted("a", heights_of(2), heights_of(2))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        results.read_results([folder])


def test_files_in_the_wrong_place(planted: Planted) -> None:
    """A part of another run, and another table's."""
    one = planted("a", heights_of(2), heights_of(2))
    two = planted("b", heights_of(2), heights_of(2))
    name = Part(0, 1).file
    content = (one / "curves" / name).read_bytes()
    for other in (two / "curves" / name, one / "inputs" / name):
        (one / "curves" / name).write_bytes(other.read_bytes())
        with pytest.raises(InputError, match="of another run or another table; remove this file"):
            results.read_results([one])
    (one / "curves" / name).write_bytes(content)
    assert len(results.read_results([one])) == 1


def test_runs_of_the_same_name_are_told_apart() -> None:
    assert results._unique(["a", "b", "a"]) == ["a", "b", "a (2)"]


def test_folders_without_results(tmp_path: Path, planted: Planted, model: Model) -> None:
    with pytest.raises(InputError, match="no folder of a run"):
        results.read_results([tmp_path])
    with pytest.raises(InputError, match="no folder of a run was given"):
        results.read_results([])
    with pytest.raises(InputError, match="not one valid input"):
        report.write_report([planted("a", heights_of(2), heights_of(2), invalid=(0, 1))], tmp_path / "out")
    folder = planted("b", heights_of(2), heights_of(2))
    (folder / "inputs" / Part(0, 1).file).unlink()
    with pytest.raises(InputError, match="no part of this run is complete yet"):
        results.read_results([folder])


@pytest.fixture
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())


# --- pages ----------------------------------------------------------------------------------------------------------

NASTY = '<script>alert("x")</script> & <img src=x onerror=alert(1)> ${x} {{ 7 * 7 }} \' é'


class Page(HTMLParser):
    """Tags, their addresses and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_report(planted: Planted, tmp_path: Path) -> None:
    plan = Plan(("l1", "l2"), ("all", "residual+mlp"), ("random", "inverse", "pre-softmax"), sizes=SIZES)
    texts = [NASTY, *(f"text {n}" for n in range(11))]
    folder = planted("a", heights_of(12), heights_of(12, 1), plan=plan, texts=texts, invalid=(5,))
    out = tmp_path / "new" / "report"
    assert report.write_report([folder], out) == ["a"]
    page = Page((out / "index.html").read_text())
    names = {"tv", "nucleus", "core", "makeup", "random", "necessity", "pre-softmax", "importance", "correlation"}
    assert {path.stem for path in (out / "figures").iterdir()} == names
    assert page.tags.count("img") == len(names)
    assert "script" not in page.tags
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links), "one file is all it needs"
    assert NASTY in page.words
    assert page.words.count("Ablated: all edges, beside it residual and MLP edges only (residual+mlp).") == 5
    assert page.words.count("Ablated: all edges; there is no other mode to show beside it.") == 1, "before the softmax"
    assert "Removed: the attention and MLP edges of the trace (all), beside it the MLP edges alone" in page.words
    assert page.words.count("Nothing is ablated here") == 2
    assert "11 of 12" not in page.words
    assert "12 of 12 rows evaluated, 1 invalid" in page.words
    for path in (out / "figures").iterdir():
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text())
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
    inline = base64.b64decode(page.links[0].split(",")[1])
    assert inline == (out / "figures" / "tv.svg").read_bytes()
    for path in (out / "tables").iterdir():
        assert csv.read_csv(path).num_rows > 0
        assert "script" not in path.read_text(), "tables hold no texts"
    validity = csv.read_csv(out / "tables" / "validity.csv").to_pylist()[0]
    assert (validity["inputs"], validity["valid"], validity["invalid"]) == (12, 11, 1)
    assert validity["reasons"] == "1 x planted"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    report.write_report([folder], out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before, "it can be made again"


def test_a_report_of_several_models(planted: Planted, tmp_path: Path) -> None:
    """One of them with one mode only."""
    folders = [planted(name, heights_of(9, n), heights_of(9)) for n, name in enumerate("abc")]
    folders.append(planted("d", heights_of(9), heights_of(9), plan=Plan(sizes=SIZES)))
    report.write_report(folders, tmp_path / "out")
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"models", "between-models", "tv-1", "tv-4", "random-3"} <= names
    assert "random-4" not in names
    page = (tmp_path / "out" / "index.html").read_text()
    assert "there is no other mode to show beside it" in page
    assert csv.read_csv(tmp_path / "out" / "tables" / "between-models.csv").num_rows == 16


def test_axes_and_units_are_labelled(planted: Planted) -> None:
    runs_ = results.read_results(
        [planted("a", heights_of(9), heights_of(9)), planted("b", heights_of(9), heights_of(9))]
    )
    with figures.style():
        made = {picture.name: picture for picture in contents.pictures(runs_)}
        for name, picture in made.items():
            figure = picture.draw()
            width, _ = figure.get_size_inches()
            assert width == figures.COLUMN, name
            words = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
            assert any(re.search(r"size|density|%|ρ", word) for word in words), name
            if picture.ablated.startswith("Removed"):
                assert {"removed: attention and MLP", "removed: MLP alone"} <= set(words)
            elif picture.ablated != contents.NOT_ABLATED:
                assert any(re.search(r"ablated: all$", word) for word in words), name
                assert any(re.search(r"ablated: residual\+mlp$", word) for word in words), name
    labels = {axes.get_xlabel() for axes in made["correlation-1"].draw().axes}
    assert {"entropy (nats)", "loss (nats)"} <= labels


def test_figures_that_runs_do_not_have(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4), plan=Plan(sizes=SIZES))
    report.write_report([folder], tmp_path / "out", figures=("core",), tables=("core", "density"))
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {
        "index.html", "core.png", "core.svg", "core.csv", "density.csv"
    }  # fmt: skip
    for options, message in (
        ({"figures": ("random",)}, "no figure random, but tv"),
        ({"tables": ("x",)}, "no table x"),
    ):
        with pytest.raises(InputError, match=message):
            report.write_report([folder], tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_legends_name_every_model(planted: Planted) -> None:
    """Also one that only the second panel shows."""
    plan = Plan(ablations=("residual+mlp",), sizes=SIZES)
    folders = [planted("a", heights_of(4), heights_of(4)), planted("b", heights_of(4), heights_of(4), plan=plan)]
    figure = figures.all_models(results.read_results(folders), ("all", "residual+mlp"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_long_names_are_shortened() -> None:
    assert figures.shortened("Llama-3.1-8B") == "Llama-3.1-8B"
    assert len(figures.shortened("x" * 80)) <= 26


def test_outputs_that_cannot_be_written(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        report.write_report([folder], tmp_path / "file")


def test_a_real_run_reports(model: Model, tmp_path: Path) -> None:
    """From a dataset to a page, whatever few inputs there are."""
    data = Data("d", (Row("hello", "d"), Row("abc")), ("x",))
    runs.run(model, data, tmp_path / "run", Plan(baselines=("random", "inverse")), name="tiny")
    report.write_report([tmp_path / "run"], tmp_path / "out")
    assert isinstance(csv.read_csv(tmp_path / "out" / "tables" / "inputs.csv"), pa.Table)
