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

from jstrace.cli.checks import (
    check_against,
    check_installed,
    check_of_model,
    check_pair,
    check_score_replace,
    check_suffix,
)
from jstrace.cli.options import (
    ASKED,
    MODEL,
    MODEL_HELP,
    PRINTED,
    RANKED,
    Answer,
    Counterfactual,
    Dtype,
    DtypeOption,
    IgnoreField,
    InsteadOf,
    LiteralOption,
    Order,
    OrderOption,
    ReferenceOption,
    Replace,
    ReplaceOption,
    Revision,
    ScoreOption,
    ScoreReplace,
    SizesOption,
    WeightsOption,
    load,
    metric_of,
    score_of,
    several_tokens,
    sizes_of,
)
from jstrace.cli.texts import one_text, read_texts
from jstrace.errors import InputError

if TYPE_CHECKING:
    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Trace
    from jstrace.pipeline.effects import Effects
    from jstrace.show.page import Page

_WHAT_HELP = (
    "A text, an .npz file of jstrace trace --save, or, with --input, the folder of a jstrace run --save-strata."
)
_INPUT_HELP = "The index of the input, where a run is viewed."
_CONDITION_HELP = (
    "A condition of the viewed run such as l1/all, or a kind of traces such as l1. Give two to see those of two kinds"
    " beside each other. The default is the run's first."
)
_VIEWED_MODEL_HELP = f"{MODEL_HELP} The default is smollm2. A run needs it only for the texts of tokens that it lacks."
_AGAINST_HELP = "A second score, whose trace stands beside the first."
_asked, _ranked, _printed = (
    functools.partial(typer.Option, rich_help_panel=panel) for panel in (ASKED, RANKED, PRINTED)
)
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
    sizes: tuple[float, ...]
    replace: str
    score_replace: str | None
    reference: list[str] | None
    counterfactual: Any = None
    metric: Any = None

    def traced(self, model: Model, text: Any, score: Any, **options: Any) -> Trace:
        """The trace of one score."""
        import jstrace
        from jstrace.method.conditions import REPLACEMENTS, takes_passes

        passes, paired = takes_passes(score), self.counterfactual is not None
        options = {"sizes": self.sizes, "order": self.order, "metric": self.metric, **options}
        options |= {"score_replace": self.score_replace} if passes else {}
        options |= {"counterfactual": self.counterfactual} if paired else {"replace": self.replace}
        carried = {options.get("replace"), options.get("score_replace")}
        options |= {"reference": self.reference} if carried & {*REPLACEMENTS[1:]} else {}
        return jstrace.trace(model, text, score=score, **options)


def view_command(
    what: Annotated[str, typer.Argument(help=_WHAT_HELP)],
    literal: LiteralOption = False,
    out: Annotated[Path, _printed(metavar="FILE", help="The .html file to write.")] = Path("trace.html"),
    model: Annotated[str | None, typer.Option(metavar="MODEL", rich_help_panel=MODEL, help=_VIEWED_MODEL_HELP)] = None,
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    weights: WeightsOption = None,
    score: ScoreOption = "l1",
    against: Annotated[str | None, _ranked(metavar="l1|rounds|learned|...", help=_AGAINST_HELP)] = None,
    order: OrderOption = Order.BEST_FIRST,
    sizes: SizesOption = None,
    replace: ReplaceOption = Replace.ZERO,
    counterfactual: Counterfactual = None,
    answer: Answer = None,
    instead_of: InsteadOf = None,
    score_replace: ScoreReplace = None,
    reference: ReferenceOption = None,
    index: Annotated[int | None, _asked("--input", min=0, metavar="N", help=_INPUT_HELP)] = None,
    condition: Annotated[list[str] | None, _asked(metavar="NAME", help=_CONDITION_HELP)] = None,
    show: Annotated[bool, _printed("--open", help="Open the page in the browser.")] = False,
) -> None:
    """See how a prediction comes back: the graph at every size, what is predicted there, and the curves.

    The page is one file that needs no server and no network.
    """
    from jstrace.files import check_writable

    check_suffix(out, ".html", ".htm")
    check_writable(out)
    asked = {"--score": score != "l1", "--order": order != Order.BEST_FIRST, "--sizes": sizes is not None}
    asked |= {"--replace": replace != Replace.ZERO, "--score-replace": score_replace is not None}
    asked |= {"--against": against is not None, "--reference": reference is not None}
    asked |= {"--counterfactual": counterfactual is not None, "--answer": answer is not None}
    asked |= {"--instead-of": instead_of is not None}
    loaded = functools.partial(
        load, model or "smollm2", dtype.value, revision, weights=weights, ignore_fields=ignore_field
    )
    page: Page
    of_file = what.endswith(".npz") and not literal
    if not literal and _is_run(what, index):
        chosen = _checked_input(what, index, [name for name, given in asked.items() if given])
        if model is None:
            check_of_model(revision, ignore_field, dtype, weights)
        page = _of_run(what, chosen, condition or [], None if model is None else loaded)
    elif index is not None or condition:
        raise InputError(f"{what!r:.80} is no folder of a run, which --input and --condition are for")
    else:
        if of_file:
            _check_of_trace(what, asked, against)
        else:
            one_text(what, literal=literal)
            check_against(score, against)
        check_pair(counterfactual, replace, pre_softmax=False, of_file=False)
        metric, scores = metric_of(answer, instead_of), [score_of(name) for name in (score, against) if name]
        check_score_replace(score_replace, scores)
        texts = None if reference is None else [line.text for line in read_texts(None, reference)]
        shares = sizes_of(sizes)
        how = _Asked(scores, order.value, shares, replace.value, score_replace, texts, counterfactual, metric)
        page = _of_text(what, how, loaded, of_file=of_file)
    page.save(out)
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
    if show:
        webbrowser.open(out.resolve().as_uri())


def _is_run(what: str, index: int | None) -> bool:
    """Whether a folder is meant, rather than a text that happens to be the name of one."""
    return os.path.isfile(os.path.join(what, "manifest.json")) or (index is not None and os.path.isdir(what))


def _checked_input(folder: str, index: int | None, others: list[str]) -> int:
    """The index, unless it is missing or something is asked that a run has settled."""
    if index is None:
        raise InputError(f"{folder} is the folder of a run: give --input N for one of its inputs")
    if others:
        raise InputError(f"{', '.join(others)}: the run has settled that; --condition chooses among what it computed")
    return index


def _check_of_trace(file: str, asked: dict[str, bool], against: str | None) -> None:
    """Refuse what the trace in a file has settled; an order is of the trace beside it."""
    if asked["--score"]:
        raise InputError(f"--score: the trace in {file} is made; --against has another score beside it")
    settled = ["--replace", "--score-replace", "--counterfactual", "--answer", "--instead-of", "--sizes"]
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
    from jstrace.runs.manifest import read_manifest

    told = read_manifest(Path(folder))
    if told["config"]["model"] != model.fingerprint():
        raise InputError(f"{folder}: this is no run of that --model, but of {told['model']['name'] or 'another'}")


def _of_text(what: str, asked: _Asked, loaded: Callable[[], Model], *, of_file: bool) -> Page:
    """The page of a text, or of the trace in a file, which settles what is beside it, too."""
    saved = _saved(what) if of_file else None
    if saved is not None:
        asked = _settled(asked, saved)
        if saved.replace not in CARRIED:
            raise InputError(f"{what}: its edges carry {saved.replace!r:.60} of your own; use jstrace.view in Python")
        if len(asked.scores) > 1 and asked.score_replace not in (None, *CARRIED):
            raise InputError(f"{what}: it was scored under {asked.score_replace!r:.60} of your own, which is not here")
    model = loaded()
    several = several_tokens(model, getattr(asked.metric, "answer", None) if saved is None else None, None)
    if several is not None:
        raise InputError(f"--answer {several!r} is several tokens, and the page is of one: give it to jstrace trace")
    from jstrace.pipeline.progress import bar

    with bar("tracing and evaluating"):
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


def _saved(what: str) -> Trace:
    """The trace in a file."""
    import jstrace

    return jstrace.Trace.load(what)


def _traces(model: Model, text: str, asked: _Asked, saved: Trace | None) -> list[Trace]:
    if saved is None:
        return [asked.traced(model, text, kind) for kind in asked.scores]
    others = (asked.traced(model, saved.tokens, kind, sizes=saved.sizes, seed=saved.seed) for kind in asked.scores[1:])
    return [saved, *others]


def _page(model: Model, traces: list[Trace], asked: _Asked) -> Page:
    import jstrace
    from jstrace.cli.computing import two_smallest

    sides: list[dict[str, Evaluation]] = [{} for _ in traces]
    for name, options in curves(traces[0].replace).items():
        for own, item in zip(sides, jstrace.evaluate(model, traces, reference=asked.reference, **options), strict=True):
            own[name] = item
    firsts = zip(traces, (next(iter(own.values())) for own in sides), strict=True)
    smallest = [two_smallest(model, trace, first, asked.reference) for trace, first in firsts]
    return jstrace.view(traces, sides, model=model, smallest=smallest, effects=_effects(model, traces[0]))


def _effects(model: Model, trace: Trace) -> Effects | None:
    """What each head and MLP does to what is asked of a pair."""
    if trace.counterfactual is None:
        return None
    import jstrace

    about: dict[str, Any] = {"counterfactual": trace.counterfactual, "metric": trace.metric}
    return jstrace.effects(model, trace.tokens, by="node", **about)
