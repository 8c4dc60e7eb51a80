"""Quartiles, means and rank correlations over inputs, with 95% intervals (section 7 of the method).

Inputs that depend on each other are a cluster: the texts of a pair, the tokens generated after a row. Every interval
and every p value takes clusters for the independent units, and n counts them; by default each input is one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

COMPARED = (1e-3, 1e-2, 1e-1)
"""Sizes at which runs and inputs are compared, where they have them."""
FEW = 10
"""Clusters from which on means and correlations have an interval: of fewer it would cover less than it says."""
_RESAMPLES = 2000
_ROUNDING = 1e-6
"""Values that differ by no more than this share of them are equal but for what float32 rounds."""


def quartiles(values: np.ndarray) -> np.ndarray:
    """The three quartiles over inputs: ``[3, ...]``."""
    return np.percentile(values, (25, 50, 75), axis=0)


def quartile_columns(name: str, values: np.ndarray) -> dict[str, Any]:
    """Quartiles as columns of a table."""
    return dict(zip((f"{name}_q25", f"{name}_median", f"{name}_q75"), values, strict=True))


def for_good(reached: np.ndarray) -> np.ndarray:
    """The first size, an index on axis 1, from which on something stays reached; at the last one it always is."""
    return np.argmax(np.flip(np.logical_and.accumulate(np.flip(reached, axis=1), axis=1), axis=1), axis=1)


def compared_at(sizes: np.ndarray) -> list[int]:
    """Where ``COMPARED`` stand among the sizes."""
    return [k for k, size in enumerate(sizes) if any(np.isclose(size, wanted) for wanted in COMPARED)]


def interval_words(low: float, high: float) -> str:
    """An interval after its number; nothing where there is none."""
    return f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""


# --- clusters -------------------------------------------------------------------------------------------------------


def cluster_sums(values: np.ndarray, clusters: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums ``[C, ...]`` of ``[N, ...]`` over the inputs of each cluster, and how many inputs each has ``[C]``."""
    if clusters is None:
        return values, np.ones(len(values))
    _, place, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums, counts.astype(np.float64)


def cluster_means(values: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Means ``[C]`` of numbers ``[N]`` over the inputs of each cluster."""
    sums, counts = cluster_sums(values, clusters)
    return sums / counts


# --- means ----------------------------------------------------------------------------------------------------------


class Mean(NamedTuple):
    """A mean over inputs with its 95% bootstrap interval, which is NaN of fewer than ``FEW`` clusters."""

    mean: float
    low: float
    high: float
    n: int
    """Clusters."""


def mean_of(values: np.ndarray, clusters: np.ndarray | None = None) -> Mean:
    """The mean of numbers ``[N]``; NaN of none."""
    if not len(values):
        return Mean(np.nan, np.nan, np.nan, 0)
    (mean,), (low,), (high,) = means_of(values[:, None], clusters)
    return Mean(float(mean), float(low), float(high), len(values) if clusters is None else len(np.unique(clusters)))


def means_of(
    values: np.ndarray, clusters: np.ndarray | None = None, *, most: float = np.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over inputs of ``[N, K]`` with the bounds of their 95% intervals: ``[K]`` each.

    The studentised bootstrap (bootstrap-t; Efron and Tibshirani 1993, section 12.5), which allows for the skewness of
    numbers between 0 and 1: quantiles of (mean* - mean) / error* over resampled clusters, in errors of the mean. Each
    cluster is drawn with all inputs and numbers. NaN of fewer than ``FEW`` clusters, or where the resamples without any
    spread are so many that a bound has no end. Numbers are of the order of 1: what differs by 1e-6 is rounding.

    Args:
      values: float64 ``[N, K]``.
      clusters: which of them depend on each other: a number or a name for each input ``[N]``; None where none do.
      most: what no number can be above, nor its negative below; bounds of intervals end there.
    """
    mean = values.mean(axis=0)
    sums, counts = cluster_sums(values - mean, clusters)
    n = len(counts)
    if n < FEW:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64)
    (_, error), (moved, errors) = (_shift(weights, sums, counts) for weights in (np.ones((1, n)), drawn))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(moved == 0, 0.0, moved / np.where(errors > _ROUNDING * error, errors, 0.0))
        low, high = mean - error[0] * np.percentile(ratios, (97.5, 2.5), axis=0, method="nearest")
    flat = np.ptp(values, axis=0) <= _ROUNDING * np.maximum(1, np.max(np.abs(values), axis=0))
    ends = np.isfinite(low) & np.isfinite(high)
    low, high = (np.where(flat, mean, np.where(ends, np.clip(bound, -most, most), np.nan)) for bound in (low, high))
    return mean, low, high


def _shift(drawn: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of resamples, and their standard errors by linearisation: ``[R, K]`` each.

    Args:
      drawn: how often each resample has each cluster ``[R, C]``.
      sums: over the inputs of each cluster ``[C, K]``.
      counts: inputs of each cluster ``[C]``.
    """
    n, inputs = len(counts), (drawn @ counts)[:, None]
    mean = drawn @ sums / inputs
    squares = drawn @ sums**2 - 2 * mean * (drawn @ (sums * counts[:, None])) + mean**2 * (drawn @ counts**2)[:, None]
    return mean, np.sqrt(np.maximum(squares, 0) * n / (n - 1)) / inputs


# --- correlations ---------------------------------------------------------------------------------------------------


class Correlation(NamedTuple):
    """Spearman's rho with its 95% interval and p value; NaN where it is not defined."""

    rho: float
    low: float
    high: float
    p: float
    n: int
    """Clusters."""


def rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho alone, of the pairs in which both numbers are known; NaN where it is not defined."""
    x, y = (values[np.isfinite(x) & np.isfinite(y)] for values in (x, y))
    return np.nan if _undefined(x, y) else float(stats.spearmanr(x, y).statistic)


def spearman(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None = None) -> Correlation:
    """Spearman's rank correlation of the pairs in which both numbers are known.

    The interval is that of Fisher's z = artanh(rho), by the sum over clusters of rho's influence function and the
    quantile of Student's t with C - 1 degrees of freedom. Of fewer than ``FEW`` clusters there is none.

    Args:
      x: float64 ``[N]``.
      y: float64 ``[N]``.
      clusters: which inputs depend on each other, as in ``means_of``. Where a cluster has several, p is that of z over
        its error, and NaN of fewer than ``FEW``.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    _, place = np.unique(np.arange(len(x)) if clusters is None else clusters[known], return_inverse=True)
    n = int(place.max(initial=-1)) + 1
    if n < 3 or _undefined(x, y):
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    result, few, apart = stats.spearmanr(x, y), n < FEW, n == len(x)
    value = float(result.statistic)
    if few:  # the usual p is that of many inputs
        return Correlation(value, np.nan, np.nan, _exact_p(x, y) if apart else np.nan, n)
    low, high, p = _by_influence(x, y, place)
    return Correlation(value, low, high, float(result.pvalue) if apart else p, n)


def _undefined(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether there are too few pairs, or values of either differ by no more than float32 rounds."""
    return len(x) < 3 or any(bool(np.ptp(values) <= _ROUNDING * np.max(np.abs(values))) for values in (x, y))


def _exact_p(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided p of Spearman's rho over all orders of the inputs."""
    return _exact_p_of(*zip(*sorted(zip(*map(stats.rankdata, (x, y)), strict=True)), strict=True))


@functools.lru_cache(maxsize=1024)  # tables, figures and pages ask for the same, and each answer has 9! orders
def _exact_p_of(x_ranks: tuple[float, ...], y_ranks: tuple[float, ...]) -> float:
    x, y = ((ranks - np.mean(ranks)) / np.std(ranks) for ranks in map(np.asarray, (x_ranks, y_ranks)))

    def rho(values: np.ndarray, axis: int = -1) -> Any:
        return np.mean(values * y, axis=axis)  # scipy's own would have a p of its own for each order

    return float(stats.permutation_test((x,), rho, permutation_type="pairings", n_resamples=np.inf).pvalue)


def _by_influence(x: np.ndarray, y: np.ndarray, place: np.ndarray) -> tuple[float, float, float]:
    """The bounds of rho's interval and its p, of clusters 0 to C - 1 ``[N]``."""
    value, influence = _influence(x, y)
    n, room = place.max() + 1, 1 - value**2
    if room <= _ROUNDING:  # one order, in which no input is other than all
        return value, value, 0.0
    summed = np.bincount(place, influence) / len(x)
    error = np.sqrt(np.sum(summed**2) * n / (n - 1)) / room
    z, reach = np.arctanh(value), stats.t.ppf(0.975, n - 1) * error
    return float(np.tanh(z - reach)), float(np.tanh(z + reach)), float(2 * stats.t.sf(abs(z) / error, n - 1))


def _influence(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Spearman's rho, and how much each input's weight moves it ``[N]``: through its own ranks, and all others'.

    With F and G the shares of inputs below each one's x and y (ties by half), rho is the covariance of F and G over the
    root of their variances.
    """
    x_ranks, y_ranks = stats.rankdata(x), stats.rankdata(y)
    f, g = ((ranks - 0.5) / len(x) for ranks in (x_ranks, y_ranks))

    def moment(a: np.ndarray, b: np.ndarray, ranks_a: np.ndarray, ranks_b: np.ndarray) -> tuple[float, np.ndarray]:
        mean = float(np.mean(a * b))
        return mean - 0.25, a * b + _above(ranks_a, b) + _above(ranks_b, a) - 3 * mean

    (both, by_both), (first, by_first), (second, by_second) = (
        moment(f, g, x_ranks, y_ranks), moment(f, f, x_ranks, x_ranks), moment(g, g, y_ranks, y_ranks)
    )  # fmt: skip
    value = both / np.sqrt(first * second)
    return value, by_both / np.sqrt(first * second) - value / 2 * (by_first / first + by_second / second)


def _above(ranks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each input the sum of the values of those that rank above it, and half of those that tie, over N: ``[N]``."""
    order = np.argsort(ranks, kind="stable")
    total, ordered = np.concatenate([[0.0], np.cumsum(values[order])]), ranks[order]
    below, until = (total[np.searchsorted(ordered, ranks, side)] for side in ("left", "right"))
    return (total[-1] - (below + until) / 2) / len(ranks)
