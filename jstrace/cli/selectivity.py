"""``jstrace selectivity``: a text's own prediction against those of others, through the same score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli.options import (
    MODEL_HELP,
    REFERENCE_HELP,
    Dtype,
    IgnoreField,
    Order,
    Replace,
    ReplaceOption,
    Revision,
    ScoreReplace,
    WeightsOption,
    check_reference,
    load,
    score_of,
)
from jstrace.cli.texts import read_texts

_SCORE_HELP = "A score from gradients: fitted, rounds, learned, l1*gradient, ..., or the file of a scorer."
_OTHERS_HELP = "A file of texts, a line each, whose predictions are the foreign targets, some three of them."


def selectivity_command(
    text: Annotated[str, typer.Argument(help="The text.")],
    others: Annotated[Path, typer.Option(help=_OTHERS_HELP)],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    weights: WeightsOption = None,
    score: Annotated[str, typer.Option(metavar="fitted|rounds|...", help=_SCORE_HELP)] = "fitted",
    order: Annotated[Order, typer.Option(help="How scores become traces.")] = Order.BEST_FIRST,
    replace: ReplaceOption = Replace.ZERO,
    score_replace: ScoreReplace = None,
    reference: Annotated[Path | None, typer.Option(help=REFERENCE_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of what fits draw.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Does a trace show the input's computation, or what a mask can do? The same score is told other predictions.

    Where the text's own prediction is kept and those of other texts are not
    reached, a trace says something of the input; where both are, nothing.
    """
    (own,) = read_texts(text, None)
    lines = [line.text for line in read_texts(None, others)]
    texts = None if reference is None else [line.text for line in read_texts(None, reference)]
    chosen = score_of(score)
    check_reference(reference is not None, chosen, replace, score_replace)
    loaded = load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
    from rich.console import Console

    import jstrace

    console = Console(stderr=True)
    with console.status("scoring") as status:
        found = jstrace.selectivity(
            loaded, own.text, lines, score=chosen, order=order.value, replace=replace.value,
            score_replace=score_replace, reference=texts, seed=seed,
            progress=lambda done, total: status.update(f"scoring: {done} of {total} predictions"),
        )  # fmt: skip
    scored = (score_replace or replace).value
    if as_json:
        about = {"text": own.text, "replace": replace.value, "scored_under": scored, "told": list(found.told)}
        rows = {"own": found.own.tolist(), "foreign": found.foreign.tolist()}
        typer.echo(json.dumps({**about, "sizes": [*found.sizes, 1.0], **rows, "peak": found.peak}))
        return
    under = replace.value if scored == replace.value else f"{replace.value}, scored under {scored}"
    typer.echo(f"TV from what the score was told, {score} under {under}; {_counted(found.told, lines)}")
    typer.echo(f"{'size':>9} {'own':>7} {'foreign':>8} {'selectivity':>12}")
    for size, *row in zip(found.sizes, found.own, found.foreign.mean(axis=0), found.selectivity, strict=False):
        typer.echo(f"{size:>9g} {row[0]:>7.3f} {row[1]:>8.3f} {row[2]:>12.3f}")
    typer.echo(f"most selective at {found.peak:g} of all edges")


def _counted(told: tuple[int, ...], lines: list[str]) -> str:
    """How many foreign predictions there are, and how many texts are left out."""
    left = len(lines) - len(told)
    return f"{len(told)} foreign predictions" + (f", {left} left out that predict the same token" if left else "")
