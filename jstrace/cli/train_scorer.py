"""``jstrace train-scorer``: a learned edge score of a model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli.options import MODEL_HELP, Dtype, IgnoreField, Revision, WeightsOption, check_installed, load

if TYPE_CHECKING:
    from jstrace.pipeline.features import FitProgress

_DATA_HELP = "Texts of the kind that will be traced: wikitext-2, or a .tsv, .jsonl, .parquet or .txt file, as for runs."
_FEATURES_HELP = (
    "What it reads of an edge: activations (one forward pass), gradient (also one gradient) or rounds (also what rounds"
    " of gradients find)."
)
_REFERENCE_HELP = (
    "A file of texts, read as --data is, that means are made of; by default sentences that come with jstrace."
)
_REPLACE_HELP = "What ablated edges carry while it is fitted, drawn anew each time: zero, mean, resample; with commas."


class Features(StrEnum):
    """What a scorer reads of an edge."""

    ACTIVATIONS = "activations"
    GRADIENT = "gradient"
    ROUNDS = "rounds"


def train_scorer_command(
    data: Annotated[str, typer.Option(help=_DATA_HELP)],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    weights: WeightsOption = None,
    limit: Annotated[int, typer.Option(min=4, help="Texts, at most: the first of them.")] = 32,
    features: Annotated[Features, typer.Option(help=_FEATURES_HELP)] = Features.ROUNDS,
    replace: Annotated[str, typer.Option(metavar="zero,mean,resample", help=_REPLACE_HELP)] = "mean,resample",
    reference: Annotated[Path | None, typer.Option(help=_REFERENCE_HELP)] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of Adam; each takes two texts.")] = 240,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all draws.")] = 0,
    name: Annotated[str | None, typer.Option(help="What tables call it; by default the file's name.")] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="One number for all layers and heads, so that it serves any model.")
    ] = False,
) -> None:
    """Learn from texts which edges a prediction needs: an edge score for trace and run --score FILE."""
    check_installed()
    import jstrace
    from jstrace.errors import InputError
    from jstrace.files import check_writable
    from jstrace.pipeline.fitting import check_name
    from jstrace.runs import read_data

    if out.suffix != ".safetensors":
        raise InputError(f"{out}: expected a file that ends in .safetensors")
    called = out.stem if name is None else name
    try:
        check_name(called)
    except InputError as error:
        raise InputError(f"{error}; give another --name") from error
    check_writable(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of next words, which are not needed here
        texts = [row.text for row in read_data(data).rows[:limit]]
        others = None if reference is None else [row.text for row in read_data(str(reference)).rows]
    names = tuple(name.strip() for name in replace.split(",") if name.strip())
    loaded = load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
    with _shown() as progress:
        scorer = jstrace.train_scorer(
            loaded, texts, features=features.value, replace=names, reference=others, steps=steps, seed=seed,
            shared=shared, name=called, progress=progress,
        )  # fmt: skip
    scorer.save(out)
    typer.echo(f"{out}: {scorer.coefficients.count:,} numbers from {len(texts)} texts in {steps} steps")


@contextlib.contextmanager
def _shown() -> Iterator[FitProgress]:
    """A bar on standard error for the texts' features, and one for the steps, with the last loss."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        texts, steps = (bar.add_task(name, total=None) for name in ("features of the texts", "fitting"))

        def progress(done: int, total: int, loss: float | None) -> None:
            if loss is None:
                bar.update(texts, completed=done, total=total)
            else:
                bar.update(steps, completed=done, total=total, description=f"fitting, KL {loss:.3f} nats")

        yield progress
