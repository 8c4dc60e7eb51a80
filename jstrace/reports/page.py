"""Runs as figures, tables and one page that needs nothing else (section 7 of the method)."""

from __future__ import annotations

import base64
import functools
import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np
import pyarrow as pa
from pyarrow import csv

from jstrace.errors import InputError
from jstrace.files import write_bytes, write_whole
from jstrace.reports import contents
from jstrace.reports.contents import Picture, Table
from jstrace.reports.figures import style
from jstrace.reports.results import Results, read_results
from jstrace.show.text import printable, shown

_DPI = 300
Item = TypeVar("Item")


def write_report(
    folders: Sequence[str | Path], out: str | Path, *, figures: Sequence[str] = (), tables: Sequence[str] = ()
) -> list[str]:
    """Write ``index.html``, ``figures/*.png`` and ``.svg``, and ``tables/*.csv``.

    Args:
      folders: of runs; those of one run's hosts make one, several runs are compared.
      out: a folder; files of the same names in it are replaced.
      figures: the kinds of figures to make, as ``contents.pictures`` names them; all by default.
      tables: the tables to make, as ``contents.tables`` names them; all by default.

    Returns:
      The labels of the runs.

    Raises:
      InputError: folders that hold no results, or an output that cannot be written.
    """
    runs = read_results(folders)
    usable = [run for run in runs if run.valid.num_rows]
    if not usable:
        raise InputError(f"{', '.join(run.label for run in runs)}: not one valid input to report on")
    wanted_pictures = _chosen([*contents.pictures(usable)], figures, "figure", lambda picture: picture.kind)
    wanted_tables = _chosen(contents.tables(runs, usable), tables, "table", lambda table: table.name)
    target = Path(out)
    pictures_folder, tables_folder = (_folder(target / name) for name in ("figures", "tables"))
    with style():
        drawn = [(picture, _saved(picture, pictures_folder)) for picture in wanted_pictures]
    found = [(table, table.compute()) for table in wanted_tables]
    for table, rows in found:
        write_whole(tables_folder / f"{table.name}.csv", functools.partial(csv.write_csv, rows))
    page = _page(runs, usable, drawn, found)
    write_bytes(target / "index.html", page.encode("utf-8", errors="replace"))
    return [run.label for run in runs]


def _chosen(made: Sequence[Item], wanted: Sequence[str], what: str, name: Callable[[Item], str]) -> list[Item]:
    """Those that were asked for by name, all where none was."""
    missing = [word for word in wanted if word not in map(name, made)]
    if missing:
        raise InputError(
            f"these runs have no {what} {', '.join(missing)}, but {', '.join(dict.fromkeys(map(name, made)))}"
        )
    return [item for item in made if not wanted or name(item) in wanted]


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror or error})") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission)")
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def _saved(picture: Picture, folder: Path) -> bytes:
    """Write a figure as PNG and SVG; the SVG's bytes."""
    figure = picture.draw()
    for ending in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(buffer, format=ending, dpi=_DPI, metadata=metadata)
        write_bytes(folder / f"{picture.name}.{ending}", buffer.getvalue())
    return buffer.getvalue()


_ROWS_SHOWN = 30
_EXAMPLES = 5


def _page(
    runs: Sequence[Results],
    usable: Sequence[Results],
    drawn: Sequence[tuple[Picture, bytes]],
    found: Sequence[tuple[Table, pa.Table]],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jstrace.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    images = [
        {"picture": picture, "data": "data:image/svg+xml;base64," + base64.b64encode(svg).decode()}
        for picture, svg in drawn
    ]
    shown = [
        {"table": table, "columns": rows.column_names, "rows": _cells(rows), "all": rows.num_rows}
        for table, rows in found
    ]
    return environment.get_template("report.html").render(
        runs=[_facts(run) for run in runs], images=images, tables=shown, examples=[*map(_examples, usable)],
        replaces=any(run.plan.replacements != ("zero",) for run in runs),
        orders=any(run.plan.orders != ("best-first",) for run in runs),
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """What the page shows of a value: texts without control characters."""
    return printable(value) if isinstance(value, str) else value


def _cells(rows: pa.Table) -> list[list[str]]:
    return [[_cell(value) for value in row.values()] for row in rows.slice(0, _ROWS_SHOWN).to_pylist()]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(run: Results) -> dict[str, Any]:
    """What the page says of a run before its figures."""
    sessions, data = run.manifest["sessions"], run.manifest["data"]
    devices = [f"{s['hardware']['devices']} x {s['hardware']['device']} ({s['hardware']['cpu']})" for s in sessions]
    versions = [", ".join(f"{name} {version}" for name, version in s["versions"].items()) for s in sessions]
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
        "reference": run.manifest["config"].get("reference"),
        "device": "; ".join(dict.fromkeys(devices)),
        "versions": "; ".join(dict.fromkeys(versions)),
    }


def _examples(run: Results) -> dict[str, Any]:
    """The inputs that use least and most of the model."""
    case = run.plan.case(run.ablations[0])
    density = run.density(case)
    order = np.argsort(density, kind="stable")
    chosen = order if len(order) <= 2 * _EXAMPLES else np.concatenate([order[:_EXAMPLES], order[-_EXAMPLES:]])
    rows = run.valid.take(chosen).to_pylist()
    texts = [
        {
            "density": f"{density[at]:.3f}",
            "text": row["text"],
            "next": row["next_word"] or "",
            "top": shown(row["top_text"]),
        }
        for at, row in zip(chosen, rows, strict=True)
    ]
    return {"label": run.label, "condition": case.name, "rows": texts}
