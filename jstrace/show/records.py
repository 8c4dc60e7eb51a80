"""Traces as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jstrace.analysis.analysing import MEASURES, Analysis
from jstrace.method.graph.edges import Edge
from jstrace.pipeline.effects import Effects
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.smallest import Smallest
from jstrace.pipeline.trace import Trace
from jstrace.show.strongest import attention, strongest
from jstrace.show.text import Word, in_words, words_of


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
    words = words_of(trace)
    return {
        "text": text,
        "tokens": [int(token) for token in trace.tokens],
        "token_texts": list(words),
        "n_edges": trace.n_edges,
        "score": trace.score,
        "order": trace.order,
        "scored_under": trace.score_replace or "none",
        "seed": trace.seed,
        "ablate": evaluation.ablate,
        "pre_softmax": evaluation.pre_softmax,
        "replace": evaluation.replace,
        "model_fingerprint": trace.model_fingerprint,
        **_stored(trace),
        "valid": evaluation.valid,
        "density": _number(evaluation.density),
        "prediction": _tokens(evaluation.full_tokens, evaluation.full_probs, word),
        **({"target": _tokens(evaluation.target_tokens, evaluation.target_probs, word)} if evaluation.targeted else {}),
        **_of_pair(trace, evaluation),
        **(
            {}
            if smallest is None
            else {"smallest": dict(zip(("top_token", "tv_0.1"), map(_size, smallest), strict=True))}
        ),
        "rows": _rows(trace, evaluation, word),
        "edges": [_edge(edge, words) for edge in strongest(trace, top)] if top else [],
        "kind": kind,
        **({} if effects is None else {"effects": _effects(effects, top)}),
        "edges_of_kind": [_edge(edge, words) for edge in strongest(trace, top, kind)] if top and kind != "all" else [],
        "attention": _attention(trace, evaluation),
    }


def _rows(trace: Trace, evaluation: Evaluation, word: Word) -> list[dict[str, Any]]:
    """A row for each size, and one for the full graph."""
    made, metric, recovered = trace.composition(), evaluation.metric, evaluation.recovered
    deviation, flops = evaluation.tv_std, made.flops.total(evaluation.condition)
    return [
        {
            "size": size,
            "edges": int(made.edges[k]),
            "flops": None if evaluation.inverse else float(flops[k]),
            "residual": _number(made.residual[k]),
            "attention": _number(made.attention[k]),
            "mlp": _number(made.mlp[k]),
            "nodes": int(made.nodes[k]),
            "input_reached": bool(made.input_reached[k]),
            "tv": _number(evaluation.tv[k]),
            **({} if deviation is None else {"tv_std": _number(deviation[k])}),
            "kl": _number(evaluation.kl[k]),
            "nucleus": float(evaluation.nucleus_level[k]),
            "entropy": _number(evaluation.entropy[k]),
            "top_token": int(evaluation.top_token[k]),
            "top_token_text": word(int(evaluation.top_token[k])),
            **(
                {}
                if metric is None or recovered is None
                else {"metric": _number(metric[k]), "recovered": _number(recovered[k])}
            ),
        }
        for k, size in enumerate([*trace.sizes, 1.0])
    ]


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
    return [
        {
            "layer": int(columns["layer"][at]),
            "component": str(columns["component"][at]),
            "effect": _number(columns["effect"][at]),
            "tv": _number(columns["tv"][at]),
        }
        for at in range(min(top, len(columns["effect"])))
    ]


def _size(least: Smallest) -> dict[str, Any]:
    return {"edges": least.edges, "size": least.share, "tv": _number(least.tv), "top_token": least.top_token}


def facts_of(trace: Trace) -> dict[str, Any]:
    """What a trace is, without its edges."""
    return {
        "tokens": [int(token) for token in trace.tokens],
        "token_texts": list(words_of(trace)),
        "n_edges": trace.n_edges,
        "layers": trace.config.n_layers,
        "heads": trace.config.n_heads,
        "parallel": trace.config.parallel,
        "score": trace.score,
        "order": trace.order,
        "replace": trace.replace,
        "scored_under": trace.score_replace or "none",
        "seed": trace.seed,
        "model_fingerprint": trace.model_fingerprint,
        **_stored(trace),
    }


def _stored(trace: Trace) -> dict[str, str]:
    """How the model's matrices were stored, where that was not in its dtype."""
    return {"weights": trace.weights} if trace.weights else {}


def network_json(analysis: Analysis, *, top: int) -> dict[str, Any]:
    """A trace as a network, for ``--json``: its numbers, ``top`` hubs by each measure, and as many communities."""
    return {
        "k": analysis.k,
        "size": analysis.size,
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


def _edge(edge: Edge, words: tuple[str, ...]) -> dict[str, Any]:
    return {
        "kind": edge.kind,
        "layer": edge.layer,
        "head": edge.head,
        "source": edge.source,
        "target": edge.target,
        "score": edge.score,
        "stratum": edge.stratum,
        "words": in_words(edge, words),
    }


def _attention(trace: Trace, evaluation: Evaluation) -> dict[str, Any]:
    """Edges by layer and head, and by source token, of the trace at which the prediction is back."""
    counts = attention(trace, evaluation)
    return {
        "size": [*trace.sizes, 1.0][counts.k],
        "head_edges": counts.heads.tolist(),
        "source_edges": counts.sources.tolist(),
    }


def _tokens(tokens: Any, probs: Any, word: Word) -> list[dict[str, Any]]:
    """The most probable tokens of a prediction."""
    pairs = zip(tokens, probs, strict=True)
    return [{"token": int(token), "text": word(int(token)), "prob": _number(prob)} for token, prob in pairs]


def _number(value: Any) -> float | None:
    """A float that JSON has; None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)
