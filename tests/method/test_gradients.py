"""Masks of a given number of edges, and scores from gradients in them: what they must satisfy on tiny models."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jstrace
from jstrace.method.graph import full_graph
from jstrace.method.naming import checked_score
from jstrace.method.scores.budgets import extremes, largest, soft_mask, total
from jstrace.method.scores.gradients import (
    Gradient,
    Integrated,
    Pass,
    ShareTimesGradient,
    as_floats,
    first_order,
    integrated_gradients,
    logit_gradient,
    loss_gradient,
)
from jstrace.method.scores.rounds import Rounds
from jstrace.method.search.ordering import by_score, log_ranks
from jstrace.models import Decoder, EdgeTree, InputError, Model, Replacement, hidden_states
from tests import oracle
from tests.conftest import KINDS, SHAPES, TINY, family_config, tiny_params

N = 5


def random_values(seed: int, *, ties: bool = False) -> EdgeTree:
    """Values of every edge of a tiny graph, NaN in the other slots."""
    rng = np.random.default_rng(seed)

    def draw(slot: Any) -> jax.Array:
        values = rng.normal(size=slot.shape) * 3
        return jnp.asarray(np.where(slot, np.round(values) if ties else values, np.nan), jnp.float32)

    return jax.tree.map(draw, full_graph.edge_slots(TINY, N, N, np))


def one_pass(family: str = "llama", seed: int = 0) -> Pass:
    config, rng = family_config(family), np.random.default_rng(seed)
    tokens = jnp.asarray(rng.integers(0, config.vocab_size, N))
    decoder = Decoder(config, tiny_params(config))
    other = hidden_states(decoder, jnp.asarray(rng.integers(0, config.vocab_size, N)))
    return Pass(decoder, tokens, N, other)


@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 1.0), ties=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_largest_are_those_of_a_sort(seed: int, share: float, ties: bool) -> None:
    values = random_values(seed, ties=ties)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)])
    known = np.sort(flat[~np.isnan(flat)])[::-1]
    count = int(share * known.size)
    mask = largest(values, count)
    kept = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(mask)])
    expected = flat >= known[count - 1] if count else np.zeros(flat.shape, bool)
    np.testing.assert_array_equal(kept, expected)


@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 1.0), temperature=st.sampled_from([0.05, 0.5, 4.0]))
@settings(max_examples=25, deadline=None)
def test_soft_masks_sum_to_the_budget(seed: int, share: float, temperature: float) -> None:
    values = random_values(seed)
    n_edges = full_graph.n_edges(TINY, N)
    mask = soft_mask(values, share * n_edges, temperature)
    assert float(total(mask)) == pytest.approx(share * n_edges, rel=1e-3, abs=1e-3)
    outside = jax.tree.map(lambda m, v: jnp.all(jnp.where(jnp.isnan(v), m == 0, (m >= 0) & (m <= 1))), mask, values)
    assert all(jax.tree.leaves(outside))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 40, full_graph.n_edges(TINY, N)])
def test_gradients_pass_through_the_budget(count: int, ties: bool) -> None:
    """By finite differences through the threshold: what one edge gains others lose, so a constant changes nothing."""
    values, weights = random_values(0, ties=ties), random_values(1)

    def loss(values: EdgeTree) -> jax.Array:
        mask = soft_mask(values, float(count), 0.7)
        return total(jax.tree.map(lambda m, w: jnp.where(jnp.isnan(w), 0, w) * (m + m**2), mask, weights))

    gradient = jax.grad(loss)(values)
    assert float(total(gradient)) == pytest.approx(0, abs=1e-4)
    step = jax.tree.map(lambda v: 5e-3 * jnp.nan_to_num(v), random_values(2))
    ahead, behind = (loss(jax.tree.map(move, values, step)) for move in (jnp.add, jnp.subtract))
    along = float(total(jax.tree.map(jnp.multiply, gradient, step)))
    assert along == pytest.approx(float(ahead - behind) / 2, rel=2e-2, abs=2e-5)
    if count < full_graph.n_edges(TINY, N):
        assert abs(along) > 1e-3, "a mask of all edges alone has no gradient"


def test_kinds_without_edges_have_no_extremes() -> None:
    values = dataclasses.replace(random_values(0), attn=jnp.full_like(random_values(0).attn, jnp.nan))
    low, high = extremes(values)
    assert np.isfinite([low, high]).all()
    assert float(total(soft_mask(values, 6, 0.5))) == pytest.approx(6, rel=1e-3)


@pytest.mark.parametrize("family", SHAPES)
def test_integrated_gradients_are_complete(family: str) -> None:
    """Their sum is what the full graph's logit has over that of the empty mask."""
    one = one_pass(family)

    @jax.jit
    def both() -> tuple[jax.Array, jax.Array]:
        slots, found = one.slots(), integrated_gradients(one, 200, 7)
        masks = jax.tree.map(lambda slot: jnp.stack([slot, jnp.zeros_like(slot)]).astype(jnp.float32), slots)
        full, empty = jax.vmap(one.logits)(masks)
        return total(jax.tree.map(lambda leaf, slot: jnp.where(slot, leaf, 0), found, slots)), full[7] - empty[7]

    summed, expected = map(float, both())
    assert summed == pytest.approx(expected, rel=0.02, abs=0.02)


@pytest.mark.parametrize("family", KINDS)
def test_a_gradient_is_the_effect_of_a_little_less_of_an_edge(family: str) -> None:
    """The logit's change when an edge's mask falls a little, by the literal oracle, one edge at a time."""
    one = one_pass(family)
    assert one.replace is not None
    config, replace = one.decoder.config, {name: np.asarray(x) for name, x in one.replace.arrays().items()}
    literal = oracle.Literal(config, tiny_params(config), np.asarray(one.tokens))
    slots = full_graph.edge_slots(config, N, N, np)
    found = jax.jit(lambda: logit_gradient(one, as_floats(one.slots()), 3))()
    rng = np.random.default_rng(0)
    for name, slot in slots.items():
        places = np.argwhere(slot)
        for place in places[rng.choice(len(places), min(3, len(places)), replace=False)]:
            masks = [jax.tree.map(lambda leaf: leaf.astype(np.float64), slots) for _ in range(2)]
            for mask, m in zip(masks, (1 + 1e-4, 1 - 1e-4), strict=True):
                getattr(mask, name)[tuple(place)] = m
            more, less = (literal.masked(mask, replace=replace)[3] for mask in masks)
            got = float(getattr(found, name)[tuple(place)])
            assert got == pytest.approx((more - less) / 2e-4, rel=5e-3, abs=1e-3), (name, place)


def test_rounds_are_nested_and_finite_in_every_shape() -> None:
    for family in SHAPES:
        one = one_pass(family)
        rounds = Rounds(cuts=4, smallest=0.05, nested=True)
        scores, free = jax.jit(
            lambda one=one, rounds=rounds: [
                each.edge_scores(one) for each in (rounds, dataclasses.replace(rounds, nested=False))
            ]
        )()
        assert all(
            np.isfinite(leaf[slot]).all()
            for leaf, slot in zip(map(np.asarray, jax.tree.leaves(free)), jax.tree.leaves(one.slots()), strict=True)
        )
        leaves, slots = jax.tree.leaves(scores), [np.asarray(slot) for slot in jax.tree.leaves(one.slots())]
        assert all(np.isfinite(leaf[slot]).all() for leaf, slot in zip(leaves, slots, strict=True)), family
        n_edges = full_graph.n_edges(one.decoder.config, N)
        for cut, size in enumerate(np.geomspace(0.4, 0.05, 4), 1):
            held = [(leaf >= cut) & slot for leaf, slot in zip(map(np.asarray, leaves), slots, strict=True)]
            kept = sum(int(np.sum(each)) for each in held)
            assert kept == pytest.approx(int(size * n_edges), abs=1), (family, cut)


def test_several_walks_are_the_mean_of_the_logarithms_of_their_ranks() -> None:
    """The second's sizes lie between those of the first, and both end in the smallest."""
    one = one_pass()
    first, places = Rounds(cuts=3, smallest=0.05), np.asarray([1, 3, 4])
    sizes, temperatures = np.geomspace(0.4, 0.05, 5)[places], np.geomspace(0.5, 4, 5)[places]
    second = (jnp.asarray(sizes, jnp.float32), jnp.asarray(temperatures, jnp.float32))

    @jax.jit
    def both() -> tuple[EdgeTree, EdgeTree]:
        start, slots = first_order(one), one.slots()
        ranks = [log_ranks(found, slots) for found in (first.walk(one, start)[0], first._along(one, start, second)[0])]
        return dataclasses.replace(first, walks=2).edge_scores(one), jax.tree.map(lambda a, b: (a + b) / 2, *ranks)

    got, expected = both()
    chex.assert_trees_all_close(jax.tree.map(jnp.log, got), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="several walks of one cut"):
        Rounds(cuts=1, walks=2)


def test_a_target_is_what_is_kept() -> None:
    """Told another prediction, gradients of KL are those towards it."""
    one = one_pass()
    target = jax.nn.log_softmax(jnp.arange(TINY.vocab_size, dtype=jnp.float32))
    mask = jax.tree.map(lambda slot: 0.5 * slot.astype(jnp.float32), one.slots())
    down = jax.jit(lambda mask: loss_gradient(one, mask, target))(mask)

    @jax.jit
    def loss(mask: EdgeTree) -> jax.Array:
        return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(one.logits(mask))))

    moved = jax.tree.map(lambda m, g: m - 1e-4 * g, mask, down)
    assert loss(moved) < loss(mask)
    own, other = (jax.jit(lambda t=t: Rounds(cuts=3).edge_scores(one._replace(target=t)))() for t in (None, target))
    assert np.nanmax(np.abs(np.asarray(own.mlp) - np.asarray(other.mlp))) > 0


def test_shares_times_gradients(tiny: Model, tokens: np.ndarray) -> None:
    """The product of the two scores, as each gives it alone; where neither is next to nothing."""
    one = Pass(tiny.decoder, jnp.asarray(tokens), len(tokens), None)
    shares = jstrace.trace(tiny, tokens, score="l1").scores
    gradient, both = jax.jit(lambda: [score.edge_scores(one) for score in (Gradient(), ShareTimesGradient())])()
    for name, share in shares.items():
        expected = share * np.sqrt(np.asarray(getattr(gradient, name)))
        clear = expected > 1e-4
        np.testing.assert_allclose(np.asarray(getattr(both, name))[clear], expected[clear], rtol=1e-3)


@given(seed=st.integers(0, 2**31), ties=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_order_of_scores_alone(seed: int, ties: bool) -> None:
    """By rank, and by edge index among equals; frozen kinds before all others."""
    values = random_values(seed, ties=ties)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)])
    counts = np.asarray([0, 3, 3, 17, 60], np.int32)
    kind = np.repeat(np.arange(4), [leaf.size for leaf in jax.tree.leaves(values)])
    for frozen, first in (((), np.zeros(flat.shape, bool)), (("mlp",), kind == 3)):
        order = sorted(np.flatnonzero(~np.isnan(flat)), key=lambda e: (not first[e], -flat[e], e))
        expected = np.full(flat.shape, 255, np.uint8)
        for place, edge in enumerate(order):
            expected[edge] = next((k for k, cut in enumerate(counts) if place < cut), len(counts))
        got = by_score(values, jnp.asarray(counts), frozen=frozen)
        np.testing.assert_array_equal(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(got)]), expected)


def test_a_score_of_ones_own_that_runs_passes(tiny: Model, tokens: np.ndarray) -> None:
    @dataclasses.dataclass(frozen=True)
    class Largest:
        name: str = "largest"

        def edge_scores(self, one: Pass) -> EdgeTree:
            return jax.tree.map(jnp.abs, logit_gradient(one, as_floats(one.slots()), 0))

    @dataclasses.dataclass(frozen=True)
    class Wrong:
        name: str = "wrong"

        def edge_scores(self, one: Pass) -> Any:
            return one.slots().mlp

    found = jstrace.trace(tiny, [tokens, tokens[:4]], score=Largest(), replace="zero")
    assert (found[0].score, found[0].replace) == ("largest", "zero")
    with pytest.raises(jstrace.InputError, match="expected an EdgeTree like its slots"):
        jstrace.trace(tiny, tokens, score=Wrong(), replace="zero")


def test_own_replacements_are_used(tiny: Model, tokens: np.ndarray) -> None:
    """A score under one replacement is not that under another, and batches change nothing."""
    other = jstrace.resample_replacement(tiny, np.arange(len(tokens)))
    under = jstrace.trace(tiny, tokens, score="rounds", replace=other)
    zero = jstrace.trace(tiny, [tokens, tokens[::-1].copy()], score="rounds", replace="zero")
    assert (under.replace, zero[0].replace) == ("resample", "zero")
    assert under != zero[0]
    alone = jstrace.trace(tiny, tokens, score="rounds", replace="zero")
    for name, leaf in alone.scores.items():
        np.testing.assert_allclose(getattr(zero[0].scores, name), leaf, rtol=1e-3, atol=1e-3)
    assert isinstance(other, Replacement)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("score", [Gradient(), ShareTimesGradient(), Rounds(cuts=3)])
def test_half_precision_ranks_as_the_full_one(score: Any, dtype: str) -> None:
    """Masks and their gradients stay float32; only weights and states are rounded."""

    def ranks(dtype: str) -> np.ndarray:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), tiny_params())
        decoder = Decoder(TINY, params)
        found = jax.jit(lambda decoder: score.edge_scores(Pass(decoder, jnp.arange(8), 8, None)))(decoder)
        slots = full_graph.edge_slots(TINY, 8, 8, np)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
        kept = [np.asarray(leaf)[slot] for leaf, slot in zip(*map(jax.tree.leaves, (found, slots)), strict=True)]
        return np.argsort(np.argsort(np.concatenate(kept)))

    assert np.corrcoef(ranks("float32"), ranks(dtype))[0, 1] > 0.9


def test_other_numbers_have_another_name() -> None:
    """A table that calls twenty cuts and five the same would answer wrongly without a word."""
    assert [Rounds().name, Integrated().name, ShareTimesGradient().name] == ["rounds", "integrated", "l1*gradient"]
    assert Rounds(cuts=5, weight=0.25).name == "rounds-cuts-5-weight-0_25"
    assert dataclasses.replace(Rounds(), cuts=5).name == "rounds-cuts-5"
    assert Rounds(cuts=5, name="mine").name == "mine"
    assert dataclasses.replace(Rounds(cuts=5), weight=0.25) == Rounds(cuts=5, weight=0.25), "names are made again"
    assert dataclasses.replace(Rounds(cuts=5), cuts=20).name == "rounds"
    assert dataclasses.replace(Rounds(cuts=5, name="mine"), cuts=20).name == "mine"
    assert Integrated(steps=4).name == "integrated-steps-4"
    assert checked_score(Rounds(cuts=5, last_temperature=1e-5, temperature=1e-5)).name.endswith("1e-05")
