"""``jstrace train-scorer``: a learned edge score of a model."""

from __future__ import annotations

import functools
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jstrace.cli import options as opt
from jstrace.cli.checks import check_installed, check_suffix
from jstrace.errors import InputError
from jstrace.files import check_writable

_DATA_HELP = (
    "Texts of the kind that you will trace: wikitext-2, or a .tsv, .jsonl, .parquet or .txt file, as for jstrace run."
)
_OUT_HELP = "The .safetensors file to write. Give it to jstrace trace --score."
_LIMIT_HELP = "Fit to the first N texts, at least 4."
_NAME_HELP = "What tables call the score. By default it is the file's name."
_FEATURES_HELP = (
    "What the score reads of an edge: activations (one forward pass), gradient (one gradient, too) or rounds (what"
    " rounds of gradients find, too)."
)
_REPLACE_HELP = (
    "What ablated edges carry during the fit: zero, mean or resample. Of several, separated by commas, one is drawn for"
    " each text of a step."
)
_REFERENCE_HELP = (
    "A file of texts for means, in the formats of --data. By default they are made of sentences that come with jstrace."
)
_STEPS_HELP = "Take N steps of Adam, with two texts each."
_SEED_HELP = "The random seed of the texts and the replacements that steps draw."
_SHARED_HELP = "Fit one number for all layers and heads, so that the score serves any model."
_data, _fit = (functools.partial(typer.Option, rich_help_panel=each) for each in ("Data and result", "The fit"))
Features = StrEnum("Features", "ACTIVATIONS GRADIENT ROUNDS")
"""What a scorer reads of an edge."""


def train_scorer_command(
    data: Annotated[str, _data(metavar="DATA", help=_DATA_HELP)],
    out: Annotated[Path, _data(metavar="FILE", help=_OUT_HELP)],
    model: opt.ModelOption = "smollm2",
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    limit: Annotated[int, _data(min=4, metavar="N", help=_LIMIT_HELP)] = 32,
    name: Annotated[str | None, _data(metavar="NAME", help=_NAME_HELP)] = None,
    features: Annotated[Features, _fit(help=_FEATURES_HELP)] = Features.ROUNDS,
    replace: Annotated[str, _fit(metavar="zero,mean,resample", help=_REPLACE_HELP)] = "mean,resample",
    reference: Annotated[Path | None, _fit(metavar="FILE", help=_REFERENCE_HELP)] = None,
    steps: Annotated[int, _fit(min=1, metavar="N", help=_STEPS_HELP)] = 240,
    seed: Annotated[int, _fit(help=_SEED_HELP, **opt.SEED_RANGE)] = 0,
    shared: Annotated[bool, _fit("--shared", help=_SHARED_HELP)] = False,
) -> None:
    """Learn from texts which edges a prediction needs: an edge score for trace and run --score FILE."""
    check_installed()
    from jstrace.method.conditions import checked_seed

    check_suffix(out, ".safetensors")
    checked_seed(seed)
    called = out.stem if name is None else name
    names = _checked(called, replace, reference)
    check_writable(out)
    texts = _texts(data)[:limit]
    others = None if reference is None else _texts(str(reference))
    loaded = opt.load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
    import jstrace
    from jstrace.pipeline.progress import fit_reported

    with fit_reported(True) as report:
        scorer = jstrace.train_scorer(
            loaded, texts, features=features.value, replace=names, reference=others, steps=steps, seed=seed,
            shared=shared, name=called, progress=report,
        )  # fmt: skip
    scorer.save(out)
    typer.echo(f"{out}: {scorer.coefficients.count:,} numbers from {len(texts)} texts in {steps} steps")


def _checked(called: str, replace: str, reference: Path | None) -> tuple[str, ...]:
    """What ablated edges carry, where that, the score's name and the reference make sense."""
    from jstrace.pipeline.fitting import check_name, checked_names

    try:
        check_name(called)
    except InputError as error:
        raise InputError(f"{error}; give another --name") from error
    names = checked_names(tuple(name.strip() for name in replace.split(",") if name.strip()))
    if reference is not None and names == ("zero",):
        raise InputError("--reference has texts for means; give --replace mean or resample, too, or leave it out")
    return names


def _texts(data: str) -> list[str]:
    from jstrace.runs import read_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of next words, which are not needed here
        return [row.text for row in read_data(data).rows]
