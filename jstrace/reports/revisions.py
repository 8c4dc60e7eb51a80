"""Checkpoints of one training beside each other, in the order that they were given in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jstrace.method.conditions import Case
from jstrace.reports.correlations import shared_cases
from jstrace.reports.drawing import COLORS, DASHES, TV_LABEL, grid_of, legend_above, line
from jstrace.reports.exhibit import Picture, ablated, counted, modes_of, table_of
from jstrace.reports.results import Results
from jstrace.reports.statistics import compared_at, quartile_columns, quartiles


def revised(runs: Sequence[Results]) -> list[Results]:
    """The runs that are of a revision of one model, as long as they are several and share a condition; in order."""
    found = sorted((run for run in runs if run.revision is not None), key=lambda run: run.place)
    one = len({str(run.manifest["model"]["name"]).rpartition("@")[0] for run in found}) == 1
    return found if len(found) > 1 and one and shared_cases(found) else []


def picture(runs: Sequence[Results]) -> Picture | None:
    """Density and TV along training."""
    checkpoints = revised(runs)
    if not checkpoints:
        return None
    ablations, replacements = modes_of(runs)
    caption = (
        "Revisions in the order that they were given in. Left: density, median and quartiles over each one's valid"
        f" inputs. Right: median TV at some sizes. {counted(checkpoints)}"
    )
    draw = functools.partial(figure, checkpoints)
    title = "Checkpoints: density and distance along training"
    return Picture(title, caption, draw, ablated(ablations, replacements[:1]))


def figure(runs: Sequence[Results]) -> Figure:
    """Density and TV against the revision; a row of panels for each ablation."""
    first, shared = runs[0], shared_cases(runs)
    cases = [case for case in map(first.plan.case, first.ablations) if case in shared] or shared[:1]
    made, grid = grid_of(2, rows=len(cases), height=1.3 + 1.55 * len(cases), sharex=True)
    names = [str(run.revision) for run in runs]
    for (left, right), case in zip(grid, cases, strict=True):
        _draw(left, right, runs, case, names)
        for axes in (left, right):
            axes.set_title(f"ablated: {case.condition.ablate}")
    for axes in grid[-1]:
        axes.set_xticks(range(len(runs)), names, rotation=60, ha="right")
    made.supxlabel("revision", fontsize=7)
    legend_above(made, 3)
    return made


def _draw(left: Any, right: Any, runs: Sequence[Results], case: Case, names: Sequence[str]) -> None:
    """The density of a case, and its TV."""
    places = np.arange(len(runs))
    look: dict[str, Any] = {"marker": "o", "markersize": 2, "at": names}
    low, middle, high = np.asarray([quartiles(run.density(case)) for run in runs]).T
    words = "{}: density {:.3f}, quartiles {:.3f} and {:.3f}"
    line(left, places, middle, words, around=(low, high), color=COLORS[0], **look)
    left.set_ylabel("density")
    for number, k in enumerate(_places(runs)):
        middle = np.asarray([np.median(run.curve(case, "tv")[:, k]) for run in runs])
        label = f"{100 * runs[0].sizes[k]:g}% of the edges"
        own: dict[str, Any] = {"color": COLORS[1 + number], "linestyle": DASHES[number], "label": label}
        line(right, places, middle, f"{{}}, {label}: TV {{:.3f}}", **own, **look)
    right.set(ylabel=TV_LABEL, ylim=(-0.02, 1.02))


def table(runs: Sequence[Results]) -> pa.Table:
    """Density, and TV at some sizes, of every revision under every shared condition."""
    return table_of(_row(run, place, case, runs) for case in shared_cases(runs) for place, run in enumerate(runs))


def _row(run: Results, place: int, case: Case, runs: Sequence[Results]) -> dict[str, Any]:
    row = {"condition": case.name, "place": place, "revision": run.revision, "model": run.label}
    row |= {"n": run.valid.num_rows, **quartile_columns("density", quartiles(run.density(case)))}
    tv = np.median(run.curve(case, "tv"), axis=0)
    return row | {f"tv_median_at_{100 * run.sizes[k]:g}%": tv[k] for k in _places(runs)}


def _places(runs: Sequence[Results]) -> list[int]:
    """Sizes that are compared, which are those of all runs or of none."""
    return compared_at(runs[0].sizes) if all(np.array_equal(run.sizes, runs[0].sizes) for run in runs) else []
