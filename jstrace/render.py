"""Traces as tables, words and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rich.table import Table
from rich.text import Text

from jstrace.evaluation import Evaluation
from jstrace.graph import Edge
from jstrace.tracing import Trace

Word = Callable[[int], str]
"""Token id to its text."""

_KINDS = {"residual_attn": "residual past attention", "residual_mlp": "residual past MLP", "mlp": "MLP"}


def shown(text: str) -> str:
    """A token's text in one line of printable characters, quoted as Python does."""
    return repr(text)


def curve_table(trace: Trace, evaluation: Evaluation, word: Word) -> Table:
    """The Z + 1 rows: size, edges, composition and how much of the prediction is kept."""
    made = trace.composition()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("size", "edges", "resid %", "attn %", "MLP %", "TV", "KL", "nucleus"):
        table.add_column(name, justify="right")
    table.add_column("top token")
    for k, size in enumerate([*trace.sizes, None]):
        shares = ("-" if math.isnan(v[k]) else f"{100 * v[k]:.1f}" for v in (made.residual, made.attention, made.mlp))
        level = evaluation.recovered[k]
        table.add_row(
            "full" if size is None else f"{size:.1e}" if size < 1e-2 else f"{size:g}",
            str(made.edges[k]),
            *shares,
            f"{evaluation.tv[k]:.3f}",
            f"{evaluation.kl[k]:.3f}",
            f"{100 * level:.0f}%" if level else "-",
            Text(shown(word(int(evaluation.top_token[k]))), style="" if not evaluation.agreement[k] else "green"),
        )
    return table


def prediction_line(evaluation: Evaluation, word: Word, *, count: int = 5) -> str:
    """The full graph's most probable next tokens."""
    pairs = zip(evaluation.full_tokens[:count], evaluation.full_probs[:count], strict=True)
    return "  ".join(f"{shown(word(int(token)))} {prob:.3f}" for token, prob in pairs)


def in_words(edge: Edge, words: tuple[str, ...]) -> str:
    """One edge as a sentence: its component, from which token to which."""
    source, target = (f"{shown(words[i])} [{i}]" for i in (edge.source, edge.target))
    if edge.head is not None:
        return f"layer {edge.layer} head {edge.head}: from {source} to {target}"
    return f"layer {edge.layer} {_KINDS[edge.kind]}: at {target}"


def edge_table(trace: Trace, count: int) -> Table:
    """The first ``count`` edges that best-first search takes, in words, highest score first."""
    words = words_of(trace)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("score", justify="right")
    table.add_column("in size", justify="right")
    table.add_column("edge")
    for edge in trace.first_edges(count):
        size = "full" if edge.stratum >= len(trace.sizes) else f"{trace.sizes[edge.stratum]:g}"
        table.add_row(f"{edge.score:.3f}", size, Text(in_words(edge, words)))
    return table


def words_of(trace: Trace) -> tuple[str, ...]:
    """The tokens of a trace as text, or their ids where there is no tokenizer."""
    return trace.token_texts or tuple(str(int(token)) for token in trace.tokens)


def as_json(text: str | None, trace: Trace, evaluation: Evaluation, word: Word, *, top: int) -> dict[str, Any]:
    """Everything that the tables show, for ``--json``."""
    made = trace.composition()
    rows = [
        {
            "size": size,
            "edges": int(made.edges[k]),
            "residual": _number(made.residual[k]),
            "attention": _number(made.attention[k]),
            "mlp": _number(made.mlp[k]),
            "nodes": int(made.nodes[k]),
            "input_reached": bool(made.input_reached[k]),
            "tv": _number(evaluation.tv[k]),
            "kl": _number(evaluation.kl[k]),
            "nucleus": float(evaluation.recovered[k]),
            "entropy": _number(evaluation.entropy[k]),
            "top_token": int(evaluation.top_token[k]),
            "top_token_text": word(int(evaluation.top_token[k])),
        }
        for k, size in enumerate([*trace.sizes, 1.0])
    ]
    words = words_of(trace)
    return {
        "text": text,
        "tokens": [int(token) for token in trace.tokens],
        "token_texts": list(words),
        "n_edges": trace.n_edges,
        "importance": trace.importance,
        "seed": trace.seed,
        "ablate": evaluation.ablate,
        "pre_softmax": evaluation.pre_softmax,
        "model_fingerprint": trace.model_fingerprint,
        "valid": evaluation.valid,
        "density": _number(evaluation.density),
        "prediction": [
            {"token": int(token), "text": word(int(token)), "prob": _number(prob)}
            for token, prob in zip(evaluation.full_tokens, evaluation.full_probs, strict=True)
        ],
        "rows": rows,
        "edges": [
            {"kind": e.kind, "layer": e.layer, "head": e.head, "source": e.source, "target": e.target,
             "score": e.score, "stratum": e.stratum, "words": in_words(e, words)}
            for e in trace.first_edges(top)
        ] if top else [],
    }  # fmt: skip


def _number(value: Any) -> float | None:
    """A float that JSON has; None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)
