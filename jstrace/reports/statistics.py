"""What the paper's figures show, as numbers computed from runs (section 7 of the method)."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jstrace.errors import InputError
from jstrace.method.conditions import Case
from jstrace.method.depth import by_quarter
from jstrace.method.sizes import most_selective
from jstrace.reports.results import Results

CONSTRUCTION = (1e-4, 1e-2)
"""Sizes of the construction phase; refinement follows it."""
CORE = 1e-3
"""The size of the core that the paper describes, 0.1% of all edges."""
COMPARED = (1e-3, 1e-2, 1e-1)
"""Sizes at which runs and inputs are compared, where they have them."""
FEW = 10
"""Inputs from which on a correlation has an interval; below, p is exact."""
_RESAMPLES = 2000


# --- curves ---------------------------------------------------------------------------------------------------------


def quartiles(values: np.ndarray) -> np.ndarray:
    """The three quartiles over inputs: ``[3, ...]``."""
    return np.percentile(values, (25, 50, 75), axis=0)


def nucleus_sizes(run: Results, case: Case) -> np.ndarray:
    """The least size from which on each nucleus stays recovered, in order: float64 ``[N, Q]``; 1 is the full graph."""
    recovered = run.nucleus(case)
    recovered[:, -1] = True  # the full graph's own, whatever rounding says
    stays = np.flip(np.logical_and.accumulate(np.flip(recovered, axis=1), axis=1), axis=1)
    return run.sizes[np.argmax(stays, axis=1)]


# --- the control ----------------------------------------------------------------------------------------------------


class ControlCurves(NamedTuple):
    """How much nearer a curve comes to the own prediction than to foreign ones: means over inputs, ``[Z + 1]`` each."""

    own: np.ndarray
    """TV from the model's own prediction,"""
    foreign: np.ndarray
    """and from other inputs' predictions under the traces of a score that was told those."""
    selectivity: np.ndarray
    """The second less the first,"""
    low: np.ndarray
    high: np.ndarray
    """with its 95% bootstrap interval over inputs; NaN of fewer than ``FEW``."""
    n: int
    """Inputs with a control."""
    peak: int
    """The index of the size where it is largest, of those up to half of the edges: see ``CONTROLLED``."""


def selectivity(run: Results, case: Case, *, seed: int = 0) -> ControlCurves:
    """The control of one of ``Results.controlled``, over the inputs that have it."""
    own, foreign = run.curve(case, "tv"), run.curve(case, "foreign_tv")
    known = np.isfinite(foreign).all(axis=1)
    own, foreign = own[known], foreign[known]
    found = foreign - own
    low, high = _mean_interval(found, seed)
    peak = most_selective(run.plan.sizes, found.mean(axis=0))
    return ControlCurves(own.mean(axis=0), foreign.mean(axis=0), found.mean(axis=0), low, high, len(found), peak)


class Mean(NamedTuple):
    """A mean over inputs with its 95% bootstrap interval, which is NaN of fewer than ``FEW``."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: np.ndarray, *, seed: int = 0) -> Mean:
    """The mean of numbers ``[N]``; NaN of none."""
    if not len(values):
        return Mean(np.nan, np.nan, np.nan, 0)
    low, high = _mean_interval(values[:, None], seed)
    return Mean(float(values.mean()), float(low[0]), float(high[0]), len(values))


def means_of(values: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over inputs of ``[N, K]`` with the bounds of their intervals: ``[K]`` each."""
    return (values.mean(axis=0), *_mean_interval(values, seed))


def rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho alone, of the pairs in which both numbers are known; NaN where it is not defined."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    return np.nan if len(x) < 3 or _constant(x) or _constant(y) else float(stats.spearmanr(x, y).statistic)


def _mean_interval(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95% percentile interval of the bootstrap of means over inputs, each input drawn with all of its numbers."""
    n = len(values)
    if n < FEW:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    low, high = np.percentile(drawn @ values / n, (2.5, 97.5), axis=0)
    return low, high


# --- what traces are made of ----------------------------------------------------------------------------------------


def concentration(run: Results, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative share of edges held by the top fraction of components: fractions ``[C]`` and ``[Z + 1, C]``."""
    shares = -np.sort(-run.shares[source].reshape(len(run.sizes), -1), axis=-1)
    return np.arange(1, shares.shape[-1] + 1) / shares.shape[-1], np.cumsum(shares, axis=-1)


class Makeup(NamedTuple):
    """Shares of the edges of traces, means over inputs."""

    types: np.ndarray
    """Residual, attention and MLP: ``[Z + 1, 3]``."""
    quarters: np.ndarray
    """Quarters of the depth, first layers first: ``[Z + 1, 4]``."""
    layers: np.ndarray
    """``[Z + 1, L]``."""


def makeup(run: Results, source: str) -> Makeup:
    """Type and layer make-up of traces (Fig. 5)."""
    shares = run.shares[source]
    types = np.stack([shares[..., 0], shares[..., 2:].sum(-1), shares[..., 1]], axis=-1).sum(axis=1)
    layers = shares.sum(axis=-1)
    return Makeup(types, by_quarter(layers), layers)


def ablatable_kept(run: Results, case: Case) -> np.ndarray | None:
    """Of the edges that a case may ablate the share that traces hold, meaned over inputs: float64 ``[Z + 1]``.

    Sizes are shares of all edges. Where residual and MLP edges alone are ablated, these are some in a hundred of them,
    the fewer the more heads and tokens there are, so that a small trace may hold most of what could be ablated. Inverse
    cases have none: they take traces away.
    """
    if case.condition.inverse:
        return None
    if case.condition.ablate == "residual+mlp":
        return run.node_shares[case.source.name]
    edges = run.curve(case, "edges")
    share: np.ndarray = np.mean(edges / edges[:, -1:], axis=0)
    return share


# --- correlations ---------------------------------------------------------------------------------------------------


class Correlation(NamedTuple):
    """Spearman's rho with a 95% bootstrap interval and p value; NaN where it is not defined."""

    rho: float
    low: float
    high: float
    p: float
    n: int


def spearman(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> Correlation:
    """Spearman's rank correlation of the pairs in which both numbers are known; of fewer than ``FEW`` no interval."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[known], y[known], int(known.sum())
    if n < 3 or _constant(x) or _constant(y):
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    found = stats.spearmanr(x, y)
    if n < FEW:  # the usual p is that of many inputs, and resamples of a handful are mostly repeats of them
        return Correlation(float(found.statistic), np.nan, np.nan, _exact_p(x, y), n)
    return Correlation(float(found.statistic), *_interval(x, y, seed), float(found.pvalue), n)


def _exact_p(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided p of Spearman's rho over all orders of the inputs."""
    return _exact_p_of(*zip(*sorted(zip(*map(stats.rankdata, (x, y)), strict=True)), strict=True))


@functools.lru_cache(maxsize=1024)  # tables, figures and pages ask for the same, and each answer has 9! orders
def _exact_p_of(x_ranks: tuple[float, ...], y_ranks: tuple[float, ...]) -> float:
    one, other = ((ranks - np.mean(ranks)) / np.std(ranks) for ranks in map(np.asarray, (x_ranks, y_ranks)))

    def rho(values: np.ndarray, axis: int = -1) -> Any:
        return np.mean(values * other, axis=axis)  # scipy's own would have a p of its own for each order

    return float(stats.permutation_test((one,), rho, permutation_type="pairings", n_resamples=np.inf).pvalue)


def _constant(values: np.ndarray) -> bool:
    """Whether values differ by no more than float32 rounds."""
    return bool(np.ptp(values) <= 1e-6 * np.max(np.abs(values)))


def _interval(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95% percentile interval of the bootstrap."""

    def rho(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        ranks = (stats.rankdata(values, axis=axis) for values in (x, y))
        return stats.pearsonr(*ranks, axis=axis).statistic

    with warnings.catch_warnings():
        for expected in (stats.ConstantInputWarning, stats.DegenerateDataWarning):  # of some resamples of few inputs
            warnings.simplefilter("ignore", expected)
        resampled = stats.bootstrap(
            (x, y), rho, paired=True, vectorized=True, n_resamples=_RESAMPLES, method="percentile", batch=200,
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution  # fmt: skip
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)


PREDICTORS = {"entropy": "entropy", "loss": "surprisal", "frequency": "top_count", "tokens": "n_tokens"}
"""What density is correlated with (Fig. 8), and its column: the entropy of the prediction, the surprisal of the true
next token, how often the predicted token occurs in the corpus; and the length, which might stand behind any of them."""


def relative_density(run: Results, case: Case) -> np.ndarray:
    """Area under TV over log10 of the size, TV as a share of that of the smallest trace: float64 ``[N]``.

    Where the smallest traces keep nothing of a prediction, TV starts at its distance from what the model predicts of no
    edge at all, which depends on the prediction's entropy. This measure has that taken out.
    """
    tv = run.curve(case, "tv")
    start = np.where(tv[:, :1] > 0, tv[:, :1], np.nan)
    return np.trapezoid(tv / start, np.log10(run.sizes), axis=1)


def between_models(runs: Sequence[Results], case: Case) -> list[list[Correlation]]:
    """Correlation of density between models on the inputs that they share, told by their texts (Fig. 9).

    Raises:
      InputError: a run without the condition.
    """
    densities = []
    for run in runs:
        if case not in run.cases:
            raise InputError(f"{run.label}: not evaluated under {case.name}")
        densities.append(dict(zip(run.valid["text"].to_pylist(), run.density(case).tolist(), strict=True)))
    found = {}
    for (i, one), (j, other) in itertools.combinations_with_replacement(enumerate(densities), 2):
        shared = [text for text in one if text in other]
        found[i, j] = spearman(np.asarray([one[t] for t in shared]), np.asarray([other[t] for t in shared]))
    return [[found[min(i, j), max(i, j)] for j in range(len(runs))] for i in range(len(runs))]


def shared_cases(runs: Sequence[Results]) -> list[Case]:
    """The cases with a density that all runs have, in the order of the first."""
    return [case for case in runs[0].with_density if all(case in run.cases for run in runs)]
