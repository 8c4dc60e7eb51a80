"""``jstrace report``: what came of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli.options import check_installed

_PAGES_HELP = "So many of the inputs of the lowest density, and of the highest, get pages: of runs with --save-strata."
_PAIRED_HELP = "Compare texts of pairs; reports of runs that have any do, and this refuses those that have none."


def report_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of jstrace run; several models are compared.")],
    out: Annotated[Path, typer.Option(help="A folder for index.html, figures and tables.")],
    paired: Annotated[bool, typer.Option("--paired", help=_PAIRED_HELP)] = False,
    pages: Annotated[int, typer.Option(min=0, help=_PAGES_HELP)] = 0,
) -> None:
    """Make the paper's figures, tables and correlations of runs, and one page with all of them."""
    check_installed()
    from jstrace.reports import write_report

    labels = write_report(folders, out, pages=pages, paired=paired)
    typer.echo(f"{out / 'index.html'}: {', '.join(labels)}")
