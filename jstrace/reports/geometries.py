"""The geometry of hidden states by layer, and how it goes with density."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jstrace.reports import chance, statistics
from jstrace.reports.drawing import COLORS, DASHES, grid_of, legend_above, line
from jstrace.reports.exhibit import Picture, Rows, each_run
from jstrace.reports.results import Results
from jstrace.reports.statistics import FEW, quartiles, spearman

MEASURES = {"dimension": "intrinsic dimension", "anisotropy": "mean cosine"}
"""Columns, and what axes call them."""


def has(run: Results) -> bool:
    """Whether a run measured it, of any input."""
    return all(name in run.valid.column_names and run.valid[name].null_count < run.valid.num_rows for name in MEASURES)


def layered(run: Results, name: str) -> np.ndarray:
    """A measure of each valid input and layer, NaN where it is not defined: float64 ``[N, L]``."""
    values = pc.list_flatten(run.valid[name]).cast(pa.float64()).to_numpy()
    return np.asarray(values).reshape(-1, run.n_layers)


def picture(_: Results) -> Picture:
    """Each measure by layer, and how it goes with density."""
    caption = (
        "Of the states of an input's tokens after each layer: intrinsic dimension (two-NN), and the mean cosine"
        " between all pairs of tokens (anisotropy); medians and quartiles over inputs. Below: Spearman's ρ of"
        f" density with them, with 95% interval from {FEW} inputs on. Both depend on how many"
        " tokens there are."
    )
    return Picture("the shape of hidden states, and density", caption, _draw, chance=True)


def _draw(run: Results) -> Figure:
    made, grid = grid_of(2, rows=2, height=3.9, sharex=True)
    layers = np.arange(run.n_layers)
    for (upper, lower), (name, label), color in zip(grid.T, MEASURES.items(), COLORS, strict=False):
        values = layered(run, name)
        low, middle, high = np.asarray(list(map(_quartiles, values.T))).T
        words = "layer {}: {:.3f}, quartiles {:.3f} and {:.3f}"
        line(upper, layers, middle, words, around=(low, high), color=color, marker="o", markersize=1.5)
        upper.set_title(label)
        for number, ablate in enumerate(run.ablations):
            case = run.plan.case(ablate)
            density = run.density(case)
            corrs = [spearman(density, column, run.clusters) for column in values.T]
            rho, low, high = (np.asarray([getattr(corr, part) for corr in corrs]) for part in ("rho", "low", "high"))
            look = {"linestyle": DASHES[number], "label": f"ablated: {ablate}", "color": COLORS[2 + number]}
            for random in chance.cases(run, case).values():
                theirs = [statistics.rho(run.density(random), column) for column in values.T]
                lower.plot(layers, theirs, linestyle=DASHES[number], **chance.LOOK)
            line(lower, layers, rho, f"layer {{}}, ablated: {ablate}: ρ {{:.2f}}", around=(low, high), **look)
        lower.axhline(0, color="0.5", linewidth=0.6)
        lower.set(ylim=(-1.02, 1.02))
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[1, 0].set_ylabel("Spearman's ρ with density")
    made.supxlabel("after layer", fontsize=7)
    legend_above(made, 2)
    return made


@each_run
def table(run: Results) -> Rows:
    """Quartiles of each measure by layer, and its correlation with density under each ablation."""
    for name in MEASURES:
        values = layered(run, name)
        for case in map(run.plan.case, run.ablations):
            for layer, column in enumerate(values.T):
                low, middle, high = _quartiles(column)
                row = {"condition": case.name, "measure": name, "layer": layer}
                row |= {"q25": low, "median": middle, "q75": high}
                yield row | chance.correlation(run, case, run.density, column)


def _quartiles(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    return quartiles(known) if len(known) else np.full(3, np.nan)
