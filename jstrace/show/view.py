"""A trace as one page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jstrace.errors import InputError
from jstrace.models import Model
from jstrace.pipeline.answers import check_one_output
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.page import Page, curve, page, panel, scored
from jstrace.show.text import Word, text_of, words_of

Evaluations = Evaluation | Sequence[Evaluation] | Mapping[str, Evaluation] | None
"""One, several, or several by the names that the page gives them."""


def view(
    traces: Trace | Sequence[Trace],
    evaluations: Any = None,
    *,
    model: Model | None = None,
    names: Sequence[str] | None = None,
) -> Page:
    """See a trace: its graph at every size, what is predicted there, and where on the curve that is.

    Args:
      traces: one trace, or two of as many sizes, beside each other.
      evaluations: of the trace: one, several, or several by the names that the page gives them, such as ``{"zero": ...,
        "mean": ...}``; of several traces one of these each.
      model: whose tokenizer has the texts of predicted tokens; without it they are ids.
      names: what the page calls the traces.

    Raises:
      InputError: other than one or two traces of as many sizes and one output, or evaluations of other sizes.
    """
    shown = [traces] if isinstance(traces, Trace) else list(traces)
    given = [evaluations] if isinstance(traces, Trace) else list(evaluations or [None] * len(shown))
    called = list(names or [_name(trace) for trace in shown])
    _check(shown, given, called)
    word = _word(model)
    panels = [
        _panel(trace, _named(trace, one), name, word) for trace, one, name in zip(shown, given, called, strict=True)
    ]
    text = text_of(shown[0]) if shown[0].token_texts else f"{len(shown[0].tokens)} tokens"
    summary = "; ".join(dict.fromkeys(_summary(trace) for trace in shown))
    return page(text, panels, summary)


def _check(traces: Sequence[Any], evaluations: Sequence[Any], names: Sequence[Any]) -> None:
    wrong = next((one for one in traces if not isinstance(one, Trace)), None)
    if wrong is not None or len(traces) not in (1, 2):
        found = type(wrong).__name__ if wrong is not None else f"{len(traces)} of them"
        raise InputError(f"view takes a trace or two, got {found}")
    for trace in traces:
        check_one_output(trace, "view")
    if len({len(trace.sizes) for trace in traces}) > 1:
        raise InputError("view: traces beside each other need as many sizes")
    if len(evaluations) != len(traces) or len(names) != len(traces):
        raise InputError(f"view: expected evaluations and names of each of {len(traces)} traces")


def _named(trace: Trace, given: Any) -> dict[str, Evaluation]:
    """Evaluations by name, checked against the trace."""
    if given is None:
        return {}
    if isinstance(given, Evaluation):
        given = [given]
    if not isinstance(given, Mapping):
        given = {f"{one.replace}, {one.ablate}" if isinstance(one, Evaluation) else "?": one for one in given}
    for name, one in given.items():
        if not isinstance(one, Evaluation):
            raise InputError(f"view: evaluation {name} is {type(one).__name__}, expected a jstrace.Evaluation")
        if len(one.tv) != len(trace.sizes) + 1:
            raise InputError(f"view: evaluation {name} has {len(one.tv)} rows, the trace {len(trace.sizes) + 1}")
    return dict(given)


def _panel(trace: Trace, evaluations: Mapping[str, Evaluation], name: str, word: Word) -> dict[str, Any]:
    curves = [_curve(title, one, word) for title, one in evaluations.items()]
    sizes, counts = [*trace.sizes, 1.0], [*trace.counts.tolist(), trace.n_edges]
    strata = dict(trace.strata.items())
    scores = scored(dict(trace.scores.items()), strata, counts, _score_words(trace.score))
    called = words_of(trace)
    return panel(str(name), called, strata, sizes, counts, curves, parallel=trace.config.parallel, scores=scores)


_SCORES = {
    "l1": "an edge's share of the L1 norms of all that enter its node",
    "l2": "an edge's share of the L2 norms of all that enter its node",
    "ifr": "an edge's share of what is near the node that it enters",
    "cosine": "(1 + cos) / 2 of the angle between an edge and the node that it enters",
    "random": "drawn at random",
}


def _score_words(score: str) -> str:
    return f"Scores ({score}): {_SCORES.get(score, 'their order alone is of interest')}"


def _curve(name: str, one: Evaluation, word: Word) -> dict[str, Any]:
    full = [(word(int(token)), prob) for token, prob in zip(one.full_tokens, one.full_probs, strict=True)]
    called = f"{name}, against a target" if one.targeted and "target" not in name else name
    made = curve(called, one.tv, one.kl, [word(int(token)) for token in one.top_token], full)
    return made | ({"targeted": True} if one.targeted else {})


def _word(model: Model | None) -> Word:
    tokenizer = None if model is None else model.tokenizer
    return (lambda token: f"#{token}") if tokenizer is None else tokenizer.token


def _name(trace: Trace) -> str:
    order = "" if trace.order == "best-first" else f" by {trace.order}"
    return f"{trace.score}{order}"


def _summary(trace: Trace) -> str:
    scored = f", scored under {trace.score_replace}" if trace.score_replace else ""
    return f"{len(trace.tokens)} tokens, {trace.n_edges:,} edges; edges ranked by {_name(trace)}{scored}"
