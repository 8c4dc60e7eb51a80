"""A trace as the attribution graph of circuit-tracer, which Neuronpedia shows, too.

Its fields are those that circuit-tracer's ``frontend/graph_models.py`` declares and its page reads, and that
Neuronpedia's ``graph-schema.json`` requires. Neither has states of the residual stream for nodes, so these have a
``feature_type`` of their own, which both pages draw as a plain dot.
"""

from __future__ import annotations

import re
from typing import Any

from jstrace.analysis.analysing import named
from jstrace.method.graph.edges import Edges
from jstrace.pipeline.answers import check_one_output
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.text import Word, shown, text_of

FEATURE_TYPE = "residual stream"
"""Of nodes that are neither an embedding nor the output."""
_COMPONENTS = {"residual_attn": "residual", "residual_mlp": "residual", "mlp": "MLP"}


def attribution_graph(
    trace: Trace,
    k: int,
    slug: str,
    *,
    evaluation: Evaluation | None = None,
    word: Word | None = None,
    scan: str | None = None,
) -> dict[str, Any]:
    """Metadata, qParams, nodes and links, ready for JSON.

    Args:
      trace: of one input.
      k: index of the size; Z is the full graph.
      slug: the graph's name; letters other than those of file names become hyphens.
      evaluation: of the trace; without it nothing is said of the output.
      word: texts of predicted tokens; without it they are ids.
      scan: what it calls the model, by default its family.

    Raises:
      InputError: a trace of several outputs.
    """
    check_one_output(trace, "an attribution graph")
    size = float([*trace.sizes, 1.0][k])
    texts, edges = [_label(text) for text in trace.words], trace.edges(k)
    ends = _ends(edges, parallel=trace.config.parallel)
    nodes = _nodes(trace, k, _entered(edges, ends), texts, _output(trace, evaluation, word))
    facts = {"size": size, "k": k, "score": trace.score, "order": trace.order}
    facts |= {"replace": trace.replace, "scored_under": trace.score_replace or "none"}
    return {
        "metadata": {
            "slug": re.sub(r"[^\w.-]+", "-", slug, flags=re.ASCII) or "trace",
            "scan": scan or trace.config.family,
            "transcoder_list": [],
            "prompt_tokens": texts,
            "prompt": _label(text_of(trace)),
            "node_threshold": 1.0,
            "generation_settings": facts | {"model_fingerprint": trace.model_fingerprint},
            "info": {"generator": {"name": "jstrace"}},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(nodes.values()),
        "links": _links(edges, ends, nodes),
    }


Node = tuple[int, int]
"""Level and token."""
_DEFAULTS: dict[str, Any] = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}


def _ends(edges: Edges, *, parallel: bool) -> list[tuple[Node, Node]]:
    columns = (edges.levels(parallel=parallel), edges.source, edges.target)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [((level, source), (level + 1, target)) for level, source, target in rows]


def _entered(edges: Edges, ends: list[tuple[Node, Node]]) -> dict[Node, int]:
    smallest: dict[Node, int] = {}
    for pair, stratum in zip(ends, edges.stratum.tolist(), strict=True):
        for node in pair:
            smallest[node] = min(stratum, smallest.get(node, stratum))
    return smallest


def _nodes(
    trace: Trace, k: int, entered: dict[Node, int], texts: list[str], output: dict[str, Any]
) -> dict[Node, dict[str, Any]]:
    """The nodes by level and token: all embeddings, whatever edges end at, and the output.

    Influence, by which pages prune, is the place of the first trace with the node among those up to this one.
    """
    last = (1 if trace.config.parallel else 2) * trace.config.n_layers
    end = (last, len(trace.tokens) - 1)
    nodes = {}
    for node in sorted({*((0, position) for position in range(len(trace.tokens))), *entered, end}):
        level, position = node
        if node == end:
            made = output
        elif level == 0:
            made = _embedding(int(trace.tokens[position]), position)
        else:
            made = _state(*named(level, parallel=trace.config.parallel), position, texts[position])
        influence = (entered[node] + 1) / (k + 1) if node in entered else None
        nodes[node] = _DEFAULTS | made | {"ctx_idx": position, "influence": influence, "activation": None}
    return nodes


def _embedding(token: int, position: int) -> dict[str, Any]:
    names = {"node_id": f"E_{token}_{position}", "jsNodeId": f"E_{token}-{position}"}
    return names | {"feature": position, "layer": "E", "feature_type": "embedding", "clerp": ""}


def _state(kind: str, layer: int | None, position: int, text: str) -> dict[str, Any]:
    number = int(kind == "after MLP")  # two states of a layer and token, told apart as features are
    names = {"node_id": f"{layer}_{number}_{position}", "jsNodeId": f"{layer}_{number}-{position}", "feature": number}
    return names | {"layer": str(layer), "feature_type": FEATURE_TYPE, "clerp": f"{kind} “{text}” [{position}]"}


def _output(trace: Trace, evaluation: Evaluation | None, word: Word | None) -> dict[str, Any]:
    layer, position = str(trace.config.n_layers + 1), len(trace.tokens) - 1
    token, prob, text = -1, 0.0, "not evaluated"
    if evaluation is not None:
        token, prob = int(evaluation.full_tokens[0]), float(evaluation.full_probs[0])
        text = f"#{token}" if word is None else _label(word(token)).replace('"', "”")
    names = {"node_id": f"{layer}_{token}_{position}", "jsNodeId": f"L_{token}-{position}", "feature": token}
    facts = {"layer": layer, "feature_type": "logit", "token_prob": prob, "is_target_logit": True}
    return names | facts | {"clerp": f'Output "{text}" (p={prob:.3f})'}


def _links(edges: Edges, ends: list[tuple[Node, Node]], nodes: dict[Node, dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each two nodes that are joined, as pages tell links by their ends; weights are sums of scores."""
    links: dict[tuple[Node, Node], dict[str, Any]] = {}
    columns = (edges.kind, edges.head, edges.score)
    for pair, kind, head, score in zip(ends, *(column.tolist() for column in columns), strict=True):
        source, target = (nodes[node]["node_id"] for node in pair)
        link = links.setdefault(pair, {"source": source, "target": target, "weight": 0.0, "components": []})
        link["weight"] += score
        link["components"].append(f"head {head}" if kind == "attn" else _COMPONENTS[kind])
    return list(links.values())


_MARKS = str.maketrans({"\n": "⏎", "\t": "→", "\r": "↵", "<": "‹", ">": "›"})
"""Line breaks as circuit-tracer shows them; and angle brackets, for its page puts labels into itself as markup."""


def _label(text: str) -> str:
    """A token as these pages can show it: in one line, without control characters and without markup."""
    marked = text.translate(_MARKS)
    return "".join(letter if letter.isprintable() else shown(letter)[1:-1] for letter in marked)
