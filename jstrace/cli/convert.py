"""``jstrace convert``: a checkpoint of jstrace's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli import options as opt
from jstrace.files import check_local

_DTYPE_HELP = "The precision of the weights on disk. They load in any precision."


def convert_command(
    source: Annotated[str, typer.Argument(help=opt.MODEL_HELP)],
    out: Annotated[Path, typer.Argument(help="A new or an empty folder; it is filled when all is complete.")],
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: Annotated[opt.Dtype, opt.of_model(help=_DTYPE_HELP)] = opt.Dtype.BFLOAT16,
) -> None:
    """Write a model as a checkpoint of jstrace's own: stacked weights that load fast and onto any mesh."""
    from rich.console import Console
    from rich.markup import escape

    check_local(out)
    from jstrace.loading import convert

    console = Console(stderr=True)
    with console.status(f"converting {escape(source)}"):
        mark = convert(
            source, out, dtype=dtype.value, revision=revision, ignore_fields=ignore_field or (),
            say=lambda text: console.print(text, markup=False),
        )  # fmt: skip
    typer.echo(f"{out}: {source} in {dtype.value}, fingerprint {mark}")
