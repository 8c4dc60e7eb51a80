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
from jstrace.reports import curves, exhibits, makeup, models, reading, results, statistics
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


def tv_like(rng: np.random.Generator, shape: tuple[int, ...]) -> list[tuple[float, np.ndarray]]:
    """Means, and draws of numbers between 0 and 1 that crowd at one end."""
    return [(a / (a + b), rng.beta(a, b, shape)) for a, b in ((0.5, 2.0), (1.0, 4.0), (2.0, 0.4))]


@pytest.mark.parametrize("n", [12, 24, 48])
def test_intervals_of_means_hold(n: int) -> None:
    """In 93 to 97% of simulations, skewed as TV is; a bootstrap's own quantiles would in 88% for n = 12."""
    for mean, drawn in tv_like(np.random.default_rng(n), (n, 1500)):
        _, low, high = statistics.means_of(drawn)
        assert 0.93 <= np.mean((low <= mean) & (mean <= high)) <= 0.97


def test_intervals_of_means_hold_over_clusters() -> None:
    """Of one to seven inputs that share most of their value; as inputs of their own they would in two of three."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(24), rng.integers(1, 8, 24))
    for mean, drawn in tv_like(rng, (24, 1500)):
        values = 0.7 * drawn[clusters] + 0.3 * rng.uniform(size=(len(clusters), 1500))
        for given, least, most in ((clusters, 0.93, 0.97), (None, 0.5, 0.8)):
            _, low, high = statistics.means_of(values, given)
            assert least <= np.mean((low <= 0.7 * mean + 0.15) & (0.7 * mean + 0.15 <= high)) <= most
    found = statistics.mean_of(values[:, 0], clusters)
    assert (found.n, found.mean) == (24, pytest.approx(values[:, 0].mean()))
    assert np.isnan(statistics.mean_of(values[clusters < 9, 0], clusters[clusters < 9]).low), "nine clusters are few"


def test_means_of_what_hardly_varies() -> None:
    """Equal numbers have a point, and of ten of which one differs no resample says what its error is."""
    values = np.stack([np.full(10, 0.3), np.eye(10)[0]], axis=1)
    mean, low, high = statistics.means_of(values)
    assert (low[0], high[0]) == (mean[0], mean[0])
    assert np.isnan([low[1], high[1]]).all()


def test_intervals_end_where_numbers_do() -> None:
    """Of few skewed numbers the bootstrap goes beyond what a difference of TVs can be."""
    values = np.r_[np.full(8, -0.999), -0.3, 0.2, 0.4, 0.9][:, None]
    _, low, high = statistics.means_of(np.concatenate([values, -values], axis=1))
    _, *ends = statistics.means_of(np.concatenate([values, -values], axis=1), most=0.9)
    assert min(low.min(), -high.max()) < -0.9
    np.testing.assert_array_equal(ends, np.clip([low, high], -0.9, 0.9))


@pytest.mark.parametrize("n", [12, 24, 48])
def test_intervals_of_correlations_hold(n: int) -> None:
    rng = np.random.default_rng(n)
    for planted_rho in (0.0, 0.5):
        x, noise = rng.normal(size=(2, 600, n))
        y = planted_rho * x + np.sqrt(1 - planted_rho**2) * noise
        found = [statistics._by_influence(np.exp(one), other, np.arange(n)) for one, other in zip(x, y, strict=True)]
        expected = 6 / np.pi * np.arcsin(planted_rho / 2)
        assert 0.93 <= np.mean([low <= expected <= high for low, high, _ in found]) <= 0.97


def test_no_relation_is_found_between_clusters_that_have_none() -> None:
    """Tokens of twelve generations, which are like their neighbours: as inputs of their own half have p < .05."""
    rng, clusters = np.random.default_rng(3), np.repeat(np.arange(12), 20)
    found = []
    for _ in range(300):
        x, y = rng.normal(size=(2, 12))[:, clusters] + 0.6 * rng.normal(size=(2, 240))
        told = statistics.spearman(x, y, clusters), statistics.spearman(x, y)
        found.append([one.p < 0.05 for one in told] + [told[0].low <= 0 <= told[0].high])
    own, pooled, held = np.mean(found, axis=0)
    assert own <= 0.07
    assert pooled > 0.4
    assert 0.93 <= held <= 0.97
    assert told[0].n == 12
    few = statistics.spearman(x[:60], y[:60], clusters[:60])
    assert few.n == 3
    assert np.isnan([few.low, few.high, few.p]).all(), "no p counts the tokens of three generations"


def test_influence_is_what_an_input_moves() -> None:
    """Against all correlations without one input, ties and all."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=200).round(1)
    y = (x + rng.normal(size=200)).round(1)
    value, influence = statistics._influence(x, y)
    assert value == pytest.approx(stats.spearmanr(x, y).statistic)
    without = [stats.spearmanr(np.delete(x, i), np.delete(y, i)).statistic for i in range(200)]
    np.testing.assert_allclose(influence, 199 * (value - np.asarray(without)), atol=0.02)


def test_pairs_are_of_the_first_variant(planted: Planted, tmp_path: Path) -> None:
    """Shuffled texts are denser and less certain: the pool of both has a correlation that neither variant has."""
    rng, n = np.random.default_rng(1), 40
    plain, shuffled = rng.uniform(0.2, 0.5, (2, n)), rng.uniform(0.6, 0.9, (2, n))
    heights, entropies = np.stack([plain, shuffled], axis=-1).reshape(2, 2 * n)
    pairs = [(str(pair), variant) for pair in range(n) for variant in ("original", "shuffled")]
    folder = planted("a", heights, entropies, pairs=pairs, invalid=(4,))
    (run,) = reading.read_results([folder])
    kept = np.arange(n) != 2
    assert (run.n, run.valid.num_rows, run.first.n, run.variant) == (n, 2 * n - 1, n - 1, "original")
    assert run.clusters.tolist() == np.repeat(np.arange(n), 2)[np.arange(2 * n) != 4].tolist()
    assert run.first.curve("l1/all", "tv")[:, 0] == pytest.approx(plain[0, kept])
    expected = stats.spearmanr(plain[0, kept], plain[1, kept])
    made = {table.name: table for table in exhibits.tables([run])}
    rows = made["correlations"].compute().to_pylist()
    row = next(r for r in rows if (r["measure"], r["with"]) == ("density", "entropy"))
    assert (row["n"], row["p"]) == (n - 1, pytest.approx(expected.pvalue))
    assert row["p"] > 0.05 > statistics.spearman(run.density("l1/all"), run.column("entropy")).p
    curve = next(r for r in made["curves"].compute().to_pylist() if r["condition"] == "l1/all")
    assert (curve["n"], curve["tv_median"]) == (n - 1, pytest.approx(np.median(plain[0, kept])))
    assert made["validity"].compute()["valid"].to_pylist() == [2 * n - 1]
    alone = planted("b", heights[::2], entropies[::2], least=[0] * n)
    (alone_run,) = reading.read_results([alone])
    assert run.shares["l1"].shape == alone_run.shares["l1"].shape
    assert not np.allclose(run.shares["l1"], run.first.shares["l1"]), "what traces are made of is the first's, too"


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
    (run,) = reading.read_results([planted("a", heights, 10 - 5 * heights)])
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
    found = reading.read_results([a, b, c, d])
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
    (run,) = reading.read_results([planted("a", heights, heights)])
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
    (run,) = reading.read_results([folder])
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
    (run,) = reading.read_results([planted("a", heights_of(6), heights_of(6), invalid=(2,))])
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
    (run,) = reading.read_results([planted("a", heights_of(4), heights_of(4), least=[0, 2, 0, 2])])
    made = makeup.makeup_of(run, "l1")
    np.testing.assert_allclose(made.types[0].sum(), 1)
    (run,) = reading.read_results([planted("b", heights_of(2), heights_of(2), least=[2, 3])])
    made = makeup.makeup_of(run, "l1")
    assert np.isnan(made.types[:2]).all()
    assert np.isfinite(made.types[2:]).all()
