"""Does the backward pass of RelP make smaller traces? Alone, times shares, along the mask, and with rounds.

Command: ``python experiments/relp.py DATA.tsv OUT`` (SmolLM2 in float32; some half an hour on two CPU cores).
``--scores`` takes some of the scores, and leaves the others' rows in the tables as they are; ``--pairs`` and ``--rows``
take the first of either, or none.

The pairs are those of ``pairs.py``, traced and evaluated while ablated edges carry the other prompt's states; the
passages are rows of a file of texts, from ``--first`` on, under means. It writes ``pairs.csv`` and ``passages.csv``
(or ``passages-FIRST.csv``): mean TV by size and its standard error. The last line is JSON.

Expected: on pairs ``relp`` has half of the TV of ``gradient`` from 1% to 10% of the edges, at the same cost, and rounds
have less still. On passages under means it has no less.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import merged, padded_to, texts_of
from experiments.pairs import PROMPTS
from jstrace.method.scores.gradients import (
    Gradient,
    GradientScore,
    Integrated,
    Pass,
    ShareTimesGradient,
    first_order,
)
from jstrace.method.scores.relevance import RelP
from jstrace.method.scores.rounds import Rounds
from jstrace.method.search.ordering import log_ranks
from jstrace.models import EdgeTree, Model

SIZES = (0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class RoundsFromRelP:
    """Rounds whose start, the share times the root of a gradient, has RelP's; later gradients are the usual ones."""

    rounds: Rounds = dataclasses.field(default_factory=Rounds)
    name: str = "rounds_from_relp"

    def edge_scores(self, one: Pass) -> EdgeTree:
        """See ``jstrace.GradientScore``."""
        return self.rounds.walk(one, first_order(one._replace(relevance=True)))[0]


@dataclasses.dataclass(frozen=True)
class MeanOfRanks:
    """The mean of the logarithms of the ranks that several scores give."""

    of: tuple[GradientScore, ...]
    name: str = "mean_of_ranks"

    def edge_scores(self, one: Pass) -> EdgeTree:
        """See ``jstrace.GradientScore``."""
        ranks = [log_ranks(score.edge_scores(one), one.slots()) for score in self.of]
        return jax.tree.map(lambda *each: jnp.exp(sum(each) / len(each)), *ranks)


@dataclasses.dataclass(frozen=True)
class ShareTimes:
    """The L1 share times the root of a score."""

    of: GradientScore
    name: str = "share_times"

    def edge_scores(self, one: Pass) -> EdgeTree:
        """See ``jstrace.GradientScore``."""
        share, found = first_order(one).share, self.of.edge_scores(one)
        return jax.tree.map(lambda a, x: jnp.exp(a) * jnp.sqrt(x), share, found)


SCORES: dict[str, Any] = {
    "gradient": "gradient",
    "relp": "relp",
    "l1*gradient": "l1*gradient",
    "l1*relp": "l1*relp",
    "integrated, 8 steps": Integrated(8),
    "relp integrated, 4 steps": RelP(Integrated(4)),
    "relp integrated, 8 steps": RelP(Integrated(8)),
    "l1 * relp integrated, 8 steps": ShareTimes(RelP(Integrated(8)), "share_times_relp_integrated"),
    "relp and gradient, mean of log ranks": MeanOfRanks((RelP(), Gradient())),
    "l1*relp and l1*gradient, mean of log ranks": MeanOfRanks((RelP(ShareTimesGradient()), ShareTimesGradient())),
    "l1*gradient, power 1": ShareTimesGradient(power=1.0),
    "l1*relp, power 1": RelP(ShareTimesGradient(power=1.0)),
    "rounds, 3 cuts": Rounds(cuts=3),
    "rounds from relp, 3 cuts": RoundsFromRelP(Rounds(cuts=3)),
    "rounds, 5 cuts": Rounds(cuts=5),
    "rounds from relp, 5 cuts": RoundsFromRelP(Rounds(cuts=5)),
    "rounds": "rounds",
    "rounds from relp": RoundsFromRelP(),
    "relp of rounds": RelP(Rounds()),
    "rounds and relp, mean of log ranks": MeanOfRanks((Rounds(), RelP())),
    "rounds and l1*relp, mean of log ranks": MeanOfRanks((Rounds(), RelP(ShareTimesGradient()))),
}
"""What is tried."""


def curves(model: Model, name: str, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table: mean TV of a score by size."""
    traces = [jstrace.trace(model, score=SCORES[name], sizes=SIZES, **one) for one in inputs]
    tv = np.stack([jstrace.evaluate(model, trace).tv[:-1] for trace in traces])
    means, errors = tv.mean(axis=0), tv.std(axis=0, ddof=min(1, len(tv) - 1)) / np.sqrt(len(tv))
    print(f"{name:45}", *(f"{x:.3f}" for x in means), flush=True)
    return [
        {"score": name, "size": size, "inputs": len(tv), "mean_tv": f"{mean:.4f}", "standard_error": f"{error:.4f}"}
        for size, mean, error in zip(SIZES, means, errors, strict=True)
    ]


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=list(SCORES))
    for name, count in (("pairs", len(PROMPTS)), ("rows", 12), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    asked = parser.parse_args()
    jstrace.enable_cache()
    model = jstrace.load(asked.model)
    rows = texts_of(asked.data)[asked.first : asked.first + asked.rows]
    kinds = {
        "pairs": [{"inputs": one.clean, "counterfactual": one.other} for one in PROMPTS[: asked.pairs]],
        f"passages{f'-{asked.first}' if asked.first else ''}": [{"inputs": row, "replace": "mean"} for row in rows],
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    for (kind, inputs), width in zip(kinds.items(), (24, 64), strict=True):
        with padded_to(width):
            for name in asked.scores if inputs else ():
                merged(asked.out / f"{kind}.csv", curves(model, name, inputs), [*SCORES])
    print(json.dumps({"pairs": asked.pairs, "rows": asked.rows, "first": asked.first, "scores": asked.scores}))


if __name__ == "__main__":
    main()
