"""From rows of inputs to tables and the figure: TV where each selection has so many edges or FLOPs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.inputs import written
from experiments.peers.measuring import BOTH, SIZES
from experiments.peers.selections import unpacked
from experiments.peers.translation import components, edges_of, mask_of
from jstrace.method.graph.full_graph import n_edges
from jstrace.models import ModelConfig

GRID = {
    "edges": (0.001, 0.002, 0.004, 0.01, 0.02, 0.03, 0.04, 0.07, 0.1, 0.2, 0.4, 0.6),
    "flops": (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "their edges": (0.001, 0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8),
}
"""Shares at which curves are read off, between sizes by interpolation."""
CLOSE = 0.1
UNDER = {"pair": "with the other prompt's states", "passage": "under means"}
STYLES = {
    "EAP": ("#d55e00", "solid"), "EAP-IG": ("#e69f00", "solid"), "attention": ("#999999", "dashed"),
    "random": ("#999999", "dotted"), "l1": ("#56b4e9", "dashed"), "relp": ("#009e73", "solid"),
    "rounds": ("#0072b2", "solid"), "learned": ("#cc79a7", "solid"), "fitted": ("black", "dashdot"),
}  # fmt: skip
Row = dict[str, Any]


def read(folder: Path) -> list[Row]:
    """All rows of jstrace's evaluation and, as the axis "their edges", of the other tool's."""
    rows = []
    for path in sorted((folder / "rows").glob("*.json")):
        about = {"name": path.stem, "kind": path.stem.split("-")[0]}
        rows += [about | row for row in json.loads(path.read_text())]
        home = folder / "evaluate" / path.name
        if home.exists():
            for row in json.loads(home.read_text()):
                rows.append(
                    about | {"told": "own", "score": row["score"], "their edges": row["edges"], "tv": row["tv"]}
                )
    return rows


def at(row: Row, axis: str, shares: Sequence[float]) -> np.ndarray:
    """TV at shares of an axis, NaN beyond what was measured; in jstrace's graph the full graph has none."""
    known = np.asarray([pair for pair in points(row, axis) if pair[0] > 0])
    return np.interp(np.log(shares), np.log(known[:, 0]), known[:, 1], left=np.nan, right=np.nan)


def least(row: Row, axis: str, tv: float) -> float:
    """The share at which TV first is at most so much, between selections by interpolation; 1 if it never is."""
    before = (0.0, 1.0)
    for share, found in points(row, axis):
        if found <= tv and share > 0:
            part = (before[1] - tv) / (before[1] - found)
            return share if before[0] == 0 else float(before[0] * (share / before[0]) ** part)
        before = (share, found)
    return 1.0


def points(row: Row, axis: str) -> list[tuple[float, float]]:
    """Shares and TV, smallest first; the full graph's among them where the largest selections were measured, too."""
    full = row["told"] == "own" and axis != "their edges"
    return [*zip(row[axis], row["tv"], strict=True), *([(1.0, 0.0)] if full else [])]


def grouped(rows: Sequence[Row], axis: str) -> dict[tuple[str, str, str], list[Row]]:
    """Rows that have an axis, by kind of input, score and what was told."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if axis in row and row["score"] != BOTH:
            found.setdefault((row["kind"], row["score"], row["told"]), []).append(row)
    return found


def curves(rows: Sequence[Row]) -> list[Row]:
    """Mean TV and its standard error by share, where every input has a selection that small."""
    out = []
    for axis, grid in GRID.items():
        for (kind, score, told), own in grouped(rows, axis).items():
            tv = np.stack([at(row, axis, grid) for row in own])
            error = tv.std(axis=0, ddof=min(1, len(tv) - 1)) / np.sqrt(len(tv))
            for share, mean, by in zip(grid, tv.mean(axis=0), error, strict=True):
                if np.isfinite(mean):
                    out.append({"inputs": kind, "score": score, "told": told, "axis": axis, "share": share,
                                "n": len(tv), "tv": f"{mean:.4f}", "standard_error": f"{by:.4f}"})  # fmt: skip
    return out


def selections(rows: Sequence[Row]) -> list[Row]:
    """Means over inputs of what each selection has, smallest first, and of its TV."""
    out = []
    for axis in ("edges", "their edges"):
        for (kind, score, told), own in grouped(rows, axis).items():
            for k in range(len(own[0]["tv"])):
                shares = {name: f"{mean_of(own, name, k):.4f}" if name in own[0] else "" for name in (*GRID, "tv")}
                out.append({"inputs": kind, "score": score, "told": told, "n": len(own), **shares})
    return out


def mean_of(rows: Sequence[Row], axis: str, k: int) -> float:
    """Of the selections with one number."""
    return float(np.mean([row[axis][k] for row in rows]))


def reached(rows: Sequence[Row]) -> list[Row]:
    """The least shares with TV within ``CLOSE``, of each input."""
    out: dict[tuple[str, str], Row] = {}
    for axis in GRID:
        for (_, score, told), own in grouped(rows, axis).items():
            for row in own if told == "own" else ():
                one = out.setdefault((row["name"], score), dict.fromkeys(("input", "score", *GRID), ""))
                one |= {"input": row["name"], "score": score, axis: f"{least(row, axis, CLOSE):.4f}"}
    return [*out.values()]


def seconds(rows: Sequence[Row]) -> list[Row]:
    """Median seconds of a score, over inputs after the first, which compiles."""
    return [
        {"inputs": kind, "score": score, "n": len(own) - 1,
         "seconds": f"{np.median([row['seconds'] for row in own[1:]]):.1f}"}
        for (kind, score, told), own in grouped(rows, "edges").items() if told == "own" and len(own) > 1
    ]  # fmt: skip


def agreement(rows: Sequence[Row]) -> float:
    """The largest difference in TV between the two evaluations, where MLPs alone are left out."""
    both: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["score"] == BOTH:
            both.setdefault(row["name"], {})["ours" if "edges" in row else "theirs"] = row
    apart = []
    for one in both.values():
        if len(one) == 2:
            theirs = one["theirs"]["tv"]
            apart.append(float(np.abs(np.subtract(one["ours"]["tv"][: len(theirs)], theirs)).max()))
    return max(apart, default=float("nan"))


def sizes(folder: Path, config: ModelConfig) -> list[Row]:
    """What translations of pairs add: shares of edges in one graph, in the other, and, of peers, back in their own."""
    found: dict[tuple[str, int], list[list[float]]] = {}
    every = components(config).edges.sum()
    for path in sorted((folder / "translated").glob("*.npz")):
        one = np.load(folder / "inputs" / path.name)
        tokens, first = len(one["tokens"]), int(np.flatnonzero(one["tokens"] != one["other"])[0])
        all_edges = n_edges(config, tokens)
        for score, kept in unpacked(np.load(folder / "attribute" / path.name)).items():
            for k, each in enumerate(kept if "," not in score else ()):
                mask = mask_of(each, config, tokens, first)
                shares = [each.sum() / every, mask.count() / all_edges, edges_of(mask, config).sum() / every]
                found.setdefault((score, k), []).append(shares)
        for score, kept in unpacked(np.load(path)).items():
            for size, each in zip(SIZES, kept if score != BOTH else (), strict=False):
                found.setdefault((score, SIZES.index(size)), []).append([each.sum() / every, size, np.nan])
    names = ("their_edges", "edges", "their_edges_again")
    return [
        {"score": score, "n": len(each)} | {name: f"{x:.4f}" for name, x in zip(names, np.mean(each, 0), strict=True)}
        for (score, _), each in sorted(found.items(), key=lambda one: one[0])
    ]


def panel(axes: Axes, rows: Sequence[Row], kind: str, axis: str, told: str = "own") -> None:
    """Mean TV of every score against one axis."""
    groups = grouped(rows, axis)
    for score, (colour, dashes) in STYLES.items():
        if (kind, score, told) in groups:
            own = groups[kind, score, told]
            x, tv = ([mean_of(own, name, k) for k in range(len(own[0]["tv"]))] for name in (axis, "tv"))
            label = f"{score} (n = {len(own)})" if score == "fitted" else score
            axes.plot(x, tv, color=colour, linestyle=dashes, marker=".", markersize=4, label=label)
    if axis != "flops":
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.set(
        ylim=(0, 1),
        xlim=(None, 1),
        xlabel=f"{axis} kept, share of all" if axis != "flops" else "FLOPs, share of the full pass",
    )
    axes.spines[["top", "right"]].set_visible(False)


def draw(rows: Sequence[Row]) -> Figure:
    """Pairs above, passages below: by edges, by FLOPs; beside them the other tool's evaluation and replacement."""
    figure = Figure(figsize=(11.2, 6.4), layout="constrained")
    places = figure.subplots(2, 3, sharey=True)
    for line, kind in zip(places, ("pair", "passage"), strict=True):
        for axes, axis in zip(line, ("edges", "flops"), strict=False):
            panel(axes, rows, kind, axis)
            n = len({row["name"] for row in rows if row["kind"] == kind})
            axes.set_title(f"{n} {kind}s, {UNDER[kind]}", fontsize=10)
        line[0].set_ylabel("TV from the model's prediction")
    panel(places[0, 2], rows, "pair", "their edges")
    n = len({row["name"] for row in rows if "their edges" in row and row["kind"] == "pair"})
    places[0, 2].set_title(f"{n} pairs, EAP-IG's evaluation", fontsize=10)
    places[0, 2].set_xlabel("edges between components kept, share of all")
    panel(places[1, 2], rows, "swapped", "edges")
    n = len({row["name"] for row in rows if row["kind"] == "swapped"})
    places[1, 2].set_title(f"{n} passages, with another text's states", fontsize=10)
    figure.legend(*places[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def markdown(rows: Sequence[Row], kind: str) -> list[str]:
    """Rows of the page's table: TV at shares of edges, then the median shares that are close, then foreign TV."""
    shares, out = (0.004, 0.01, 0.02, 0.04, 0.1, 0.2), []
    groups = {axis: grouped(rows, axis) for axis in GRID}
    for (of, score, told), own in groups["edges"].items():
        if of != kind:
            continue
        cells = [f"{x:.2f}" if np.isfinite(x) else "-" for x in np.mean([at(row, "edges", shares) for row in own], 0)]
        for axis in GRID:
            same = groups[axis].get((kind, score, told), [])
            near = [100 * least(row, axis, CLOSE) for row in same]
            cells.append(f"{np.median(near):.3g}%" if near and told == "own" else "")
        out.append(f"| {score} | {told} | {len(own)} | {' | '.join(cells)} |")
    return out


def write(folder: Path, out: Path, config: ModelConfig) -> None:
    """Everything that the page of findings has."""
    rows = read(folder)
    out.mkdir(parents=True, exist_ok=True)
    written(out / "curves.csv", curves(rows))
    written(out / "selections.csv", selections(rows))
    written(out / "reached.csv", reached(rows))
    written(out / "seconds.csv", seconds(rows))
    written(out / "translation.csv", sizes(folder, config))
    draw(rows).savefig(out / "peers.png", dpi=110)
    for kind in ("pair", "passage", "swapped"):
        print(f"\n{kind}\n" + "\n".join(markdown(rows, kind)))
    print(f"largest difference of the two evaluations: {agreement(rows):.5f}")
