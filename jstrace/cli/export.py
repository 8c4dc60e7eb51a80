"""``jstrace export``: a saved trace as a file for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli import options as opt
from jstrace.cli.checks import check_of_model
from jstrace.errors import InputError
from jstrace.files import check_writable

Format = StrEnum("Format", "GRAPHML JSON PARQUET NEURONPEDIA")
"""Of files for other programs."""
_FORMAT_HELP = (
    "graphml and json (node-link) hold the graph, parquet holds a row for each edge, and neuronpedia is the attribution"
    " graph that circuit-tracer and Neuronpedia show."
)
_MODEL_HELP = f"For neuronpedia: the model of the trace, which says what is predicted. {opt.MODEL_HELP}"
_SCAN_HELP = "For neuronpedia: what the file calls the model. By default it is the family."


def export_command(
    trace: Annotated[Path, typer.Argument(help="An .npz file of jstrace trace --save.")],
    kind: Annotated[Format, opt.printed("--format", help=_FORMAT_HELP)],
    size: Annotated[str, opt.printed(metavar="SIZE", help=opt.AT_HELP)],
    out: Annotated[Path, opt.printed("--out", "-o", metavar="FILE", help="The file to write.")],
    scan: Annotated[str | None, opt.printed(metavar="NAME", help=_SCAN_HELP)] = None,
    model: Annotated[str | None, opt.of_model(metavar="MODEL", help=_MODEL_HELP)] = None,
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
) -> None:
    """Write a saved trace at one size for other programs: networkx, Gephi, data frames, Neuronpedia."""
    from jstrace.pipeline import Trace
    from jstrace.show.export import export

    if kind != Format.NEURONPEDIA and (model, scan) != (None, None):
        raise InputError(f"--model and --scan are for --format neuronpedia; {kind.value} holds no prediction")
    if model is None:
        check_of_model(revision, ignore_field, dtype, weights)
    check_writable(out)
    saved = Trace.load(trace)
    index, loaded, evaluation = saved.index(**opt.at_size(size)), None, None
    if model is not None:
        import jstrace

        loaded = opt.load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
        evaluation = jstrace.evaluate(loaded, saved, replace="zero")
    export(saved, out, kind.value, index, evaluation=evaluation, model=loaded, scan=scan)
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
