"""Statistics of runs: planted numbers come back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from jstrace.method.conditions import Case, Condition, Source
from jstrace.reports import curves, makeup, models, results, statistics
from tests.planted import N_EDGES, SIZES, falling, heights_of, write_run

pytestmark = pytest.mark.quick

L1 = Case(Source("l1"), Condition())

Planted = Callable[..., Path]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """Writes a run into the test's folder."""
    return functools.partial(write_run, tmp_path)


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
    found = curves.correlations([run]).to_pylist()
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
    matrix = models.between_models(found, L1)
    assert matrix[0][1].rho == pytest.approx(1)
    assert matrix[0][1].n == matrix[1][0].n == shared
    assert matrix[0][2].rho == pytest.approx(-1)
    assert matrix[1][2].rho == pytest.approx(-1)
    assert np.isnan(matrix[0][3].rho)
    assert matrix[0][0].n == 49, "the invalid input is left out"
    pairs = models.model_pairs(found).to_pylist()
    assert len(pairs) == 16 * 4
    assert [case.name for case in models.shared_cases(found)] == [
        "l1/all", "random baseline/all", "l1/residual+mlp", "random baseline/residual+mlp"
    ]  # fmt: skip


def test_curves_phases_and_nuclei(planted: Planted) -> None:
    heights = np.linspace(0.2, 1.0, 5)
    (run,) = results.read_results([planted("a", heights, heights)])
    rows = [r for r in curves.curves([run]).to_pylist() if r["condition"] == "l1/all"]
    assert [r["size"] for r in rows] == [*SIZES, 1.0]
    np.testing.assert_allclose([r["tv_median"] for r in rows], falling(0.6), atol=1e-6)
    np.testing.assert_allclose([r["tv_q25"] for r in rows], falling(0.4), atol=1e-6)
    whole = [int(size * N_EDGES + 1e-9) / N_EDGES for size in SIZES]
    np.testing.assert_allclose([r["ablatable_kept"] for r in rows], [*whole, 1.0], err_msg="any edge may be ablated")
    falls = {r["phase"]: r for r in curves.phases([run]).to_pylist() if r["condition"] == "l1/all"}
    assert set(falls) == {"construction", "refinement"}, "no size is below the construction phase"
    assert falls["construction"]["fall_per_decade"] == pytest.approx(0)
    assert falls["refinement"]["fall_per_decade"] == pytest.approx(0.3)
    assert falls["construction"]["from_size"] == pytest.approx(SIZES[0]), "not of a size that was not evaluated"
    needed = curves.nucleus_sizes(run, L1)
    assert needed.shape == (5, 12)
    assert needed[0].tolist() == [1e-3] + [1e-2] * 3 + [0.1] * 3 + [0.5] * 3 + [1.0] * 2
    levels = [r for r in curves.nuclei([run]).to_pylist() if r["condition"] == "l1/all"]
    assert [r["share_full_graph"] for r in levels] == [0.0] * 10 + [1.0] * 2


def test_what_is_kept_of_the_edges_that_a_mode_ablates(planted: Planted) -> None:
    """Input by input from the table of components; traces may be empty, and inverse ones keep none of it."""
    folder = planted("a", np.linspace(0.2, 1.0, 5), np.linspace(0.2, 1.0, 5), least=[0, 1, 2, 3, 4])
    (run,) = results.read_results([folder])
    rows = curves.curves([run]).to_pylist()
    held = [r["ablatable_kept"] for r in rows if r["condition"] == "l1/residual+mlp"]
    made = parquet.ParquetDataset(folder / "components").read(columns=["input", "source", "k", "residual", "mlp"])
    at = {(r["input"], r["k"]): sum(r["residual"]) + sum(r["mlp"]) for r in made.to_pylist() if r["source"] == "l1"}
    last = len(SIZES)
    np.testing.assert_allclose(held, [np.mean([at[i, k] / at[i, last] for i in range(5)]) for k in range(last + 1)])
    assert any(at[4, k] == 0 for k in range(last)), "an empty trace"
    assert held[-1] == 1.0
    assert all(r["ablatable_kept"] is None for r in rows if r["condition"].endswith("inverse"))


def test_few_inputs_prove_little() -> None:
    """Four inputs in reverse order are one of 24 orders: no p of zero, and no interval of a single point."""
    x = np.arange(4.0)
    found = statistics.spearman(x, -x)
    assert found.rho == pytest.approx(-1)
    assert found.p == pytest.approx(2 / 24)
    assert np.isnan([found.low, found.high]).all()
    assert statistics.spearman(np.arange(9.0), np.asarray([2.0, 1, 3, 5, 4, 7, 6, 9, 8])).p < 1e-3
    assert np.isfinite(statistics.spearman(np.arange(10.0), np.arange(10.0) ** 2).low)


def test_a_nucleus_must_stay_recovered() -> None:
    class Once(results.Results):
        sizes = np.asarray([0.1, 0.2, 0.3, 1.0])  # type: ignore[assignment]

        def __init__(self) -> None: ...

        def nucleus(self, case: Case | str) -> np.ndarray:
            rows = [[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]  # rounding can spoil the full graph's own
            return np.asarray(rows, bool)[..., None]

    assert curves.nucleus_sizes(Once(), L1)[:, 0].tolist() == [0.3, 1.0, 0.1, 1.0]


def test_makeup_and_cores(planted: Planted) -> None:
    """Against means of the shares of each input, from the table itself."""
    (run,) = results.read_results([planted("a", heights_of(6), heights_of(6), invalid=(2,))])
    folder, _ = run.parts[0]
    rows = [r for r in parquet.read_table(folder / "components").to_pylist() if r["source"] == "l1"]
    shares = np.asarray([[*r["residual"], *r["mlp"], *r["heads"]] for r in rows], float).reshape(5, 6, -1)
    shares /= np.maximum(shares.sum(-1, keepdims=True), 1)
    shares[0, 0] = 0
    made = makeup.makeup_of(run, "l1")
    for part in made:
        np.testing.assert_allclose(part.sum(axis=-1), 1)
    np.testing.assert_allclose(
        made.types[2], shares[:, 2].mean(0) @ np.repeat(np.eye(3), (3, 3, 12), axis=0)[:, [0, 2, 1]]
    )
    by_layer = np.concatenate([np.eye(3), np.eye(3), np.repeat(np.eye(3), 4, axis=0)])
    np.testing.assert_allclose(made.layers[3], shares[:, 3].mean(0) @ by_layer)
    np.testing.assert_allclose(made.quarters[3], [*made.layers[3], 0][:1] + [*made.layers[3][1:], 0][:3])
    fractions, held = makeup.concentration(run, "l1")
    assert len(fractions) == 3 + 3 + 12
    np.testing.assert_allclose(held[4], np.cumsum(np.sort(shares[:, 4].mean(0))[::-1]))
    assert {row["source"] for row in makeup.cores([run]).to_pylist()} == {"l1", "random baseline"}
    assert makeup.layers([run]).num_rows == 2 * 6 * 3


def test_empty_traces_are_left_out(planted: Planted) -> None:
    """At size 0 half of the inputs have no edge, at size 1 none has one."""
    (run,) = results.read_results([planted("a", heights_of(4), heights_of(4), least=[0, 2, 0, 2])])
    made = makeup.makeup_of(run, "l1")
    np.testing.assert_allclose(made.types[0].sum(), 1)
    (run,) = results.read_results([planted("b", heights_of(2), heights_of(2), least=[2, 3])])
    made = makeup.makeup_of(run, "l1")
    assert np.isnan(made.types[:2]).all()
    assert np.isfinite(made.types[2:]).all()
