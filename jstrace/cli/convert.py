"""``jstrace convert``: a checkpoint of jstrace's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli.options import MODEL, MODEL_HELP, Dtype, IgnoreField, Revision

_DTYPE_HELP = "The precision of the weights on disk. They load in any precision."


def convert_command(
    source: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path, typer.Argument(help="A new or an empty folder; it is filled when all is complete.")],
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(rich_help_panel=MODEL, help=_DTYPE_HELP)] = Dtype.BFLOAT16,
) -> None:
    """Write a model as a checkpoint of jstrace's own: stacked weights that load fast and onto any mesh."""
    from rich.console import Console
    from rich.markup import escape

    from jstrace.files import check_local

    check_local(out)
    from jstrace.loading import convert

    console = Console(stderr=True)
    with console.status(f"converting {escape(source)}"):
        mark = convert(
            source,
            out,
            dtype=dtype.value,
            revision=revision,
            say=lambda text: console.print(text, markup=False),
            ignore_fields=ignore_field or (),
        )
    typer.echo(f"{out}: {source} in {dtype.value}, fingerprint {mark}")
