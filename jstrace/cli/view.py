"""``jstrace view``: a trace as one page to look at."""

from __future__ import annotations

import dataclasses
import functools
import os
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.cli.options import (
    MODEL_HELP,
    REFERENCE_HELP,
    SCORE_HELP,
    Answer,
    Counterfactual,
    Dtype,
    IgnoreField,
    InsteadOf,
    Order,
    Replace,
    ReplaceOption,
    Revision,
    ScoreReplace,
    WeightsOption,
    check_installed,
    check_pair,
    load,
    metric_of,
    score_of,
    several_tokens,
)
from jstrace.cli.texts import read_texts

if TYPE_CHECKING:
    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Trace
    from jstrace.pipeline.effects import Effects
    from jstrace.show.page import Page

_WHAT_HELP = "A text, an .npz file of jstrace trace --save, or the folder of a jstrace run --save-strata, with --input."
_INPUT_HELP = "Of a run: the index of the input."
_CONDITION_HELP = (
    "Of a run: a condition such as l1/all, or a kind of traces such as l1; several times, those of two kinds beside"
    " each other. By default the run's first."
)
_VIEWED_MODEL_HELP = f"{MODEL_HELP} By default smollm2; of a run only for texts of tokens that the run does not have."
_AGAINST_HELP = "A second score, whose trace stands beside the first."
CARRIED = {
    "zero": "zeros",
    "mean": "means",
    "resample": "states of other texts",
    "counterfactual": "the counterfactual's states",
}
"""What ablated edges carry, by what the page calls it."""


def curves(replace: str) -> dict[str, dict[str, Any]]:
    """What is evaluated of a trace, by what the page calls it: what its edges carry first, then zeros and means.

    Zeros say little of a pair, whose trace keeps what differs between two prompts.
    """
    name = CARRIED[replace]
    first: dict[str, dict[str, Any]] = {name: {}, f"{name}, attention intact": {"ablate": "residual+mlp"}}
    others = ("mean",) if replace == "counterfactual" else ("zero", "mean")
    return first | {CARRIED[other]: {"replace": other} for other in others if other != replace}


@dataclasses.dataclass(frozen=True)
class _Asked:
    """How a text is traced."""

    scores: list[Any]
    order: str
    replace: str
    score_replace: str | None
    reference: list[str] | None
    counterfactual: Any = None
    metric: Any = None

    def traced(self, model: Model, text: Any, score: Any, **options: Any) -> Trace:
        """The trace of one score."""
        import jstrace
        from jstrace.method.conditions import takes_passes

        options |= {"score_replace": self.score_replace} if takes_passes(score) else {}
        options |= {"order": self.order, "reference": self.reference, "metric": self.metric}
        paired = self.counterfactual is not None
        options |= {"counterfactual": self.counterfactual} if paired else {"replace": self.replace}
        return jstrace.trace(model, text, score=score, **options)


def view_command(
    what: Annotated[str, typer.Argument(help=_WHAT_HELP)],
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path("trace.html"),
    model: Annotated[str | None, typer.Option(help=_VIEWED_MODEL_HELP)] = None,
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    weights: WeightsOption = None,
    score: Annotated[str, typer.Option(metavar="l1|rounds|learned|...", help=SCORE_HELP)] = "l1",
    against: Annotated[str | None, typer.Option(metavar="l1|rounds|learned|...", help=_AGAINST_HELP)] = None,
    order: Annotated[Order, typer.Option(help="How scores become traces.")] = Order.BEST_FIRST,
    replace: ReplaceOption = Replace.ZERO,
    counterfactual: Counterfactual = None,
    answer: Answer = None,
    instead_of: InsteadOf = None,
    score_replace: ScoreReplace = None,
    reference: Annotated[Path | None, typer.Option(help=REFERENCE_HELP)] = None,
    index: Annotated[int | None, typer.Option("--input", min=0, help=_INPUT_HELP)] = None,
    condition: Annotated[list[str] | None, typer.Option(help=_CONDITION_HELP)] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """See how a prediction comes back: the graph at every size, what is predicted there, and the curves.

    The page is one file that needs no server and no network.
    """
    from jstrace.errors import InputError
    from jstrace.files import check_writable

    if out.suffix not in (".html", ".htm"):
        raise InputError(f"{out}: expected a file that ends in .html")
    check_writable(out)
    asked = {"--score": score != "l1", "--order": order != Order.BEST_FIRST}
    asked |= {"--replace": replace != Replace.ZERO, "--score-replace": score_replace is not None}
    asked |= {"--against": against is not None, "--reference": reference is not None}
    asked |= {"--counterfactual": counterfactual is not None, "--answer": answer is not None}
    asked |= {"--instead-of": instead_of is not None}
    loaded = functools.partial(
        load, model or "smollm2", dtype.value, revision, weights=weights, ignore_fields=ignore_field
    )
    page: Page
    if _is_run(what, index):
        chosen = _checked_input(what, index, [name for name, given in asked.items() if given])
        page = _of_run(what, chosen, condition or [], None if model is None else loaded)
    elif index is not None or condition:
        raise InputError(f"{what!r:.80} is no folder of a run, which --input and --condition are for")
    else:
        if what.endswith(".npz"):
            _check_of_trace(what, asked, against)
        check_pair(counterfactual, replace, pre_softmax=False, of_file=False)
        metric, scores = metric_of(answer, instead_of), [score_of(name) for name in (score, against) if name]
        texts = None if reference is None else [line.text for line in read_texts(None, reference)]
        how = _Asked(scores, order.value, replace.value, score_replace, texts, counterfactual, metric)
        page = _of_text(what, how, loaded)
    page.save(out)
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
    if show:
        webbrowser.open(out.resolve().as_uri())


def _is_run(what: str, index: int | None) -> bool:
    """Whether a folder is meant, rather than a text that happens to be the name of one."""
    return os.path.isfile(os.path.join(what, "manifest.json")) or (index is not None and os.path.isdir(what))


def _checked_input(folder: str, index: int | None, others: list[str]) -> int:
    """The index, unless it is missing or something is asked that a run has settled."""
    from jstrace.errors import InputError

    if index is None:
        raise InputError(f"{folder} is the folder of a run: give --input N for one of its inputs")
    if others:
        raise InputError(f"{', '.join(others)}: the run has settled that; --condition chooses among what it computed")
    return index


def _check_of_trace(file: str, asked: dict[str, bool], against: str | None) -> None:
    """Refuse what the trace in a file has settled; an order is of the trace beside it."""
    from jstrace.errors import InputError

    if asked["--score"]:
        raise InputError(f"--score: the trace in {file} is made; --against has another score beside it")
    settled = ["--replace", "--score-replace", "--counterfactual", "--answer", "--instead-of"]
    settled += [] if against else ["--order"]
    given = next((name for name in settled if asked[name]), None)
    if given is not None:
        raise InputError(f"{given}: the trace in {file} is made")


def _of_run(folder: str, index: int, conditions: list[str], loaded: Callable[[], Model] | None) -> Page:
    """The page of an input whose strata a run kept; the model, where one is named, has the texts of tokens."""
    check_installed()
    from jstrace.reports import view_input

    if loaded is None:
        return view_input(folder, index, conditions)
    model = loaded()
    _check_made_by(folder, model)
    return view_input(folder, index, conditions, word=None if model.tokenizer is None else model.tokenizer.token)


def _check_made_by(folder: str, model: Model) -> None:
    """Refuse another model than the run's, whose tokens may have other texts."""
    from jstrace.errors import InputError
    from jstrace.runs.manifest import read_manifest

    told = read_manifest(Path(folder))
    if told["config"]["model"] != model.fingerprint():
        raise InputError(f"{folder}: this is no run of that --model, but of {told['model']['name'] or 'another'}")


def _of_text(what: str, asked: _Asked, loaded: Callable[[], Model]) -> Page:
    """The page of a text, or of the trace in a file, which settles what is beside it, too."""
    from jstrace.errors import InputError

    saved = _saved(what)
    if saved is None:
        (line,) = read_texts(what, None)
        what = line.text
    else:
        asked = _settled(asked, saved)
        if saved.replace not in CARRIED:
            raise InputError(f"{what}: its edges carry {saved.replace!r:.60} of your own; use jstrace.view in Python")
        if len(asked.scores) > 1 and asked.score_replace not in (None, *CARRIED):
            raise InputError(f"{what}: it was scored under {asked.score_replace!r:.60} of your own, which is not here")
    model = loaded()
    several = several_tokens(model, getattr(asked.metric, "answer", None) if saved is None else None, None)
    if several is not None:
        raise InputError(f"--answer {several!r} is several tokens, and the page is of one: give it to jstrace trace")
    return _page(model, _traces(model, what, asked, saved), asked)


def _settled(asked: _Asked, saved: Trace) -> _Asked:
    """What a trace in a file settles of the one beside it."""
    scored = saved.score_replace or saved.replace
    return dataclasses.replace(
        asked,
        replace=saved.replace,
        score_replace=None if saved.counterfactual is not None and scored == saved.replace else scored,
        counterfactual=saved.counterfactual,
        metric=saved.metric,
    )


def _saved(what: str) -> Trace | None:
    """The trace in a file."""
    if not what.endswith(".npz"):
        return None
    import jstrace

    return jstrace.Trace.load(what)


def _traces(model: Model, text: str, asked: _Asked, saved: Trace | None) -> list[Trace]:
    if saved is None:
        return [asked.traced(model, text, one) for one in asked.scores]
    others = (asked.traced(model, saved.tokens, one, sizes=saved.sizes, seed=saved.seed) for one in asked.scores[1:])
    return [saved, *others]


def _page(model: Model, traces: list[Trace], asked: _Asked) -> Page:
    import jstrace
    from jstrace.cli.computing import two_smallest

    found: list[dict[str, Evaluation]] = [{} for _ in traces]
    for name, options in curves(traces[0].replace).items():
        for own, one in zip(found, jstrace.evaluate(model, traces, reference=asked.reference, **options), strict=True):
            own[name] = one
    firsts = zip(traces, (next(iter(own.values())) for own in found), strict=True)
    smallest = [two_smallest(model, trace, first, asked.reference) for trace, first in firsts]
    return jstrace.view(traces, found, model=model, smallest=smallest, effects=_effects(model, traces[0]))


def _effects(model: Model, trace: Trace) -> Effects | None:
    """What each head and MLP does to what is asked of a pair."""
    if trace.counterfactual is None:
        return None
    import jstrace

    about: dict[str, Any] = {"counterfactual": trace.counterfactual, "metric": trace.metric}
    return jstrace.effects(model, trace.tokens, by="node", **about)
