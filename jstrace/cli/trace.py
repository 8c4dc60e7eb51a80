"""``jstrace trace``: texts as tables, JSON, figures and files."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli import showing
from jstrace.cli.computing import Asked, chunks
from jstrace.cli.hosting import by_first, joined
from jstrace.cli.options import (
    MODEL_HELP,
    REFERENCE_HELP,
    REPEATS_HELP,
    SCORE_HELP,
    Ablate,
    Answer,
    Counterfactual,
    Distributed,
    Dtype,
    IgnoreField,
    InsteadOf,
    Kind,
    MeshText,
    Order,
    Replace,
    ReplaceOption,
    Revision,
    ScoreReplace,
    check_pair,
    check_reference,
    check_replaceable,
    load,
    metric_of,
    score_of,
    several_tokens,
)
from jstrace.cli.room import check_text_fits
from jstrace.cli.texts import Line, read_texts, token_rows

if TYPE_CHECKING:
    import numpy as np

    from jstrace.models import Model


_TOP_HELP = "List so many edges, the first of the search; with --answer so many heads and MLPs, by their effect on it."
_KIND_HELP = "With --top: the strongest edges of this kind; attention adds how many each head and source token has."


def trace_command(
    text: Annotated[str | None, typer.Argument(help="The text; its next token is what is predicted.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Trace the lines of this UTF-8 file; - reads standard input.")
    ] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Precision of weights and residual stream.")] = Dtype.FLOAT32,
    mesh: MeshText = None,
    distributed: Distributed = False,
    ablate: Annotated[Ablate, typer.Option(help="Which edges outside a trace are ablated.")] = Ablate.ALL,
    pre_softmax: Annotated[bool, typer.Option("--pre-softmax", help="Mask attention before its softmax.")] = False,
    score: Annotated[str, typer.Option(metavar="l1|rounds|learned|...", help=SCORE_HELP)] = "l1",
    order: Annotated[Order, typer.Option(help="How scores become traces.")] = Order.BEST_FIRST,
    replace: ReplaceOption = Replace.ZERO,
    counterfactual: Counterfactual = None,
    answer: Answer = None,
    instead_of: InsteadOf = None,
    score_replace: ScoreReplace = None,
    reference: Annotated[Path | None, typer.Option(help=REFERENCE_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of --score random and fitted.")] = 0,
    repeats: Annotated[int, typer.Option(min=0, metavar="N", help=REPEATS_HELP)] = 0,
    top: Annotated[int, typer.Option(min=0, help=_TOP_HELP)] = 0,
    kind: Annotated[Kind, typer.Option(help=_KIND_HELP)] = Kind.ALL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, one line for each text.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw TV against size into this .png or .svg file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the trace of the text into this .npz file.")] = None,
) -> None:
    """Trace a text: 26 growing sub-graphs of one forward pass, and how much of its prediction each keeps.

    A trace takes the strongest edges, best first from the output, until it has
    its size, a share of all edges; all others are ablated. The search is greedy:
    these are not the best sub-graphs of their sizes. TV is the distance from the
    model's own prediction, from 0 (the same) to 1.
    """
    lines = read_texts(text, file)  # on every host, before they join, as is the check of outputs: one that gives up
    output = showing.Output(top, kind.value, as_json, plot, save)  # later leaves the others waiting
    output.check(of_file=file is not None)
    chosen = score_of(score)
    check_reference(reference is not None, chosen, replace, score_replace)
    check_replaceable(pre_softmax, replace)
    check_pair(counterfactual, replace, pre_softmax=pre_softmax, of_file=file is not None)
    metric = metric_of(answer, instead_of)
    from jstrace.method.conditions import checked_repeats

    again = checked_repeats(repeats)
    texts = None if reference is None else tuple(line.text for line in read_texts(None, reference))
    from jstrace.scale.hosts import check_agreed, together

    first = joined() if distributed else True
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = load(model, dtype.value, revision, wanted, ignore_fields=ignore_field, quiet=not first)
    several = several_tokens(loaded, answer, instead_of)
    asked = Asked(
        chosen, seed, ablate.value, pre_softmax, order.value, replace.value, score_replace, texts,
        counterfactual, metric, components=top > 0 and metric is not None and several is None, answer=several,
        repeats=again,
    )  # fmt: skip
    rows = together(functools.partial(_checked_rows, loaded, lines, asked))  # all, before any output
    check_agreed(([row.tolist() for row in rows], model, dtype, mesh, asked))
    curves = []
    with contextlib.closing(chunks(loaded, lines, rows, asked)) as found:
        for results in found:
            by_first(first, functools.partial(showing.show, loaded, results, output))
            curves += [(result.text, result.evaluation) for result in results]
            del results  # and with them the traces, before the next ones are made
    if plot is not None:
        by_first(first, functools.partial(showing.plot, plot, curves))


def _checked_rows(model: Model, lines: list[Line], asked: Asked) -> list[np.ndarray]:
    rows = token_rows(model, lines)
    check_text_fits(model, lines, rows, asked)
    return rows
