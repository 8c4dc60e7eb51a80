"""``jstrace trace``: texts as tables, JSON, figures and files."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from jstrace.cli.options import MODEL_HELP, Ablate, Distributed, Dtype, Importance, MeshText, Revision, joined, load

if TYPE_CHECKING:
    import numpy as np

    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Trace


def trace_command(
    text: Annotated[str | None, typer.Argument(help="The text whose next token is traced.")] = None,
    file: Annotated[Path | None, typer.Option(help="Trace every line of this file instead.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    mesh: MeshText = None,
    distributed: Distributed = False,
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
    first = joined() if distributed else True
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = load(model, dtype.value, revision, wanted, quiet=not first)
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
                sys.stderr.write(f"jstrace: wrote {save}\n")
            for line, trace, evaluation in zip(chunk, traces, evaluations, strict=True):
                _show(loaded, line.text, trace, evaluation, top, as_json)
                curves.append((_label(line.text), evaluation))
    if plot is not None and first:
        from jstrace.show.curves import save_plot

        save_plot(plot, curves)
        sys.stderr.write(f"jstrace: wrote {plot}\n")


_CHUNK = 64
"""Texts for each device that are traced before their results are shown and dropped."""


def _n_data(model: Model) -> int:
    from jstrace.scale.meshes import n_data

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
        if _is_file(text):
            sys.stderr.write(f"jstrace: {text} is a file; its name is traced here, its lines with --file {text}\n")
        return [Line(text, "")]
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    texts = [Line(line.rstrip("\r"), f"{file}:{n}: ") for n, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise InputError(f"{file}: no line holds any text")
    return texts


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text too long for a name, or one that holds a zero byte
        return False


def _check_outputs(plot: Path | None, save: Path | None) -> None:
    """Refuse outputs that could not be written, before the work."""
    if plot is None and save is None:
        return
    from jstrace.files import check_writable
    from jstrace.models import InputError
    from jstrace.show.curves import check_plottable

    for path in (plot, save):
        if path is not None:
            check_writable(path)
    if plot is not None:
        check_plottable(plot)
        if save is not None and plot.resolve() == save.resolve():
            raise InputError(f"{plot}: --plot and --save name the same file")


def _check_agreed(*what: object) -> None:
    """Refuse what other hosts were not asked for."""
    from jstrace.scale.hosts import check_agreed

    check_agreed(what)


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
    from jstrace.method import graph
    from jstrace.models import InputError
    from jstrace.pipeline.inputs import tokenised
    from jstrace.scale import batching

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

    from jstrace.show import curves, records, tables
    from jstrace.show.text import prediction_line, shown

    def word(token: int) -> str:
        return str(token) if model.tokenizer is None else model.tokenizer.token(token)

    if as_json:
        typer.echo(json.dumps(records.as_json(text, trace, evaluation, word, top=top)))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 100)  # a narrow terminal wraps lines; no digit is cut off
    heads = f"{model.config.n_layers} layers, {model.config.n_heads} heads"
    console.print(f"{len(trace.tokens)} tokens, {trace.n_edges:,} edges ({heads}); ablated: {evaluation.ablate}"
                  + (", before the softmax" if evaluation.pre_softmax else ""), markup=False)  # fmt: skip
    console.print(f"{shown(text)} → {prediction_line(evaluation, word)}", markup=False)
    console.print(tables.curve_table(trace, evaluation, word))
    console.print(curves.terminal_plot(evaluation), markup=False)
    console.print(f"density {evaluation.density:.3f} (area under TV over log10 of the size)", markup=False)
    if not evaluation.valid:
        console.print("some predictions are not finite: try --dtype float32", markup=False)
    if top:
        console.print(tables.edge_table(trace, top))


def _label(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
