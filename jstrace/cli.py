"""The command line: ``jstrace trace``, ``jstrace info`` and ``jstrace convert``.

Nothing of JAX is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    import numpy as np

    from jstrace.evaluation import Evaluation
    from jstrace.model import Model
    from jstrace.tracing import Trace

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How much of a language model does this prediction really use? s-Trace, in JAX.",
)


class Ablate(StrEnum):
    """Which edges masks act on."""

    ALL = "all"
    RESIDUAL_MLP = "residual+mlp"


class Importance(StrEnum):
    """Edge scores."""

    L1 = "l1"
    L2 = "l2"
    IFR = "ifr"
    COSINE = "cosine"
    RANDOM = "random"


class Dtype(StrEnum):
    """Of weights and residual stream."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


_MODEL_HELP = "smollm2, a Hugging Face folder or hub id, a folder of jstrace convert, a .gguf file, or random:NAME."
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
MeshText = Annotated[str | None, typer.Option(metavar="data=N,model=M", help="Divide inputs and weights over devices.")]


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


@app.command("trace")
def trace_command(
    text: Annotated[str | None, typer.Argument(help="The text whose next token is traced.")] = None,
    file: Annotated[Path | None, typer.Option(help="Trace every line of this file instead.")] = None,
    model: Annotated[str, typer.Option(help=_MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    mesh: MeshText = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Join the other hosts, which run the same command; the first prints.")
    ] = False,
    ablate: Annotated[Ablate, typer.Option(help="Which edges are ablated.")] = Ablate.ALL,
    pre_softmax: Annotated[bool, typer.Option("--pre-softmax", help="Let attention masks enter the softmax.")] = False,
    importance: Annotated[Importance, typer.Option(help="The edge score.")] = Importance.L1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of random scores.")] = 0,
    top: Annotated[int, typer.Option(min=0, help="Also list this many of the strongest edges, in words.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each text.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write TV against size as a .png or .svg file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the trace as an .npz file.")] = None,
) -> None:
    """Trace a text: the 26 sub-graphs that best keep its prediction, and how well they do."""
    from jstrace.models import InputError

    texts = _texts(text, file)
    if save is not None and file is not None:
        raise InputError("--save writes one trace; it does not go with --file")
    _check_outputs(plot, save)  # on every host, before they join: one that gives up later leaves the others waiting
    first = _joined() if distributed else True
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = _load(model, dtype.value, revision, wanted, quiet=not first)
    rows = [_tokens(loaded, line) for line in texts]  # all of them, so that a bad line stops it before any output
    _check_agreed([row.tolist() for row in rows], model, dtype, mesh, ablate, pre_softmax, importance, seed)
    curves = []
    with _progress(len(texts)) as advance:
        step = _CHUNK * _n_data(loaded)
        for start in range(0, len(texts), step):
            chunk = texts[start : start + step]
            ids = rows[start : start + step]
            traces, evaluations = _run(loaded, ids, importance.value, seed, ablate.value, pre_softmax, advance)
            if not first:
                continue
            if save is not None:
                traces[0].save(save)
            for line, trace, evaluation in zip(chunk, traces, evaluations, strict=True):
                _show(loaded, line.text, trace, evaluation, top, as_json)
                curves.append((_label(line.text), evaluation))
    if plot is not None and first:
        from jstrace.plot import save_plot

        save_plot(plot, curves)


@app.command("info")
def info_command(
    model: Annotated[str, typer.Argument(help=_MODEL_HELP)],
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
    source: Annotated[str, typer.Argument(help=_MODEL_HELP)],
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


_CHUNK = 64
"""Texts for each device that are traced before their results are shown and dropped."""


def _n_data(model: Model) -> int:
    from jstrace.devices import n_data

    return n_data(model.mesh)


class Line(NamedTuple):
    """A text and what to call it in errors."""

    text: str
    where: str


def _texts(text: str | None, file: Path | None) -> list[Line]:
    from jstrace.models import InputError

    if (text is None) == (file is None):
        raise InputError("pass either a text or --file")
    if file is None:
        assert text is not None
        if not text.strip():
            raise InputError("the text is empty; a trace needs at least one token")
        return [Line(text, "")]
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    texts = [Line(line.rstrip("\r"), f"{file}:{n}: ") for n, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise InputError(f"{file}: no line holds any text")
    return texts


def _check_outputs(plot: Path | None, save: Path | None) -> None:
    """Refuse outputs that could not be written, before the work."""
    if plot is None and save is None:
        return
    from jstrace.models import InputError
    from jstrace.plot import check_plottable
    from jstrace.store import check_writable

    for path in (plot, save):
        if path is not None:
            check_writable(path)
    if plot is not None:
        check_plottable(plot)
        if save is not None and plot.resolve() == save.resolve():
            raise InputError(f"{plot}: --plot and --save name the same file")


def _joined() -> bool:
    """Start together with the other hosts; whether this is the first of them."""
    from jstrace.devices import start_distributed

    # Libraries that connect hosts write to descriptor 1 themselves: results keep standard output to themselves.
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
    os.dup2(2, 1)
    return start_distributed()


def _check_agreed(*what: object) -> None:
    """Refuse what other hosts were not asked for."""
    from jstrace.devices import check_agreed

    check_agreed(what)


def _load(source: str, dtype: str, revision: str | None, mesh: str | None = None, *, quiet: bool = False) -> Model:
    """Load the model with a sign of life on standard error."""
    from rich.console import Console

    import jstrace
    from jstrace.compilation import keep_programs
    from jstrace.devices import parse_mesh
    from jstrace.model import cache_folder

    keep_programs(cache_folder() / "programs")
    console = Console(stderr=True, quiet=quiet)
    with console.status("loading the model"):
        return jstrace.load(
            source,
            dtype=dtype,
            mesh=None if mesh is None else parse_mesh(mesh),
            revision=revision,
            say=lambda message: console.print(message, markup=False),
        )


@contextlib.contextmanager
def _progress(n_texts: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, which shows where that is a terminal; counts texts traced and evaluated."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("tracing (the first of a length compiles)", total=2 * n_texts)
        yield lambda done: bar.advance(task, done)


def _tokens(model: Model, line: Line) -> np.ndarray:
    """Token ids of a line, refused here if its graph would be."""
    from jstrace import batching, graph
    from jstrace.models import InputError
    from jstrace.tracing import tokenised

    try:
        row = tokenised(model, line.text)[1][0]
        graph.n_edges(model.config, len(row))
        graph.check_slots(model.config, batching.bucket(len(row)))
    except InputError as error:
        raise InputError(f"{line.where}{error}") from error
    return row


def _run(
    model: Model,
    rows: list[np.ndarray],
    importance: str,
    seed: int,
    ablate: str,
    pre_softmax: bool,
    advance: Callable[[int], None],
) -> tuple[list[Trace], list[Evaluation]]:
    import jstrace

    def report() -> Callable[[int, int], None]:
        seen = 0

        def step(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        return step

    traces = jstrace.trace(model, rows, importance=importance, seed=seed, progress=report())
    evaluations = jstrace.evaluate(model, traces, ablate=ablate, pre_softmax=pre_softmax, progress=report())
    return traces, evaluations


def _show(model: Model, text: str, trace: Trace, evaluation: Evaluation, top: int, as_json: bool) -> None:
    from rich.console import Console

    from jstrace import plot, render

    def word(token: int) -> str:
        return str(token) if model.tokenizer is None else model.tokenizer.token(token)

    if as_json:
        typer.echo(json.dumps(render.as_json(text, trace, evaluation, word, top=top)))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 100)  # a narrow terminal wraps lines; no digit is cut off
    heads = f"{model.config.n_layers} layers, {model.config.n_heads} heads"
    console.print(f"{len(trace.tokens)} tokens, {trace.n_edges:,} edges ({heads}); ablated: {evaluation.ablate}"
                  + (", before the softmax" if evaluation.pre_softmax else ""), markup=False)  # fmt: skip
    console.print(f"{render.shown(text)} → {render.prediction_line(evaluation, word)}", markup=False)
    console.print(render.curve_table(trace, evaluation, word))
    console.print(plot.terminal_plot(evaluation), markup=False)
    console.print(f"density {evaluation.density:.3f} (area under TV over log10 of the size)", markup=False)
    if not evaluation.valid:
        console.print("some predictions are not finite: try --dtype float32", markup=False)
    if top:
        console.print(render.edge_table(trace, top))


def _label(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


if __name__ == "__main__":
    main()
