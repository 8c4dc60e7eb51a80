"""Smaller traces without fitting: a few signed steps after rounds, and what they reach of other predictions.

Command: ``python experiments/smaller.py DATA.tsv OUT`` (SmolLM2 in float32, mean ablation; a quarter of a minute a row,
plan and target on two CPU cores). ``--plans`` takes some of the plans, ``--rows`` other rows and ``--targets`` other
targets.

``rounds`` add the logarithm of a gradient of KL(full || masked), whatever its sign. A signed step adds its signed root,
so that an edge that harms goes down: ``x -= root * sign(g) * sqrt(|g|) / mean sqrt(|g|)``, the mean being over the soft
mask. A gated step is shorter the farther the masked prediction is from the target: by 1 - TV. Every plan has 25 passes
at most. Targets are the text's own prediction ("own"), the prediction of the next row with another top token
("foreign"), and the own one with its first two tokens exchanged ("exchanged"): what reaches the others uses a mask's
capacity. OUT gets ``rows.csv``, TV of every trace, and ``table.csv``, means by plan and target. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import padded_to, prediction, texts_of, written
from jstrace.method.scores.budgets import extremes, largest, soft_mask, total
from jstrace.method.scores.gradients import LEAST_GRADIENT, Pass, as_floats, first_order, kl, log_of
from jstrace.method.search.ordering import marked
from jstrace.method.search.ranking import log_ranks
from jstrace.models import EdgeTree, Model
from jstrace.pipeline.padding import cropped
from jstrace.pipeline.replacing import Replacing

SIZES = (0.004, 0.01, 0.02, 0.04, 0.1)
WIDTH, MOST = 64, 4.0
"""Tokens that inputs are padded to; and the most that one edge gets, in mean roots."""
TARGETS = ("own", "foreign", "exchanged")


class Numbers(NamedTuple):
    """One gradient: where it is taken, and what becomes of it."""

    size: float
    """Of the soft mask, a share of all edges."""
    temperature: float
    logarithm: float = 0.0
    """How much of log |g| an edge gets."""
    nested: float = 0.0
    """1 where no edge outside of this cut comes back."""
    root: float = 0.0
    """How much of the signed root."""
    gated: float = 0.0
    """The power of 1 - TV, from the target, that a signed step is multiplied by."""


Given = tuple[Any, ...]
"""The first five fields of a ``Pass``; the others are static."""


class State(NamedTuple):
    """What edges have, which are left, and how many cuts each survived."""

    x: EdgeTree
    inside: EdgeTree
    survived: EdgeTree

    @staticmethod
    def of(x: EdgeTree, slots: EdgeTree) -> State:
        """At the start."""
        return State(x, slots, as_floats(jax.tree.map(jnp.zeros_like, slots)))


@jax.jit
def step(given: Given, state: State, numbers: Numbers) -> State:
    """The state after one gradient: a forward and a backward pass."""
    one, target = Pass(*given), given[4]
    slots = one.slots()
    n_edges, left = total(as_floats(slots)), jax.tree.map(jnp.logical_and, slots, state.inside)
    count = jnp.floor(numbers.size * n_edges)
    mask = soft_mask(marked(state.x, left), count, numbers.temperature)

    def loss(mask: EdgeTree) -> tuple[Any, Any]:
        logits = one.logits(mask)
        return kl(target, logits), logits

    gradient, logits = jax.grad(loss, has_aux=True)(mask)
    near = 1 - 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(logits) - jnp.exp(target)))
    usual = total(jax.tree.map(lambda m, g: m * jnp.sqrt(jnp.abs(g)), mask, gradient)) / total(mask)
    root = numbers.root * jnp.maximum(near, 1e-6) ** numbers.gated

    def moved(x: Any, g: Any) -> Any:
        signed = jnp.clip(jnp.sign(g) * jnp.sqrt(jnp.abs(g)) / (usual + 1e-20), -MOST, MOST)
        return x - root * signed + numbers.logarithm * log_of(g, LEAST_GRADIENT)

    x = jax.tree.map(moved, state.x, gradient)
    cut = largest(marked(x, left), count.astype(jnp.int32))
    inside = jax.tree.map(lambda new, old: jnp.where(numbers.nested > 0, new, old), cut, state.inside)
    return State(x, inside, jax.tree.map(lambda s, new: s + numbers.nested * new, state.survived, cut))


@jax.jit
def begun(given: Given) -> tuple[State, Any]:
    """Where rounds begin, and the prediction to keep: two forward passes and one backward."""
    one = Pass(*given)
    start = first_order(one)
    return State.of(start.combined(0.5), one.slots()), start.target


@jax.jit
def ordered(given: Given, state: State) -> EdgeTree:
    """Scores: edges rank by the cuts that they survive, then by x."""
    low, high = extremes(marked(state.x, Pass(*given).slots()))
    return jax.tree.map(lambda survived, x: survived + (x - low) / (high - low + 1), state.survived, state.x)


@jax.jit
def begun_again(given: Given, scores: EdgeTree) -> State:
    """An order as the start of signed steps: 1.2 for each e-fold of rank."""
    slots = Pass(*given).slots()
    return State.of(jax.tree.map(lambda x: 1.2 * x, log_ranks(scores, slots)), slots)


def course(count: int, sizes: Sequence[float], temperatures: Sequence[float], **how: float) -> Sequence[Numbers]:
    """Steps whose sizes and temperatures change by equal factors."""
    steps = zip(*(np.geomspace(ends[0], ends[1], count) for ends in (sizes, temperatures)), strict=True)
    return [Numbers(float(size), float(temperature), **how) for size, temperature in steps]


TEN, TWENTY = (course(count, (0.4, 0.01), (0.5, 4.0), logarithm=0.5, nested=1.0) for count in (10, 20))
"""The cuts of ``jstrace.Rounds``."""
TWELVE = 12, (0.1, 0.01), (0.5, 0.2)
"""Of signed steps: how many, from which size to which, and the temperatures."""
PLANS: dict[str, tuple[Sequence[Numbers], Sequence[Numbers]]] = {
    "rounds": (TWENTY, ()),
    "10 cuts, 12 signed steps of .1": (TEN, course(*TWELVE, root=0.1)),
    "10 cuts, 12 signed steps of .1, gated": (TEN, course(*TWELVE, root=0.1, gated=1.0)),
    "10 cuts, 12 signed steps of .2, gated twice": (TEN, course(*TWELVE, root=0.2, gated=2.0)),
}
"""Cuts, and signed steps after them: a forward and a backward pass each, and two and one before the first."""


class Item:
    """A text and what scores are told to keep, probabilities ``[V]``; None for the text's own prediction."""

    def __init__(self, model: Model, text: str, told: np.ndarray | None) -> None:
        """Under the means of the reference that comes with jstrace."""
        assert model.tokenizer is not None
        self.model, self.told, self.known = model, told, dict[int, EdgeTree]()
        self.ids = np.asarray(model.tokenizer.encode(text), np.int32)
        tokens, length = np.pad(self.ids, (0, WIDTH - len(self.ids))), np.int32(len(self.ids))
        target = None if told is None else np.log(np.maximum(told, 1e-38)).astype(np.float32)
        given = model.decoder, tokens, length, Replacing(model).first("mean", WIDTH)
        self.start, found = begun((*given, target))
        self.given: Given = (*given, found)

    def scores(self, first: Sequence[Numbers], then: Sequence[Numbers]) -> EdgeTree:
        """At the end of both courses."""
        if len(first) not in self.known:
            self.known[len(first)] = ordered(self.given, self.followed(self.start, first))
        found = self.known[len(first)]
        return ordered(self.given, self.followed(begun_again(self.given, found), then)) if then else found

    def followed(self, state: State, course: Sequence[Numbers]) -> State:
        """The state after a course."""
        for numbers in course:
            state = step(self.given, state, numbers)
        return state

    def judged(self, scores: EdgeTree) -> tuple[np.ndarray, np.ndarray]:
        """TV from the target at each size, and whether the top token is the target's."""
        found = cropped(jax.tree.map(lambda leaf: np.asarray(leaf)[None], scores), 0, len(self.ids))
        with padded_to(WIDTH):
            trace = jstrace.Trace.from_scores(self.model, self.ids, found, sizes=SIZES, replace="mean")
            judged = jstrace.evaluate(self.model, trace, target=self.told)
        return judged.tv[:-1], judged.agreement[:-1]


def told(known: dict[int, np.ndarray], row: int, target: str) -> np.ndarray | None:
    """What a row is told: see the module."""
    own, rows, at = known[row], list(known), list(known).index(row)
    if target == "own":
        return None
    if target == "exchanged":
        found, first = own.copy(), np.argsort(-own)[:2]
        found[first] = own[first[::-1]]
        return found
    return next(known[other] for other in rows[at + 1 :] + rows[:at] if known[other].argmax() != own.argmax())


def measured(model: Model, texts: Sequence[str], asked: Any) -> Iterator[dict[str, Any]]:
    """Rows of ``rows.csv``."""
    known = {row: prediction(model, texts[row]) for row in asked.rows}
    for row in asked.rows:
        for target in asked.targets:
            item = Item(model, texts[row], told(known, row, target))
            for plan in asked.plans:
                tv, said = item.judged(item.scores(*PLANS[plan]))
                print(f"{plan:40} {row} {target:10}", *(f"{one:.3f}" for one in tv), flush=True)
                key = {"plan": plan, "row": row, "target": target}
                yield from (
                    key | {"size": size, "tv": f"{one:.4f}", "said": int(word)}
                    for size, one, word in zip(SIZES, tv, said, strict=True)
                )


def table(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over rows: TV from the target, and the share of targets whose top token is said."""
    names = ("plan", "target", "size")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        here = [row for row in rows if tuple(row[name] for name in names) == key]
        tv, said = (np.mean([float(row[name]) for row in here]) for name in ("tv", "said"))
        passes = 2 + sum(map(len, PLANS[key[0]]))
        yield dict(zip(names, key, strict=True)) | {
            "passes": passes, "inputs": len(here), "mean_tv": f"{tv:.4f}", "said": f"{said:.2f}"
        }  # fmt: skip


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--rows", type=int, nargs="+", default=[*range(400, 412)])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    asked = parser.parse_args()
    if len(asked.rows) < 2 and "foreign" in asked.targets:
        parser.error("a foreign target is another row's prediction; expected two rows at least")
    jstrace.enable_cache()
    model, texts = jstrace.load("smollm2"), texts_of(asked.data)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in measured(model, texts, asked):
        rows.append(row)
        written(asked.out / "rows.csv", rows)
    written(asked.out / "table.csv", list(table(rows)))
    print(json.dumps({"plans": asked.plans, "rows": asked.rows, "targets": asked.targets}))


if __name__ == "__main__":
    main()
