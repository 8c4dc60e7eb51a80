"""What the commands share: names of choices, the model to load, and hosts that work together."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.errors import InputError, checked_revision

if TYPE_CHECKING:
    from jstrace.models import Model


class Ablate(StrEnum):
    """Which edges masks act on."""

    ALL = "all"
    RESIDUAL_MLP = "residual+mlp"


class Score(StrEnum):
    """Edge scores."""

    L1 = "l1"
    L2 = "l2"
    IFR = "ifr"
    COSINE = "cosine"
    RANDOM = "random"
    RANDOM_NODES = "random-nodes"
    GRADIENT = "gradient"
    INTEGRATED = "integrated"
    L1_GRADIENT = "l1*gradient"
    RELP = "relp"
    L1_RELP = "l1*relp"
    ROUNDS = "rounds"
    LEARNED = "learned"
    FITTED = "fitted"


SCORE_CHOICES = ", ".join(Score)
SCORE_HELP = f"The score that ranks edges: {SCORE_CHOICES}, or the file of a scorer (jstrace train-scorer)."


def score_of(text: str) -> Any:
    """An edge score by its name, or the scorer in a file.

    Raises:
      InputError: neither.
    """
    if text.endswith(".safetensors"):
        from jstrace.method.scores.learned import Scorer

        return Scorer.load(text)
    if text not in list(Score):
        raise InputError(f"score {text!r}: expected one of {SCORE_CHOICES}, or a .safetensors file of a scorer")
    return text


class Replace(StrEnum):
    """What ablated edges carry."""

    ZERO = "zero"
    MEAN = "mean"
    RESAMPLE = "resample"


class Order(StrEnum):
    """How scores become traces."""

    BEST_FIRST = "best-first"
    SCORE = "score"


class Kind(StrEnum):
    """Edges that are listed."""

    ALL = "all"
    ATTENTION = "attention"
    RESIDUAL = "residual"
    MLP = "mlp"


AT_HELP = "A size of the trace, a share of all edges (0.01, 1%, 1 or full for all), or its index, from 2 on (16)."


def at_size(text: str) -> dict[str, Any]:
    """Which of its traces is meant, as ``Trace.mask`` takes it.

    A number up to 1 is a size, a share of all edges, however it is written (0.01, 1e-2, 1%); 1 is the full graph. A
    whole number above 1 can be no share: it is an index.

    Raises:
      InputError: neither.
    """
    if text == "full":
        return {"size": 1.0}
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        return {"k": int(text)} if text.isdecimal() and number > 1 else {"size": number}
    except ValueError as error:
        raise InputError(f"{text!r}: expected a size of the trace (0.01, 1%, 1), its index (16), or full") from error


class Dtype(StrEnum):
    """Of weights and residual stream."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


MODEL_HELP = (
    "smollm2 (fetched once), a Hugging Face folder or hub id, a folder that jstrace convert wrote, a .gguf file, or"
    " random: before one of these, or before a model of the paper, for random weights."
)


Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.", callback=checked_revision)]
IgnoreField = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A field of config.json, unknown to jstrace, that changes nothing; repeatable."),
]
Distributed = Annotated[
    bool, typer.Option("--distributed", help="Work with other hosts that run the same command; the first prints.")
]
MeshText = Annotated[
    str | None, typer.Option(metavar="data=N,model=M", help="Divide inputs over N and weights over M devices.")
]


def check_reference(given: bool, score: Any, replace: Replace, score_replace: Replace | None) -> None:
    """Refuse reference texts that neither a score from gradients nor its evaluation is made of.

    Raises:
      InputError: with the option that is missing.
    """
    from jstrace.method.conditions import takes_passes

    if given and takes_passes(score) and {replace, score_replace or replace} == {Replace.ZERO}:
        raise InputError("--reference has texts for --replace mean or resample; ablated edges carry zero here")


def check_replaceable(pre_softmax: bool, replace: Replace) -> None:
    """Refuse edges that are gone before the softmax and carry something.

    Raises:
      InputError: with the option that helps.
    """
    if pre_softmax and replace != Replace.ZERO:
        raise InputError(f"--pre-softmax leaves nothing to replace by {replace.value}: give --replace zero")


REPEATS_HELP = "Again N times with weights that differ by rounding (1e-6), at least 2: how far TV moves with it."
REPLACE_HELP = "What ablated edges carry, in the evaluation and while the score is made."
SCORE_REPLACE_HELP = "What they carry while a score from gradients is made, where that is to differ from --replace."

Counterfactual = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="A prompt of as many tokens: ablated edges carry its states (--score rounds)."),
]
Answer = Annotated[str | None, typer.Option(metavar="WORDS", help="Measure the log-probability of this answer, too.")]
InsteadOf = Annotated[
    str | None, typer.Option(metavar="WORD", help="With --answer: measure how far it is ahead of this token.")
]


def metric_of(answer: str | None, instead_of: str | None) -> Any:
    """What is asked of predictions; None for nothing.

    Raises:
      InputError: a rival without an answer, an empty word, or the same word twice.
    """
    if "" in (answer, instead_of):
        raise InputError("--answer and --instead-of: expected words as they would follow the text, such as ' Mary'")
    if answer is None:
        if instead_of is not None:
            raise InputError("--instead-of names the rival of --answer; give that, too")
        return None
    from jstrace.method.measure.metrics import of_answer

    return of_answer(answer, instead_of)


def several_tokens(model: Any, answer: str | None, instead_of: str | None) -> str | None:
    """The answer, where it is more than one token: then the text is traced with all of it (``jstrace.trace(answer=)``).

    Raises:
      InputError: it is, and has a rival.
    """
    from jstrace.pipeline.answers import ids_of

    if answer is None or model.tokenizer is None or len(ids := ids_of(model, answer)) == 1:
        return None
    if instead_of is not None:
        raise InputError(f"--instead-of compares single tokens, and --answer {answer!r} is {len(ids)}")
    return answer


def check_pair(counterfactual: str | None, replace: Replace, *, pre_softmax: bool, of_file: bool) -> None:
    """Refuse a counterfactual prompt beside what it takes the place of.

    Raises:
      InputError: with the option that does not go with it.
    """
    if counterfactual is None:
        return
    if replace != Replace.ZERO:
        raise InputError("--counterfactual says what ablated edges carry, and so does --replace: give one of the two")
    if pre_softmax or of_file:
        raise InputError(f"--counterfactual does not go with {'--pre-softmax' if pre_softmax else '--file'}")


ReplaceOption = Annotated[Replace, typer.Option(help=REPLACE_HELP)]
ScoreReplace = Annotated[Replace | None, typer.Option(help=SCORE_REPLACE_HELP)]

REFERENCE_HELP = (
    "A file of texts, a line each, that means and resampled states are made of; by default a few hundred sentences that"
    " come with jstrace."
)


def load(
    source: str,
    dtype: str,
    revision: str | None,
    mesh: str | None = None,
    *,
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
            source,
            dtype=dtype,
            mesh=None if mesh is None else parse_mesh(mesh),
            revision=revision,
            say=lambda message: console.print(message, markup=False),
            ignore_fields=ignore_fields or (),
        )


def check_installed() -> None:
    """Name the extra where its packages are missing."""
    import importlib.util

    missing = [
        name
        for name in ("pyarrow", "scipy", "matplotlib", "filelock", "jinja2", "networkx")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        raise InputError(f"{', '.join(missing)} missing: this needs pip install 'jstrace[run]'")
