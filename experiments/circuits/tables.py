"""Tables and the figure of known circuits, from the files of rows that were measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.circuits.measuring import MEASURES, REPLACEMENTS, SCORES
from experiments.inputs import read, written
from jstrace.reports.drawing import COLORS

PAGE = Path(__file__).parents[2] / "docs" / "known-circuits.md"
TABLES = Path(__file__).parents[1] / "results" / "known-circuits" / "README.md"
"""Where tables stand between marks: each mark is in one of the two."""
STRENGTHS = (0.0, 1.0, 4.0)
FITS = ("fitted", "fitted to another")
SHOWN = (*SCORES, *FITS)
Row = dict[str, Any]


def read_all(rows: Path) -> list[Row]:
    """All rows, numbers as floats."""
    return [_numbers(row) for path in sorted(rows.glob("*.csv")) for row in read(path)]


def _numbers(row: dict[str, str]) -> Row:
    texts = ("program", "size", "replace", "score", "order")
    return {name: value if name in texts else float(value) for name, value in row.items()}


def means(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """Means over the inputs of each graph, then over graphs, with the standard error of the AUC over graphs."""
    groups: dict[tuple[Any, ...], dict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[tuple(row[name] for name in by)][row["program"], row["size"]].append(row)
    return [dict(zip(by, key, strict=True)) | _of_graphs(list(graphs.values())) for key, graphs in groups.items()]


def _of_graphs(graphs: Sequence[Sequence[Row]]) -> Row:
    found: Row = {"graphs": len(graphs), "inputs": sum(map(len, graphs))}
    for name in ("edges", "true", *MEASURES):
        each = np.array([_mean([row[name] for row in graph]) for graph in graphs])
        found[name] = round(_mean(each), 4)
        if name == "auc":
            there = each[np.isfinite(each)]
            found["auc_error"] = (
                round(float(there.std(ddof=min(1, len(there) - 1)) / np.sqrt(len(there))), 4) if len(there) else np.nan
            )
    return found


def _mean(values: Sequence[float] | np.ndarray) -> float:
    there = [value for value in values if np.isfinite(value)]
    return float(np.mean(there)) if there else float("nan")


def write(rows: Path, out: Path) -> None:
    """``scores.csv``, ``graphs.csv``, ``circuits.csv``; the figure, and the tables of the two pages."""
    out.mkdir(parents=True, exist_ok=True)
    found = read_all(rows)
    measured = [row for row in found if row["score"] != "truth"]
    scores = means(measured, ("junk", "replace", "score", "order"))
    graphs = means([row for row in measured if row["junk"] == 1], ("program", "size", "replace", "score", "order"))
    circuits = means([row for row in found if row["score"] == "truth"], ("program", "size", "junk", "replace"))
    written(out / "scores.csv", [_short(row) for row in scores])
    written(out / "graphs.csv", [_short(row, ("graphs", "auc_error")) for row in graphs if row["order"] != "connected"])
    kept = ("program", "size", "junk", "replace", "inputs", "edges", "true", "tv")
    written(out / "circuits.csv", [{name: row[name] for name in kept} for row in circuits])
    draw(scores, PAGE.with_suffix(".svg"))
    if PAGE.exists() and TABLES.exists():
        fill(scores, graphs, circuits, means(_at_all_strengths(measured), ("junk", "replace", "score", "order")))


def _at_all_strengths(rows: Sequence[Row]) -> list[Row]:
    """Rows of the graphs that were measured with junk of every strength."""
    there = {junk: {(row["program"], row["size"]) for row in rows if row["junk"] == junk} for junk in STRENGTHS}
    return [row for row in rows if all((row["program"], row["size"]) in graphs for graphs in there.values())]


def _short(row: Row, without: Sequence[str] = ()) -> Row:
    """With empty cells where there is no number."""
    kept = {name: value for name, value in row.items() if name not in without}
    return {name: "" if isinstance(value, float) and np.isnan(value) else value for name, value in kept.items()}


Pick = Callable[..., float]


def picker(rows: Sequence[Row]) -> Pick:
    """``pick(measure, score=..., order=...)``: a mean over what is not said."""

    def pick(measure: str, **said: Any) -> float:
        return _mean([row[measure] for row in rows if all(row[name] == value for name, value in said.items())])

    return pick


def fill(scores: Sequence[Row], graphs: Sequence[Row], circuits: Sequence[Row], junk: Sequence[Row]) -> None:
    """The tables between the marks of the two pages."""
    pick, pages = picker(scores), {path: path.read_text(encoding="utf-8") for path in (PAGE, TABLES)}
    tables = {
        "scores": _of_scores(pick),
        "orders": _of_orders(pick),
        "keys": _of_keys(pick),
        "junk": _of_junk(picker(junk)),
        "circuits": _of_circuits(circuits),
        "rounds": _of_rounds(picker(graphs), graphs),
    }
    for name, lines in tables.items():
        path = next(path for path, page in pages.items() if f"<!-- {name} -->" in page)
        before, rest = pages[path].split(f"<!-- {name} -->\n", 1)
        after = f"<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
        pages[path] = "\n".join([f"{before}<!-- {name} -->", *lines, after])
    for path, page in pages.items():
        path.write_text(page, encoding="utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _three(pick: Pick, measure: str, form: Callable[[float], str], **said: Any) -> str:
    return r" \| ".join(form(pick(measure, junk=1.0, replace=replace, **said)) for replace in REPLACEMENTS)


def _two_digits(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.0f}%"


def _of_scores(pick: Pick) -> list[str]:
    head = ("score", "AUC", "precision", "TV at the true size", "least share")
    rows = []
    for score in SHOWN:
        by_score, searched = {"score": score, "order": "score"}, {"score": score, "order": "best-first"}
        cells = [_three(pick, name, _two_digits, **by_score) for name in ("auc", "precision")]
        cells += [_three(pick, "tv", _two_digits, **searched), _three(pick, "least_share", _percent, **searched)]
        rows.append([f"`{score}`" if score in SCORES or score == "fitted" else score, *cells])
    return _table(head, rows)


def _of_orders(pick: Pick) -> list[str]:
    head = ("score", "AUC: by score", "best-first", "connected", "TV: by score", "best-first")
    rows = []
    for score in SHOWN[:-1]:
        orders = [
            _two_digits(pick("auc", junk=1.0, score=score, order=each)) for each in ("score", "best-first", "connected")
        ]
        tv = [_two_digits(pick("tv", junk=1.0, score=score, order=each)) for each in ("score", "best-first")]
        rows.append([f"`{score}`", *orders, *tv])
    return _table(head, rows)


def _of_keys(pick: Pick) -> list[str]:
    head = ("score", "through values, by score", "best-first", "through keys, by score", "best-first")
    rows = []
    for score in SHOWN[:-1]:
        pairs = [(name, order) for name in ("values_found", "keys_found") for order in ("score", "best-first")]
        rows.append(
            [f"`{score}`", *(_percent(pick(name, junk=1.0, score=score, order=order)) for name, order in pairs)]
        )
    return _table(head, rows)


def _of_junk(pick: Pick) -> list[str]:
    head = ("score", "AUC: none", "as strong", "four times", "TV: none", "as strong", "four times")
    rows = []
    for score in SCORES:
        cells = [_two_digits(pick("auc", junk=junk, score=score, order="score")) for junk in STRENGTHS]
        cells += [_two_digits(pick("tv", junk=junk, score=score, order="best-first")) for junk in STRENGTHS]
        rows.append([f"`{score}`", *cells])
    return _table(head, rows)


def _of_circuits(circuits: Sequence[Row]) -> list[str]:
    head = ("program", "graph", "edges", "true", "TV of the true edges")
    pick, rows = picker(circuits), []
    for name, size in _graphs(circuits):
        said = {"program": name, "size": size}
        tv = _three(pick, "tv", _two_digits, **said)
        rows.append([name, size, f"{pick('edges', **said):,.0f}", f"{pick('true', **said):.0f}", tv])
    return _table(head, rows)


def _graphs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Programs and sizes, the smallest first."""
    edges = {(row["program"], row["size"]): row["edges"] for row in rows}
    return sorted(edges, key=lambda graph: (edges[graph], graph))


def _of_rounds(pick: Pick, graphs: Sequence[Row]) -> list[str]:
    head = (
        "program",
        "graph",
        "`integrated`",
        "`rounds`",
        "`l1*gradient`",
        "TV: `integrated`",
        "`rounds`",
        "`l1*gradient`",
    )
    rows, names = [], ("integrated", "rounds", "l1*gradient")
    for name, size in _graphs(graphs):
        said = {"program": name, "size": size, "replace": "mean"}
        cells = [_two_digits(pick("auc", score=score, order="score", **said)) for score in names]
        cells += [_two_digits(pick("tv", score=score, order="best-first", **said)) for score in names]
        rows.append([name, size, *cells])
    return _table(head, rows)


TITLES = {"zero": "zero ablation", "mean": "mean ablation", "pair": "states of the other prompt"}
CHANCE = "0.45"
"""The colour of random orders."""


def draw(scores: Sequence[Row], path: Path) -> None:
    """How true against how faithful: a panel for each replacement, a point for each score."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    pick = picker(scores)
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8, "svg.hashsalt": "jstrace"}):
        figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True, layout="constrained")
        for panel, replace in zip(panels, REPLACEMENTS, strict=True):
            said, last = {"junk": 1.0, "replace": replace}, -1.0
            points = [
                (
                    pick("tv", score=score, order="best-first", **said),
                    pick("auc", score=score, order="score", **said),
                    score,
                )
                for score in SHOWN[:-1]
                if score != "steady-rounds"  # which lies where rounds do
            ]
            for y, x, score in sorted(points):
                color = COLORS[1] if score in FITS else CHANCE if "random" in score else COLORS[0]
                panel.plot(x, y, "o", color=color)
                last = max(y, last + 0.055)  # of names that would lie on one another
                leader = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3}
                panel.annotate(score, (x, y), (x - 0.05, last), fontsize=8, ha="right", va="center", arrowprops=leader)
            panel.set(title=TITLES[replace], xlabel="AUC of the true edges, by score", xlim=(0.3, 1.02))
        panels[0].set(ylabel="mean TV at the true size, best-first")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
