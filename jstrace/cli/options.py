"""What the commands share: options with their choices and help, and the model to load."""

from __future__ import annotations

import functools
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.errors import InputError, checked_revision, did_you_mean

if TYPE_CHECKING:
    from jstrace.models import Model

MODEL, ASKED, RANKED, PRINTED = "The model", "What is asked", "Ablation and score", "What is printed and written"
"""Groups of options in help."""
of_model, asked, ranked, printed = (
    functools.partial(typer.Option, rich_help_panel=panel) for panel in (MODEL, ASKED, RANKED, PRINTED)
)
"""``typer.Option`` of each group."""

Ablate = StrEnum("Ablate", {"ALL": "all", "RESIDUAL_MLP": "residual+mlp"})
"""Which edges masks act on."""
Score = StrEnum("Score", {
    "L1": "l1", "L2": "l2", "IFR": "ifr", "COSINE": "cosine", "RANDOM": "random", "RANDOM_NODES": "random-nodes",
    "GRADIENT": "gradient", "INTEGRATED": "integrated", "L1_GRADIENT": "l1*gradient", "RELP": "relp",
    "L1_RELP": "l1*relp", "ROUNDS": "rounds", "STEADY_ROUNDS": "steady-rounds", "LEARNED": "learned",
    "FITTED": "fitted",
})  # fmt: skip
"""Edge scores."""
Replace = StrEnum("Replace", "ZERO MEAN RESAMPLE")
"""What ablated edges carry."""
Order = StrEnum("Order", {"BEST_FIRST": "best-first", "SCORE": "score"})
"""How scores become traces."""
Kind = StrEnum("Kind", "ALL ATTENTION RESIDUAL MLP")
"""Edges that are listed."""
Dtype = StrEnum("Dtype", "FLOAT32 BFLOAT16 FLOAT16")
"""Of weights and residual stream."""
Weights = StrEnum("Weights", "INT8 INT4 STORED STREAMED")
"""How matrices are stored, where that is not in the dtype."""

SCORE_CHOICES = ", ".join(Score)
SCORE_HELP = f"The score that ranks edges: {SCORE_CHOICES}, or a file that jstrace train-scorer wrote."


def score_of(text: str) -> Any:
    """An edge score by its name, or the scorer in a file."""
    if text.endswith(".safetensors"):
        from jstrace.method.scores.learned import Scorer

        return Scorer.load(text)
    if text not in list(Score):
        near = did_you_mean(text, Score)
        raise InputError(f"score {text!r}: expected one of {SCORE_CHOICES}, or a .safetensors file of a scorer{near}")
    return text


AT_HELP = "Give a size of the trace: a share of all edges (0.01, 1%, 1 or full for all), or its index from 2 on (16)."


def at_size(text: str) -> dict[str, Any]:
    """Which of its traces is meant, as ``Trace.mask`` takes it.

    A number up to 1 is a size, a share of all edges, however it is written (0.01, 1e-2, 1%); 1 is the full graph. A
    whole number above 1 can be no share: it is an index.
    """
    if text == "full":
        return {"size": 1.0}
    try:
        number = _share(text)
        return {"k": int(text)} if text.isdecimal() and number > 1 else {"size": number}
    except ValueError as error:
        raise InputError(f"{text!r}: expected a size of the trace (0.01, 1%, 1), its index (16), or full") from error


def _share(text: str) -> float:
    """A share as it is written: 0.7% is 0.007, though 0.7 / 100 is less, and so may be its number of edges."""
    return round(float(text[:-1]) / 100, 15) if text.endswith("%") else float(text)


def sizes_of(text: str | None) -> tuple[float, ...]:
    """The sizes of traces, shares of all edges with commas between them (0.01,0.1 or 1%,10%); the 26 where none is."""
    from jstrace.method.graph.sizes import SIZES, checked_sizes

    if text is None:
        return SIZES
    words = [word.strip() for word in text.split(",")]
    try:
        shares = list(map(_share, words))
    except ValueError as error:
        raise InputError(f"--sizes {text!r:.60}: expected shares of all edges, such as 0.01,0.1 or 1%,10%") from error
    try:
        return checked_sizes(shares)
    except InputError as error:
        raise InputError(f"--sizes {text!r:.60}: {error}") from error


MODEL_HELP = (
    "smollm2 (fetched once), a Hugging Face id or folder, a folder that jstrace convert wrote, or a .gguf file. With"
    " random: before it, the weights are random."
)


Revision = Annotated[
    str | None, of_model(metavar="NAME", help="The branch, tag or commit of a hub id.", callback=checked_revision)
]
IgnoreField = Annotated[
    list[str] | None,
    of_model(metavar="NAME", help="Ignore this field of config.json, because you know that it changes nothing."),
]
Distributed = Annotated[
    bool, of_model("--distributed", help="Work together with other hosts that run the same command.")
]
MeshText = Annotated[
    str | None, of_model(metavar="data=N,model=M", help="Divide inputs over N devices and weights over M.")
]
DtypeOption = Annotated[Dtype, of_model(help="The precision of weights and residual stream.")]
WeightsOption = Annotated[
    Weights | None,
    of_model(
        "--weights",
        help="Store weights as int8 or int4, or as the GGUF file has them, or read each layer from disk when it is"
        " computed (streamed); compute in --dtype.",
    ),
]
ModelOption = Annotated[str, of_model("--model", metavar="MODEL", help=MODEL_HELP)]


REPEATS_HELP = "Repeat N times (at least 2) with weights that differ by rounding, and show how far TV moves."
REPLACE_HELP = "What ablated edges carry, in the evaluation and while the score is made."
SCORE_REPLACE_HELP = "What ablated edges carry while a score from gradients is made, if not what --replace says."
Counterfactual = Annotated[
    str | None,
    asked(metavar="TEXT", help="Compare with this prompt of as many tokens: ablated edges carry its states."),
]
Answer = Annotated[str | None, asked(metavar="WORDS", help="Measure the log-probability of this answer, too.")]
InsteadOf = Annotated[
    str | None, asked(metavar="WORD", help="With --answer, measure how far the answer is ahead of this token.")
]


def metric_of(answer: str | None, instead_of: str | None) -> Any:
    """What is asked of predictions; None for nothing."""
    if "" in (answer, instead_of):
        raise InputError("--answer and --instead-of: expected words as they would follow the text, such as ' Mary'")
    if answer is None:
        if instead_of is not None:
            raise InputError("--instead-of names the rival of --answer; give that, too")
        return None
    from jstrace.method.measure.metrics import of_answer

    return of_answer(answer, instead_of)


def several_tokens(model: Any, answer: str | None, instead_of: str | None) -> str | None:
    """The answer, where it is more than one token, all of which the text is traced with then; no rival goes with it."""
    from jstrace.pipeline.answers import ids_of

    if answer is None or model.tokenizer is None or len(ids := ids_of(model, answer)) == 1:
        return None
    if instead_of is not None:
        raise InputError(f"--instead-of compares single tokens, and --answer {answer!r} is {len(ids)}")
    return answer


ScoreOption = Annotated[str, ranked("--score", metavar="l1|rounds|learned|...", help=SCORE_HELP)]
OrderOption = Annotated[Order, ranked(help="How scores become traces.")]
ReplaceOption = Annotated[Replace, ranked(help=REPLACE_HELP)]
ScoreReplace = Annotated[Replace | None, ranked(help=SCORE_REPLACE_HELP)]
REFERENCE_HELP = (
    "A file with a text on each line, for means and resampled states. By default they are made of sentences that come"
    " with jstrace."
)
ReferenceOption = Annotated[Path | None, ranked("--reference", metavar="FILE", help=REFERENCE_HELP)]
_SIZES_HELP = "The sizes of traces, shares of all edges. There are 26 by default."
SizesOption = Annotated[str | None, ranked("--sizes", metavar="0.01,0.1,...", help=_SIZES_HELP)]
SEED_RANGE: dict[str, Any] = {"min": 0, "metavar": "N"}
_LITERAL_HELP = "Take the argument as a text, though it looks like the name of a file."
LiteralOption = Annotated[bool, asked("--text", help=_LITERAL_HELP)]
JsonOption = Annotated[bool, printed("--json", help="Print JSON instead.")]


def load(
    source: str,
    dtype: str,
    revision: str | None,
    mesh: str | None = None,
    *,
    weights: str | None = None,
    ignore_fields: list[str] | None = None,
    quiet: bool = False,
) -> Model:
    """Load the model with a sign of life on standard error."""
    from rich.console import Console

    import jstrace
    from jstrace.loading import cache_folder
    from jstrace.scale.meshes import parse_mesh
    from jstrace.scale.programs import keep_programs

    keep_programs(cache_folder() / "programs")
    console = Console(stderr=True, quiet=quiet)
    with console.status("loading the model"):
        return jstrace.load(
            source, dtype=dtype, weights=weights, mesh=None if mesh is None else parse_mesh(mesh), revision=revision,
            say=lambda message: console.print(message, markup=False), ignore_fields=ignore_fields or (),
        )  # fmt: skip
