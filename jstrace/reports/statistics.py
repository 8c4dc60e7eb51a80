"""Quartiles, means and rank correlations over inputs, with bootstrap intervals (section 7 of the method)."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

COMPARED = (1e-3, 1e-2, 1e-1)
"""Sizes at which runs and inputs are compared, where they have them."""
FEW = 10
"""Inputs from which on means and correlations have an interval; below, p is exact."""
_RESAMPLES = 2000


def quartiles(values: np.ndarray) -> np.ndarray:
    """The three quartiles over inputs: ``[3, ...]``."""
    return np.percentile(values, (25, 50, 75), axis=0)


def quartile_columns(name: str, found: np.ndarray) -> dict[str, Any]:
    """Quartiles as columns of a table."""
    return dict(zip((f"{name}_q25", f"{name}_median", f"{name}_q75"), found, strict=True))


def compared_at(sizes: np.ndarray) -> list[int]:
    """Where ``COMPARED`` stand among the sizes."""
    return [k for k, size in enumerate(sizes) if any(np.isclose(size, wanted) for wanted in COMPARED)]


def interval_words(low: float, high: float) -> str:
    """An interval after its number; nothing where there is none."""
    return f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""


# --- means ----------------------------------------------------------------------------------------------------------


class Mean(NamedTuple):
    """A mean over inputs with its 95% bootstrap interval, which is NaN of fewer than ``FEW``."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: np.ndarray) -> Mean:
    """The mean of numbers ``[N]``; NaN of none."""
    if not len(values):
        return Mean(np.nan, np.nan, np.nan, 0)
    _, low, high = means_of(values[:, None])
    return Mean(float(values.mean()), float(low[0]), float(high[0]), len(values))


def means_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over inputs of ``[N, K]`` with the bounds of their 95% percentile intervals: ``[K]`` each.

    The bootstrap draws each input with all of its numbers.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < FEW:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    low, high = np.percentile(drawn @ values / n, (2.5, 97.5), axis=0)
    return mean, low, high


# --- correlations ---------------------------------------------------------------------------------------------------


class Correlation(NamedTuple):
    """Spearman's rho with a 95% bootstrap interval and p value; NaN where it is not defined."""

    rho: float
    low: float
    high: float
    p: float
    n: int


def rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho alone, of the pairs in which both numbers are known; NaN where it is not defined."""
    x, y = _known(x, y)
    return np.nan if _undefined(x, y) else float(stats.spearmanr(x, y).statistic)


def spearman(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Spearman's rank correlation of the pairs in which both numbers are known; of fewer than ``FEW`` no interval."""
    x, y = _known(x, y)
    n = len(x)
    if _undefined(x, y):
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    found = stats.spearmanr(x, y)
    if n < FEW:  # the usual p is that of many inputs, and resamples of a handful are mostly repeats of them
        return Correlation(float(found.statistic), np.nan, np.nan, _exact_p(x, y), n)
    return Correlation(float(found.statistic), *_interval(x, y), float(found.pvalue), n)


def _known(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _undefined(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether there are too few pairs, or values of either differ by no more than float32 rounds."""
    return len(x) < 3 or any(bool(np.ptp(values) <= 1e-6 * np.max(np.abs(values))) for values in (x, y))


def _exact_p(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided p of Spearman's rho over all orders of the inputs."""
    return _exact_p_of(*zip(*sorted(zip(*map(stats.rankdata, (x, y)), strict=True)), strict=True))


@functools.lru_cache(maxsize=1024)  # tables, figures and pages ask for the same, and each answer has 9! orders
def _exact_p_of(x_ranks: tuple[float, ...], y_ranks: tuple[float, ...]) -> float:
    one, other = ((ranks - np.mean(ranks)) / np.std(ranks) for ranks in map(np.asarray, (x_ranks, y_ranks)))

    def rho(values: np.ndarray, axis: int = -1) -> Any:
        return np.mean(values * other, axis=axis)  # scipy's own would have a p of its own for each order

    return float(stats.permutation_test((one,), rho, permutation_type="pairings", n_resamples=np.inf).pvalue)


def _interval(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of the bootstrap."""

    def rho(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        ranks = (stats.rankdata(values, axis=axis) for values in (x, y))
        return stats.pearsonr(*ranks, axis=axis).statistic

    with warnings.catch_warnings():
        for expected in (stats.ConstantInputWarning, stats.DegenerateDataWarning):  # of some resamples of few inputs
            warnings.simplefilter("ignore", expected)
        resampled = stats.bootstrap(
            (x, y), rho, paired=True, vectorized=True, n_resamples=_RESAMPLES, method="percentile", batch=200,
            rng=np.random.default_rng(0),
        ).bootstrap_distribution  # fmt: skip
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)
