"""A trace as one page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jstrace.errors import InputError
from jstrace.models import EdgeTree, Model
from jstrace.pipeline.answers import check_one_output
from jstrace.pipeline.effects import Effects
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.page import Page, curve, effect_map, metric_curve, page, panel, scored
from jstrace.show.text import Word, text_of
from jstrace.show.words import answer_lines


def view(
    traces: Trace | Sequence[Trace],
    evaluations: Any = None,
    *,
    model: Model | None = None,
    names: Sequence[str] | None = None,
    smallest: Any = None,
    effects: Any = None,
) -> Page:
    """See a trace: its graph at every size, what is predicted there, and where on the curve that is.

    Args:
      traces: one trace, or two of as many sizes, beside each other.
      evaluations: of the trace: one, several, or several by the names that the page gives them, such as ``{"zero": ...,
        "mean": ...}``; of several traces one of these each.
      model: whose tokenizer has the texts of predicted tokens; without it they are ids.
      names: what the page calls the traces.
      smallest: of the trace: its smallest sub-graphs with the full graph's top token and within a TV of its prediction
        (two results of ``jstrace.smallest``), which the page then says in words, by the first evaluation; of several
        traces one of these pairs each, or None.
      effects: of the same text, by "node" (``jstrace.effects``): the page draws what each head and MLP does.

    Examples:
      >>> jstrace.view(trace, evaluation, model=model).save("mary.html")

    Raises:
      InputError: other than one or two traces of as many sizes and one output, evaluations of other sizes, or effects
        of another text, of another counterfactual prompt or by another component.
    """
    shown = [traces] if isinstance(traces, Trace) else list(traces)
    given = [evaluations] if isinstance(traces, Trace) else list(evaluations or [None] * len(shown))
    called = list(names or [_name(trace) for trace in shown])
    _check(shown, given, called)
    word = _word(model)
    evaluated = [_named(trace, evaluation) for trace, evaluation in zip(shown, given, strict=True)]
    panels = [_panel(*each, word) for each in zip(shown, evaluated, called, strict=True)]
    panels[0] |= {} if effects is None else {"effects": _effects(shown[0], effects)}
    ends = [smallest] if isinstance(traces, Trace) else list(smallest or [None] * len(shown))
    answer = _answer(shown, evaluated, ends, called, word)
    text = text_of(shown[0]) if shown[0].token_texts else f"{len(shown[0].tokens)} tokens"
    summary = "; ".join(dict.fromkeys(_summary(trace) for trace in shown))
    return page(text, panels, summary, answer)


def _check(traces: Sequence[Any], evaluations: Sequence[Any], names: Sequence[Any]) -> None:
    wrong = next((item for item in traces if not isinstance(item, Trace)), None)
    if wrong is not None or len(traces) not in (1, 2):
        got = type(wrong).__name__ if wrong is not None else f"{len(traces)} of them"
        raise InputError(f"view takes a trace or two, got {got}")
    for trace in traces:
        check_one_output(trace, "view")
    if len({len(trace.sizes) for trace in traces}) > 1:
        raise InputError("view: traces beside each other need as many sizes")
    if len(evaluations) != len(traces) or len(names) != len(traces):
        raise InputError(f"view: expected evaluations and names of each of {len(traces)} traces")


def _answer(
    traces: Sequence[Trace], evaluations: Sequence[Mapping[str, Evaluation]], smallest: Sequence[Any],
    names: Sequence[str], word: Word,
) -> list[str]:  # fmt: skip
    if len(smallest) != len(traces) or any(pair is not None and len(pair) != 2 for pair in smallest):
        raise InputError("view: smallest takes two results of jstrace.smallest for each trace, or None")
    lines = list[str]()
    for trace, evaluated, pair, name in zip(traces, evaluations, smallest, names, strict=True):
        if pair is None:
            continue
        if not evaluated:
            raise InputError("view: smallest needs an evaluation of its trace")
        back, close = pair
        told = answer_lines(trace, next(iter(evaluated.values())), back, close, word)
        lines += [f"{name}: {line.strip()}" if len(traces) > 1 else line.strip() for line in told]
    return lines


def _named(trace: Trace, given: Any) -> dict[str, Evaluation]:
    """Evaluations by name, checked against the trace."""
    if given is None:
        return {}
    if isinstance(given, Evaluation):
        given = [given]
    if not isinstance(given, Mapping):
        listed = list(given)
        names = [f"{item.replace}, {item.ablate}" if isinstance(item, Evaluation) else "?" for item in listed]
        before = [names[:place].count(name) for place, name in enumerate(names)]  # none takes the place of another
        given = {f"{name} ({n + 1})" if n else name: item for name, n, item in zip(names, before, listed, strict=True)}
    for name, item in given.items():
        if not isinstance(item, Evaluation):
            raise InputError(f"view: evaluation {name} is {type(item).__name__}, expected a jstrace.Evaluation")
        if len(item.tv) != len(trace.sizes) + 1:
            raise InputError(f"view: evaluation {name} has {len(item.tv)} rows, the trace {len(trace.sizes) + 1}")
    return dict(given)


def _panel(trace: Trace, evaluations: Mapping[str, Evaluation], name: str, word: Word) -> dict[str, Any]:
    curves = [_curve(title, evaluation, word) for title, evaluation in evaluations.items()]
    sizes, counts = [*trace.sizes, 1.0], [*trace.counts.tolist(), trace.n_edges]
    strata = dict(trace.strata.items())
    told = f"Scores ({trace.score}): {_SCORES.get(trace.score, 'their order alone is of interest')}"
    scores = scored(dict(trace.scores.items()), strata, counts, told)
    made = panel(str(name), trace.words, strata, sizes, counts, curves, parallel=trace.config.parallel, scores=scores)
    if trace.counterfactual is None:
        return made
    differs, other = (trace.tokens != trace.counterfactual).tolist(), list(_counterfactual(trace) or ())
    return made | {"counterfactual": other, "differs": differs, "first": trace.first_difference}


def _effects(trace: Trace, effects: Any) -> dict[str, Any]:
    """Effects as data of the page, checked against the trace."""
    if not isinstance(effects, Effects) or isinstance(effects.values, EdgeTree) or effects.by != "node":
        raise InputError('view: effects are those by "node": jstrace.effects(model, text, by="node", ...)')
    shape = (trace.config.n_layers, trace.config.n_heads + 1)
    if effects.values.shape != shape or effects.tokens != tuple(trace.words):
        raise InputError("view: these effects are of another text, or of another model")
    if effects.counterfactual is not None and trace.counterfactual is None:
        raise InputError("view: these effects are of a pair of prompts, and the trace has no counterfactual prompt")
    if effects.counterfactual is not None and effects.counterfactual != _counterfactual(trace):
        raise InputError("view: these effects are of another counterfactual prompt than the trace's")
    return effect_map(effects.metric_name, effects.values)


def _counterfactual(trace: Trace) -> tuple[str, ...] | None:
    given = trace.counterfactual
    return None if given is None else trace.counterfactual_texts or tuple(map(str, given.tolist()))


_SCORES = {
    "l1": "an edge's share of the L1 norms of all that enter its node",
    "l2": "an edge's share of the L2 norms of all that enter its node",
    "ifr": "an edge's share of what is near the node that it enters",
    "cosine": "(1 + cos) / 2 of the angle between an edge and the node that it enters",
    "random": "drawn at random",
    "random-nodes": "drawn at random, node by node",
}


def _curve(name: str, result: Evaluation, word: Word) -> dict[str, Any]:
    full = [(word(int(token)), prob) for token, prob in zip(result.full_tokens, result.full_probs, strict=True)]
    called = f"{name}, against a target" if result.targeted and "target" not in name else name
    repeats = () if result.tv_repeats is None else result.tv_repeats.T.tolist()
    made = curve(called, result.tv, result.kl, [word(int(token)) for token in result.top_token], full, repeats)
    made |= {"targeted": True} if result.targeted else {}
    return made | ({} if result.metric is None else metric_curve(result.metric_name, result.metric, result.recovered))


def _word(model: Model | None) -> Word:
    tokenizer = None if model is None else model.tokenizer
    return (lambda token: f"#{token}") if tokenizer is None else tokenizer.token


def _name(trace: Trace) -> str:
    order = "" if trace.order == "best-first" else f" by {trace.order}"
    return f"{trace.score}{order}"


def _summary(trace: Trace) -> str:
    scored = f", scored under {trace.score_replace}" if trace.score_replace else ""
    return f"{len(trace.tokens)} tokens, {trace.n_edges:,} edges; edges ranked by {_name(trace)}{scored}"
