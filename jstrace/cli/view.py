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

from jstrace.cli import options as opt
from jstrace.cli.checks import (
    check_against,
    check_installed,
    check_of_model,
    check_pair,
    check_score_replace,
    check_suffix,
)
from jstrace.cli.texts import one_text, reference_texts
from jstrace.errors import InputError
from jstrace.files import check_writable

if TYPE_CHECKING:
    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Trace
    from jstrace.show.page import Page

_WHAT_HELP = (
    "A text, an .npz file of jstrace trace --save, or, with --input, the folder of a jstrace run --save-strata."
)
_INPUT_HELP = "The index of the input, where a run is viewed."
_CONDITION_HELP = (
    "A condition of the viewed run such as l1/all, or a kind of traces such as l1. Give two to see those of two kinds"
    " beside each other. The default is the run's first."
)
_VIEWED_HELP = f"{opt.MODEL_HELP} The default is smollm2. A run needs it only for the texts of tokens that it lacks."
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
    scores: list[Any]
    order: str
    sizes: tuple[float, ...]
    replace: str
    score_replace: str | None
    reference: list[str] | None
    counterfactual: Any = None
    metric: Any = None

    def traced(self, model: Model, text: Any, score: Any, **options: Any) -> Trace:
        """The trace of one score."""
        import jstrace
        from jstrace.method.conditions import REPLACEMENTS
        from jstrace.method.naming import takes_passes

        passes, paired = takes_passes(score), self.counterfactual is not None
        options = {"sizes": self.sizes, "order": self.order, "metric": self.metric, **options}
        options |= {"score_replace": self.score_replace} if passes else {}
        options |= {"counterfactual": self.counterfactual} if paired else {"replace": self.replace}
        carried = {options.get("replace"), options.get("score_replace")}
        options |= {"reference": self.reference} if carried & {*REPLACEMENTS[1:]} else {}
        return jstrace.trace(model, text, score=score, **options)


def view_command(
    what: Annotated[str, typer.Argument(help=_WHAT_HELP)],
    literal: opt.LiteralOption = False,
    out: Annotated[Path, opt.printed(metavar="FILE", help="The .html file to write.")] = Path("trace.html"),
    model: Annotated[str | None, opt.of_model(metavar="MODEL", help=_VIEWED_HELP)] = None,
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    score: opt.ScoreOption = "l1",
    against: Annotated[str | None, opt.ranked(metavar="l1|rounds|learned|...", help=_AGAINST_HELP)] = None,
    order: opt.OrderOption = opt.Order.BEST_FIRST,
    sizes: opt.SizesOption = None,
    replace: opt.ReplaceOption = opt.Replace.ZERO,
    counterfactual: opt.Counterfactual = None,
    answer: opt.Answer = None,
    instead_of: opt.InsteadOf = None,
    score_replace: opt.ScoreReplace = None,
    reference: opt.ReferenceOption = None,
    index: Annotated[int | None, opt.asked("--input", min=0, metavar="N", help=_INPUT_HELP)] = None,
    condition: Annotated[list[str] | None, opt.asked(metavar="NAME", help=_CONDITION_HELP)] = None,
    show: Annotated[bool, opt.printed("--open", help="Open the page in the browser.")] = False,
) -> None:
    """See how a prediction comes back: the graph at every size, what is predicted there, and the curves.

    The page is one file that needs no server and no network.
    """
    check_suffix(out, ".html", ".htm")
    check_writable(out)
    usual = {"--score": "l1", "--order": opt.Order.BEST_FIRST, "--replace": opt.Replace.ZERO}
    given: dict[str, Any] = {"--score": score, "--order": order, "--sizes": sizes}
    given |= {"--replace": replace, "--score-replace": score_replace, "--against": against, "--reference": reference}
    given |= {"--counterfactual": counterfactual, "--answer": answer, "--instead-of": instead_of}
    asked = {name: value != usual.get(name) for name, value in given.items()}
    loaded = functools.partial(
        opt.load, model or "smollm2", dtype.value, revision, weights=weights, ignore_fields=ignore_field
    )
    page: Page
    of_file = what.endswith(".npz") and not literal
    # A folder is meant, rather than a text that happens to be the name of one, where it holds a run.
    is_run = os.path.isfile(os.path.join(what, "manifest.json")) or (index is not None and os.path.isdir(what))
    if is_run and not literal:
        if index is None:
            raise InputError(f"{what} is the folder of a run: give --input N for one of its inputs")
        if others := [name for name, is_asked in asked.items() if is_asked]:
            settled = "the run has settled that; --condition chooses among what it computed"
            raise InputError(f"{', '.join(others)}: {settled}")
        if model is None:
            check_of_model(revision, ignore_field, dtype, weights)
        page = _of_run(what, index, condition or [], None if model is None else loaded)
    elif index is not None or condition:
        raise InputError(f"{what!r:.80} is no folder of a run, which --input and --condition are for")
    else:
        if of_file:
            _check_of_trace(what, asked, against)
        else:
            one_text(what, literal=literal)
            check_against(score, against)
        check_pair(counterfactual, replace, pre_softmax=False, of_file=False)
        metric, scores = opt.metric_of(answer, instead_of), [opt.score_of(name) for name in (score, against) if name]
        check_score_replace(score_replace, scores)
        texts, shares = reference_texts(reference), opt.sizes_of(sizes)
        how = _Asked(scores, order.value, shares, replace.value, score_replace, texts, counterfactual, metric)
        page = _of_text(what, how, loaded, of_file=of_file)
    page.save(out)
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
    if show:
        webbrowser.open(out.resolve().as_uri())


def _check_of_trace(file: str, asked: dict[str, bool], against: str | None) -> None:
    """Refuse what the trace in a file has settled; an order is of the trace beside it."""
    if asked["--score"]:
        raise InputError(f"--score: the trace in {file} is made; --against has another score beside it")
    settled = ["--replace", "--score-replace", "--counterfactual", "--answer", "--instead-of", "--sizes"]
    settled += [] if against else ["--order"]
    if given := next((name for name in settled if asked[name]), None):
        raise InputError(f"{given}: the trace in {file} is made")


def _of_run(folder: str, index: int, conditions: list[str], loaded: Callable[[], Model] | None) -> Page:
    """The page of an input whose strata a run kept; the model, where one is named, has the texts of tokens."""
    check_installed()
    from jstrace.reports import view_input
    from jstrace.runs.manifest import read_manifest

    if loaded is None:
        return view_input(folder, index, conditions)
    model, told = loaded(), read_manifest(Path(folder))
    if told["config"]["model"] != model.fingerprint():  # whose tokens may have other texts
        raise InputError(f"{folder}: this is no run of that --model, but of {told['model']['name'] or 'another'}")
    return view_input(folder, index, conditions, word=None if model.tokenizer is None else model.tokenizer.token)


def _of_text(what: str, asked: _Asked, loaded: Callable[[], Model], *, of_file: bool) -> Page:
    """The page of a text, or of the trace in a file, which settles what is beside it, too."""
    import jstrace

    saved = jstrace.Trace.load(what) if of_file else None
    if saved is not None:
        scored = saved.score_replace or saved.replace
        asked = dataclasses.replace(
            asked, replace=saved.replace, counterfactual=saved.counterfactual, metric=saved.metric,
            score_replace=None if saved.counterfactual is not None and scored == saved.replace else scored,
        )  # fmt: skip
        if saved.replace not in CARRIED:
            raise InputError(f"{what}: its edges carry {saved.replace!r:.60} of your own; use jstrace.view in Python")
        if len(asked.scores) > 1 and asked.score_replace not in (None, *CARRIED):
            raise InputError(f"{what}: it was scored under {asked.score_replace!r:.60} of your own, which is not here")
    model = loaded()
    several = opt.several_tokens(model, getattr(asked.metric, "answer", None) if saved is None else None, None)
    if several is not None:
        raise InputError(f"--answer {several!r} is several tokens, and the page is of one: give it to jstrace trace")
    from jstrace.pipeline.progress import bar

    with bar("tracing and evaluating"):
        if saved is None:
            return _page(model, [asked.traced(model, what, kind) for kind in asked.scores], asked)
        about: dict[str, Any] = {"sizes": saved.sizes, "seed": saved.seed}
        others = [asked.traced(model, saved.tokens, kind, **about) for kind in asked.scores[1:]]
        return _page(model, [saved, *others], asked)


def _page(model: Model, traces: list[Trace], asked: _Asked) -> Page:
    import jstrace
    from jstrace.cli.computing import two_smallest

    sides: list[dict[str, Evaluation]] = [{} for _ in traces]
    for name, options in curves(traces[0].replace).items():
        for own, item in zip(sides, jstrace.evaluate(model, traces, reference=asked.reference, **options), strict=True):
            own[name] = item
    firsts = zip(traces, (next(iter(own.values())) for own in sides), strict=True)
    smallest = [two_smallest(model, trace, first, asked.reference) for trace, first in firsts]
    pair, effects = traces[0], None
    if pair.counterfactual is not None:  # what each head and MLP does to what is asked
        about: dict[str, Any] = {"counterfactual": pair.counterfactual, "metric": pair.metric}
        effects = jstrace.effects(model, pair.tokens, by="node", **about)
    return jstrace.view(traces, sides, model=model, smallest=smallest, effects=effects)
