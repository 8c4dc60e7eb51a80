"""``jstrace report``: what came of runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli.options import check_installed
from jstrace.errors import InputError

_FOLDERS_HELP = "Folders of jstrace run, of which several models are compared; or a file of jstrace task --save."
_PAGES_HELP = "So many of the inputs of the lowest density, and of the highest, get pages: of runs with --save-strata."
_PAIRED_HELP = "Compare texts of pairs; reports of runs that have any do, and this refuses those that have none."


class Axis(StrEnum):
    """What curves are drawn over."""

    EDGES = "edges"
    FLOPS = "flops"


def report_command(
    folders: Annotated[list[Path], typer.Argument(help=_FOLDERS_HELP)],
    out: Annotated[Path, typer.Option(help="A folder for index.html, figures and tables.")],
    paired: Annotated[bool, typer.Option("--paired", help=_PAIRED_HELP)] = False,
    pages: Annotated[int, typer.Option(min=0, help=_PAGES_HELP)] = 0,
    axis: Annotated[
        Axis, typer.Option(help="What curves are drawn over: shares of edges, or of operations.")
    ] = Axis.EDGES,
) -> None:
    """Make the paper's figures, tables and correlations of runs, and one page with all of them."""
    check_installed()
    from jstrace.reports import write_report

    if len(folders) == 1 and folders[0].suffix == ".npz":
        if paired or pages or axis is Axis.FLOPS:
            raise InputError("--paired, --pages and --axis flops are for runs; a circuit has none of these")
        typer.echo(f"{out / 'index.html'}: {_of_circuit(folders[0], out)}")
        return
    labels = write_report(folders, out, pages=pages, paired=paired, axis=axis.value)
    typer.echo(f"{out / 'index.html'}: {', '.join(labels)}")


def _of_circuit(file: Path, out: Path) -> str:
    """Write the report of a task's circuit; what it is called."""
    from jstrace.pipeline.tasks.circuit import TaskCircuit
    from jstrace.reports import write_circuit

    circuit = TaskCircuit.load(file)
    held = len(circuit.judged["task"].tv) if circuit.judged else 0
    facts = {
        "circuit": f"{circuit.n_pairs} pairs, of {len(circuit.classes)} classes of tokens by {circuit.align}",
        "judged on": f"{held} held-out pairs",
        "score": circuit.score + (f", under {circuit.score_replace}" if circuit.score_replace else ""),
        "ablated edges carry": circuit.replace,
        "sizes are shares of": circuit.level,
        "model": f"{circuit.config.family}, {circuit.config.n_layers} layers, fingerprint {circuit.model_fingerprint}",
    }
    write_circuit(out, circuit.columns(), circuit.components, label=file.name, facts=facts)
    return file.name
