"""Smaller traces without fitting: a few signed steps after rounds, and what they reach of other predictions.

Command: ``python experiments/smaller.py DATA.tsv OUT`` (SmolLM2 in float32; a quarter of a minute a passage, plan and
target on two CPU cores). Ablated edges carry means or, with ``--pairs``, the other prompt's states of the pairs of
``pairs.py``. ``--plans``, ``--rows`` and ``--targets`` take some of them; rows that OUT has already are not made again.

``rounds`` add the logarithm of a gradient of KL(full || masked), whatever its sign. A signed step adds its signed root,
so that an edge that harms goes down: ``x -= root * sign(g) * sqrt(|g|) / mean sqrt(|g|)``, the mean being over the soft
mask. A gated step is shorter the farther the masked prediction is from the target: by 1 - TV. Every plan has 25 passes
at most. Targets are the text's own prediction ("own"), the prediction of the next row with another top token
("foreign"), and the own one with its first two tokens exchanged ("exchanged"): what reaches the others uses a mask's
capacity. OUT gets ``passages.csv`` or ``pairs.csv``, TV of every trace, and a ``-means.csv`` by plan and target. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import Table, padded_to, prediction, texts_of, written
from experiments.pairs import PROMPTS
from experiments.signed_steps import PLANS, Given, Numbers, State, begun, begun_again, ordered, step
from jstrace.models import EdgeTree, Model, Replacement
from jstrace.pipeline.padding import cropped
from jstrace.pipeline.replacing import Replacing

SIZES = (0.004, 0.01, 0.02, 0.04, 0.1)
WIDTH, PAIR_WIDTH = 64, 24
"""Tokens that passages and pairs are padded to."""
TARGETS = ("own", "foreign", "exchanged")


class Item:
    """A text and what scores are told to keep, probabilities ``[V]``; None for the text's own prediction."""

    def __init__(self, model: Model, text: str, told: np.ndarray | None, other: str | None = None) -> None:
        """Under the states of another prompt, or the means of the reference that comes with jstrace."""
        assert model.tokenizer is not None
        self.model, self.told, self.other, self.known = model, told, other, dict[int, EdgeTree]()
        self.ids = np.asarray(model.tokenizer.encode(text), np.int32)
        self.width = WIDTH if other is None else PAIR_WIDTH

    @functools.cached_property
    def started(self) -> tuple[State, Given]:
        """Where rounds begin, and what passes are given."""
        tokens, length = np.pad(self.ids, (0, self.width - len(self.ids))), np.int32(len(self.ids))
        target = None if self.told is None else np.log(np.maximum(self.told, 1e-38)).astype(np.float32)
        given = self.model.decoder, tokens, length, self.replacement()
        state, to_keep = begun((*given, target))
        return state, (*given, to_keep)

    @property
    def given(self) -> Given:
        """What passes are given."""
        return self.started[1]

    apart = 0.0
    """TV of what it is told from its own prediction."""

    def carried(self) -> Replacement | str | None:
        """What ablated edges carry in the place of a counterfactual's states."""
        return "mean" if self.other is None else None

    def replacement(self) -> Replacement | None:
        """What they carry, for passes of the padded width."""
        if self.other is None:
            return Replacing(self.model).first("mean", self.width)
        return jstrace.resample_replacement(self.model, self.other).spread(self.width).bare()

    def scores(self, first: Sequence[Numbers], then: Sequence[Numbers]) -> EdgeTree:
        """At the end of both courses."""
        if len(first) not in self.known:
            self.known[len(first)] = ordered(self.given, self.followed(self.started[0], first))
        scores = self.known[len(first)]
        return ordered(self.given, self.followed(begun_again(self.given, scores), then)) if then else scores

    def followed(self, state: State, course: Sequence[Numbers]) -> State:
        """The state after a course."""
        for numbers in course:
            state = step(self.given, state, numbers)
        return state

    def judged(self, scores: EdgeTree) -> tuple[np.ndarray, np.ndarray]:
        """TV from the target at each size, and whether the top token is the target's."""
        own = cropped(jax.tree.map(lambda leaf: np.asarray(leaf)[None], scores), 0, len(self.ids))
        given: dict[str, Any] = {} if self.other is None else {"counterfactual": self.other}
        with padded_to(self.width):
            trace = jstrace.Trace.from_scores(self.model, self.ids, own, sizes=SIZES, **given)
            judged = jstrace.evaluate(self.model, trace, target=self.told, replace=self.carried())
        return judged.tv[:-1], judged.agreement[:-1]


def told(known: dict[int, np.ndarray], row: int, target: str) -> np.ndarray | None:
    """What a row is told: see the module."""
    own, rows, at = known[row], list(known), list(known).index(row)
    if target == "own":
        return None
    if target == "exchanged":
        exchanged, first = own.copy(), np.argsort(-own)[:2]
        exchanged[first] = own[first[::-1]]
        return exchanged
    return next(known[other] for other in rows[at + 1 :] + rows[:at] if known[other].argmax() != own.argmax())


def items(asked: argparse.Namespace) -> Iterator[tuple[int, str, Item]]:
    """Row, name of the target, and the item, for all that was asked; foreign targets are of all passages or pairs."""
    model, lines = jstrace.load("smollm2"), texts_of(asked.data)
    usual = range(len(PROMPTS)) if asked.pairs else range(400, 412)
    rows = asked.rows or [*usual]

    def texts(row: int) -> tuple[str, str | None]:
        return (PROMPTS[row].clean, PROMPTS[row].other) if asked.pairs else (lines[row], None)

    known = {row: prediction(model, texts(row)[0]) for row in dict.fromkeys([*usual, *rows])}
    for row in rows:
        for target in asked.targets:
            text, other = texts(row)
            item = Item(model, text, told(known, row, target), other)
            item.apart = 0.0 if item.told is None else float(np.abs(item.told - known[row]).sum() / 2)
            yield row, target, item


def measured(asked: argparse.Namespace, there: Table) -> Iterator[list[dict[str, Any]]]:
    """Rows of each plan, row and target that are not there."""
    for row, target, item in items(asked):
        for plan in asked.plans:
            if (plan, row, target) in there:
                continue
            key = {"plan": plan, "row": str(row), "target": target, "apart": f"{item.apart:.4f}"}
            yield by_size(key, *item.judged(item.scores(*PLANS[plan])))


def by_size(key: dict[str, str], tv: np.ndarray, said: np.ndarray) -> list[dict[str, Any]]:
    """The rows of one judgement, a row for each size, and a line on standard output."""
    print(*key.values(), *(f"{each:.3f}" for each in tv), flush=True)
    return [
        key | {"size": str(size), "tv": f"{each:.4f}", "said": int(word)}
        for size, each, word in zip(SIZES, tv, said, strict=True)
    ]


def table(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over rows: TV from the target, and the share of targets whose top token is said."""
    names = ("plan", "target", "size")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        here = [row for row in rows if tuple(row[name] for name in names) == key]
        tv, said = (np.mean([float(row[name]) for row in here]) for name in ("tv", "said"))
        passes = 2 + sum(map(len, PLANS[key[0]]))
        error = np.std([float(row["tv"]) for row in here], ddof=min(1, len(here) - 1)) / np.sqrt(len(here))
        yield dict(zip(names, key, strict=True)) | {
            "passes": passes, "inputs": len(here), "mean_tv": f"{tv:.4f}", "standard_error": f"{error:.4f}",
            "said": f"{said:.2f}",
        }  # fmt: skip


def options(description: str) -> argparse.ArgumentParser:
    """What this command and those that go on from it have in common."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", help="of DATA.tsv, or numbers of pairs from 0 on")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--pairs", action="store_true")
    return parser


def main() -> None:
    """Run the command of the module's docstring."""
    parser = options(__doc__ or "")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    asked = parser.parse_args()
    jstrace.enable_cache()
    made = Table(asked.out / ("pairs.csv" if asked.pairs else "passages.csv"), "plan", "row", "target")
    for rows in measured(asked, made):
        made.add(rows)
    written(made.path.with_name(f"{made.path.stem}-means.csv"), list(table(made.rows)))
    print(json.dumps({"plans": asked.plans, "rows": len(made.rows), "targets": asked.targets, "pairs": asked.pairs}))


if __name__ == "__main__":
    main()
