"""Swaps at a fixed size: effects are those of whole passes, and a step keeps the size and loses KL."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from experiments.exact_swaps import Cut, Way, changed
from jstrace.method.graph.indexing import flat, unflat
from jstrace.method.scores.gradients import Pass, as_floats
from jstrace.models import Model

COUNT = 80


@pytest.fixture
def cut(tiny: Model, tokens: np.ndarray) -> Cut:
    """Of edges in a random order, which leaves much to gain."""
    means = jstrace.mean_replacement(tiny, [tokens[::-1].copy(), tokens[1:].copy()]).bare()
    target = jax.nn.log_softmax(jnp.asarray(tiny(tokens)))
    given: Any = (tiny.decoder, jnp.asarray(tokens), len(tokens), means, target)
    slots = np.flatnonzero(np.asarray(flat(Pass(*given).slots())))
    return Cut(given, np.random.default_rng(2).permutation(slots), COUNT)


def test_effects_are_those_of_whole_passes(cut: Cut) -> None:
    places = np.array([[cut.order[0]], [cut.order[COUNT]], [len(cut.mask)]])  # one removed, one added, none
    one = Pass(*cut.given)
    for row, value, tv in zip(places, *changed(cut.given, cut.mask, places), strict=True):
        mask = cut.mask.copy()
        mask[row[row < len(mask)]] = 1 - mask[row[row < len(mask)]]
        logits = one.logits(unflat(jnp.asarray(mask), as_floats(one.slots())))
        log_probs, target = np.asarray(jax.nn.log_softmax(logits)), np.asarray(cut.given[4])
        assert float(value) == pytest.approx(np.sum(np.exp(target) * (target - log_probs)), rel=1e-4)
        assert float(tv) == pytest.approx(np.abs(np.exp(target) - np.exp(log_probs)).sum() / 2, rel=1e-4)


@pytest.mark.parametrize("way", [Way(1, 16, exact=True), Way(1, 16, exact=True, by_gradient=False)])
def test_a_step_keeps_the_size_and_loses_kl(cut: Cut, way: Way) -> None:
    before, value = cut.mask.copy(), cut.values([np.zeros(0, int)])[0]
    assert cut.step(way)
    assert cut.mask.sum() == COUNT
    moved = np.flatnonzero(cut.mask != before)
    assert 2 <= len(moved) <= 2 * way.candidates
    assert cut.values([np.zeros(0, int)])[0] < value
    if not way.by_gradient:
        assert set(moved) <= set(cut.order[COUNT - way.candidates : COUNT + way.candidates])
