"""The tables of a report, computed from runs (section 7 of the method)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jstrace.method.conditions import Case
from jstrace.reports import statistics
from jstrace.reports.results import Results

_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def curves(runs: Sequence[Results]) -> pa.Table:
    """Of every condition and size the quartiles of TV, and means of what else is measured (Figs. 3, 6, 7, 10).

    ``ablatable_kept`` is the share of what the condition may ablate that is in the trace, by which models compare.
    """
    rows: list[dict[str, Any]] = []
    told = any(run.controlled for run in runs)
    for run in runs:
        for case in run.cases:
            control = _control(run, case) if told else [{}] * len(run.sizes)
            low, middle, high = statistics.quartiles(run.curve(case, "tv"))
            means = {name: run.curve(case, name).mean(axis=0) for name in ("tv", "kl", "agreement", "entropy")}
            recovered, held = np.median(run.curve(case, "recovered"), axis=0), statistics.ablatable_kept(run, case)
            for k, size in enumerate(run.sizes):
                row = {"model": run.label, "condition": case.name, "size": size, "n": run.valid.num_rows}
                row |= {
                    "ablatable_kept": None if held is None else held[k],
                    "tv_q25": low[k],
                    "tv_median": middle[k],
                    "tv_q75": high[k],
                    "recovered_median": recovered[k],
                }
                rows.append(row | {f"{name}_mean": values[k] for name, values in means.items()} | control[k])
    return pa.Table.from_pylist(rows)


def _control(run: Results, case: Case) -> list[dict[str, Any]]:
    """The control's columns of ``curves`` at every size, empty where a curve has none."""
    if case not in run.controlled:
        return [dict.fromkeys(_CONTROL)] * len(run.sizes)
    found = statistics.selectivity(run, case)
    values = zip(found.foreign, found.selectivity, found.low, found.high, strict=True)
    return [dict(zip(_CONTROL, cells, strict=True)) for cells in values]


_CONTROL = ("foreign_tv_mean", "selectivity_mean", "selectivity_low", "selectivity_high")


def selectivities(runs: Sequence[Results]) -> pa.Table:
    """Of every curve with a control the size where it is most selective, and what it is there."""
    rows = []
    for run in runs:
        for case in run.controlled:
            found = statistics.selectivity(run, case)
            row = {"model": run.label, "condition": case.name, "n": found.n, "peak_size": run.sizes[found.peak]}
            numbers = {"own_tv": found.own, "foreign_tv": found.foreign, "selectivity": found.selectivity}
            numbers |= {"low": found.low, "high": found.high}
            rows.append(row | {name: values[found.peak] for name, values in numbers.items()})
    return pa.Table.from_pylist(rows)


def seconds(runs: Sequence[Results]) -> pa.Table:
    """What each score took an input, without compilation and evaluation, on the devices of each session that says it.

    Scores of one clean pass share a line; what a control took, which scores are made again for, is not in it.
    """
    rows = []
    for run in runs:
        for session in run.manifest["sessions"]:
            device = f"{session['hardware']['devices']} x {session['hardware']['device']}"
            for score, took in session.get("seconds", {}).items():
                about = {"model": run.label, "score": score, "device": device, "n": took["inputs"]}
                rows.append(about | {"seconds_an_input": took["seconds"] / took["inputs"]})
    return pa.Table.from_pylist(rows)


def phases(runs: Sequence[Results]) -> pa.Table:
    """How much of TV falls before, in and after the construction phase, in all and per decade of the size."""
    rows = []
    for run in runs:
        for case in run.with_density:
            middle = np.median(run.curve(case, "tv"), axis=0)
            logs = np.log10(run.sizes)
            bounds = np.maximum((logs[0], *np.log10(statistics.CONSTRUCTION), 0.0), logs[0])
            for name, (start, end) in zip(
                ("before", "construction", "refinement"), itertools.pairwise(bounds), strict=True
            ):
                if end <= start:
                    continue
                at = np.interp((start, end), logs, middle)
                row = {"model": run.label, "condition": case.name, "phase": name, "from_size": 10**start}
                row |= {"to_size": 10**end, "tv_from": at[0], "tv_to": at[1]}
                rows.append(row | {"fall_per_decade": (at[0] - at[1]) / (end - start)})
    return pa.Table.from_pylist(rows)


def densities(runs: Sequence[Results]) -> pa.Table:
    """Quartiles of density under every condition that has one."""
    rows = []
    for run in runs:
        for case in run.with_density:
            low, middle, high = statistics.quartiles(run.density(case))
            row = {"model": run.label, "condition": case.name, "n": run.valid.num_rows}
            rows.append(row | {"density_q25": low, "density_median": middle, "density_q75": high})
    return pa.Table.from_pylist(rows)


def nuclei(runs: Sequence[Results]) -> pa.Table:
    """Quartiles of the size that each nucleus level needs, and the share of inputs that need the full graph."""
    rows = []
    for run in runs:
        for case in run.with_density:
            needed = statistics.nucleus_sizes(run, case)
            low, middle, high = np.percentile(needed, (25, 50, 75), axis=0, method="nearest")
            for q, level in enumerate(run.manifest["nucleus_levels"]):
                row = {"model": run.label, "condition": case.name, "level": level, "n": len(needed)}
                row |= {"size_q25": low[q], "size_median": middle[q], "size_q75": high[q]}
                rows.append(row | {"share_full_graph": float(np.mean(needed[:, q] == 1.0))})
    return pa.Table.from_pylist(rows)


def cores(runs: Sequence[Results]) -> pa.Table:
    """Stability of the core (Fig. 4): share of edges held by the top fractions of components, per size."""
    rows = []
    for run, source in _traces(runs):
        fractions, held = statistics.concentration(run, source)
        for k, size in enumerate(run.sizes):
            row = {"model": run.label, "source": source, "size": size, "components": len(fractions)}
            tops = {f"top_{100 * part:g}%": float(np.interp(part, fractions, held[k])) for part in _FRACTIONS}
            rows.append(row | tops)
    return pa.Table.from_pylist(rows)


def makeups(runs: Sequence[Results]) -> pa.Table:
    """The make-up of traces as a table."""
    rows = []
    for run, source in _traces(runs):
        made = statistics.makeup(run, source)
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
        for size, shares in zip(run.sizes, statistics.makeup(run, source).layers, strict=True):
            about = {"model": run.label, "source": source, "size": size}
            rows += [about | {"layer": layer, "share": share} for layer, share in enumerate(shares)]
    return pa.Table.from_pylist(rows)


def _traces(runs: Sequence[Results]) -> list[tuple[Results, str]]:
    return [(run, source) for run in runs for source in run.sources]


def correlations(runs: Sequence[Results]) -> pa.Table:
    """Of density, as it is and relative, with entropy, loss, frequency and length under every condition (Fig. 8)."""
    rows = []
    for run in runs:
        for case in run.with_density:
            relative = statistics.relative_density(run, case)
            for measure, values in {"density": run.density(case), "relative density": relative}.items():
                for name, column in statistics.PREDICTORS.items():
                    about = {"model": run.label, "condition": case.name, "measure": measure, "with": name}
                    rows.append(about | statistics.spearman(values, run.column(column))._asdict())
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


def model_pairs(runs: Sequence[Results]) -> pa.Table:
    """``between_models`` of all shared conditions as a table."""
    rows = []
    for case in statistics.shared_cases(runs):
        for run, line in zip(runs, statistics.between_models(runs, case), strict=True):
            for other, found in zip(runs, line, strict=True):
                rows.append({"condition": case.name, "model": run.label, "other": other.label, **found._asdict()})
    return pa.Table.from_pylist(rows, schema=_PAIRS)


def validity(runs: Sequence[Results]) -> pa.Table:
    """Inputs, valid and invalid ones and why (Table 2)."""
    rows = []
    for run in runs:
        reasons = [reason for reason in run.inputs["reason"].to_pylist() if reason is not None]
        valid, count = run.valid.num_rows, run.inputs.num_rows
        row = {
            "model": run.label,
            "dtype": run.manifest["model"]["dtype"],
            "rows_of_data": run.rows_of_data,
        }
        row |= {"inputs": count, "valid": valid, "invalid": count - valid}
        rows.append(row | {"reasons": "; ".join(f"{reasons.count(r)} x {r}" for r in dict.fromkeys(reasons))})
    return pa.Table.from_pylist(rows)


_TEXTS = (
    "text", "next_word", "tokens", "token_texts", "next_token", "top_token", "top_text", "counts", "foreign_inputs",
    "generated_token", "generated_text", "dimension", "anisotropy", "pair", "variant",
)  # fmt: skip


def numbers_of_inputs(runs: Sequence[Results]) -> pa.Table:
    """The table of inputs without their texts."""
    found = []
    for run in runs:
        kept = run.inputs.drop_columns([name for name in _TEXTS if name in run.inputs.column_names])
        found.append(kept.add_column(0, "model", pa.array([run.label] * kept.num_rows)))
    return pa.concat_tables(found, promote_options="default")
