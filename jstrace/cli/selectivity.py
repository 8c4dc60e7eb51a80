"""``jstrace selectivity``: a text's own prediction against those of others, through the same score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli import options as opt
from jstrace.cli.checks import check_reference, seed_of
from jstrace.cli.texts import one_text, read_texts, reference_texts
from jstrace.errors import InputError

_SCORE_HELP = "A score from gradients: fitted, rounds, learned, l1*gradient and others, or the file of a scorer."
_OTHERS_HELP = "A file with a text on each line. The predictions of these texts, some three, are the foreign targets."
_SEED_HELP = "The random seed of the score fitted. The default is 0."


def selectivity_command(
    text: Annotated[str, typer.Argument(help="The text whose next token is predicted.")],
    others: Annotated[Path, opt.asked(metavar="FILE", help=_OTHERS_HELP)],
    literal: opt.LiteralOption = False,
    model: opt.ModelOption = "smollm2",
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    score: Annotated[str, opt.ranked(metavar="fitted|rounds|...", help=_SCORE_HELP)] = "fitted",
    order: opt.OrderOption = opt.Order.BEST_FIRST,
    sizes: opt.SizesOption = None,
    replace: opt.ReplaceOption = opt.Replace.ZERO,
    score_replace: opt.ScoreReplace = None,
    reference: opt.ReferenceOption = None,
    seed: Annotated[int | None, opt.ranked(help=_SEED_HELP, **opt.SEED_RANGE)] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Does a trace show the input's computation, or what a mask can do? Compare it with its control.

    The control gives the same score other texts' predictions as targets. If the
    trace keeps its own prediction and the control fails, the trace is about your
    text. If both succeed, it says nothing about your text.
    """
    from jstrace.method.naming import takes_passes

    own = one_text(text, literal=literal)
    chosen, shares = opt.score_of(score), opt.sizes_of(sizes)
    if not takes_passes(chosen):
        raise InputError(f"selectivity is for scores from gradients; {score} does not look at the prediction")
    check_reference(reference is not None, [chosen], replace, score_replace)
    drawn = seed_of(seed, [chosen])
    lines = [line.text for line in read_texts(None, others)]
    texts = reference_texts(reference)
    loaded = opt.load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
    import jstrace
    from jstrace.method.graph.sizes import percent
    from jstrace.pipeline.progress import bar
    from jstrace.show.words import told_once

    with bar("scoring for each prediction (the first compiles)") as report:
        curves = jstrace.selectivity(
            loaded, own, lines, score=chosen, order=order.value, replace=replace.value, sizes=shares,
            score_replace=score_replace, reference=texts, seed=drawn, progress=report,
        )  # fmt: skip
    scored = (score_replace or replace).value
    if as_json:
        about = {"text": own, "replace": replace.value, "scored_under": scored, "told": list(curves.told)}
        rows = {"own": curves.own.tolist(), "foreign": curves.foreign.tolist()}
        typer.echo(json.dumps({**about, "sizes": [*curves.sizes, 1.0], **rows, "peak": curves.peak}))
        return
    under = replace.value if scored == replace.value else f"{replace.value}, scored under {scored}"
    typer.echo(f"TV from the target of each score, {score} under {under}; {_counted(curves.told, lines)}")
    typer.echo(f"  size  {'own':>6} {'foreign':>8} {'selectivity':>12}")
    columns = zip([*curves.sizes, 1.0], curves.own, curves.foreign.mean(axis=0), curves.selectivity, strict=True)
    lines_by_size = [(percent(size, 3), f"{own:>6.3f} {other:>8.3f} {gap:>12.3f}") for size, own, other, gap in columns]
    typer.echo("\n".join(told_once(lines_by_size)))
    typer.echo(f"most selective at {percent(curves.peak, 3)} of all edges")


def _counted(told: tuple[int, ...], lines: list[str]) -> str:
    left = len(lines) - len(told)
    count = f"{len(told)} foreign prediction{'s' * (len(told) != 1)}"
    return count + (f", {left} left out that predict the same token" if left else "")
