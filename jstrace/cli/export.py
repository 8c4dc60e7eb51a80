"""``jstrace export``: a saved trace as a file for other programs."""

from __future__ import annotations

import functools
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli.checks import check_of_model
from jstrace.cli.options import (
    AT_HELP,
    MODEL,
    MODEL_HELP,
    PRINTED,
    Dtype,
    DtypeOption,
    IgnoreField,
    Revision,
    WeightsOption,
    at_size,
    load,
)

if TYPE_CHECKING:
    from jstrace.models import Model
    from jstrace.pipeline import Trace


class Format(StrEnum):
    """Of files for other programs."""

    GRAPHML = "graphml"
    JSON = "json"
    PARQUET = "parquet"
    NEURONPEDIA = "neuronpedia"


_FORMAT_HELP = (
    "graphml and json (node-link) hold the graph, parquet holds a row for each edge, and neuronpedia is the attribution"
    " graph that circuit-tracer and Neuronpedia show."
)
_MODEL_HELP = f"For neuronpedia: the model of the trace, which says what is predicted. {MODEL_HELP}"
_SCAN_HELP = "For neuronpedia: what the file calls the model. By default it is the family."
_written = functools.partial(typer.Option, rich_help_panel=PRINTED)


def export_command(
    trace: Annotated[Path, typer.Argument(help="An .npz file of jstrace trace --save.")],
    kind: Annotated[Format, _written("--format", help=_FORMAT_HELP)],
    size: Annotated[str, _written(metavar="SIZE", help=AT_HELP)],
    out: Annotated[Path, _written("--out", "-o", metavar="FILE", help="The file to write.")],
    scan: Annotated[str | None, _written(metavar="NAME", help=_SCAN_HELP)] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", rich_help_panel=MODEL, help=_MODEL_HELP)] = None,
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    weights: WeightsOption = None,
) -> None:
    """Write a saved trace at one size for other programs: networkx, Gephi, data frames, Neuronpedia."""
    from jstrace.errors import InputError
    from jstrace.files import check_writable
    from jstrace.pipeline import Trace
    from jstrace.show.export import export

    if kind != Format.NEURONPEDIA and (model, scan) != (None, None):
        raise InputError(f"--model and --scan are for --format neuronpedia; {kind.value} holds no prediction")
    if model is None:
        check_of_model(revision, ignore_field, dtype, weights)
    check_writable(out)
    saved, at = Trace.load(trace), at_size(size)
    index = saved.index(**at)
    if model is None:
        export(saved, out, kind.value, index, scan=scan)
    else:
        loaded = load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
        _with_prediction(saved, out, index, loaded, scan)
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")


def _with_prediction(trace: Trace, out: Path, index: int, model: Model, scan: str | None) -> None:
    import jstrace
    from jstrace.show.export import export

    export(
        trace,
        out,
        "neuronpedia",
        index,
        evaluation=jstrace.evaluate(model, trace, replace="zero"),
        model=model,
        scan=scan,
    )
