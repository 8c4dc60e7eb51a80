"""Traces as JSON."""

from __future__ import annotations

import math
from typing import Any

from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.text import Word, in_words, words_of


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
