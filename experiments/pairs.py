"""Twelve pairs of prompts: how small is the sub-graph that makes the difference between two predictions?

Command: ``python experiments/pairs.py OUT`` (SmolLM2 in float32; some twenty minutes on two CPU cores).

For each pair the first prompt is traced while ablated edges carry the states of the second, and evaluated under the
same. It writes ``curves.csv`` (mean TV with its interval and recovered logit difference, by size and score),
``smallest.csv`` (edges until the top token is back, and until TV is 0.1 at most, of each pair) and ``exchanged.csv``
(what the traces of one pair keep of another of as many tokens), and prints a table. ``--scores`` takes some of the
scores. The last line is JSON.

Expected: one gradient of the logit difference gets two names back within TV 0.1 from some 140 of 28,752 edges.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import written
from jstrace.method.scores.gradients import FirstOrder, Integrated, Pass, first_order
from jstrace.models import EdgeTree, Model
from jstrace.pipeline.smallest import Goal, all_smallest
from jstrace.reports.statistics import means_of

SIZES = (0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4)


class Prompts(NamedTuple):
    """Two prompts of as many tokens, which are continued differently."""

    kind: str
    clean: str
    other: str


PROMPTS = (
    Prompts(
        "indirect object",
        "After Anna and Peter left the party, Peter sent a letter to",
        "After Anna and Peter left the party, Anna sent a letter to",
    ),
    Prompts(
        "indirect object",
        "While Sarah and Paul were at the museum, Sarah showed a picture to",
        "While Sarah and Paul were at the museum, Paul showed a picture to",
    ),
    Prompts("agreement", "The pictures on the wall of the office", "The picture on the wall of the office"),
    Prompts("agreement", "The doctors that the nurse knows", "The doctor that the nurse knows"),
    Prompts("capital", "The capital of Italy is the city of", "The capital of Germany is the city of"),
    Prompts("capital", "He lives in Spain, whose capital is", "He lives in Russia, whose capital is"),
    Prompts(
        "year",
        "The voyage lasted from the year 1624 to the year 16",
        "The voyage lasted from the year 1674 to the year 16",
    ),
    Prompts("year", "The reign began in 1541 and ended in 15", "The reign began in 1581 and ended in 15"),
    Prompts("opposite", "The opposite of up is", "The opposite of left is"),
    Prompts(
        "opposite",
        "Cold is the opposite of hot, and big is the opposite of",
        "Cold is the opposite of hot, and good is the opposite of",
    ),
    Prompts(
        "colour", "The lights were red, blue, red, blue, red and", "The lights were red, green, red, green, red and"
    ),
    Prompts(
        "colour",
        "Mixing red and white gives pink, and mixing blue and yellow gives",
        "Mixing red and white gives pink, and mixing blue and red gives",
    ),
)


@dataclasses.dataclass(frozen=True)
class RoundsFromIntegrated:
    """Rounds that start from integrated gradients in the place of shares times one gradient."""

    rounds: jstrace.Rounds = dataclasses.field(default_factory=jstrace.Rounds)
    steps: int = 8
    name: str = "rounds_from_integrated"

    def edge_scores(self, one: Pass) -> EdgeTree:
        """See ``jstrace.GradientScore``."""
        start = first_order(one)
        found = Integrated(self.steps).edge_scores(one)
        logs = jax.tree.map(lambda x: jnp.maximum(jnp.log(x + 1e-30), -14.0), found)
        nothing = jax.tree.map(jnp.zeros_like, logs)
        own = FirstOrder(logs, nothing, start.target)
        return self.rounds.walk(one, own)[0]


SCORES: dict[str, tuple[Any, bool]] = {
    "random": ("random", False),
    "l1": ("l1", False),
    "gradient": ("gradient", False),
    "gradient of the metric": ("gradient", True),
    "integrated": ("integrated", False),
    "integrated of the metric": ("integrated", True),
    "l1*gradient of the metric": ("l1*gradient", True),
    "relp": ("relp", False),
    "relp of the metric": ("relp", True),
    "l1*relp of the metric": ("l1*relp", True),
    "rounds": ("rounds", False),
    "rounds of the metric": ("rounds", True),
    "rounds to 0.2%": (jstrace.Rounds(smallest=0.002), False),
    "rounds from integrated": (RoundsFromIntegrated(), False),
    "rounds from integrated, of the metric": (RoundsFromIntegrated(), True),
    "fitted": (jstrace.Fitted(smallest=0.01), False),
}
"""Each score, and whether its gradients are of the logit difference rather than of the prediction."""


def answers(model: Model, prompts: Prompts) -> Any:
    """The logit difference between the tokens that the two prompts are continued with."""
    return jstrace.logit_difference(*(int(np.argmax(model(ids_of(model, text)))) for text in prompts[1:]))


def ids_of(model: Model, text: str) -> np.ndarray:
    """Token ids ``[T]``."""
    return np.asarray(model.tokenizer.encode(text), np.int32)  # type: ignore[union-attr]


def main() -> None:
    """Trace, evaluate, write tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=list(SCORES))
    parser.add_argument("--pairs", type=int, default=len(PROMPTS))
    options = parser.parse_args()
    jstrace.enable_cache()
    model = jstrace.load(options.model)
    asked = [answers(model, prompts) for prompts in PROMPTS[: options.pairs]]
    curves, smallest, seconds, traces = [], [], {}, {}
    for name in options.scores:
        score, of_metric = SCORES[name]
        start, tv, recovered = time.perf_counter(), [], []
        for prompts, metric in zip(PROMPTS, asked, strict=False):
            trace = jstrace.trace(
                model, prompts.clean, counterfactual=prompts.other, score=score, sizes=SIZES,
                metric=metric if of_metric else None,
            )  # fmt: skip
            found = jstrace.evaluate(model, trace, metric=metric)
            close, back = all_smallest(model, trace, found, [Goal(0.1), Goal(None, True)])
            smallest.append([name, prompts.kind, prompts.clean, trace.n_edges, back.edges, close.edges])
            tv.append(found.tv[:-1])
            recovered.append(np.asarray(found.recovered)[:-1])
            traces[name, prompts] = trace
        seconds[name] = round(time.perf_counter() - start, 1)
        mean, low, high = means_of(np.asarray(tv, np.float64))
        means = mean, np.mean(recovered, axis=0)
        curves += [[name, size, *each] for size, *each in zip(SIZES, *means, low, high, strict=True)]
        print(f"{name:38}", *(f"{x:.2f}" for x in means[0]), "|", *(f"{x:.2f}" for x in means[1]), flush=True)
    written(options.out / "curves.csv", table("score size tv recovered tv_low tv_high", curves))
    written(options.out / "smallest.csv", table("score kind prompt edges top_token tv_0.1", smallest))
    exchanged = [row for name in options.scores if name != "random" for row in exchanges(model, name, traces, asked)]
    written(options.out / "exchanged.csv", table("score kind of size tv tv_own", exchanged))
    print(json.dumps({"pairs": len(asked), "seconds": seconds}))


def exchanges(model: Model, name: str, traces: Any, asked: Any) -> list[list[Any]]:
    """TV of pairs under the masks of another pair of as many tokens, and under their own."""
    found = []
    for at, prompts in enumerate(PROMPTS[: len(asked)]):
        own = traces[name, prompts]
        for other in PROMPTS[: len(asked)]:
            trace = traces[name, other]
            if other is prompts or len(trace.tokens) != len(own.tokens):
                continue
            judged = jstrace.evaluate(model, own, masks=trace.masks(), metric=asked[at])
            mine = jstrace.evaluate(model, own, metric=asked[at])
            found += [
                [name, prompts.kind, other.kind, size, float(tv), float(tv_own)]
                for size, tv, tv_own in zip(SIZES, judged.tv, mine.tv, strict=False)
            ]
    return found


def table(head: str, rows: list[list[Any]]) -> list[dict[str, Any]]:
    """Rows by column, numbers rounded."""
    rounded = [[round(cell, 4) if isinstance(cell, float) else cell for cell in row] for row in rows]
    return [dict(zip(head.split(), row, strict=True)) for row in rounded]


if __name__ == "__main__":
    main()
