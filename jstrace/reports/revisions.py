"""Checkpoints of one training beside each other, in the order that they were given in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jstrace.method.conditions import Case
from jstrace.reports import statistics
from jstrace.reports.drawing import COLORS, DASHES, TV_LABEL, band, grid_of, legend_above
from jstrace.reports.inlined import note
from jstrace.reports.results import Results


def revised(runs: Sequence[Results]) -> list[Results]:
    """The runs that are of a revision of one model, as long as they are several and share a condition; in order."""
    found = sorted((run for run in runs if run.revision is not None), key=lambda run: run.place)
    one = len({str(run.manifest["model"]["name"]).rpartition("@")[0] for run in found}) == 1
    return found if len(found) > 1 and one and statistics.shared_cases(found) else []


def table(runs: Sequence[Results]) -> pa.Table:
    """Density, and TV at some sizes, of every revision under every shared condition."""
    lines = []
    for case in statistics.shared_cases(runs):
        for place, run in enumerate(runs):
            low, middle, high = statistics.quartiles(run.density(case))
            line = {"condition": case.name, "place": place, "revision": run.revision, "model": run.label}
            line |= {"n": run.valid.num_rows, "density_q25": low, "density_median": middle, "density_q75": high}
            tv = np.median(run.curve(case, "tv"), axis=0)
            lines.append(line | {f"tv_median_at_{100 * run.sizes[k]:g}%": tv[k] for k in _places(runs)})
    return pa.Table.from_pylist(lines)


def _places(runs: Sequence[Results]) -> list[int]:
    """Where ``statistics.COMPARED`` stand among the sizes, which are those of all runs or of none."""
    alike = all(np.array_equal(run.sizes, runs[0].sizes) for run in runs)
    return [
        k for k, size in enumerate(runs[0].sizes) if alike and any(np.isclose(size, one) for one in statistics.COMPARED)
    ]


def figure(runs: Sequence[Results]) -> Figure:
    """Density and TV against the revision; a row of panels for each ablation."""
    first = runs[0]
    cases = [case for case in map(first.plan.case, first.ablations) if case in statistics.shared_cases(runs)]
    cases = cases or statistics.shared_cases(runs)[:1]
    made, grid = grid_of(2, rows=len(cases), height=1.3 + 1.55 * len(cases), sharex=True)
    for (left, right), case in zip(grid, cases, strict=True):
        _density(left, runs, case)
        _distances(right, runs, case)
        for axes in (left, right):
            axes.set_title(f"ablated: {case.condition.ablate}")
    names = [str(run.revision) for run in runs]
    for axes in grid[-1]:
        axes.set_xticks(range(len(runs)), names, rotation=60, ha="right")
    made.supxlabel("revision", fontsize=7)
    legend_above(made, 3)
    return made


def _density(axes: Any, runs: Sequence[Results], case: Case) -> None:
    places = np.arange(len(runs))
    low, middle, high = np.asarray([statistics.quartiles(run.density(case)) for run in runs]).T
    band(axes, places, low, middle, high, COLORS[0], marker="o", markersize=2)
    told = zip(runs, middle, low, high, strict=True)
    note(
        axes,
        places,
        middle,
        [f"{run.revision}: density {m:.3f}, quartiles {a:.3f} and {b:.3f}" for run, m, a, b in told],
    )
    axes.set_ylabel("density")


def _distances(axes: Any, runs: Sequence[Results], case: Case) -> None:
    places = np.arange(len(runs))
    for number, k in enumerate(_places(runs)):
        middle = np.asarray([np.median(run.curve(case, "tv")[:, k]) for run in runs])
        label = f"{100 * runs[0].sizes[k]:g}% of the edges"
        axes.plot(places, middle, DASHES[number], color=COLORS[1 + number], marker="o", markersize=2, label=label)
        note(
            axes,
            places,
            middle,
            [f"{run.revision}, {label}: TV {tv:.3f}" for run, tv in zip(runs, middle, strict=True)],
        )
    axes.set(ylabel=TV_LABEL, ylim=(-0.02, 1.02))
