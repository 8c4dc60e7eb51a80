"""Models beside each other, from their runs on the same rows: tables, and how TV moves with the number of parameters.

Command: ``python experiments/models_compared.py RUNS OUT`` (a minute; it reads tables and runs no model).

RUNS holds folders of ``jstrace run``, named ``MODEL-KIND`` after the models and kinds below: ``paper`` the paper's
score in both ablations under zero and mean, ``controls`` its random and inverse baselines, ``scores`` the scores from
gradients under mean, ``learned`` a scorer that was fitted to the model, and ``fitted`` traces fitted to each input,
with the control. Of kinds what a model lacks is left out, and so are curves that not all of a kind's models have. OUT
gets a table for each of the report's that compares models,
``trends.csv`` (mean TV of every curve, over all inputs of a run and over those that all models have), ``changes.csv``
(mean change of each input's TV from a model to the next larger one), ``kept.csv`` (TV where residual and MLP edges
alone are ablated, beside the share of those that is kept), ``controls.csv`` (what is kept of own and of foreign
predictions), and the figures of the kinds that are there.

``--keep`` adds to what OUT has: of every table the rows of kinds and models that RUNS does not have stay, and so do the
figures of ``paper`` where RUNS has no such runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow import csv

sys.path.insert(0, str(Path(__file__).parents[1]))

from jstrace.reports import Results, control, curves, makeup, models, read_results, statistics
from jstrace.reports.drawing import COLORS, SIZE_LABEL, TV_LABEL, legend_above, log_sizes, style


@dataclasses.dataclass(frozen=True)
class Named:
    """A model of the comparison."""

    label: str
    parameters: float
    """Millions, embeddings and head among them once."""


MODELS = {
    "smollm2": Named("SmolLM2 135M", 134.5),
    "gemma": Named("Gemma 3 270M", 268.1),
    "q05": Named("Qwen2.5-Coder 0.5B", 494.0),
    "q15": Named("Qwen2.5-Coder 1.5B", 1543.7),
}
COLOR = dict(zip(MODELS, COLORS, strict=False))
SCORE_COLOR = dict(zip(("l1", "l1*gradient", "rounds", "learned", "fitted"), COLORS, strict=False))
KINDS = ("paper", "controls", "scores", "learned", "fitted")
COMPARED: dict[str, Callable[[Sequence[Results]], pa.Table]] = {
    "curves": curves.curves,
    "densities": curves.densities,
    "phases": curves.phases,
    "correlations": curves.correlations,
    "makeup": makeup.makeups,
    "cores": makeup.cores,
    "between_models": models.model_pairs,
    "selectivity": control.selectivities,
}
SHOWN = (0.001, 0.01, 0.1)
"""Sizes of the trend."""
ROUND = (0.05, 0.1, 0.2, 0.5)
"""Shares of the residual and MLP edges at which TV is interpolated, beside those of the sizes."""
Runs = dict[str, dict[str, Results]]


def runs_of(folder: Path) -> Runs:
    """Kind, then model, of every run that is there."""
    found: Runs = {}
    for kind in KINDS:
        for model, named in MODELS.items():
            path = folder / f"{model}-{kind}"
            if path.exists():
                (run,) = read_results([path])
                found.setdefault(kind, {})[model] = dataclasses.replace(run, label=named.label)
    return found


def tv_of(run: Results, case: str, texts: Iterable[str] | None = None) -> np.ndarray:
    """TV ``[N, Z + 1]`` of a curve; of some texts, in their order."""
    tv = run.curve(case, "tv")
    if texts is None:
        return tv
    rows = {text: row for row, text in enumerate(run.valid["text"].to_pylist())}
    return tv[[rows[text] for text in texts]]


def shared(runs: Iterable[Results]) -> list[str]:
    """Texts that are valid inputs of all runs, in the order of the first."""
    first, *others = (run.valid["text"].to_pylist() for run in runs)
    return [text for text in first if all(text in other for other in others)]


def cases_of(runs: dict[str, Results]) -> list[str]:
    """The curves of one kind that all its models have."""
    first, *others = runs.values()
    return [name for name in first.conditions if all(name in other.conditions for other in others)]


def trends(found: Runs) -> Iterator[dict[str, Any]]:
    """Mean TV with its interval: over all inputs of a run, and over those of its kind that all models have."""
    for kind, runs in found.items():
        common = shared(runs.values())
        for case in cases_of(runs):
            for model, run in runs.items():
                for over, texts in (("all", None), ("shared", common)):
                    mean, low, high = statistics.means_of(tv_of(run, case, texts))
                    n = run.valid.num_rows if texts is None else len(texts)
                    about = {"kind": kind, "condition": case, "model": run.label, "over": over, "n": n}
                    about["parameters_m"] = MODELS[model].parameters
                    for k, size in enumerate(run.sizes):
                        yield about | {"size": size, "tv": mean[k], "low": low[k], "high": high[k]}


def changes(found: Runs) -> Iterator[dict[str, Any]]:
    """The mean change of each shared input's TV from a model to the next larger one, with its interval."""
    for kind, runs in found.items():
        if len(runs) < 2:
            continue
        common, sizes = shared(runs.values()), next(iter(runs.values())).sizes
        assert all(np.array_equal(run.sizes, sizes) for run in runs.values()), "runs of one kind have the same sizes"
        for case in cases_of(runs):
            for first, last in zip([*runs][:-1], [*runs][1:], strict=True):
                change = tv_of(runs[last], case, common) - tv_of(runs[first], case, common)
                mean, low, high = statistics.means_of(change)
                about = {"kind": kind, "condition": case, "from": runs[first].label, "to": runs[last].label}
                for k, size in enumerate(sizes):
                    row = {"n": len(common), "size": size, "change": mean[k], "low": low[k], "high": high[k]}
                    yield about | row


def kept(run: Results, case: str) -> np.ndarray:
    """Of the edges that a curve may ablate the share that its traces hold ``[Z + 1]``."""
    found = curves.ablatable_kept(run, next(one for one in run.cases if one.name == case))
    assert found is not None, "inverse curves take traces away"
    return found


def interpolated(share: float, shares: np.ndarray, values: np.ndarray) -> float:
    """What lies at a share, between its neighbours by their logarithms; NaN below the first."""
    assert (np.diff(shares) >= 0).all(), "traces nest"
    known = shares > 0
    return float(np.interp(np.log(share), np.log(shares[known]), values[known], left=np.nan))


def held(found: Runs) -> Iterator[dict[str, Any]]:
    """TV under "residual+mlp" beside what of the edges that it ablates is kept."""
    for kind, runs in found.items():
        for case in (name for name in cases_of(runs) if "/residual+mlp" in name and not name.endswith("inverse")):
            for run in runs.values():
                shares, mean = kept(run, case), tv_of(run, case).mean(axis=0)
                about = {"kind": kind, "condition": case, "model": run.label}
                for size, share, tv in zip(run.sizes, shares, mean, strict=True):
                    yield about | {"size": size, "kept": share, "tv": tv}
                for share in ROUND:
                    size, tv = (interpolated(share, shares, x) for x in (np.log(run.sizes), mean))
                    yield about | {"size": float(np.exp(size)), "kept": share, "tv": tv}


def controls(found: Runs) -> Iterator[dict[str, Any]]:
    """Of every curve with a control the mean TV from own and foreign predictions, and how selective it is."""
    for kind, runs in found.items():
        for run in runs.values():
            for case in run.controlled:
                one = control.selectivity(run, case)
                about = {"kind": kind, "model": run.label, "condition": case.name, "n": one.n}
                columns = (run.sizes, one.own, one.foreign, one.selectivity, one.low, one.high)
                for values in zip(*columns, strict=True):
                    names = ("size", "own_tv", "foreign_tv", "selectivity", "low", "high")
                    yield about | dict(zip(names, values, strict=True))


def fits(runs: dict[str, Results]) -> Figure:
    """For each model fitted traces beside cheaper scores on the same inputs, and what the control keeps (dashed)."""
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (model, run) in zip(panels, runs.items(), strict=True):
        for case in run.cases:
            if (color := SCORE_COLOR.get(case.source.name)) is None or case.condition.inverse:
                continue
            axes.plot(run.sizes, tv_of(run, case.name).mean(axis=0), color=color, label=case.name)
            if case in run.controlled:
                told = control.selectivity(run, case).foreign
                axes.plot(run.sizes, told, color=color, linestyle="--", label=f"{case.name}, told foreign predictions")
        axes.set_title(f"{MODELS[model].label} (n = {run.valid.num_rows})")
        log_sizes(axes, run.sizes)
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    figure.axes[0].set_ylabel("TV distance from the own prediction,\nor from the one that is told")
    legend_above(figure, 3)
    return figure


def fair(found: Runs) -> Figure:
    """TV under "residual+mlp" against what is kept of the edges that it ablates: the paper's score, and rounds."""
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    shown = (("paper", "l1/residual+mlp"), ("paper", "l1/residual+mlp/mean"), ("scores", "rounds/residual+mlp/mean"))
    here = [one for one in shown if one[0] in found]
    panels = figure.subplots(1, len(here), sharey=True, squeeze=False)[0]
    for axes, (kind, case) in zip(panels, here, strict=True):
        for model, run in found[kind].items():
            tv = tv_of(run, case).mean(axis=0)
            axes.plot(kept(run, case), tv, color=COLOR[model], marker=".", label=MODELS[model].label)
        log_sizes(axes, np.asarray([1e-3, 1.0]))
        axes.set_title(case)
    figure.supxlabel("residual and MLP edges kept, share of theirs", fontsize=7)
    figure.axes[0].set_ylabel(TV_LABEL)
    legend_above(figure, 4)
    return figure


def drawn_curves(paper: dict[str, Results]) -> Figure:
    """Mean TV of the paper's score by model: ablations side by side, replacements below each other."""
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for line, replace in zip(panels, ("", "/mean"), strict=True):
        for axes, ablate in zip(line, ("all", "residual+mlp"), strict=True):
            for model, run in paper.items():
                color = COLOR[model]
                mean, low, high = statistics.means_of(tv_of(run, f"l1/{ablate}{replace}"))
                axes.fill_between(run.sizes, low, high, color=color, alpha=0.2, linewidth=0)
                axes.plot(run.sizes, mean, color=color, label=f"{MODELS[model].label} (n = {run.valid.num_rows})")
            log_sizes(axes, run.sizes)
            axes.set_title(f"ablated: {ablate}, replaced by {'means' if replace else 'zero'}")
        line[0].set_ylabel(TV_LABEL)
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    legend_above(figure, 2)
    return figure


def scores(found: Runs) -> Figure:
    """For each model the scores under means, on the inputs that all its kinds of runs have."""
    kinds = [kind for kind in ("paper", "scores", "learned", "fitted") if kind in found]
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    for axes, model in zip(figure.subplots(2, 2, sharex=True, sharey=True).ravel(), found["paper"], strict=False):
        here = {kind: found[kind][model] for kind in kinds if model in found[kind]}
        texts = shared(here.values())
        lines = [(kind, case) for kind, run in here.items() for case in run.conditions if case.endswith("/all/mean")]
        for kind, case in lines:
            name = kind if kind in ("learned", "fitted") else case.removesuffix("/all/mean")
            tv = tv_of(here[kind], case, texts).mean(axis=0)
            axes.plot(here[kind].sizes, tv, color=SCORE_COLOR[name], label=name)
        axes.set_title(f"{MODELS[model].label} (n = {len(texts)})")
        log_sizes(axes, found["paper"][model].sizes)
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    figure.supylabel(TV_LABEL, fontsize=7)
    legend_above(figure, 5)
    return figure


def trend(found: Runs, rows: Sequence[dict[str, Any]]) -> Figure:
    """Mean TV at three sizes against the parameters, over all inputs of each run: the paper's score, and rounds."""
    figure = Figure(figsize=(7.0, 2.6), layout="constrained")
    shown = (("paper", "l1/all"), ("paper", "l1/residual+mlp"), ("scores", "rounds/all/mean"),
             ("scores", "rounds/residual+mlp/mean"))  # fmt: skip
    here = [one for one in shown if one[0] in found]
    panels = figure.subplots(1, len(here), sharey=True, squeeze=False)[0]
    for axes, (kind, case) in zip(panels, here, strict=True):
        for size, color in zip(SHOWN, COLORS, strict=False):
            points = [row for row in rows if (row["kind"], row["condition"], row["over"]) == (kind, case, "all")
                      and np.isclose(row["size"], size)]  # fmt: skip
            x, tv, low, high = (np.asarray([row[name] for row in points], float)
                                for name in ("parameters_m", "tv", "low", "high"))  # fmt: skip
            bars = [np.nan_to_num(tv - low), np.nan_to_num(high - tv)]
            axes.errorbar(x, tv, yerr=bars, color=color, marker=".", label=f"{100 * size:g}% of the edges")
        axes.set(xscale="log", title=case, ylim=(0, 1.02))
        axes.set_xticks([row["parameters_m"] for row in points], [f"{row['parameters_m']:.0f}" for row in points])
        axes.minorticks_off()
    figure.supxlabel("million parameters", fontsize=7)
    figure.axes[0].set_ylabel(TV_LABEL)
    legend_above(figure, 3)
    return figure


def of_kind(kind: str, table: pa.Table) -> pa.Table:
    """A table with the kind of its runs, which may have curves of one name over other inputs."""
    return table.add_column(0, "kind", pa.array([kind] * table.num_rows, pa.string()))


def tables_of(found: Runs) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table, with four digits; sizes as they are."""
    made = {
        name: [row for kind, runs in found.items() for row in of_kind(kind, make([*runs.values()])).to_pylist()]
        for name, make in COMPARED.items()
    }
    made |= {"trends": [*trends(found)], "changes": [*changes(found)], "kept": [*held(found)]}
    made |= {"controls": [*controls(found)]}
    return {name: [rounded(row) for row in rows] for name, rows in made.items()}


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """With four digits."""
    return {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in row.items()}


def beside(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Rows, and those of a table's file that are of other kinds or models, by kind."""

    def about(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in ("kind", "model", "other", "from", "to"))

    made = {about(row) for row in rows}
    there = csv.read_csv(path).to_pylist() if path.exists() else []
    return sorted([row for row in there if about(row) not in made] + rows, key=lambda row: KINDS.index(row["kind"]))


def figures_of(found: Runs, moved: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """Every figure whose kinds of runs are there."""
    if "paper" in found:
        yield "curves", drawn_curves(found["paper"])
        yield "scores", scores(found)
        yield "trend", trend(found, moved)
        yield "kept", fair(found)
    if "fitted" in found:
        yield "fitted", fits(found["fitted"])


def main() -> None:
    """Read, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", action="store_true", help="what OUT has of runs that RUNS does not have stays")
    asked = parser.parse_args()
    found = runs_of(asked.runs)
    (asked.out / "tables").mkdir(parents=True, exist_ok=True)
    made = tables_of(found)
    for name, rows in made.items():
        path = asked.out / "tables" / f"{name}.csv"
        if written := beside(rows, path) if asked.keep else rows:
            columns = dict.fromkeys(column for row in written for column in row)
            csv.write_csv(pa.table({column: [row.get(column) for row in written] for column in columns}), path)
    with style():
        for name, figure in figures_of(found, made["trends"]):
            figure.savefig(asked.out / f"{name}.png", dpi=160)
    print(
        json.dumps({kind: {model: run.valid.num_rows for model, run in runs.items()} for kind, runs in found.items()})
    )


if __name__ == "__main__":
    main()
