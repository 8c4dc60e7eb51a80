"""What the paper's figures and tables show, as tables computed from runs (section 7 of the method)."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

from jstrace.models import InputError
from jstrace.results import Results

CONSTRUCTION = (1e-4, 1e-2)
"""Sizes of the construction phase; refinement follows it."""
CORE = 1e-3
"""The size of the core that the paper describes, 0.1% of all edges."""
_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_RESAMPLES = 2000


# --- curves ---------------------------------------------------------------------------------------------------------


def with_density(run: Results) -> tuple[str, ...]:
    """The conditions that have a density: all but inverse ones."""
    return tuple(name for name in run.conditions if not name.endswith("/inverse"))


def quartiles(values: np.ndarray) -> np.ndarray:
    """The three quartiles over inputs: ``[3, ...]``."""
    return np.percentile(values, (25, 50, 75), axis=0)


def curves(runs: Sequence[Results]) -> pa.Table:
    """Of every condition and size the quartiles of TV, and means of what else is measured (Figs. 3, 6, 7, 10)."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        for condition in run.conditions:
            low, middle, high = quartiles(run.curve(condition, "tv"))
            means = {name: run.curve(condition, name).mean(axis=0) for name in ("tv", "kl", "agreement", "entropy")}
            recovered = np.median(run.curve(condition, "recovered"), axis=0)
            for k, size in enumerate(run.sizes):
                row = {"model": run.label, "condition": condition, "size": size, "n": run.valid.num_rows}
                row |= {"tv_q25": low[k], "tv_median": middle[k], "tv_q75": high[k], "recovered_median": recovered[k]}
                rows.append(row | {f"{name}_mean": values[k] for name, values in means.items()})
    return pa.Table.from_pylist(rows)


def phases(runs: Sequence[Results]) -> pa.Table:
    """How much of TV falls before, in and after the construction phase, in all and per decade of the size."""
    rows = []
    for run in runs:
        for condition in with_density(run):
            middle = np.median(run.curve(condition, "tv"), axis=0)
            logs = np.log10(run.sizes)
            bounds = (logs[0], *np.log10(CONSTRUCTION), 0.0)
            for name, (start, end) in zip(
                ("before", "construction", "refinement"), itertools.pairwise(bounds), strict=True
            ):
                if end <= start:
                    continue
                at = np.interp((start, end), logs, middle)
                row = {"model": run.label, "condition": condition, "phase": name, "from_size": 10**start}
                row |= {"to_size": 10**end, "tv_from": at[0], "tv_to": at[1]}
                rows.append(row | {"fall_per_decade": (at[0] - at[1]) / (end - start)})
    return pa.Table.from_pylist(rows)


def nucleus_sizes(run: Results, condition: str) -> np.ndarray:
    """The least size from which on each nucleus stays recovered, in order: float64 ``[N, Q]``; 1 is the full graph."""
    recovered = run.nucleus(condition)
    recovered[:, -1] = True  # the full graph's own, whatever rounding says
    stays = np.flip(np.logical_and.accumulate(np.flip(recovered, axis=1), axis=1), axis=1)
    return run.sizes[np.argmax(stays, axis=1)]


def nuclei(runs: Sequence[Results]) -> pa.Table:
    """Quartiles of the size that each nucleus level needs, and the share of inputs that need the full graph."""
    rows = []
    for run in runs:
        for condition in with_density(run):
            needed = nucleus_sizes(run, condition)
            low, middle, high = np.percentile(needed, (25, 50, 75), axis=0, method="nearest")
            for q, level in enumerate(run.manifest["nucleus_levels"]):
                row = {"model": run.label, "condition": condition, "level": level, "n": len(needed)}
                row |= {"size_q25": low[q], "size_median": middle[q], "size_q75": high[q]}
                rows.append(row | {"share_full_graph": float(np.mean(needed[:, q] == 1.0))})
    return pa.Table.from_pylist(rows)


# --- what traces are made of ----------------------------------------------------------------------------------------


def concentration(run: Results, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative share of edges held by the top fraction of components: fractions ``[C]`` and ``[Z + 1, C]``."""
    shares = -np.sort(-run.shares[source].reshape(len(run.sizes), -1), axis=-1)
    return np.arange(1, shares.shape[-1] + 1) / shares.shape[-1], np.cumsum(shares, axis=-1)


def cores(runs: Sequence[Results]) -> pa.Table:
    """Stability of the core (Fig. 4): share of edges held by the top fractions of components, per size."""
    rows = []
    for run, source in _traces(runs):
        fractions, held = concentration(run, source)
        for k, size in enumerate(run.sizes):
            row = {"model": run.label, "source": source, "size": size, "components": len(fractions)}
            tops = {f"top_{100 * part:g}%": float(np.interp(part, fractions, held[k])) for part in _FRACTIONS}
            rows.append(row | tops)
    return pa.Table.from_pylist(rows)


def _traces(runs: Sequence[Results]) -> list[tuple[Results, str]]:
    return [(run, source) for run in runs for source in run.sources]


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
    quarter = np.arange(4)[:, None] == 4 * np.arange(run.n_layers) // run.n_layers
    return Makeup(types, layers @ quarter.T, layers)


def makeups(runs: Sequence[Results]) -> pa.Table:
    """The make-up of traces as a table."""
    rows = []
    for run, source in _traces(runs):
        made = makeup(run, source)
        for k, size in enumerate(run.sizes):
            row = {"model": run.label, "source": source, "size": size}
            row |= dict(zip(("residual", "attention", "mlp"), made.types[k], strict=True))
            row |= {f"quarter_{n + 1}": share for n, share in enumerate(made.quarters[k])}
            rows.append(row)
    return pa.Table.from_pylist(rows)


def layers(runs: Sequence[Results]) -> pa.Table:
    """The share of every layer in the traces of each size."""
    rows = []
    for run, source in _traces(runs):
        for size, shares in zip(run.sizes, makeup(run, source).layers, strict=True):
            about = {"model": run.label, "source": source, "size": size}
            rows += [about | {"layer": layer, "share": share} for layer, share in enumerate(shares)]
    return pa.Table.from_pylist(rows)


# --- correlations ---------------------------------------------------------------------------------------------------


class Correlation(NamedTuple):
    """Spearman's rho with a 95% bootstrap interval and p value; NaN where it is not defined."""

    rho: float
    low: float
    high: float
    p: float
    n: int


def spearman(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> Correlation:
    """Spearman's rank correlation of the pairs in which both numbers are known."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[known], y[known], int(known.sum())
    if n < 3 or _constant(x) or _constant(y):
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    found = stats.spearmanr(x, y)
    return Correlation(float(found.statistic), *_interval(x, y, seed), float(found.pvalue), n)


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


def relative_density(run: Results, condition: str) -> np.ndarray:
    """Area under TV over log10 of the size, TV as a share of that of the smallest trace: float64 ``[N]``.

    Where the smallest traces keep nothing of a prediction, TV starts at its distance from what the model predicts of no
    edge at all, which depends on the prediction's entropy. This measure has that taken out.
    """
    tv = run.curve(condition, "tv")
    start = np.where(tv[:, :1] > 0, tv[:, :1], np.nan)
    return np.trapezoid(tv / start, np.log10(run.sizes), axis=1)


def correlations(runs: Sequence[Results]) -> pa.Table:
    """Of density, as it is and relative, with entropy, loss, frequency and length under every condition (Fig. 8)."""
    rows = []
    for run in runs:
        for condition in with_density(run):
            measures = {"density": run.density(condition), "relative density": relative_density(run, condition)}
            for measure, values in measures.items():
                for name, column in PREDICTORS.items():
                    about = {"model": run.label, "condition": condition, "measure": measure, "with": name}
                    rows.append(about | spearman(values, run.column(column))._asdict())
    return pa.Table.from_pylist(rows, schema=_CORRELATIONS)


_NUMBERS = [
    ("rho", pa.float64()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("p", pa.float64()),
    ("n", pa.int64()),
]
_WHICH = [(name, pa.string()) for name in ("model", "condition", "measure", "with")]
_CORRELATIONS = pa.schema([*_WHICH, *_NUMBERS])
_PAIRS = pa.schema([("condition", pa.string()), ("model", pa.string()), ("other", pa.string()), *_NUMBERS])


def between_models(runs: Sequence[Results], condition: str) -> list[list[Correlation]]:
    """Correlation of density between models on the inputs that they share, told by their texts (Fig. 9).

    Raises:
      InputError: a run without the condition.
    """
    densities = []
    for run in runs:
        if condition not in run.conditions:
            raise InputError(f"{run.label}: not evaluated under {condition}")
        densities.append(dict(zip(run.valid["text"].to_pylist(), run.density(condition).tolist(), strict=True)))
    found = {}
    for (i, one), (j, other) in itertools.combinations_with_replacement(enumerate(densities), 2):
        shared = [text for text in one if text in other]
        found[i, j] = spearman(np.asarray([one[t] for t in shared]), np.asarray([other[t] for t in shared]))
    return [[found[min(i, j), max(i, j)] for j in range(len(runs))] for i in range(len(runs))]


def shared_conditions(runs: Sequence[Results]) -> list[str]:
    """The conditions with a density that all runs have, in the order of the first."""
    return [name for name in with_density(runs[0]) if all(name in run.conditions for run in runs)]


def model_pairs(runs: Sequence[Results]) -> pa.Table:
    """``between_models`` of all shared conditions as a table."""
    rows = []
    for condition in shared_conditions(runs):
        for run, line in zip(runs, between_models(runs, condition), strict=True):
            for other, found in zip(runs, line, strict=True):
                rows.append({"condition": condition, "model": run.label, "other": other.label, **found._asdict()})
    return pa.Table.from_pylist(rows, schema=_PAIRS)


# --- counts and inputs ----------------------------------------------------------------------------------------------


def validity(runs: Sequence[Results]) -> pa.Table:
    """Inputs, valid and invalid ones and why (Table 2)."""
    rows = []
    for run in runs:
        reasons = [reason for reason in run.inputs["reason"].to_pylist() if reason is not None]
        valid, count = run.valid.num_rows, run.inputs.num_rows
        row = {
            "model": run.label,
            "dtype": run.manifest["model"]["dtype"],
            "rows_of_data": run.manifest["data"]["rows"],
        }
        row |= {"inputs": count, "valid": valid, "invalid": count - valid}
        rows.append(row | {"reasons": "; ".join(f"{reasons.count(r)} x {r}" for r in dict.fromkeys(reasons))})
    return pa.Table.from_pylist(rows)


def densities(runs: Sequence[Results]) -> pa.Table:
    """Quartiles of density under every condition that has one."""
    rows = []
    for run in runs:
        for condition in with_density(run):
            low, middle, high = quartiles(run.density(condition))
            row = {"model": run.label, "condition": condition, "n": run.valid.num_rows}
            rows.append(row | {"density_q25": low, "density_median": middle, "density_q75": high})
    return pa.Table.from_pylist(rows)


_TEXTS = ("text", "next_word", "tokens", "token_texts", "next_token", "top_token", "top_text", "counts")


def numbers_of_inputs(runs: Sequence[Results]) -> pa.Table:
    """The table of inputs without their texts."""
    found = []
    for run in runs:
        kept = run.inputs.drop_columns([*_TEXTS])
        found.append(kept.add_column(0, "model", pa.array([run.label] * kept.num_rows)))
    return pa.concat_tables(found, promote_options="default")
