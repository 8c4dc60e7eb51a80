"""The geometry of hidden states by layer, and how it goes with density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jstrace.reports import statistics
from jstrace.reports.drawing import COLORS, DASHES, band, grid_of, legend_above
from jstrace.reports.inlined import note
from jstrace.reports.results import Results

MEASURES = {"dimension": "intrinsic dimension", "anisotropy": "mean cosine"}
"""Columns, and what axes call them."""


def has(run: Results) -> bool:
    """Whether a run measured it, of any input."""
    return all(name in run.valid.column_names and run.valid[name].null_count < run.valid.num_rows for name in MEASURES)


def layered(run: Results, name: str) -> np.ndarray:
    """A measure of each valid input and layer, NaN where it is not defined: float64 ``[N, L]``."""
    values = pc.list_flatten(run.valid[name]).cast(pa.float64()).to_numpy()
    return np.asarray(values).reshape(-1, run.n_layers)


def table(runs: Sequence[Results]) -> pa.Table:
    """Quartiles of each measure by layer, and its correlation with density under each ablation."""
    lines = []
    for run in runs:
        for name in MEASURES:
            values = layered(run, name)
            for case in (run.plan.case(ablate) for ablate in run.ablations):
                density = run.density(case)
                for layer, column in enumerate(values.T):
                    low, middle, high = _quartiles(column)
                    line = {"model": run.label, "condition": case.name, "measure": name, "layer": layer}
                    line |= {"q25": low, "median": middle, "q75": high}
                    lines.append(line | statistics.spearman(density, column)._asdict())
    return pa.Table.from_pylist(lines)


def _quartiles(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    return statistics.quartiles(known) if len(known) else np.full(3, np.nan)


def figure(run: Results) -> Figure:
    """Each measure by layer, and below it its correlation with density."""
    made, grid = grid_of(2, rows=2, height=3.9, sharex=True)
    layers = np.arange(run.n_layers)
    for (upper, lower), (name, label), color in zip(grid.T, MEASURES.items(), COLORS, strict=False):
        values = layered(run, name)
        low, middle, high = np.asarray([_quartiles(column) for column in values.T]).T
        band(upper, layers, low, middle, high, color, marker="o", markersize=1.5)
        told = zip(layers, middle, low, high, strict=True)
        note(upper, layers, middle, [f"layer {n}: {m:.3f}, quartiles {a:.3f} and {b:.3f}" for n, m, a, b in told])
        upper.set_title(label)
        for number, ablate in enumerate(run.ablations):
            look = {"linestyle": DASHES[number], "label": f"ablated: {ablate}"}
            _correlated(lower, run.density(run.plan.case(ablate)), values, COLORS[2 + number], look)
        lower.axhline(0, color="0.5", linewidth=0.6)
        lower.set(ylim=(-1.02, 1.02))
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[1, 0].set_ylabel("Spearman's ρ with density")
    made.supxlabel("after layer", fontsize=7)
    legend_above(made, 2)
    return made


def _correlated(axes: Any, density: np.ndarray, values: np.ndarray, color: str, look: dict[str, str]) -> None:
    """Spearman's rho of density with each layer's values, and its interval."""
    found = [statistics.spearman(density, column) for column in values.T]
    rho, low, high = (np.asarray([getattr(one, part) for one in found]) for part in ("rho", "low", "high"))
    layers = np.arange(len(rho))
    band(axes, layers, low, rho, high, color, **look)
    note(axes, layers, rho, [f"layer {n}, {look['label']}: ρ {one:.2f}" for n, one in enumerate(rho)])
