"""Models beside each other: their curves (Fig. 3), which inputs are dense (Fig. 9), and checkpoints of one training."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jstrace.errors import InputError
from jstrace.method.conditions import Case
from jstrace.reports import chance, computation
from jstrace.reports.drawing import (
    COLORS,
    DASHES,
    TV_LABEL,
    each_ablation,
    grid_of,
    legend_above,
    line,
    look_of,
    panel_title,
    shortened,
)
from jstrace.reports.exhibit import Picture, Rows, ablated, ablated_in, counted, modes_of, table_of
from jstrace.reports.results import Results
from jstrace.reports.statistics import Correlation, compared_at, quartile_columns, quartiles, spearman


def models(runs: Sequence[Results]) -> Picture:
    """The medians of every model."""
    modes = modes_of(runs)
    caption = f"Median TV distance over each model's own valid inputs. {counted(runs)}"
    title = "All models: how fast the prediction comes back (Fig. 3)"
    return Picture(title, caption, functools.partial(all_models, runs, *modes), ablated(*modes))


def all_models(runs: Sequence[Results], ablations: Sequence[str], replacements: Sequence[str] = ("zero",)) -> Figure:
    """Median TV against size of every model (Figs. 3 and 10)."""

    def draw(axes: Any, ablate: str, replace: str) -> None:
        drawn: list[np.ndarray] = []
        for number, run in enumerate(runs):
            case = run.plan.case(ablate, replace=replace)
            if case in run.cases:
                look = look_of(number) | {"linestyle": DASHES[number // len(COLORS) % len(DASHES)]}
                look |= {"label": shortened(run.label), "who": f"{run.label}, "}
                middle, x = np.median(run.curve(case, "tv"), axis=0), computation.places(run, case)
                line(axes, x, middle, "size {:g}: median TV {:.3f}", at=run.sizes, **look)
                drawn.append(x)
        computation.log_axis(axes, runs[0], drawn)
        axes.set_ylim(-0.02, 1.02)

    xlabel = computation.label(runs[0])
    look: dict[str, Any] = {"ylabel": TV_LABEL, "xlabel": xlabel, "height": 2.5, "legend": 2}
    return each_ablation(ablations, draw, replacements=replacements, **look)


# --- density --------------------------------------------------------------------------------------------------------


def shared_cases(runs: Sequence[Results]) -> list[Case]:
    """The cases with a density that all runs have, in the order of the first."""
    return [case for case in runs[0].with_density if all(case in run.cases for run in runs)]


def between_models(runs: Sequence[Results], case: Case) -> list[list[Correlation]]:
    """Correlation of density between models on the inputs that they share, told by their texts (Fig. 9).

    Raises:
      InputError: a run without the condition.
    """
    densities = []
    for run in runs:
        if case not in run.cases:
            raise InputError(f"{run.label}: not evaluated under {case.name}")
        columns = run.density(case).tolist(), run.clusters.tolist()
        densities.append(dict(zip(run.valid["text"].to_pylist(), zip(*columns, strict=True), strict=True)))
    corrs = {}
    for (i, own), (j, other) in itertools.combinations_with_replacement(enumerate(densities), 2):
        shared = [text for text in own if text in other]
        ours, theirs = (np.asarray([told[t] for t in shared]).reshape(-1, 2) for told in (own, other))
        corrs[i, j] = spearman(ours[:, 0], theirs[:, 0], ours[:, 1])
    return [[corrs[min(i, j), max(i, j)] for j in range(len(runs))] for i in range(len(runs))]


def between(runs: Sequence[Results]) -> Picture | None:
    """The correlations of the first score's density, where all runs have one of its cases."""
    first = runs[0].plan
    own = [first.case(name, replace=replace) for replace in first.replacements for name in runs[0].ablations]
    shared = [case for case in own if case in shared_cases(runs)]
    if not shared:
        return None
    caption = (
        "Spearman's ρ of density between models, on the inputs that both have (told by their texts); n of each"
        " pair is in the table."
    )
    title = "All models: do they agree on which inputs are dense? (Fig. 9)"
    return Picture(title, caption, functools.partial(_draw_between, runs, shared), ablated_in(shared))


def _draw_between(runs: Sequence[Results], cases: Sequence[Case]) -> Figure:
    count, panels = len(runs), len(cases)
    figure, grid = grid_of(1, rows=panels, height=1.7 + (0.2 + 0.25 * count) * panels)
    for number, (axes, case) in enumerate(zip(grid.ravel(), cases, strict=True)):
        rho = np.asarray([[cell.rho for cell in row] for row in between_models(runs, case)])
        image = axes.imshow(rho, vmin=-1, vmax=1, cmap="PuOr", aspect="auto")
        for (i, j), value in np.ndenumerate(rho):
            text = "–" if np.isnan(value) else f"{value:.2f}".replace("0.", ".")
            axes.text(j, i, text, ha="center", va="center", fontsize=5.5, color="w" if abs(value) > 0.6 else "k")
        names = [shortened(run.label) for run in runs]
        axes.set_xticks(range(count), names if number == panels - 1 else [""] * count, rotation=60, ha="right")
        axes.set_yticks(range(count), names)
        axes.grid(visible=False)
        axes.set_title(panel_title(case))
    label = "Spearman's ρ of density"
    figure.colorbar(image, ax=grid.ravel().tolist(), label=label, shrink=0.8, location="top", aspect=30)
    return figure


def model_pairs(runs: Sequence[Results]) -> pa.Table:
    """The correlations of every condition that all runs have."""

    def rows() -> Rows:
        for case in (shared := shared_cases(runs)):
            matrix = between_models(runs, case)
            beside = {name: drawn for name, drawn in chance.cases(runs[0], case).items() if drawn in shared}
            random = {name: between_models(runs, drawn) for name, drawn in beside.items()}
            for i, j in itertools.product(range(len(runs)), repeat=2):
                row = {"condition": case.name, "model": runs[i].label, "other": runs[j].label}
                yield row | chance.correlated(matrix[i][j], {name: cells[i][j].rho for name, cells in random.items()})

    return table_of(rows(), ("condition", "model", "other", *Correlation._fields))


# --- checkpoints ----------------------------------------------------------------------------------------------------


def revised(runs: Sequence[Results]) -> list[Results]:
    """The runs that are of a revision of one model, as long as they are several and share a condition; in order."""
    checkpoints = sorted((run for run in runs if run.revision is not None), key=lambda run: run.place)
    same_model = len({str(run.manifest["model"]["name"]).rpartition("@")[0] for run in checkpoints}) == 1
    return checkpoints if len(checkpoints) > 1 and same_model and shared_cases(checkpoints) else []


def revisions(runs: Sequence[Results]) -> Picture | None:
    """Density and TV along training."""
    checkpoints = revised(runs)
    if not checkpoints:
        return None
    ablations, replacements = modes_of(runs)
    caption = (
        "Revisions in the order that they were given in. Left: density, median and quartiles over each one's valid"
        f" inputs. Right: median TV at some sizes.{chance.words(checkpoints[0])} {counted(checkpoints)}"
    )
    draw = functools.partial(draw_revisions, checkpoints)
    title = "Checkpoints: density and distance along training"
    return Picture(title, caption, draw, ablated(ablations, replacements[:1]))


def draw_revisions(runs: Sequence[Results]) -> Figure:
    """Density and TV against the revision; a row of panels for each ablation."""
    first, shared = runs[0], shared_cases(runs)
    cases = [case for case in map(first.plan.case, first.ablations) if case in shared] or shared[:1]
    made, grid = grid_of(2, rows=len(cases), height=1.3 + 1.55 * len(cases), sharex=True)
    names = [str(run.revision) for run in runs]
    for (left, right), case in zip(grid, cases, strict=True):
        _draw_revision(left, right, runs, case, names)
        for axes in (left, right):
            axes.set_title(f"ablated: {case.condition.ablate}")
    for axes in grid[-1]:
        axes.set_xticks(range(len(runs)), names, rotation=60, ha="right")
    made.supxlabel("revision", fontsize=7)
    legend_above(made, 3)
    return made


def _draw_revision(left: Any, right: Any, runs: Sequence[Results], case: Case, names: Sequence[str]) -> None:
    places = np.arange(len(runs))
    look: dict[str, Any] = {"marker": "o", "markersize": 2, "at": names}
    low, middle, high = np.asarray([quartiles(run.density(case)) for run in runs]).T
    words = "{}: density {:.3f}, quartiles {:.3f} and {:.3f}"
    line(left, places, middle, words, around=(low, high), color=COLORS[0], **look)
    for number, random in enumerate(ref for ref in chance.cases(runs[0], case).values() if ref in shared_cases(runs)):
        middle = np.asarray([np.median(run.density(random)) for run in runs])
        left.plot(places, middle, **chance.LOOK | {"linestyle": DASHES[number % len(DASHES)]})
    left.set_ylabel("density")
    for number, k in enumerate(_places(runs)):
        middle = np.asarray([np.median(run.curve(case, "tv")[:, k]) for run in runs])
        label = f"{100 * runs[0].sizes[k]:g}% of the edges"
        own: dict[str, Any] = {"color": COLORS[1 + number], "linestyle": DASHES[number], "label": label}
        line(right, places, middle, f"{{}}, {label}: TV {{:.3f}}", **own, **look)
    right.set(ylabel=TV_LABEL, ylim=(-0.02, 1.02))


def revision_rows(runs: Sequence[Results]) -> pa.Table:
    """Density, and TV at some sizes, of every revision under every shared condition."""

    def rows() -> Rows:
        for case, (place, run) in itertools.product(shared_cases(runs), enumerate(runs)):
            row = {"condition": case.name, "place": place, "revision": run.revision, "model": run.label}
            row |= {"n": run.n, **quartile_columns("density", quartiles(run.density(case)))}
            tv = np.median(run.curve(case, "tv"), axis=0)
            row |= {f"tv_median_at_{100 * run.sizes[k]:g}%": tv[k] for k in _places(runs)}
            yield row | chance.gaps(run, case, "density", run.density)

    return table_of(rows())


def _places(runs: Sequence[Results]) -> list[int]:
    """Sizes that are compared, which are those of all runs or of none."""
    return compared_at(runs[0].sizes) if all(np.array_equal(run.sizes, runs[0].sizes) for run in runs) else []
