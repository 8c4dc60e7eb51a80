"""What narrow weights change in traces: size by size, the edges, TV and density of three texts, and the seconds.

    python experiments/benchmarks/narrow.py [MODEL]

SmolLM2-135M (the default model, a dequantised Q4_1 file), or another model, in float32 against narrow weights and
bfloat16, under means, by ``l1`` and ``l1*gradient``. Two cores that others used, too: seconds are of the processor, the
least of three. Ten minutes.

float32 takes 538 MB, int8 135 MB. By l1 2.9% to 3.3% of the edges are in another stratum, by l1*gradient 6.6% to 12.5%;
docs/precision.md has the table. The last line is all of it as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import numpy as np

import jstrace
from jstrace import Evaluation, Model, Trace
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models.narrow import NARROW

TEXTS = (
    "The capital of France is",
    "When Mary and John went to the store, John gave a drink to",
    "The Eiffel Tower was built for the World's Fair of 1889, which was held in the city of",
)
OTHERS: dict[str, dict[str, Any]] = {way: {"weights": way} for way in NARROW} | {"bfloat16": {"dtype": "bfloat16"}}
SCORES = ("l1", "l1*gradient")
TURNS = 3

Traced = tuple[list[Trace], list[Evaluation], float]


def traced(model: Model, score: str) -> Traced:
    """Traces of the texts, their evaluations, and seconds of the processor for each text."""
    took = []
    for _ in range(1 + TURNS):  # the first compiles
        start = time.process_time()
        traces = jstrace.trace(model, list(TEXTS), score=score, replace="mean")
        evaluations = jstrace.evaluate(model, traces)
        took.append((time.process_time() - start) / len(TEXTS))
    return traces, evaluations, min(took[1:])


def compared(base: Traced, other: Traced) -> list[dict[str, Any]]:
    """For each text, what is different from float32."""
    rows = []
    for trace, evaluation, own, judged in zip(*base[:2], *other[:2], strict=True):
        strata, others = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one.strata)]) for one in (trace, own)
        )
        edges = strata != NO_EDGE
        shared = [float(((strata <= k) & (others <= k))[edges].sum() / max(1, n)) for k, n in enumerate(trace.counts)]
        rows.append({
            "tokens": len(trace.tokens), "edges": trace.n_edges,
            "other_stratum": float((strata != others)[edges].mean()),
            "density": [float(one.density or 0) for one in (evaluation, judged)],
            "sizes": [*trace.sizes, 1.0], "shared": shared,
            "tv": np.asarray(evaluation.tv).tolist(), "tv_there": np.asarray(judged.tv).tolist(),
        })  # fmt: skip
    return rows


def weight_bytes(model: Model) -> int:
    """Of all weights in memory."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model))


def seconds(of_scores: dict[str, Traced]) -> dict[str, float]:
    """Of the processor, for a text, by score."""
    return {score: took for score, (_, _, took) in of_scores.items()}


def main() -> None:
    """Print a line for each score, way to store weights and text, and all of it as JSON."""
    source = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    base = jstrace.load(source)
    usual = {score: traced(base, score) for score in SCORES}
    facts: dict[str, Any] = {"bytes": {"float32": weight_bytes(base)}, "seconds": {"float32": seconds(usual)}}
    for name, how in OTHERS.items():  # a model at a time, as a large one leaves no room for others
        model = jstrace.load(source, **how)
        others = {score: traced(model, score) for score in SCORES}
        facts["bytes"][name], facts["seconds"][name] = weight_bytes(model), seconds(others)
        facts[name] = {score: compared(usual[score], others[score]) for score in SCORES}
        del model
        for score, row in ((each, row) for each in SCORES for row in facts[name][each]):
            apart = np.abs(np.subtract(row["tv"], row["tv_there"]))
            print(
                f"{score}, {name}, {row['tokens']} tokens: {row['other_stratum']:.1%} in another stratum, TV up to"
                f" {apart.max():.3f} apart at {row['sizes'][apart.argmax()]:.1%},"
                f" density {row['density'][0]:.3f} and {row['density'][1]:.3f}"
            )
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
