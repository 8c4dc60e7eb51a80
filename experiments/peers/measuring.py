"""Scores of jstrace, and other tools' edges translated, through the same masked forwards."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

import jstrace
from experiments.peers.inputs import Item
from experiments.peers.selections import packed, unpacked
from experiments.peers.translation import components, edges_of, mask_of
from jstrace.models import EdgeTree, Model, ModelConfig

SIZES = (0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4)
FIRST = ("residual", "mlp")
"""What ranks first where a score says nothing of it."""
AT_HOME = ("relp", "rounds")
"""Traces that are translated for the other tool's evaluation."""


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """Attention probabilities alone, as heat maps show them; other edges have none."""

    name: str = "attention"

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """See ``jstrace.Score``."""
        return jnp.zeros(edge.shape[:1]) + 0 * node[:, 0]

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """See ``jstrace.Score``."""
        return probs + 0 * (values[:, None, :, 0] + node[None, :, :1])


SCORES: dict[str, dict[str, Any]] = {
    "random": {"score": "random", "frozen": FIRST},
    "attention": {"score": Probabilities(), "frozen": FIRST},
    "l1": {"score": "l1"},
    "l1*gradient": {"score": "l1*gradient"},
    "relp": {"score": "relp"},
    "rounds": {"score": "rounds"},
    "learned": {"score": "learned"},
    "fitted": {"score": jstrace.Fitted(steps=50, polish=0)},
}
BOTH = "MLPs left out"
"""Selections that both graphs can express."""
FOREIGN = ("relp", "rounds", "fitted")
"""Scores that look at the prediction, and are asked for another text's, too."""


def condition(one: Item) -> dict[str, Any]:
    """What ablated edges carry: means, or the other text's states."""
    return {"replace": "mean"} if one.kind == "passage" else {"counterfactual": one.other}


def rows_of(model: Model, one: Item, scores: list[str], foreign: np.ndarray, out: Path) -> Iterator[Any]:
    """A row for each score of jstrace and target; traces of ``AT_HOME`` are left in ``out``, translated."""
    translated = {}
    for name in scores:
        for told in ("own", "foreign") if name in FOREIGN and one.kind != "swapped" else ("own",):
            target = foreign if told == "foreign" else None
            start = time.perf_counter()
            trace = jstrace.trace(model, one.tokens, sizes=SIZES, target=target, **SCORES[name], **condition(one))
            seconds = time.perf_counter() - start
            yield {"score": name, "told": told, "seconds": seconds, **judged(model, trace, target)}
            if name in AT_HOME and told == "own" and one.kind == "pair":
                translated[name] = [edges_of(trace.mask(k), model.config) for k in range(len(SIZES))]
    if translated:
        translated[BOTH] = without_mlps(model.config)
        yield {"score": BOTH, "told": "own", "seconds": 0.0, **of_peer(model, one, translated[BOTH], None)}
        np.savez_compressed(out, **packed(translated))


def without_mlps(config: ModelConfig) -> list[np.ndarray]:
    """All edges but those of some MLPs, ever fewer: where the two graphs say the same, and so must evaluations."""
    order, every, found = np.random.default_rng(0).permutation(config.n_layers), components(config).edges, []
    for left_out in np.linspace(config.n_layers - 1, 1, len(SIZES)).astype(int):
        kept = every.copy()
        for layer in order[:left_out]:
            kept[(layer + 1) * (config.n_heads + 1)] = False
            kept[:, (layer + 1) * (3 * config.n_heads + 1) - 1] = False
        found.append(kept)
    return found


def rows_of_peers(model: Model, one: Item, foreign: np.ndarray, peers: Path) -> Iterator[Any]:
    """A row for each of the other tool's scores, in the file ``peers``, and target."""
    with np.load(peers) as file:
        selections, seconds = unpacked(file), {name: float(file[f"{name}|seconds"]) for name in unpacked(file)}
    for name, kept in selections.items():
        own = not name.endswith("foreign")
        if one.kind == "swapped" and not own:
            continue
        row = {"score": name.removesuffix(", foreign"), "told": "own" if own else "foreign", "seconds": seconds[name]}
        yield row | of_peer(model, one, kept, None if own else foreign)


def of_peer(model: Model, one: Item, kept: Iterable[np.ndarray], target: np.ndarray | None) -> dict[str, Any]:
    """The other tool's selections, smallest first, through jstrace's masked forwards."""
    masks = [mask_of(each, model.config, len(one.tokens), first(one)) for each in kept]
    base = jstrace.trace(model, one.tokens, sizes=SIZES, **condition(one))
    return judged(model, with_masks(base, masks), target)


def first(one: Item) -> int:
    """The first token from which two texts differ; 0 under means."""
    return 0 if one.kind == "passage" else int(np.flatnonzero(one.tokens != one.other)[0])


def with_masks(base: Any, masks: list[EdgeTree]) -> Any:
    """A trace that holds nested masks, smallest first; of sizes that ask for as many edges as they have."""
    z = len(masks)
    held = jax.tree.map(lambda *each: np.sum(each, axis=0), *masks)
    strata = jax.tree.map(lambda count, old: np.where(old == 255, old, z - count).astype(np.uint8), held, base.strata)
    counts = np.asarray([int(mask.count()) for mask in masks], np.int32)
    assert (np.diff(counts) >= 0).all()
    sizes = tuple(float(size) for size in (counts + np.linspace(0.1, 0.9, z)) / base.n_edges)
    return dataclasses.replace(base, strata=strata, counts=counts, sizes=sizes, score="own")


def judged(model: Model, trace: Any, target: np.ndarray | None) -> dict[str, Any]:
    """Shares of edges and FLOPs, and TV from what was asked for, by size."""
    composition, found = trace.composition(), jstrace.evaluate(model, trace, target=target)
    edges, flops = composition.edges / trace.n_edges, trace.flops()
    return {
        "edges": np.round(edges[:-1], 6).tolist(),
        "flops": np.round((flops / flops[-1])[:-1], 4).tolist(),
        "tv": np.round(np.asarray(found.tv[:-1], np.float64), 4).tolist(),
    }
