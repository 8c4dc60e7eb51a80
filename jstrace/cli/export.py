"""``jstrace export``: a saved trace as a file for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli.options import AT_HELP, MODEL_HELP, Dtype, IgnoreField, Revision, WeightsOption, at_size, load

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
    "graphml and json (node-link) hold the graph, parquet a row for each edge, neuronpedia the attribution graph that"
    " circuit-tracer and Neuronpedia show."
)
_SCAN_HELP = "With neuronpedia: what the file calls the model, by default its family."


def export_command(
    trace: Annotated[Path, typer.Argument(help="An .npz file of jstrace trace --save.")],
    kind: Annotated[Format, typer.Option("--format", help=_FORMAT_HELP)],
    size: Annotated[str, typer.Option(metavar="SIZE", help=AT_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    model: Annotated[str | None, typer.Option(help=f"With neuronpedia: says what is predicted. {MODEL_HELP}")] = None,
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    weights: WeightsOption = None,
    scan: Annotated[str | None, typer.Option(help=_SCAN_HELP)] = None,
) -> None:
    """Write a saved trace at one size for other programs: networkx, Gephi, data frames, Neuronpedia."""
    from jstrace.errors import InputError
    from jstrace.files import check_writable
    from jstrace.pipeline import Trace
    from jstrace.show.export import export

    if kind != Format.NEURONPEDIA and (model, scan) != (None, None):
        raise InputError(f"--model and --scan are for --format neuronpedia; {kind.value} holds no prediction")
    check_writable(out)
    found, at = Trace.load(trace), at_size(size)
    index = found.index(**at)
    if model is None:
        export(found, out, kind.value, index, scan=scan)
    else:
        loaded = load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
        _with_prediction(found, out, index, loaded, scan)
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
