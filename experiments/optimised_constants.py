"""Smaller traces with constants that are optimised on reference texts: optimal ablation, a replacement of its own.

Commands (SmolLM2 in float32; some ten minutes on two CPU cores for either):

    python experiments/optimised_constants.py fit DATA.tsv OUT
    python experiments/optimised_constants.py judge DATA.tsv OUT [--rows ROWS] [--targets TARGETS]

``fit`` takes passages that nothing else uses (rows 100 to 111), each with its masks of 1%, 2% and 4% by ten cuts of
rounds under means, and moves what ablated edges carry, from the means on, by Adam on KL(full || masked). It writes
``constants.npz``, a ``jstrace.Replacement``. ``judge`` writes ``constants.csv``: TV from the target where ablated edges
carry means or constants, of the traces that ``rounds`` find under means and of those that they find under constants.
The last line is JSON.

Constants move the yardstick: what they know of texts in general no trace has to keep. So these numbers stand apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import Table, texts_of
from experiments.signed_steps import PLANS, TEN, Given
from experiments.smaller import Item, by_size, items, options
from jstrace.method.scores.budgets import largest, total
from jstrace.method.scores.gradients import Pass, as_floats, kl
from jstrace.method.search.ordering import marked
from jstrace.models import EdgeTree, Model, Replacement

FITTED_ON = range(100, 112)
CUTS = (0.01, 0.02, 0.04)
STEPS, ROWS, RATE = 40, 2, 0.03
"""Of Adam: how many, texts of each, and how far one goes, in root mean squares of each array's entry."""
NAME = "optimised"
KEY = "traced_under", "evaluated_under", "row", "target"


class Carrying(Item):
    """An item whose ablated edges carry constants of one's own."""

    def __init__(self, item: Item, constants: Replacement) -> None:
        """As another item."""
        self.__dict__ |= {name: value for name, value in vars(item).items() if name != "started"}
        self.known, self.constants = {}, constants

    def carried(self) -> Replacement:
        """The constants."""
        return self.constants

    def replacement(self) -> Replacement:
        """The constants."""
        return self.constants.bare()


@jax.jit
def masks(given: Given, scores: EdgeTree) -> EdgeTree:
    """The best edges of each of ``CUTS``, on a leading axis."""
    slots = Pass(*given).slots()
    counts = [jnp.floor(size * total(as_floats(slots))).astype(jnp.int32) for size in CUTS]
    cuts = [largest(marked(scores, slots), count) for count in counts]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *cuts)


@jax.jit
def loss_gradient(given: Given, mask: EdgeTree, constants: Replacement) -> tuple[Any, Replacement]:
    """KL(full || masked) where ablated edges carry constants, and its gradient in them."""

    def loss(constants: Replacement) -> Any:
        forward = Pass(*given)._replace(replace=constants)
        return kl(given[4], forward.logits(as_floats(mask)))

    return jax.value_and_grad(loss)(constants)


def fitted(model: Model, texts: list[str]) -> Replacement:
    """What Adam makes of the means."""
    fits = [Item(model, text, None) for text in texts]
    cuts = [masks(item.given, item.scores(TEN, ())) for item in fits]
    means = fits[0].replacement()
    assert means is not None
    scale = jax.tree.map(lambda x: jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True)) + 1e-6, means)
    moved = jax.tree.map(jnp.zeros_like, means)
    adam = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    state, rng = adam.init(moved), np.random.default_rng(0)
    for number in range(STEPS):
        constants = jax.tree.map(lambda mean, s, x: mean + s * x, means, scale, moved)
        values, gradients = [], []
        for at in rng.choice(len(fits), ROWS, replace=False):
            size = int(rng.integers(len(CUTS)))
            mask = jax.tree.map(lambda leaf, size=size: leaf[size], cuts[at])
            value, gradient = loss_gradient(fits[at].given, mask, constants)
            values.append(float(value))
            gradients.append(jax.tree.map(jnp.multiply, gradient, scale))
        mean = jax.tree.map(lambda *each: sum(each) / ROWS, *gradients)
        change, state = adam.update(mean, state)
        moved = optax.apply_updates(moved, change)
        if number % 10 == 0:
            print(f"step {number:3}: KL {np.mean(values):.3f}", flush=True)
    return jax.tree.map(lambda mean, s, x: np.asarray(mean + s * x), means, scale, moved)


def judged(asked: argparse.Namespace, constants: Replacement, there: Table) -> Iterator[list[dict[str, Any]]]:
    """The rows of each judgement that is not there."""
    for row, target, item in items(asked):
        other = Carrying(item, constants)
        cases = {
            ("means", "means"): (item, item),
            ("means", NAME): (item, other),
            (NAME, NAME): (other, other),
        }
        for (traced, carried), (source, judge) in cases.items():
            key = traced, carried, str(row), target
            if key not in there:
                yield by_size(dict(zip(KEY, key, strict=True)), *judge.judged(source.scores(*PLANS["rounds"])))


def main() -> None:
    """Run the command of the module's docstring."""
    command = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    parser = options(__doc__ or "")
    asked = parser.parse_args()
    if command not in ("fit", "judge"):
        parser.error("expected fit or judge before DATA.tsv")
    jstrace.enable_cache()
    path, made = asked.out / "constants.npz", Table(asked.out / "constants.csv", *KEY)
    if command == "fit":
        model, texts = jstrace.load("smollm2"), texts_of(asked.data)
        path.parent.mkdir(parents=True, exist_ok=True)
        fitted(model, [texts[row] for row in FITTED_ON]).save(path)
    else:
        for rows in judged(asked, Replacement.load(path), made):
            made.add(rows)
    print(json.dumps({"command": command, "rows": len(made.rows)}))


if __name__ == "__main__":
    main()
