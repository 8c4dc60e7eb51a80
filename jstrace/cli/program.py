"""The program: its commands, and what its errors and warnings look like."""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Annotated, Any

import typer

from jstrace.cli.cache import cache_command
from jstrace.cli.convert import convert_command
from jstrace.cli.export import export_command
from jstrace.cli.info import info_command
from jstrace.cli.report import report_command
from jstrace.cli.run import run_command
from jstrace.cli.selectivity import selectivity_command
from jstrace.cli.streams import lossy, prepare
from jstrace.cli.task import task_command
from jstrace.cli.trace import trace_command
from jstrace.cli.train_scorer import train_scorer_command
from jstrace.cli.view import view_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How much of a language model does this prediction really use? s-Trace, in JAX.\n\n"
    'Start with: jstrace trace "The capital of France is"',
)


def main() -> None:
    """The console script: bad input is one line on standard error and exit code 2."""
    prepare()
    warnings.showwarning = _warn
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except Exception as error:
        sys.stdout = lossy(sys.stdout)  # what it still holds is tried once more at the end
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # without a word, as other programs do
        message = _message(error)
        if message is None:
            raise
        sys.stderr.write(f"jstrace: error: {' '.join(message.split())}\n")
        if _is_lost(error):
            os._exit(2)  # leaving in order would wait for the other hosts
        sys.exit(2)


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Warnings are one line on standard error, too."""
    sys.stderr.write(f"jstrace: {category.__name__}: {' '.join(str(message).split())}\n")


def _is_lost(error: Exception) -> bool:
    if "jax" not in sys.modules:
        return False
    from jstrace.scale.hosts import lost_others

    return lost_others(error)


def _message(error: Exception) -> str | None:
    """What to tell the user of an error that is no bug; None for any other."""
    from jstrace.errors import InputError

    if isinstance(error, InputError):
        return str(error)
    try:
        import jax  # noqa: F401 - which reports do without
    except Exception:  # a variable of JAX that makes no sense
        return f"JAX cannot be imported ({error}); see the variables JAX_... that are set"
    from jstrace.scale.hosts import ENDING
    from jstrace.scale.machine import missing_devices
    from jstrace.scale.memory import out_of_memory

    if out_of_memory(error):
        return "out of memory; try a shorter input, dtype bfloat16 or a mesh of more devices"
    if _is_lost(error):
        time.sleep(ENDING)
        reason = (str(error).splitlines() or [""])[0]
        return f"another host has ended or cannot be reached, so this one stops ({reason})"
    if isinstance(error, OSError):
        return f"output cannot be written ({error.strerror or error})"
    return missing_devices()


def _version(wanted: bool) -> None:
    if wanted:
        from jstrace import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


app.command("trace")(trace_command)
app.command("run")(run_command)
app.command("report")(report_command)
app.command("train-scorer")(train_scorer_command)
app.command("task")(task_command)
app.command("view")(view_command)
app.command("export")(export_command)
app.command("selectivity")(selectivity_command)
app.command("info")(info_command)
app.command("convert")(convert_command)
app.command("cache")(cache_command)
