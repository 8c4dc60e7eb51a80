"""One circuit for 32 prompts with an indirect object: how much of the answer's lead do few edges recover?

python experiments/indirect_objects.py [--ways]

Half of the pairs are held out. --ways compares scores, alignments and ways to pool scores, instead of the one record.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import written
from jstrace.models import EdgeTree
from jstrace.pipeline.tasks.alignment import Alignment, pooled
from jstrace.pipeline.tasks.prompts import Prompt, prompts_of

RESULTS = Path(__file__).parent / "results" / "indirect-objects"
SIZES = (0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4)
NAMES = (
    *("Mary", "John", "Tom", "Anna", "Paul", "Emma", "Jack", "Sarah", "Mark", "Kate", "Peter", "Alice", "David"),
    *("Lucy", "Robert", "Susan"),
)
PLACES = ("store", "park", "office", "school", "market", "station", "library", "garden")
THINGS = ("drink", "book", "key", "ring", "letter", "ticket", "map", "pen")
TEMPLATES = (
    "When {S1} and {IO} went to the {place}, {S2} gave a {thing} to",
    "When {IO} and {S1} went to the {place}, {S2} gave a {thing} to",
    "After {S1} and {IO} had met at the {place}, {S2} handed the {thing} to",
    "After {IO} and {S1} had met at the {place}, {S2} handed the {thing} to",
)
"""Of two sentences, each with the subject first and with the indirect object first."""


def indirect_objects(count: int = 32, seed: int = 0) -> list[jstrace.Pair]:
    """Pairs whose counterfactual has the other name as its subject, so that the answer is the other one, too."""
    rng, found = np.random.default_rng(seed), list[jstrace.Pair]()
    for index in range(count):
        subject, other = rng.permutation(list(NAMES))[:2].tolist()
        row = {
            "S1": subject,
            "IO": other,
            "S2": subject,
            "place": str(rng.choice(PLACES)),
            "thing": str(rng.choice(THINGS)),
        }
        words = {"answer": f" {other}", "rival": f" {subject}", "counterfactual": {"S2": other}}
        found += jstrace.pairs_of(TEMPLATES[index % len(TEMPLATES)], [{**row, **words}])
    return found


def table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV and print it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    written(RESULTS / f"{name}.csv", rows)
    for row in rows:
        print(*(f"{value:.4g}" if isinstance(value, float) else value for value in row.values()), flush=True)


def record(model: jstrace.Model, pairs: list[jstrace.Pair]) -> None:
    """The circuit of rounds by roles, and all that is beside it."""
    start, seconds = time.perf_counter(), dict[str, float]()
    jstrace.task(model, pairs, sizes=SIZES, beside=())
    seconds["found and judged alone"] = time.perf_counter() - start
    start = time.perf_counter()
    circuit = jstrace.task(model, pairs, sizes=SIZES)
    seconds["with all beside it"] = time.perf_counter() - start
    print(circuit)
    columns = circuit.columns()
    table("circuit", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    table("seconds", [{"what": what, "seconds": round(took, 1)} for what, took in seconds.items()])
    areas = [
        {"order": name, "cpr": jstrace.cpr(circuit.row_sizes.tolist(), one.faithfulness.tolist()),
         "cmd": jstrace.cmd(circuit.row_sizes.tolist(), one.faithfulness.tolist())}
        for name, one in circuit.judged.items()
    ]  # fmt: skip
    table("areas", areas)


Pool = Callable[[Sequence[EdgeTree], Sequence[np.ndarray], int, Any], EdgeTree]


def by_prompt(scores: Sequence[EdgeTree], classes: Sequence[np.ndarray], n_classes: int, config: Any) -> EdgeTree:
    """Means over prompts, 0 where a prompt has no edge of the image, rather than over edges."""
    each = [pooled([one], [own], n_classes, config) for one, own in zip(scores, classes, strict=True)]
    totals = [sum(float(np.maximum(leaf, 0).sum()) for _, leaf in one.items()) for one in scores]
    shares = [jax.tree.map(lambda leaf, t=t: leaf / t, one) for one, t in zip(each, totals, strict=True)]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *shares)


def by_ranks(scores: Sequence[EdgeTree], classes: Sequence[np.ndarray], n_classes: int, config: Any) -> EdgeTree:
    """Means over edges of log(E / rank)."""
    return pooled([_log_ranks(one) for one in scores], classes, n_classes, config)


def _log_ranks(scores: EdgeTree) -> EdgeTree:
    leaves = [leaf for _, leaf in scores.items()]
    flat = np.concatenate([leaf.ravel() for leaf in leaves])
    ranks = np.empty(len(flat))
    ranks[np.argsort(-flat, kind="stable")] = np.arange(1, len(flat) + 1)
    logs = np.log((flat >= 0).sum() / ranks)
    parts = np.split(logs, np.cumsum([leaf.size for leaf in leaves])[:-1])
    found = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return EdgeTree(*(np.where(leaf < 0, -1, part) for part, leaf in zip(found, leaves, strict=True)))


POOLS: dict[str, Pool] = {"mean of shares": pooled, "by prompt": by_prompt, "log ranks": by_ranks}


def ways(model: jstrace.Model, pairs: list[jstrace.Pair]) -> Iterator[dict[str, Any]]:
    """What each way recovers of held-out pairs at 0.4% and 1%."""
    chosen = {*np.random.default_rng(0).permutation(len(pairs))[: len(pairs) // 2].tolist()}
    training = [pair for index, pair in enumerate(pairs) if index not in chosen]
    held = [pairs[index] for index in sorted(chosen)]
    prompts = prompts_of(model, training)
    for score in ("gradient", "l1*gradient", "rounds"):
        start = jstrace.task(model, training, held_out=[], score=score, sizes=SIZES)
        traces = jstrace.trace(
            model, [prompt.tokens for prompt in prompts], score=score, sizes=SIZES,
            counterfactual=[prompt.counterfactual for prompt in prompts], metric=[prompt.metric for prompt in prompts],
        )  # fmt: skip
        for align in ("roles", "components"):
            for name, pool in POOLS.items():
                yield _way(model, start, prompts, [one.scores for one in traces], held, align, name, pool)


def _way(
    model: jstrace.Model, start: jstrace.TaskCircuit, prompts: Sequence[Prompt], scores: Sequence[EdgeTree],
    held: Sequence[jstrace.Pair], align: str, name: str, pool: Pool,
) -> dict[str, Any]:  # fmt: skip
    alignment = Alignment.of(prompts, align)
    classes = [alignment.numbers(prompt.roles) for prompt in prompts]
    images = pool(scores, classes, len(alignment.classes), model.config)
    circuit = dataclasses.replace(start, images=images, align=align, classes=alignment.classes)
    found = jstrace.evaluate(model, [circuit.trace(model, pair) for pair in held])
    rows = np.asarray([one.recovered for one in found])
    at = {f"recovered at {100 * size:g}%": float(rows[:, SIZES.index(size)].mean()) for size in (0.004, 0.01, 0.02)}
    ahead = np.mean([np.asarray(one.metric)[SIZES.index(0.01)] > 0 for one in found])
    row = {"score": start.score, "align": align, "pool": name, **at, "accuracy at 1%": float(ahead)}
    print(*row.values(), flush=True)
    return row


def main() -> None:
    """Whatever is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--model", default="smollm2")
    chosen = parser.parse_args()
    jstrace.enable_cache()
    model, pairs = jstrace.load(chosen.model), indirect_objects()
    if chosen.ways:
        table("ways", [*ways(model, pairs)])
    else:
        record(model, pairs)


if __name__ == "__main__":
    main()
