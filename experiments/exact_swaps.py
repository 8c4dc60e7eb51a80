"""Smaller traces without fitting: exact effects of the edges around a cut, and swaps at its size.

Command: ``python experiments/exact_swaps.py DATA.tsv OUT`` (SmolLM2 in float32; minutes a passage, half a minute a
pair). Rows, targets and what ablated edges carry are those of ``smaller.py``, whose ``--pairs`` it has, too.

It starts from the hard mask of ``rounds`` at one size. In a step, some edges of the mask and as many outside of it are
candidates: those whose gradient promises most, or those next to the cut in the order of ``rounds``. Their effects on
KL(target || masked) are the gradient's, or exact ones: a masked forward pass with that edge alone removed or added.
Then the best removals are exchanged for the best additions, 1, 2, 4, ... at once, and the number that leaves the least
KL is kept, if that is less than before. OUT gets ``swaps.csv`` (or ``swaps-pairs.csv``): TV from the target before and
after, forward and backward passes, and seconds of processor time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import Table
from experiments.signed_steps import PLANS, Given
from experiments.smaller import Item, items, options
from jstrace.method.graph.indexing import flat, unflat
from jstrace.method.scores.gradients import Pass, as_floats, kl

BATCH = 16
"""Masks of one call."""


class Way(NamedTuple):
    """How edges are swapped."""

    steps: int
    candidates: int
    """On either side of the cut."""
    exact: bool
    """Whether effects are exact, or a gradient's."""
    by_gradient: bool = True
    """Whether candidates are those whose gradient promises most, or those next to the cut."""


WAYS = {
    "first order": Way(4, 1024, exact=False),
    "exact, by gradient": Way(4, 64, exact=True),
    "exact, next to the cut": Way(4, 64, exact=True, by_gradient=False),
}
SIZES = (0.01, 0.04)


@jax.jit
def slopes(given: Given, mask: Any) -> tuple[Any, Any, Any]:
    """KL, TV and d KL / d mask of every slot, ``[E]``, at a mask ``[E]``: a forward and a backward pass."""
    forward = Pass(*given)
    slots = forward.slots()

    def loss(mask: Any) -> tuple[Any, Any]:
        logits = forward.logits(unflat(mask, as_floats(slots)))
        return kl(given[4], logits), distance(given, logits)

    (value, tv), slope = jax.value_and_grad(loss, has_aux=True)(mask)
    return value, tv, slope


@jax.jit
def changed(given: Given, mask: Any, places: Any) -> tuple[Any, Any]:
    """KL and TV ``[B]`` where the edges at ``places``, ``[B, N]``, change sides; a place past the last is none."""
    forward = Pass(*given)
    like = as_floats(forward.slots())

    def of(places: Any) -> tuple[Any, Any]:
        logits = forward.logits(unflat(mask.at[places].set(1 - mask[places], mode="drop"), like))
        return kl(given[4], logits), distance(given, logits)

    return jax.vmap(of)(places)


def distance(given: Given, logits: Any) -> Any:
    """TV from the target."""
    return 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(logits) - jnp.exp(given[4])))


class Cut:
    """A hard mask of one item, and the passes that it took."""

    def __init__(self, given: Given, order: np.ndarray, count: int) -> None:
        """The first ``count`` of an order, places ``[E]`` of edges."""
        self.given, self.order, self.forward, self.backward = given, order, 0, 0
        slots = Pass(*given).slots()
        self.mask = np.zeros(flat(slots).shape, np.float32)
        self.mask[order[:count]] = 1

    def values(self, rows: list[np.ndarray]) -> np.ndarray:
        """KL where the edges of each row change sides."""
        wide, values = max(map(len, rows)), []
        places = np.full((-(-len(rows) // BATCH) * BATCH, wide), len(self.mask), np.int32)
        for at, row in enumerate(rows):
            places[at, : len(row)] = row
        for start in range(0, len(places), BATCH):
            values.append(np.asarray(changed(self.given, self.mask, places[start : start + BATCH])[0]))
        self.forward += len(rows)
        return np.concatenate(values)[: len(rows)]

    def candidates(self, way: Way, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the mask and edges outside of it, the best to swap first."""
        n = min(way.candidates, int(self.mask.sum()) // 2)
        held = self.mask[self.order] > 0
        inside, outside = self.order[held], self.order[~held]
        if not way.by_gradient:
            return inside[::-1][:n], outside[:n]
        return inside[np.argsort(-slope[inside])[:n]], outside[np.argsort(slope[outside])[:n]]

    def step(self, way: Way) -> bool:
        """Swap once; False where nothing is gained."""
        value, _, slope = (np.asarray(each) for each in slopes(self.given, self.mask))
        self.forward, self.backward = self.forward + 1, self.backward + 1
        sides = self.candidates(way, slope)
        if way.exact:
            effects = np.split(self.values([place[None] for place in np.concatenate(sides)]), 2)
            sides = sides[0][np.argsort(effects[0])], sides[1][np.argsort(effects[1])]
        counts = [1 << n for n in range(len(sides[0]).bit_length())]
        rows = [np.concatenate([side[:count] for side in sides]) for count in counts]
        left = self.values(rows)
        if left.min() >= value:
            return False
        best = rows[int(left.argmin())]
        self.mask[best] = 1 - self.mask[best]
        return True

    def tv(self) -> float:
        """From the target."""
        return float(slopes(self.given, self.mask)[1])


def swapped(item: Item, order: np.ndarray, count: int, way: Way) -> dict[str, Any]:
    """What a way makes of the first edges of an order."""
    cut, start = Cut(item.given, order, count), time.process_time()
    before, size = cut.tv(), cut.mask.sum()
    steps = 0
    while steps < way.steps and cut.step(way):
        steps += 1
    assert cut.mask.sum() == size
    return {
        "before": f"{before:.4f}", "tv": f"{cut.tv():.4f}", "steps": steps, "forward": cut.forward,
        "backward": cut.backward, "seconds": f"{time.process_time() - start:.0f}",
    }  # fmt: skip


def order_of(item: Item) -> np.ndarray:
    """Places of all edges, best first, by ``rounds``."""
    slots = np.flatnonzero(np.asarray(flat(Pass(*item.given).slots())))
    scores = np.asarray(flat(item.scores(*PLANS["rounds"])))[slots]
    return slots[np.argsort(-scores, kind="stable")]


def measured(asked: argparse.Namespace, there: Table) -> Iterator[dict[str, Any]]:
    """Rows of the file, without those that are there."""
    for row, target, item in items(asked):
        cases = [(way, size) for size in asked.sizes for way in asked.ways if (way, row, target, size) not in there]
        order = order_of(item) if cases else np.zeros(0)
        for way, size in cases:
            outcome = swapped(item, order, int(size * len(order)), WAYS[way])
            swap = {"way": way, "row": str(row), "target": target, "size": str(size)} | outcome
            print(*swap.values(), flush=True)
            yield swap


def main() -> None:
    """Run the command of the module's docstring."""
    parser = options(__doc__ or "")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES))
    asked = parser.parse_args()
    jstrace.enable_cache()
    made = Table(asked.out / ("swaps-pairs.csv" if asked.pairs else "swaps.csv"), "way", "row", "target", "size")
    for swap in measured(asked, made):
        made.add([swap])
    print(json.dumps({"ways": asked.ways, "rows": len(made.rows), "targets": asked.targets, "pairs": asked.pairs}))


if __name__ == "__main__":
    main()
