"""Scores and fits of a program's inputs in jstrace, beside the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

import jstrace
from experiments.circuits.blocks import LETTERS, TOKENS
from experiments.circuits.orders import (
    area,
    flat,
    ranks_of_scores,
    slots_of,
    strata_of_search,
    unflat,
    with_connections,
)
from experiments.circuits.programs import Program
from experiments.circuits.truth import Truth, truth
from experiments.circuits.writing import GAIN, Shape
from jstrace.method.naming import SCORE_NAMES, takes_passes
from jstrace.models import EdgeTree, Model, Replacement

NOT_MEASURED = ("learned", "fitted")
"""The scorer that comes with jstrace is of another model; fits are told apart."""
SCORES = tuple(name for name in SCORE_NAMES if name not in NOT_MEASURED)
REPLACEMENTS = ("zero", "mean", "pair")
SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8)
"""Of all edges: sizes that TV is measured at, beside the true one."""
CLOSE = 0.05
SIZES = (0.5,)
"""Of traces that are made for their scores alone."""
REFERENCE = 48
"""Other inputs of the program that means are over."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a program, and what is true of it."""

    tokens: np.ndarray
    other: np.ndarray
    """Of the counterfactual."""
    true: Truth
    values: EdgeTree
    """True edges where heads read values alone."""
    foreign: np.ndarray
    """Probabilities of an answer that neither has, ``[V]``: what the control of a fit is told."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A program in one shape with junk of one strength."""

    name: str
    program: Program
    shape: Shape
    junk: float

    @property
    def key(self) -> dict[str, Any]:
        """What its rows begin with."""
        return {"program": self.name, "size": self.shape.name, "junk": self.junk}

    def made(self, count: int) -> tuple[Model, list[Input], list[np.ndarray]]:
        """The model, inputs, and others that means are over; the same at every strength of junk."""
        rng = np.random.default_rng([ord(letter) for letter in self.name + self.shape.name])
        config, params = self.program.model(self.shape).finished(self.junk)
        drawn, inputs = [], []
        for _ in range(count):
            tokens = self.program.draw(rng, self.shape.n_tokens)
            other = self.program.counterfactual(rng, tokens)
            answers = [int(self.program.logits(each).argmax()) for each in (tokens, other)]
            wrong = sorted({*tokens.tolist()} & {*LETTERS.tolist()} - {*answers}) or sorted({*LETTERS} - {*answers})
            logits = np.exp(GAIN * TOKENS[rng.choice(wrong)])
            drawn.append((tokens, other, logits / logits.sum()))
        reference = [self.program.draw(rng, self.shape.n_tokens) for _ in range(REFERENCE)]
        for tokens, other, foreign in drawn:
            seen = [other, *reference]
            found = truth(config, params, tokens, other, inputs=seen)
            values = truth(config, params, tokens, inputs=seen, keys=False)
            inputs.append(Input(tokens, other, found, values.edges, foreign))
        return Model.from_arrays(config, params), inputs, reference


def replacements_of(model: Model, one: Input, reference: list[np.ndarray]) -> dict[str, Replacement]:
    """Zeros, means and the counterfactual's states, all one entry a token, so that they share programs.

    Zeros are jstrace's zero ablation, and the states its ``counterfactual=``: tests assert either.
    """
    states = jstrace.resample_replacement(model, one.other)
    means = jstrace.mean_replacement(model, reference).spread(len(one.tokens))
    found = {"zero": jax.tree.map(np.zeros_like, states), "mean": means, "pair": states}
    return {name: dataclasses.replace(each, name="own") for name, each in found.items()}


@dataclasses.dataclass(frozen=True)
class Order:
    """An order of edges and the masks that it gives."""

    places: np.ndarray
    """Of every edge, ``[E]``; lower ones come first, and equal ones at once."""
    least: np.ndarray
    """Of each mask the least place that it does not hold, ``[N]``: first of the true size, then of ``SHARES``."""

    def masks(self) -> np.ndarray:
        """``[N, E]``, bool."""
        return self.places < self.least[:, None]


@dataclasses.dataclass(frozen=True)
class Orders:
    """How scores of one input become orders."""

    slots: EdgeTree
    config: jstrace.ModelConfig
    n_true: int
    connected: bool

    def of(self, scores: EdgeTree) -> dict[str, Order]:
        """By the score alone, by best-first search, and by the search over ``with_connections``."""
        n_edges = int(flat(self.slots).sum())
        counts = np.array([self.n_true, *(max(1, round(share * n_edges)) for share in SHARES)])
        found = {"score": Order(ranks_of_scores(scores, self.slots), counts)}
        searches = {"best-first": scores}
        if self.connected:
            searches["connected"] = with_connections(scores, self.slots)
        for name, tree in searches.items():
            strata, cuts = strata_of_search(tree, self.slots, self.config, counts)
            found[name] = Order(strata, np.searchsorted(cuts, counts, side="right"))
        return found


def masks_of(rows: np.ndarray, slots: EdgeTree) -> EdgeTree:
    """Masks ``[N, ...]`` of values of all edges, ``[N, E]``."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(unflat(row, slots) for row in rows))


def faint(setting: Setting, count: int, score: str, replace: str, least: float = 1e-8) -> Iterator[dict[str, Any]]:
    """Of each input, how many true edges there are, how many of these score less than ``least``, and through keys."""
    model, inputs, reference = setting.made(count)
    edges = flat(slots_of(model.config, setting.shape.n_tokens))
    for index, one in enumerate(inputs):
        scores = traced(model, one, score, replace=replacements_of(model, one, reference)[replace])
        true, values = flat(one.true.edges, edges), flat(one.values, edges)
        below = true & (np.abs(flat(scores, edges)) < least)
        found = {**setting.key, "input": index, "replace": replace, "score": score, "true": int(true.sum())}
        yield found | {"faint": int(below.sum()), "faint_through_keys": int((below & ~values).sum())}


MEASURES = (
    "auc", "precision", "values_found", "keys_found", "auc_differing", "tv", "least_share", "overlap_with_control",
    "tv_to_target",
)  # fmt: skip
"""Columns of a row that are numbers; NaN where a row has none."""
TRACED = ("score", "best-first")
"""Orders whose masks are evaluated."""


def measured(order: Order, one: Input, slots: EdgeTree, tv: np.ndarray | None, replace: str) -> dict[str, float]:
    """How an order compares with the truth; ``tv`` of its masks."""
    edges = flat(slots)
    true, values = flat(one.true.edges, edges), flat(one.values, edges)
    first = order.masks()[0]
    keys = true & ~values
    found = {"auc": area(order.places, true), "precision": float(true[first].mean())}
    found["values_found"] = float(first[values].mean())
    found["keys_found"] = float(first[keys].mean()) if keys.any() else float("nan")
    assert one.true.differing is not None
    differing = flat(one.true.differing, edges)
    found["auc_differing"] = area(order.places, differing) if replace == "pair" else float("nan")
    found["tv"], found["least_share"] = float("nan"), float("nan")
    if tv is not None:
        close = np.flatnonzero(tv[1:] <= CLOSE)
        found |= {"tv": float(tv[0]), "least_share": SHARES[close[0]] if len(close) else 1.0}
    return found


def rows_of(setting: Setting, count: int, fits: int, *, connected: bool = True) -> Iterator[dict[str, Any]]:
    """Measures of every score, order, replacement and input; fits of the first ``fits`` inputs."""
    model, inputs, reference = setting.made(count)
    slots = slots_of(model.config, setting.shape.n_tokens)
    for index, one in enumerate(inputs):
        shared = Orders(slots, model.config, one.true.count, connected)
        fixed = {name: shared.of(traced(model, one, name)) for name in SCORES if not takes_passes(name)}
        for replace, carried in replacements_of(model, one, reference).items():
            own = fixed | {
                name: shared.of(traced(model, one, name, replace=carried)) for name in SCORES if takes_passes(name)
            }
            if index < fits:
                own["fitted"] = shared.of(traced(model, one, "fitted", replace=carried))
                told = traced(model, one, "fitted", replace=carried, target=one.foreign)
                own["fitted to another"] = shared.of(told)
            base = {**setting.key, "input": index, "replace": replace}
            base |= {"edges": int(flat(slots).sum()), "true": one.true.count}
            for row in judged(model, one, own, slots, carried, replace):
                yield {**base, **row}


def traced(model: Model, one: Input, score: str, **asked: Any) -> EdgeTree:
    """The scores of an input."""
    return jstrace.trace(model, one.tokens, score=score, sizes=SIZES, **asked).scores


@jax.jit
def _under(model: Model, tokens: Any, mask: EdgeTree, carried: Replacement) -> Any:
    return model(tokens, mask, replace=carried)


def judged(
    model: Model,
    one: Input,
    orders: Mapping[str, Mapping[str, Order]],
    slots: EdgeTree,
    carried: Replacement,
    replace: str,
) -> Iterator[dict[str, Any]]:
    """Rows of one input: of every score and order, and one of the true edges themselves."""
    named = [(name, order) for name in orders for order in TRACED]
    edges = flat(slots)
    stacked = [flat(one.true.edges, edges)[None], *(orders[name][order].masks() for name, order in named)]
    tv = np.asarray(
        jstrace.evaluate(model, one.tokens, masks=masks_of(np.concatenate(stacked), slots), replace=carried).tv
    )
    yield {"score": "truth", "order": "score", **dict.fromkeys(MEASURES, float("nan")), "tv": float(tv[0])}
    per = 1 + len(SHARES)
    parts = {pair: tv[1 + per * at : 1 + per * (at + 1)] for at, pair in enumerate(named)}
    for name, each in orders.items():
        overlap = to_target = float("nan")
        if name == "fitted":
            ours, theirs = (orders[other]["best-first"].masks()[0] for other in (name, "fitted to another"))
            overlap = float((ours & theirs).sum() / (ours | theirs).sum())
        if name == "fitted to another":
            mask = unflat(orders[name]["best-first"].masks()[0], slots)
            probabilities = jax.nn.softmax(_under(model, one.tokens, mask, carried))
            to_target = float(np.abs(np.asarray(probabilities) - one.foreign).sum() / 2)
        for kind, order in each.items():
            found = measured(order, one, slots, parts.get((name, kind)), replace)
            found |= {"overlap_with_control": overlap, "tv_to_target": to_target}
            yield {"score": name, "order": kind, **{key: found[key] for key in MEASURES}}
