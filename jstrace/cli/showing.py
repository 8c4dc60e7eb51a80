"""What ``jstrace trace`` shows and writes: tables or JSON, a figure, a file."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jstrace.cli.checks import check_suffix
from jstrace.errors import InputError
from jstrace.files import check_writable

if TYPE_CHECKING:
    from rich.console import Console

    from jstrace.cli.computing import Result
    from jstrace.models import Model
    from jstrace.pipeline import Evaluation


@dataclasses.dataclass(frozen=True)
class Output:
    """What was asked for."""

    top: int
    kind: str
    as_json: bool
    plot: Path | None
    save: Path | None

    def check(self, *, of_file: bool) -> None:
        """Refuse what could not be written, before the work."""
        if self.kind != "all" and not self.top:
            raise InputError("--kind says which edges --top lists; add --top 20")
        if self.save is not None and of_file:
            raise InputError("--save writes one trace; it does not go with --file")
        if self.plot is None and self.save is None:
            return
        check_suffix(self.save, ".npz")
        for path in (self.plot, self.save):
            if path is not None:
                check_writable(path)
        if self.plot is not None:
            from jstrace.show.plots import check_plottable

            check_plottable(self.plot)
            if self.save is not None and self.plot.resolve() == self.save.resolve():
                raise InputError(f"{self.plot}: --plot and --save name the same file")


def show(model: Model, results: list[Result], output: Output) -> None:
    """Print results as they come; ``--save`` has one, which is written first."""
    if output.save is not None:
        results[0].trace.save(output.save)
        sys.stderr.write(f"jstrace: wrote {output.save}\n")
    for result in results:
        _print(model, result, output)


def plot(path: Path, curves: list[tuple[str, Evaluation]]) -> None:
    """Write the figure of all texts and their evaluations."""
    from jstrace.show.plots import save_plot

    save_plot(path, [(text if len(text) <= 40 else f"{text[:39]}…", evaluation) for text, evaluation in curves])
    sys.stderr.write(f"jstrace: wrote {path}\n")


def scored(result: Result) -> str:
    """How edges were ranked, and what it took."""
    trace = result.trace
    under = f" under {trace.score_replace}" if trace.score_replace else ""
    order = "best first from the output" if trace.order == "best-first" else "by score alone"
    return f"ranked by {trace.score}{under}, {order}; {result.seconds:.1f} s a text, compilation included"


def _print(model: Model, result: Result, output: Output) -> None:
    from jstrace.show import records

    def word(token: int) -> str:
        return str(token) if model.tokenizer is None else model.tokenizer.token(token)

    if output.as_json:
        listed: dict[str, Any] = {"top": output.top, "kind": output.kind, "smallest": result.smallest}
        listed["effects"] = result.effects
        typer.echo(json.dumps(records.as_json(*result[:3], word, **listed)))
        return
    typer.echo(_tables(model, result, output, word), nl=False, color=True)  # rich has decided on colours


def buffered() -> tuple[Console, io.StringIO]:
    """A console of the terminal's looks, and the text that it writes."""
    from rich.console import Console

    as_there, written = Console(), io.StringIO()
    console = Console(file=written, force_terminal=as_there.is_terminal, highlight=False, soft_wrap=True)
    console.width = max(console.width, 100)  # a narrow terminal wraps lines; no digit is cut off
    return console, written


def _tables(model: Model, result: Result, output: Output, word: Callable[[int], str]) -> str:
    """All of a text's tables as one string: rich, which prints, would end the program itself at a broken pipe."""
    from jstrace.method.graph.sizes import SIZES, percent
    from jstrace.show import plots, tables
    from jstrace.show.strongest import attention
    from jstrace.show.text import prediction_line, shown
    from jstrace.show.words import answer_lines

    trace, evaluation = result.trace, result.evaluation
    console, written = buffered()
    heads = f"{model.config.n_layers} layers, {model.config.n_heads} heads"
    ablated = evaluation.ablate + (", before the softmax" if evaluation.pre_softmax else "")
    ablated += "" if evaluation.replace == "zero" else f", carrying {evaluation.replace}"
    console.print(f"{len(trace.tokens)} tokens, {trace.n_edges:,} edges ({heads}); ablated: {ablated}", markup=False)
    if (trace.score, trace.order) != ("l1", "best-first"):
        console.print(scored(result), markup=False)
    console.print(f"{shown(result.text)} → {prediction_line(evaluation, word)}", markup=False)
    if result.smallest is not None:
        console.print("\n".join(answer_lines(trace, evaluation, *result.smallest, word)), markup=False)
    console.print(tables.curve_table(trace, evaluation, word))
    console.print(plots.terminal_plot(evaluation), markup=False)
    span = "" if trace.sizes == SIZES else f", from {percent(trace.sizes[0], 3)} on"
    console.print(f"density {evaluation.density:.3f} (area under TV over log10 of the size{span})", markup=False)
    if not evaluation.valid:
        console.print("some predictions are not finite: try --dtype float32", markup=False)
    if result.effects is not None:
        console.print(f"effects on {result.effects.metric_name}, largest first:", markup=False)
        console.print(tables.effect_table(result.effects, output.top))
    elif output.top:
        console.print(tables.edge_table(trace, output.top, output.kind))
    if output.top and output.kind == "attention":
        counts = attention(trace, evaluation)
        console.print(tables.attention_heading(trace, evaluation, counts, word), markup=False)
        console.print(tables.attention_table(trace, counts))
    return written.getvalue()
