"""``jstrace report``: what came of runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli import options as opt
from jstrace.cli.checks import check_installed
from jstrace.errors import InputError

_FOLDERS_HELP = "Folders of jstrace run, one for each model to compare; or a file of jstrace task --save."
_PAGES_HELP = (
    "Make pages of the N inputs with the lowest density, and of the N with the highest. The runs need --save-strata."
)
_PAIRED_HELP = "Refuse runs without pairs of texts. Runs that have pairs are compared by them in any case."
_AXIS_HELP = "Draw curves over shares of edges, or over shares of operations."
Axis = StrEnum("Axis", "EDGES FLOPS")
"""What curves are drawn over."""


def report_command(
    folders: Annotated[list[Path], typer.Argument(help=_FOLDERS_HELP)],
    out: Annotated[Path, opt.printed(metavar="FOLDER", help="The folder for index.html, figures and tables.")],
    paired: Annotated[bool, opt.printed("--paired", help=_PAIRED_HELP)] = False,
    pages: Annotated[int, opt.printed(min=0, metavar="N", help=_PAGES_HELP)] = 0,
    axis: Annotated[Axis, opt.printed(help=_AXIS_HELP)] = Axis.EDGES,
) -> None:
    """Make the paper's figures, tables and correlations of runs, and one page with all of them."""
    check_installed()
    from jstrace.reports import write_report

    if len(folders) == 1 and folders[0].suffix == ".npz":
        if paired or pages or axis is Axis.FLOPS:
            raise InputError("--paired, --pages and --axis flops are for runs; a circuit has none of these")
        typer.echo(f"{out / 'index.html'}: {_of_circuit(folders[0], out)}")
        return
    from jstrace.pipeline.progress import bar

    with bar("reading results and drawing figures"):
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
