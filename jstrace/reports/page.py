"""Runs as figures, tables and one page that needs nothing else (section 7 of the method)."""

from __future__ import annotations

import functools
import importlib.resources
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from pyarrow import csv

from jstrace.errors import InputError
from jstrace.files import check_local, filled_folder, write_bytes, write_whole
from jstrace.reports import circuits, computation, exhibits
from jstrace.reports.chance import HELD
from jstrace.reports.drawing import inlined, style
from jstrace.reports.exhibit import Picture, Table, cells, usable
from jstrace.reports.pages import Pages
from jstrace.reports.pairs import pairs_of
from jstrace.reports.reading import read_results
from jstrace.reports.results import Results
from jstrace.show.page import digest
from jstrace.show.text import printable, shown

_DPI = 300
Item = TypeVar("Item")


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    figures: Sequence[str] = (),
    tables: Sequence[str] = (),
    pages: int = 0,
    paired: bool = False,
    axis: str = "edges",
) -> list[str]:
    """Write ``index.html``, ``figures/*.png`` and ``.svg``, ``tables/*.csv``, and ``pages/*.html`` where asked for.

    Args:
      folders: of runs; those of one run's hosts make one, several runs are compared.
      out: a folder; files of the same names in it are replaced, when all are made: a report that fails or is stopped
        before leaves it as it was, and one that is while they are moved leaves whole files, of which some are new.
      figures: the kinds of figures to make, as ``exhibits.pictures`` names them; all by default.
      tables: the tables to make, as ``exhibits.tables`` names them; all by default.
      pages: how many of the inputs of the lowest density, and of the highest, have a page of their own: of the runs
        that kept their strata.
      paired: refuse runs of which none has pairs of texts, rather than leave their comparison out.
      axis: what figures of curves are drawn over: the share of the "edges", or of the "flops".

    Returns:
      The labels of the runs.

    Raises:
      InputError: folders that hold no results, an output that cannot be written, pages of runs that kept no strata, no
        pairs where they are asked for, another axis, or runs that do not know it.
    """
    check_local(Path(out))
    runs = [computation.over(run, axis) for run in read_results(folders)]
    valid = usable(runs)
    labels = ", ".join(run.label for run in valid or runs)
    if not valid:
        raise InputError(f"{labels}: not one valid input to report on")
    wanted_pictures = _chosen([*exhibits.pictures(valid)], figures, "figure", lambda picture: picture.kind)
    wanted_tables = _chosen([*exhibits.tables(runs)], tables, "table", lambda table: table.name)
    if pages and not any(Pages(run).kept for run in valid):
        why = "no strata were kept, or they were removed, which pages draw; run with --save-strata"
        raise InputError(f"{labels}: {why}")
    if paired and not any(pairs_of(run) for run in valid):
        raise InputError(f"{labels}: no pairs of texts; give their rows pair and variant, or run with --alter shuffle")
    with filled_folder(Path(out), ["figures", "tables", *(["pages"] if pages else [])]) as folder, style():
        drawn, computed = _filled(folder, wanted_pictures, wanted_tables)
        place = folder / "pages" if pages else None
        examples = [_examples(run, f"{number}-", pages, place) for number, run in enumerate(valid, 1)]
        write_bytes(folder / "index.html", _page(runs, examples, drawn, computed).encode("utf-8", errors="replace"))
    return [run.label for run in runs]


def write_circuit(
    out: str | Path, columns: circuits.Columns, components: np.ndarray, *, label: str, facts: Mapping[str, str]
) -> None:
    """Write ``index.html``, figures and tables of a task's circuit, as ``write_report`` does.

    Args:
      out: a folder.
      columns: ``TaskCircuit.columns()``.
      components: ``TaskCircuit.components``, ``[L, H + 1]``.
      label: what the page calls it.
      facts: what the page says of it before its figures.

    Raises:
      InputError: an output that cannot be written.
    """
    check_local(Path(out))
    with filled_folder(Path(out), ["figures", "tables"]) as folder, style():
        drawn, computed = _filled(folder, circuits.pictures(columns, components), circuits.tables(columns, components))
        page = _page([], [], drawn, computed, circuit={"label": label, "facts": dict(facts)})
        write_bytes(folder / "index.html", page.encode("utf-8", errors="replace"))


def _chosen(made: Sequence[Item], wanted: Sequence[str], what: str, name: Callable[[Item], str]) -> list[Item]:
    names = dict.fromkeys(map(name, made))
    if missing := [word for word in wanted if word not in names]:
        raise InputError(f"these runs have no {what} {', '.join(missing)}, but {', '.join(names)}")
    return [item for item in made if not wanted or name(item) in wanted]


# --- files ----------------------------------------------------------------------------------------------------------


def _filled(
    folder: Path, pictures: Sequence[Picture], tables: Sequence[Table]
) -> tuple[list[tuple[Picture, str]], list[tuple[Table, pa.Table]]]:
    """Write figures and tables into a report's folder; what the page shows of each."""
    drawn = [(picture, _saved(picture, folder / "figures")) for picture in pictures]
    computed = [(table, table.compute()) for table in tables]
    for table, rows in computed:
        write_whole(folder / "tables" / f"{table.name}.csv", functools.partial(csv.write_csv, rows))
    return drawn, computed


def _saved(picture: Picture, folder: Path) -> str:
    """Write a figure as PNG and SVG; the SVG as an element of the page."""
    figure = picture.draw()
    for ending in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(buffer, format=ending, dpi=_DPI, metadata=metadata)
            figure.set_layout_engine("none")  # where everything is, it is in the other file, too
        write_bytes(folder / f"{picture.name}.{ending}", buffer.getvalue())
    return inlined(figure, buffer.getvalue(), picture.name, picture.title)


_ROWS_SHOWN = 300
_EXAMPLES = 5


def _page(
    runs: Sequence[Results],
    examples: Sequence[dict[str, Any]],
    drawn: Sequence[tuple[Picture, str]],
    computed: Sequence[tuple[Table, pa.Table]],
    circuit: dict[str, Any] | None = None,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jstrace.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    images = [{"picture": picture, "svg": Markup(svg)} for picture, svg in drawn]
    shown = [{"table": table, **_told(rows)} for table, rows in computed]
    return environment.get_template("report.html").render(
        circuit=circuit, runs=[_facts(run) for run in runs], images=images,
        tables=shown, examples=examples, digest=digest,
        style=_part("report.css"), script=_part("report.js"),
        replaces=any(run.plan.replacements != ("zero",) for run in runs),
        generates=any(run.generates for run in runs),
        variants=list(dict.fromkeys(run.variant for run in runs if run.variant is not None)),
        orders=any(run.plan.orders != ("best-first",) for run in runs),
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """What the page shows of a value: texts without control characters."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _part(name: str) -> Markup:
    return Markup((importlib.resources.files("jstrace.reports") / name).read_text(encoding="utf-8"))


def _told(rows: pa.Table) -> dict[str, Any]:
    """What the page shows of a table; rows in grey claim nothing, as random traces have as much."""
    names = rows.column_names
    grey = [bool(flag) for flag in rows[HELD].to_pylist()] if HELD in names else []
    shown = cells(names, rows.slice(0, _ROWS_SHOWN).to_pylist())
    return {"columns": names, "rows": shown, "all": rows.num_rows, "grey": grey}


def _facts(run: Results) -> dict[str, Any]:
    sessions, data = run.manifest["sessions"], run.manifest["data"]
    devices = [f"{s['hardware']['devices']} x {s['hardware']['device']} ({s['hardware']['cpu']})" for s in sessions]
    versions = [", ".join(f"{name} {version}" for name, version in s["versions"].items()) for s in sessions]
    return {
        "label": run.label,
        "model": run.manifest["model"]["name"],
        "dtype": run.precision,
        "fingerprint": run.manifest["config"]["model"],
        "data": data["name"],
        "inputs": run.inputs.num_rows,
        "rows": run.rows_of_data,
        "unit": "predictions" if run.generates else "rows",
        "invalid": run.inputs.num_rows - run.valid.num_rows,
        "conditions": ", ".join(run.conditions),
        "scored": ", ".join(dict.fromkeys(run.plan.scored_under)),
        "reference": run.manifest["config"].get("reference"),
        "device": "; ".join(dict.fromkeys(devices)),
        "versions": "; ".join(dict.fromkeys(versions)),
    }


def _examples(run: Results, prefix: str, count: int, folder: Path | None) -> dict[str, Any]:
    """The inputs that use least and most of the model, and their pages where a folder for them is given."""
    run = run.first
    case, pages = run.plan.case(run.ablations[0]), Pages(run)
    density = run.density(case)
    order = np.argsort(density, kind="stable").tolist()
    chosen, paged = _ends(order, max(_EXAMPLES, count)), _ends(order, count if pages.kept else 0)
    rows = run.valid.take(chosen).to_pylist()
    texts = [
        {
            "input": row["input"],
            "page": _written(pages, row["input"], prefix, folder) if folder and at in paged else None,
            "density": f"{density[at]:.3f}",
            "text": row["text"],
            "next": row["next_word"] or "",
            "top": shown(row["top_text"]),
        }
        for at, row in zip(chosen, rows, strict=True)
    ]
    kept = "Those with a link have a page, with the graph at every size."
    note = kept if pages.kept else "This run has no strata (--save-strata), so its inputs have no pages."
    return {"label": run.label, "condition": case.name, "rows": texts, "note": note if count else ""}


def _ends(order: list[int], count: int) -> list[int]:
    return order if len(order) <= 2 * count else [*order[:count], *order[len(order) - count :]]


def _written(pages: Pages, index: int, prefix: str, folder: Path) -> str:
    path = folder / f"{prefix}{index:08d}.html"
    pages.page(index).save(path)
    return f"{folder.name}/{path.name}"
