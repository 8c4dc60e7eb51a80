"""``jstrace trace``: texts as tables, JSON, figures and files."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli import options as opt
from jstrace.cli import showing
from jstrace.cli.checks import check_masks, check_pair, check_reference, check_score_replace, seed_of
from jstrace.cli.computing import Asked, chunks
from jstrace.cli.hosting import by_first, joined
from jstrace.cli.room import check_text_fits
from jstrace.cli.texts import Line, read_texts, reference_texts, tokens_of

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


def trace_command(
    text: Annotated[str | None, typer.Argument(help=_TEXT_HELP)] = None,
    file: Annotated[Path | None, opt.asked(metavar="FILE", help=_FILE_HELP)] = None,
    literal: opt.LiteralOption = False,
    model: opt.ModelOption = "smollm2",
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    mesh: opt.MeshText = None,
    distributed: opt.Distributed = False,
    ablate: Annotated[opt.Ablate, opt.ranked(help="Which edges outside a trace are ablated.")] = opt.Ablate.ALL,
    pre_softmax: Annotated[bool, opt.ranked("--pre-softmax", help="Mask attention before its softmax.")] = False,
    score: opt.ScoreOption = "l1",
    order: opt.OrderOption = opt.Order.BEST_FIRST,
    sizes: opt.SizesOption = None,
    replace: opt.ReplaceOption = opt.Replace.ZERO,
    counterfactual: opt.Counterfactual = None,
    answer: opt.Answer = None,
    instead_of: opt.InsteadOf = None,
    score_replace: opt.ScoreReplace = None,
    reference: opt.ReferenceOption = None,
    seed: Annotated[int | None, opt.ranked(help=_SEED_HELP, **opt.SEED_RANGE)] = None,
    repeats: Annotated[int, opt.ranked(min=0, metavar="N", help=opt.REPEATS_HELP)] = 0,
    top: Annotated[int, opt.printed(min=0, metavar="N", help=_TOP_HELP)] = 0,
    kind: Annotated[opt.Kind, opt.printed(help=_KIND_HELP)] = opt.Kind.ALL,
    as_json: Annotated[bool, opt.printed("--json", help="Print JSON instead, a line for each text.")] = False,
    plot: Annotated[
        Path | None, opt.printed(metavar="FILE", help="Draw TV by size into this .png or .svg file.")
    ] = None,
    save: Annotated[Path | None, opt.printed(metavar="FILE", help="Write the trace into this .npz file.")] = None,
) -> None:
    """Trace a text: how much of its prediction do sub-graphs of 26 sizes keep?

    A trace takes the strongest edges, best first from the output, until it has
    its share of all edges. All others are ablated. TV is the distance from the
    model's own prediction, from 0 (the same) to 1. The search is greedy, so
    these are not the best sub-graphs of their sizes.
    """
    # Read and checked on every host, before they join: one that gives up later leaves the others waiting.
    lines, output = read_texts(text, file, literal=literal), showing.Output(top, kind.value, as_json, plot, save)
    output.check(of_file=file is not None)
    chosen, shares = opt.score_of(score), opt.sizes_of(sizes)
    check_pair(counterfactual, replace, pre_softmax=pre_softmax, of_file=file is not None)
    check_score_replace(score_replace, [chosen])
    check_reference(reference is not None, [chosen], replace, score_replace)
    check_masks(pre_softmax=pre_softmax, ablate=ablate, replace=replace)
    drawn, metric = seed_of(seed, [chosen]), opt.metric_of(answer, instead_of)
    from jstrace.method.conditions import checked_repeats

    again = checked_repeats(repeats)
    texts = reference_texts(reference)
    from jstrace.scale.hosts import check_agreed, together

    first = joined() if distributed else True
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = opt.load(
        model, dtype.value, revision, wanted, weights=weights, ignore_fields=ignore_field, quiet=not first
    )
    several = opt.several_tokens(loaded, answer, instead_of)
    asked = Asked(
        chosen, drawn, ablate.value, pre_softmax, shares, order.value, replace.value, score_replace, texts,
        counterfactual, metric, components=top > 0 and kind is opt.Kind.ALL and metric is not None and several is None,
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
    rows = [tokens_of(model, line) for line in lines]
    check_text_fits(model, lines, rows, asked)
    return rows
