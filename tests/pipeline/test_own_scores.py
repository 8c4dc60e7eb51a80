"""Scores and scores of one's own."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import chex
import jax
import numpy as np
import pytest

import jstrace
from jstrace.method.graph import full_graph
from jstrace.method.scores.measured import Norm
from jstrace.models import EdgeTree, InputError, Model
from jstrace.pipeline import searching, stages
from tests import oracle
from tests.conftest import TINY
from tests.pipeline.conftest import SIZES


def signed_scores(n_tokens: int, seed: int = 0) -> EdgeTree:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda slot: rng.normal(size=slot.shape).astype(np.float32), tiny_slots(n_tokens))


def tiny_slots(n_tokens: int) -> EdgeTree:
    return full_graph.edge_slots(TINY, n_tokens, n_tokens)


def test_traces_of_own_scores(tiny: Model, tokens: np.ndarray, tmp_path: Any) -> None:
    """Of either sign; they evaluate, compose, save and list their edges like any other."""
    scores = signed_scores(len(tokens))
    found = jstrace.Trace.from_scores(tiny, tokens, scores, sizes=SIZES)
    flat = np.concatenate([np.ravel(leaf) for _, leaf in scores.items()])
    order = np.sort(flat)
    ranks = jax.tree.map(
        lambda leaf, slot: np.where(slot, np.searchsorted(order, leaf), -1), scores, tiny_slots(len(tokens))
    )
    chex.assert_trees_all_equal(found.strata, oracle.strata(ranks, SIZES))
    result = jstrace.evaluate(tiny, found)
    assert result.valid
    assert result.tv[-1] == 0
    assert found.composition().edges.tolist() == [*found.counts.tolist(), found.n_edges]
    found.save(tmp_path / "own.npz")
    assert jstrace.Trace.load(tmp_path / "own.npz") == found
    assert len(found.first_edges(10)) == 10
    assert found.first_edges(3) == found.first_edges(np.int64(3))
    first = jstrace.Trace.from_scores(tiny, tokens, scores, sizes=SIZES, frozen=("attention",), score="mine")
    assert first.score == "mine"
    assert first.frozen == ("attention",)
    attn = np.cumsum(np.bincount(first.strata.attn.ravel(), minlength=256))[: len(SIZES)]
    assert (attn >= np.cumsum(np.bincount(found.strata.attn.ravel(), minlength=256))[: len(SIZES)]).all()


def test_own_scores_equal_the_trace_they_come_from(tiny: Model, trace: jstrace.Trace) -> None:
    again = jstrace.Trace.from_scores(tiny, trace.tokens, trace.scores, sizes=SIZES, score="l1")
    assert again == trace


def test_own_scores_that_make_no_sense(tiny: Model, tokens: np.ndarray) -> None:
    make = jstrace.Trace.from_scores
    good = signed_scores(len(tokens))
    for wrong, message in (
        (dataclasses.replace(good, mlp=good.mlp * np.nan), "mlp hold NaN"),
        (signed_scores(3), "expected floats of"),
        (jax.tree.map(lambda leaf: leaf.astype(np.complex64), good), "complex64"),
    ):
        with pytest.raises(InputError, match=message):
            make(tiny, tokens, wrong, sizes=SIZES)
    with pytest.raises(InputError, match="one input"):
        inspect.unwrap(make)(tiny, [tokens, tokens], good, sizes=SIZES)
    with pytest.raises(InputError, match="dict, expected an EdgeTree"):
        inspect.unwrap(searching.checked_scores)({}, TINY, 3)
    for count in (-1, 1.5, float("nan"), True):
        with pytest.raises(InputError, match="expected a number of edges"):
            inspect.unwrap(jstrace.Trace.first_edges)(make(tiny, tokens, good, sizes=SIZES), count)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """L1 shares to a power, or plain negative norms: a score of one's own."""

    power: float = 1.0
    shares: bool = True
    sign: float = 1.0
    name: str = "scaled"

    def vector(self, edge: jax.Array, node: jax.Array) -> jax.Array:
        return self.sign * Norm(1).vector(edge, node) ** self.power

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> jax.Array:
        return self.sign * Norm(1).attention(probs, values, node) ** self.power


def test_importance_of_ones_own(tiny: Model, tokens: np.ndarray, trace: jstrace.Trace) -> None:
    """An own L1 is L1; negative scores turn its order around, and no edge is lost to the sign."""
    own = jstrace.trace(tiny, tokens, sizes=SIZES, score=Scaled())
    assert own == dataclasses.replace(trace, score="scaled")
    plain = jstrace.trace(tiny, tokens, sizes=SIZES, score=Scaled(shares=False))
    turned = jstrace.trace(tiny, tokens, sizes=SIZES, score=Scaled(shares=False, sign=-1.0))
    assert turned.composition().edges[-1] == trace.n_edges
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf, stratum: np.where(stratum == 255, 0, -leaf), turned.scores, turned.strata),
        jax.tree.map(lambda leaf, stratum: np.where(stratum == 255, 0, leaf), plain.scores, plain.strata),
        rtol=1e-6,
    )
    first = jstrace.trace(tiny, tokens, sizes=SIZES, score=Scaled(shares=False, sign=-1.0), frozen=("mlp",))
    again = jstrace.Trace.from_scores(tiny, tokens, turned.scores, sizes=SIZES, frozen=("mlp",))
    chex.assert_trees_all_equal(first.strata, again.strata)


@pytest.mark.parametrize("wrong", [Scaled, 5, None, lambda e, n: e])
def test_importance_that_is_none(tiny: Model, tokens: np.ndarray, wrong: Any) -> None:
    with pytest.raises(InputError, match="l1, l2, ifr, cosine, random"):
        inspect.unwrap(jstrace.trace)(tiny, tokens, score=wrong)


def test_importance_that_has_no_hash(tiny: Model, tokens: np.ndarray) -> None:
    class Loose(Scaled):
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(InputError, match="frozen dataclass"):
        jstrace.trace(tiny, tokens, score=Loose())


def test_importance_that_could_change_unseen(tiny: Model, tokens: np.ndarray) -> None:
    """A program is compiled for it, and would give the old scores after an attribute changed."""

    class Changing:
        def __init__(self) -> None:
            self.power = 1.0

        vector, attention = Scaled.vector, Scaled.attention

    with pytest.raises(InputError, match="compares by identity"):
        jstrace.trace(tiny, tokens, score=Changing())
    with pytest.raises(InputError, match="letters, digits and any of"):
        jstrace.trace(tiny, tokens, score=Scaled(name="my score"))


def test_strata_and_masks_are_no_scores(tiny: Model, trace: jstrace.Trace) -> None:
    for wrong in (trace.strata, trace.mask(2)):
        with pytest.raises(InputError, match="expected floats"):
            jstrace.Trace.from_scores(tiny, trace.tokens, wrong, sizes=SIZES)


def test_random_scores_are_the_same_under_every_generator(tiny: Model, tokens: np.ndarray) -> None:
    plain = jstrace.trace(tiny, tokens, sizes=SIZES, score="random", seed=3)
    with jax.default_prng_impl("rbg"):
        assert jstrace.trace(tiny, tokens, sizes=SIZES, score="random", seed=3) == plain


def test_own_scores_use_the_program_of_traces(tiny: Model, trace: jstrace.Trace) -> None:
    """Nothing is compiled again for what is the same work."""
    before = stages.extract_program._cache_size()
    jstrace.Trace.from_scores(tiny, trace.tokens, trace.scores, sizes=SIZES)
    assert stages.extract_program._cache_size() <= before + 1  # a mesh of one device is no mesh
    trace.first_edges(3)
    assert stages.extract_program._cache_size() <= before + 1


@dataclasses.dataclass(frozen=True)
class Careless(Scaled):
    """A score that forgets an axis, or gives other numbers than floats."""

    damage: str = ""

    def vector(self, edge: jax.Array, node: jax.Array) -> Any:
        found = super().vector(edge, node)
        return {"token": found[:1], "none": None, "complex": found * 1j, "bools": found > 1}.get(self.damage, found)

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> Any:
        found = super().attention(probs, values, node)
        return {"heads": found[:1], "source": found[:, :, :1]}.get(self.damage, found)


@pytest.mark.parametrize("damage", ["token", "none", "complex", "bools", "heads", "source"])
def test_importances_of_other_shapes_and_numbers(tiny: Model, tokens: np.ndarray, damage: str) -> None:
    """Broadcasting would give every head, source or token the same score."""
    method = "attention" if damage in ("heads", "source") else "vector"
    with pytest.raises(InputError, match=f"score scaled: {method} gave"):
        jstrace.trace(tiny, tokens, score=Careless(damage=damage))
