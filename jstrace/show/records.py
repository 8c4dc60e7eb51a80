"""Traces as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from jstrace.analysis.analysing import MEASURES, Analysis
from jstrace.pipeline.effects import Effects
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.smallest import Smallest
from jstrace.pipeline.trace import Trace
from jstrace.show.strongest import attention, strongest
from jstrace.show.text import Word, in_words


def as_json(
    text: str | None,
    trace: Trace,
    evaluation: Evaluation,
    word: Word,
    *,
    top: int,
    kind: str = "all",
    smallest: tuple[Smallest, Smallest] | None = None,
    effects: Effects | None = None,
) -> dict[str, Any]:
    """Everything that the tables show, for ``--json``.

    Args:
      text: the input, where it was a text.
      trace: its trace.
      evaluation: of that trace.
      word: texts of tokens.
      top: how many edges ``edges`` has, the first that best-first search takes, and so ``edges_of_kind``.
      kind: of the edges in ``edges_of_kind`` (``strongest.KINDS``); it is empty for "all".
      smallest: the smallest traces with the top token, and within TV 0.1, where they were looked for.
      effects: of heads and MLPs on the metric, of which ``top`` are listed, the largest first.
    """
    return {
        "text": text,
        "tokens": trace.tokens.tolist(),
        "token_texts": list(trace.words),
        **_attributes(trace, "n_edges", "score", "order"),
        "scored_under": trace.score_replace or "none",
        "seed": trace.seed,
        **_attributes(evaluation, "ablate", "pre_softmax", "replace"),
        **_model(trace),
        "valid": evaluation.valid,
        "density": _number(evaluation.density),
        "prediction": _tokens(evaluation.full_tokens, evaluation.full_probs, word),
        **({"target": _tokens(evaluation.target_tokens, evaluation.target_probs, word)} if evaluation.targeted else {}),
        **_of_pair(trace, evaluation),
        **({"smallest": {"top_token": _size(smallest[0]), "tv_0.1": _size(smallest[1])}} if smallest else {}),
        "rows": _rows(trace, evaluation, word),
        "edges": _edges(trace, top),
        "kind": kind,
        **({} if effects is None else {"effects": _effects(effects, top)}),
        "edges_of_kind": _edges(trace, top, kind) if kind != "all" else [],
        "attention": _attention(trace, evaluation),
    }


def _rows(trace: Trace, evaluation: Evaluation, word: Word) -> list[dict[str, Any]]:
    made, top, metric, recovered = (
        trace.composition(),
        evaluation.top_token.tolist(),
        evaluation.metric,
        evaluation.recovered,
    )
    flops = made.flops.total(evaluation.condition).tolist()
    columns: dict[str, Iterable[Any] | None] = {
        "size": [*trace.sizes, 1.0],
        "edges": made.edges.tolist(),
        "flops": [None] * len(flops) if evaluation.inverse else flops,
        **{name: map(_number, getattr(made, name)) for name in ("residual", "attention", "mlp")},
        "nodes": made.nodes.tolist(),
        "input_reached": made.input_reached.tolist(),
        "tv": map(_number, evaluation.tv),
        "tv_std": None if evaluation.tv_std is None else map(_number, evaluation.tv_std),
        "kl": map(_number, evaluation.kl),
        "nucleus": evaluation.nucleus_level.tolist(),
        "entropy": map(_number, evaluation.entropy),
        "top_token": top,
        "top_token_text": map(word, top),
        "metric": None if metric is None or recovered is None else map(_number, metric),
        "recovered": None if metric is None or recovered is None else map(_number, recovered),
    }
    known = {name: values for name, values in columns.items() if values is not None}
    return [dict(zip(known, row, strict=True)) for row in zip(*known.values(), strict=True)]


def _of_pair(trace: Trace, evaluation: Evaluation) -> dict[str, Any]:
    """The counterfactual prompt, the answer, and the metric with its values of the empty mask and of the full graph."""
    record: dict[str, Any] = {}
    if trace.counterfactual is not None:
        texts = trace.counterfactual_texts or tuple(map(str, trace.counterfactual.tolist()))
        record = {"counterfactual": trace.counterfactual.tolist(), "counterfactual_texts": list(texts)}
        record |= {"first_difference": trace.first_difference}
    if trace.answer is not None:
        record["answer"] = trace.answer.tolist()
    if evaluation.metric_ends is not None:
        empty, full = evaluation.metric_ends
        record["metric"] = {"name": evaluation.metric_name, "empty": _number(empty), "full": _number(full)}
    return record


def _effects(effects: Effects, top: int) -> list[dict[str, Any]]:
    columns = effects.columns()
    rows = zip(*(columns[name][:top] for name in ("layer", "component", "effect", "tv")), strict=True)
    return [
        {"layer": int(layer), "component": str(component), "effect": _number(effect), "tv": _number(tv)}
        for layer, component, effect, tv in rows
    ]


def _size(least: Smallest) -> dict[str, Any]:
    return {"edges": least.edges, "size": least.share, "tv": _number(least.tv), "top_token": least.top_token}


def facts_of(trace: Trace) -> dict[str, Any]:
    """What a trace is, without its edges."""
    return {
        "tokens": trace.tokens.tolist(),
        "token_texts": list(trace.words),
        "n_edges": trace.n_edges,
        "layers": trace.config.n_layers,
        "heads": trace.config.n_heads,
        "parallel": trace.config.parallel,
        **_attributes(trace, "score", "order", "replace"),
        "scored_under": trace.score_replace or "none",
        "seed": trace.seed,
        **_model(trace),
    }


def _attributes(item: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(item, name) for name in names}


def _model(trace: Trace) -> dict[str, str]:
    """Which model it is of, and how its matrices were stored, where that was not in its dtype."""
    return _attributes(trace, "model_fingerprint", *(["weights"] if trace.weights else []))


def network_json(analysis: Analysis, *, top: int) -> dict[str, Any]:
    """A trace as a network, for ``--json``: its numbers, ``top`` hubs by each measure, and as many communities."""
    return {
        **_attributes(analysis, "k", "size"),
        "nodes": analysis.network.n_nodes,
        "edges": analysis.network.n_edges,
        "communities": analysis.n_communities,
        "modularity": _number(analysis.modularity),
        "betweenness_exact": analysis.exact,
        "betweenness_sources": analysis.sources,
        "seed": analysis.seed,
        "hubs": {name: [dataclasses.asdict(hub) for hub in analysis.hubs(top, by=name)] for name in MEASURES},
        "largest_communities": [dataclasses.asdict(community) for community in analysis.communities(top)],
    }


def _edges(trace: Trace, top: int, kind: str = "all") -> list[dict[str, Any]]:
    names = ("kind", "layer", "head", "source", "target", "score", "stratum")
    edges = strongest(trace, top, kind) if top else ()
    return [{**_attributes(edge, *names), "words": in_words(edge, trace.words)} for edge in edges]


def _attention(trace: Trace, evaluation: Evaluation) -> dict[str, Any]:
    """Edges by layer and head, and by source token, of the trace at which the prediction is back."""
    counts = attention(trace, evaluation)
    edges = {"head_edges": counts.heads.tolist(), "source_edges": counts.sources.tolist()}
    return {"size": [*trace.sizes, 1.0][counts.k], **edges}


def _tokens(tokens: Any, probs: Any, word: Word) -> list[dict[str, Any]]:
    pairs = zip(tokens, probs, strict=True)
    return [{"token": int(token), "text": word(int(token)), "prob": _number(prob)} for token, prob in pairs]


def _number(value: Any) -> float | None:
    """A float that JSON has; None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)
