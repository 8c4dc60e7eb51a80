"""Runs as figures, tables and one page that needs nothing else (section 7 of the method)."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import jinja2
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow import csv

from jstrace import figures, statistics
from jstrace.models import InputError
from jstrace.results import Results, read_results
from jstrace.store import write_whole

_DPI = 300
_NOT_ABLATED = "Nothing is ablated here: it shows the traces themselves."


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    name: str
    title: str
    caption: str
    ablated: str
    """Which edges were ablated, as the page says it."""
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its words; the page shows its first rows."""

    name: str
    title: str
    rows: pa.Table


def write_report(folders: Sequence[str | Path], out: str | Path) -> list[str]:
    """Write ``index.html``, ``figures/*.png`` and ``.svg``, and ``tables/*.csv``.

    Args:
      folders: of runs; those of one run's hosts make one, several runs are compared.
      out: a folder; files of an earlier report in it are replaced.

    Returns:
      The labels of the runs.

    Raises:
      InputError: folders that hold no results, or an output that cannot be written.
    """
    runs = read_results(folders)
    usable = [run for run in runs if run.valid.num_rows]
    if not usable:
        raise InputError(f"{', '.join(run.label for run in runs)}: not one valid input to report on")
    target = Path(out)
    made = [_folder(target / name) for name in ("figures", "tables")]
    with figures.style():
        drawn = [(picture, _saved(picture, made[0])) for picture in pictures(usable)]
    found = tables_of(runs, usable)
    for table in found:
        write_whole(made[1] / f"{table.name}.csv", functools.partial(csv.write_csv, table.rows))
    page = _page(runs, usable, drawn, found)
    write_whole(target / "index.html", functools.partial(_put, page.encode("utf-8", errors="replace")))
    return [run.label for run in runs]


def _put(content: bytes, stream: IO[bytes]) -> None:
    stream.write(content)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror or error})") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission)")
    return path


# --- what there is to show ------------------------------------------------------------------------------------------


def pictures(runs: Sequence[Results]) -> Iterator[Picture]:
    """Every figure that the runs have the numbers for."""
    for number, run in enumerate(runs):
        suffix = "" if len(runs) == 1 else f"-{number + 1}"
        yield from _of_one(run, suffix)
    if len(runs) > 1:
        yield from _of_all(runs)


def _of_one(run: Results, suffix: str) -> Iterator[Picture]:
    who, n = run.label, run.valid.num_rows
    ablated = f"Ablated: {_each(run.ablations)}."

    def picture(name: str, title: str, caption: str, figure: Figure, ablated: str = ablated) -> Picture:
        return Picture(f"{name}{suffix}", f"{who}: {title}", f"{caption} n = {n}.", ablated, figure)

    yield picture(
        "tv", "how fast the prediction comes back (Fig. 3)",
        "TV distance between the prediction of the trace and that of the full graph; line: median over inputs, band:"
        " quartiles. Grey: the construction phase, 1e-4 to 1e-2; then refinement. Dotted: the core, 0.1% of the edges.",
        figures.curve(run),
    )  # fmt: skip
    yield picture(
        "nucleus", "the size that each nucleus needs",
        "The least size from which on the nucleus (the shortest list of most probable tokens with so much mass) is the"
        " same ordered list as in the full graph; median and quartiles; 1 is the full graph.",
        figures.nucleus(run),
    )  # fmt: skip
    yield picture(
        "core", "stability of the core (Fig. 4)",
        "Share of the edges of all inputs' traces that the components (residual stream, MLP or head of a layer) with"
        " most of them hold; one line for each size. Grey: all components alike.",
        figures.core(run), _NOT_ABLATED,
    )  # fmt: skip
    yield picture(
        "makeup", "what traces are made of (Fig. 5)",
        "Edges of the trace by type and by quarter of the layers, means over inputs.",
        figures.makeup(run), _NOT_ABLATED,
    )  # fmt: skip
    yield from (picture(*beside) for beside in _beside(run))
    yield picture(
        "correlation", "density against entropy, loss and frequency (Fig. 8)",
        "A dot for each input. Entropy of the full graph's prediction, surprisal of the true next token, and how often"
        " the predicted token occurs in the corpus. Spearman's ρ with 95% bootstrap interval.",
        figures.correlation(run),
    )  # fmt: skip


def _beside(run: Results) -> Iterator[tuple[str, str, str, Figure]]:
    """Baselines and other scores, as far as the run has them: name, title, caption and figure."""
    own, asked = (f"{run.importance}/{{}}", f"s-Trace ({run.importance})"), run.manifest["config"]
    if "random" in asked["baselines"]:
        yield (
            "random", "against random traces (Fig. 6)",
            "Random scores, residual and MLP edges first, through the same extraction.",
            figures.compared(run, [own, ("random baseline/{}", "random")]),
        )  # fmt: skip
    if "inverse" in asked["baselines"]:
        yield (
            "necessity", "necessity (Fig. 7)",
            "TV when the attention and MLP edges of the trace are removed and all others kept, residual edges always.",
            figures.compared(
                run, [(f"{run.importance}/{{}}/inverse", "trace removed")],
                xlabel="size of the trace removed (share of all edges)",
            ),
        )  # fmt: skip
    if "pre-softmax" in asked["baselines"]:
        yield (
            "pre-softmax", "masks before the softmax",
            "Attention masks that enter the softmax, against those that follow it.",
            figures.compared(run, [own, (f"{run.importance}/{{}}/pre-softmax", "before the softmax")]),
        )  # fmt: skip
    if len(asked["importance"]) > 1:
        yield (
            "importance", "edge scores compared", "The same extraction by other scores.",
            figures.compared(run, [(f"{kind}/{{}}", kind) for kind in asked["importance"]]),
        )  # fmt: skip


def _of_all(runs: Sequence[Results]) -> Iterator[Picture]:
    ablations = [name for name in ("all", "residual+mlp") if any(name in run.ablations for run in runs)]
    yield Picture(
        "models", "All models: how fast the prediction comes back (Fig. 10)",
        "Median TV distance over each model's own valid inputs.",
        f"Ablated: {_each(ablations)}.", figures.all_models(runs, ablations),
    )  # fmt: skip
    shared = [f"{runs[0].importance}/{name}" for name in ablations]
    shared = [name for name in shared if name in statistics.shared_conditions(runs)]
    if shared:
        yield Picture(
            "between-models", "All models: do they agree on which inputs are dense? (Fig. 9)",
            "Spearman's ρ of density between models, on the inputs that both have (told by their texts).",
            f"Ablated: {_each([name.split('/')[1] for name in shared])}.", figures.between_models(runs, shared),
        )  # fmt: skip


_ABLATED = {"all": "all edges", "residual+mlp": "residual and MLP edges only (residual+mlp)"}


def _each(ablations: Sequence[str]) -> str:
    words = [_ABLATED[name] for name in ablations]
    missing = "" if len(words) > 1 else "; this run has no other mode to show beside it"
    return ", beside it ".join(words) + missing


def tables_of(runs: Sequence[Results], usable: Sequence[Results]) -> list[Table]:
    """Every table; ``usable`` are the runs with valid inputs."""
    found = [
        Table("validity", "Valid and invalid inputs (Table 2)", statistics.validity(runs)),
        Table("density", "Density", statistics.densities(usable)),
        Table("phases", "Fall of the median TV in each phase", statistics.phases(usable)),
        Table("correlations", "Density against entropy, loss, frequency and length (Fig. 8)",
              statistics.correlations(usable)),
        Table("nucleus", "The size that each nucleus needs", statistics.nuclei(usable)),
        Table("core", "Share of edges held by the top components (Fig. 4)", statistics.cores(usable)),
        Table("makeup", "Types and quarters of the depth (Fig. 5)", statistics.makeups(usable)),
        Table("curves", "All curves (Figs. 3, 6, 7)", statistics.curves(usable)),
        Table("inputs", "All inputs, without their texts", statistics.numbers_of_inputs(runs)),
    ]  # fmt: skip
    if len(usable) > 1:
        pairs = Table("between-models", "Density between models (Fig. 9)", statistics.model_pairs(usable))
        found.insert(4, pairs)
    return found


# --- files ----------------------------------------------------------------------------------------------------------


def _saved(picture: Picture, folder: Path) -> bytes:
    """Write a figure as PNG and SVG; the SVG's bytes."""
    for ending in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else None
        picture.figure.savefig(buffer, format=ending, dpi=_DPI, metadata=metadata)
        write_whole(folder / f"{picture.name}.{ending}", functools.partial(_put, buffer.getvalue()))
    return buffer.getvalue()


_ROWS_SHOWN = 30
_EXAMPLES = 5


def _page(
    runs: Sequence[Results], usable: Sequence[Results], drawn: Sequence[tuple[Picture, bytes]], found: Sequence[Table]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jstrace", "."), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    images = [
        {"picture": picture, "data": "data:image/svg+xml;base64," + base64.b64encode(svg).decode()}
        for picture, svg in drawn
    ]
    shown = [
        {"table": table, "columns": table.rows.column_names, "rows": _cells(table.rows), "all": table.rows.num_rows}
        for table in found
    ]
    return environment.get_template("report.html").render(
        runs=[_facts(run) for run in runs], images=images, tables=shown, examples=[*map(_examples, usable)]
    )


def _cells(rows: pa.Table) -> list[list[str]]:
    return [[_cell(value) for value in row.values()] for row in rows.slice(0, _ROWS_SHOWN).to_pylist()]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(run: Results) -> dict[str, Any]:
    """What the page says of a run before its figures."""
    last, data = run.manifest["sessions"][-1], run.manifest["data"]
    return {
        "label": run.label,
        "model": run.manifest["model"]["name"],
        "dtype": run.manifest["model"]["dtype"],
        "fingerprint": run.manifest["config"]["model"],
        "data": data["name"],
        "inputs": run.inputs.num_rows,
        "rows": data["rows"],
        "invalid": run.inputs.num_rows - run.valid.num_rows,
        "conditions": ", ".join(run.conditions),
        "device": f"{last['hardware']['devices']} x {last['hardware']['device']} ({last['hardware']['cpu']})",
        "versions": ", ".join(f"{name} {version}" for name, version in last["versions"].items()),
    }


def _examples(run: Results) -> dict[str, Any]:
    """The inputs that use least and most of the model."""
    condition = f"{run.importance}/{run.ablations[0]}"
    density = run.density(condition)
    order = np.argsort(density, kind="stable")
    chosen = order if len(order) <= 2 * _EXAMPLES else np.concatenate([order[:_EXAMPLES], order[-_EXAMPLES:]])
    rows = run.valid.take(chosen).to_pylist()
    texts = [
        {"density": f"{density[at]:.3f}", "text": row["text"], "next": row["next_word"] or "", "top": row["top_text"]}
        for at, row in zip(chosen, rows, strict=True)
    ]
    return {"label": run.label, "condition": condition, "rows": texts}
