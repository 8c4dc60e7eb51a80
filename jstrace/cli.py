"""The command line: ``jstrace trace``, ``run``, ``report``, ``info`` and ``convert``.

Nothing of JAX is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from jstrace.cli_options import MODEL_HELP, Dtype, Revision
from jstrace.cli_runs import report_command, run_command
from jstrace.cli_trace import trace_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How much of a language model does this prediction really use? s-Trace, in JAX.",
)


def main() -> None:
    """The console script: bad input is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter still gets the rest
    warnings.showwarning = _warn
    try:
        app()
        sys.stdout.flush()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None:
            raise
        sys.stderr.write(f"jstrace: error: {' '.join(message.split())}\n")
        sys.exit(2)


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Warnings are one line on standard error, too."""
    sys.stderr.write(f"jstrace: {category.__name__}: {' '.join(str(message).split())}\n")


def _message(error: Exception) -> str | None:
    """What to tell the user of an error that is no bug; None for any other."""
    from jstrace.batching import out_of_memory  # imports JAX, as whatever raised an InputError had to
    from jstrace.models import InputError

    if isinstance(error, InputError):
        return str(error)
    if out_of_memory(error):
        return "out of memory; try a shorter input, dtype bfloat16 or a mesh of more devices"
    if isinstance(error, OSError):
        return f"output cannot be written ({error.strerror or error})"
    return None


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


@app.command("info")
def info_command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    revision: Revision = None,
    tokens: Annotated[int, typer.Option(min=1, help="Size of the input that the graph is counted for.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a model's architecture, its parameters and the size of its graph; reads no weights.

    The paper's ten models are known offline. Flags that are Llama's are left out, but for --json.
    """
    import dataclasses

    from jstrace import graph
    from jstrace.model import describe
    from jstrace.models import n_params

    config = describe(model, revision=revision)
    edges, count = graph.n_edges(config, tokens), n_params(config)
    size = {"parameters": count, "bytes_float32": 4 * count, "bytes_bfloat16": 2 * count}
    size |= {"tokens": tokens, "nodes": graph.n_nodes(config, tokens), "edges": edges}
    if as_json:
        typer.echo(json.dumps({"model": model, **dataclasses.asdict(config), **size}))
        return
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    shape = {name: value for name, value in dataclasses.asdict(config).items() if value != usual[name]}
    for name, value in {"model": model, **shape, **size}.items():
        typer.echo(f"{name.replace('_', ' '):>18}  {_fact(value)}")


def _fact(value: Any) -> str:
    """One value of ``info``, long lists shortened."""
    if isinstance(value, tuple) and len(value) > 8:
        return f"{len(value)} numbers from {min(value):.4g} to {max(value):.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@app.command("convert")
def convert_command(
    source: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path, typer.Argument(help="A new folder; it appears when it is complete.")],
    revision: Revision = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights on disk; they load in any.")] = Dtype.BFLOAT16,
) -> None:
    """Write a model as a checkpoint of jstrace's own: stacked weights that load fast and onto any mesh."""
    from rich.console import Console
    from rich.markup import escape

    from jstrace.model import convert

    console = Console(stderr=True)
    with console.status(f"converting {escape(source)}"):
        mark = convert(
            source, out, dtype=dtype.value, revision=revision, say=lambda text: console.print(text, markup=False)
        )
    typer.echo(f"{out}: {source} in {dtype.value}, fingerprint {mark}")


if __name__ == "__main__":
    main()
