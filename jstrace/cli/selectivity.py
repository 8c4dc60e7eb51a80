"""``jstrace selectivity``: a text's own prediction against those of others, through the same score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli.options import MODEL_HELP, REFERENCE_HELP, Dtype, Order, Replace, Revision, importance_of, load
from jstrace.cli.texts import read_texts

_IMPORTANCE_HELP = "A score from gradients: fitted, rounds, learned, l1*gradient, ..., or the file of a scorer."
_OTHERS_HELP = "A file of texts, a line each, whose predictions are the foreign targets, some three of them."


def selectivity_command(
    text: Annotated[str, typer.Argument(help="The text.")],
    others: Annotated[Path, typer.Option(help=_OTHERS_HELP)],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    importance: Annotated[str, typer.Option(metavar="fitted|rounds|...", help=_IMPORTANCE_HELP)] = "fitted",
    order: Annotated[Order, typer.Option(help="How scores become traces.")] = Order.BEST_FIRST,
    replace: Annotated[Replace, typer.Option(help="What ablated edges carry.")] = Replace.MEAN,
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
    score = importance_of(importance)
    loaded = load(model, dtype.value, revision)
    from rich.console import Console

    import jstrace

    console = Console(stderr=True)
    with console.status("scoring") as status:
        found = jstrace.selectivity(
            loaded, own.text, lines, importance=score, order=order.value, replace=replace.value, reference=texts,
            seed=seed, progress=lambda done, total: status.update(f"scoring: {done} of {total} predictions"),
        )  # fmt: skip
    if as_json:
        rows = {"own": found.own.tolist(), "foreign": found.foreign.tolist()}
        typer.echo(json.dumps({"text": own.text, "sizes": [*found.sizes, 1.0], **rows, "peak": found.peak}))
        return
    typer.echo(f"TV from what the score was told, {importance} under {replace.value}; {len(lines)} foreign predictions")
    typer.echo(f"{'size':>9} {'own':>7} {'foreign':>8} {'selectivity':>12}")
    for size, *row in zip(found.sizes, found.own, found.foreign.mean(axis=0), found.selectivity, strict=False):
        typer.echo(f"{size:>9g} {row[0]:>7.3f} {row[1]:>8.3f} {row[2]:>12.3f}")
    typer.echo(f"most selective at {found.peak:g} of all edges")
