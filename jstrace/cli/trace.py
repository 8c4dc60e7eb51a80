"""``jstrace trace``: texts as tables, JSON, figures and files."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli import showing
from jstrace.cli.checks import check_masks, check_pair, check_reference, check_score_replace, seed_of
from jstrace.cli.computing import Asked, chunks
from jstrace.cli.hosting import by_first, joined
from jstrace.cli.options import (
    ASKED,
    PRINTED,
    RANKED,
    REPEATS_HELP,
    SEED_RANGE,
    Ablate,
    Answer,
    Counterfactual,
    Distributed,
    Dtype,
    DtypeOption,
    IgnoreField,
    InsteadOf,
    Kind,
    LiteralOption,
    MeshText,
    ModelOption,
    Order,
    OrderOption,
    ReferenceOption,
    Replace,
    ReplaceOption,
    Revision,
    ScoreOption,
    ScoreReplace,
    SizesOption,
    WeightsOption,
    load,
    metric_of,
    score_of,
    several_tokens,
    sizes_of,
)
from jstrace.cli.room import check_text_fits
from jstrace.cli.texts import Line, read_texts, token_rows

if TYPE_CHECKING:
    import numpy as np

    from jstrace.models import Model


_TOP_HELP = (
    "List the first N edges of the search. With --answer and no --kind, list the N heads and MLPs of largest effect on"
    " it."
)
_KIND_HELP = "With --top, list edges of this kind. For attention, count them by head and by source token, too."
_TEXT_HELP = "The text whose next token is predicted."
_SEED_HELP = "The random seed of the scores random, random-nodes and fitted. The default is 0."
_FILE_HELP = "Trace each line of this UTF-8 file (- is standard input)."
_ranked, _printed = (functools.partial(typer.Option, rich_help_panel=each) for each in (RANKED, PRINTED))


def trace_command(
    text: Annotated[str | None, typer.Argument(help=_TEXT_HELP)] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=ASKED, help=_FILE_HELP)] = None,
    literal: LiteralOption = False,
    model: ModelOption = "smollm2",
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    weights: WeightsOption = None,
    mesh: MeshText = None,
    distributed: Distributed = False,
    ablate: Annotated[Ablate, _ranked(help="Which edges outside a trace are ablated.")] = Ablate.ALL,
    pre_softmax: Annotated[bool, _ranked("--pre-softmax", help="Mask attention before its softmax.")] = False,
    score: ScoreOption = "l1",
    order: OrderOption = Order.BEST_FIRST,
    sizes: SizesOption = None,
    replace: ReplaceOption = Replace.ZERO,
    counterfactual: Counterfactual = None,
    answer: Answer = None,
    instead_of: InsteadOf = None,
    score_replace: ScoreReplace = None,
    reference: ReferenceOption = None,
    seed: Annotated[int | None, _ranked(help=_SEED_HELP, **SEED_RANGE)] = None,
    repeats: Annotated[int, _ranked(min=0, metavar="N", help=REPEATS_HELP)] = 0,
    top: Annotated[int, _printed(min=0, metavar="N", help=_TOP_HELP)] = 0,
    kind: Annotated[Kind, _printed(help=_KIND_HELP)] = Kind.ALL,
    as_json: Annotated[bool, _printed("--json", help="Print JSON instead, a line for each text.")] = False,
    plot: Annotated[Path | None, _printed(metavar="FILE", help="Draw TV by size into this .png or .svg file.")] = None,
    save: Annotated[Path | None, _printed(metavar="FILE", help="Write the trace into this .npz file.")] = None,
) -> None:
    """Trace a text: how much of its prediction do sub-graphs of 26 sizes keep?

    A trace takes the strongest edges, best first from the output, until it has
    its share of all edges. All others are ablated. TV is the distance from the
    model's own prediction, from 0 (the same) to 1. The search is greedy, so
    these are not the best sub-graphs of their sizes.
    """
    lines = read_texts(
        text, file, literal=literal
    )  # on every host, before they join, as is the check of outputs: one that gives up
    output = showing.Output(top, kind.value, as_json, plot, save)  # later leaves the others waiting
    output.check(of_file=file is not None)
    chosen, shares = score_of(score), sizes_of(sizes)
    check_pair(counterfactual, replace, pre_softmax=pre_softmax, of_file=file is not None)
    check_score_replace(score_replace, [chosen])
    check_reference(reference is not None, [chosen], replace, score_replace)
    check_masks(pre_softmax=pre_softmax, ablate=ablate, replace=replace)
    drawn, metric = seed_of(seed, [chosen]), metric_of(answer, instead_of)
    from jstrace.method.conditions import checked_repeats

    again = checked_repeats(repeats)
    texts = None if reference is None else tuple(line.text for line in read_texts(None, reference))
    from jstrace.scale.hosts import check_agreed, together

    first = joined() if distributed else True
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = load(model, dtype.value, revision, wanted, weights=weights, ignore_fields=ignore_field, quiet=not first)
    several = several_tokens(loaded, answer, instead_of)
    asked = Asked(
        chosen, drawn, ablate.value, pre_softmax, shares, order.value, replace.value, score_replace, texts,
        counterfactual, metric, components=top > 0 and kind is Kind.ALL and metric is not None and several is None,
        answer=several, repeats=again,
    )  # fmt: skip
    rows = together(functools.partial(_checked_rows, loaded, lines, asked))  # all, before any output
    check_agreed(([row.tolist() for row in rows], model, dtype, weights, mesh, asked))
    curves = []
    with contextlib.closing(chunks(loaded, lines, rows, asked, shown=first)) as batches:
        for results in batches:
            by_first(first, functools.partial(showing.show, loaded, results, output))
            curves += [(result.text, result.evaluation) for result in results]
            del results  # and with them the traces, before the next ones are made
    if plot is not None:
        by_first(first, functools.partial(showing.plot, plot, curves))


def _checked_rows(model: Model, lines: list[Line], asked: Asked) -> list[np.ndarray]:
    rows = token_rows(model, lines)
    check_text_fits(model, lines, rows, asked)
    return rows
