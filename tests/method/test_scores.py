"""Edge scores against explicit vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.graph import full_graph, sizes
from jstrace.method.naming import GRADIENTS, SCORE_NAMES, checked_score
from jstrace.method.scores import scoring
from jstrace.method.scores.drawn import random_node_scores, random_scores
from jstrace.method.scores.measured import normalised
from jstrace.method.search.ordering import by_score, marked
from jstrace.models import EdgeTree, InputError, Model
from jstrace.pipeline.padding import without_marks
from tests import oracle
from tests.conftest import TINY, family_config, tiny_params

edge_scores = jax.jit(scoring.edge_scores, static_argnames="score")
FITTED = ("learned", "fitted")
"""Have tests of their own, in tests/pipeline."""


@pytest.mark.parametrize("score", ["l1", "l2", "ifr", "cosine"])
def test_equal_the_oracle(tiny: Model, tokens: np.ndarray, score: str) -> None:
    got = edge_scores(tiny.decoder, jnp.asarray(tokens), len(tokens), score=score, seed=0)
    expected = oracle.scores(oracle.Literal(TINY, tiny_params(), tokens), score)
    for name, leaf in without_marks(jax.device_get(got)).items():
        np.testing.assert_allclose(leaf, getattr(expected, name), atol=2e-5, err_msg=name)


@pytest.mark.parametrize("score", [name for name in SCORE_NAMES if name not in FITTED])
def test_padding_changes_no_score(tiny: Model, tokens: np.ndarray, score: str) -> None:
    n = len(tokens)
    plain = edge_scores(tiny.decoder, jnp.asarray(tokens), n, score=score, seed=3)
    wide = edge_scores(tiny.decoder, jnp.asarray([*tokens, 1, 2]), n, score=score, seed=3)
    shifts = []
    for name, leaf in plain.items():
        cropped = getattr(wide, name)[..., :n, :n] if name == "attn" else getattr(wide, name)[..., :n]
        if score == "steady-rounds":  # e to the mean log rank, in which edges that nearly tie may change places
            shifts.append(np.abs(np.log(cropped) - np.log(leaf)).ravel())
            continue
        if score == "rounds":  # logarithms of small gradients add up, and other widths round sums otherwise
            assert np.isclose(cropped, leaf, rtol=1e-2, atol=1e-2, equal_nan=True).mean() > 0.98
            continue
        bounds = {"rtol": 1e-3, "atol": 1e-4} if score in GRADIENTS else {"atol": 1e-5}
        np.testing.assert_allclose(cropped, leaf, **bounds, err_msg=name)
    assert not shifts or np.nanmean(np.concatenate(shifts)) < 0.01
    outside = jax.tree.map(
        lambda value, slot: jnp.all(jnp.isnan(value[~slot])), wide, full_graph.edge_slots(TINY, n + 2, n)
    )
    assert all(jax.tree.leaves(outside))


def test_shares_of_a_node_sum_to_one(tiny: Model, tokens: np.ndarray) -> None:
    got = edge_scores(tiny.decoder, jnp.asarray(tokens), len(tokens), score="l1", seed=0)
    attn = jnp.nan_to_num(got.attn)
    np.testing.assert_allclose((got.residual_attn + attn.sum((1, 3)))[:-1], 1, atol=1e-5)
    np.testing.assert_allclose((got.residual_mlp + got.mlp)[:-1], 1, atol=1e-5)


def test_node_of_zeros_gives_zeros() -> None:
    rows = jnp.zeros((1, 2))
    zeros = normalised(EdgeTree(rows, jnp.zeros((1, 1, 2, 2)), rows, rows), parallel=False)
    assert all(bool(jnp.all(leaf == 0)) for _, leaf in zeros.items())


def test_random_scores_are_uniform_and_seeded() -> None:
    slots = full_graph.edge_slots(TINY, 32, 32)
    one, other = (random_scores(slots, jax.random.key(seed)) for seed in (1, 2))
    values = np.ravel(one.attn)
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(np.std(values) - np.sqrt(1 / 12)) < 0.01
    assert len(np.unique(values)) > 0.99 * values.size
    assert not np.array_equal(one.attn, other.attn)
    np.testing.assert_array_equal(one.attn, random_scores(slots, jax.random.key(1)).attn)
    assert not np.array_equal(one.mlp, one.residual_mlp)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_random_nodes_are_those_of_the_draw(family: str) -> None:
    """Where each edge stands, over as many literal draws; and every edge comes after one that reaches it."""
    config, n_tokens, n = family_config(family), 4, 400
    slots = full_graph.edge_slots(config, n_tokens, n_tokens)
    draw = jax.jit(jax.vmap(lambda key: random_node_scores(slots, key, parallel=config.parallel)))
    found = jax.device_get(draw(jax.random.split(jax.random.key(0), n)))
    edges = jax.tree.map(lambda slot: np.where(slot, 1.0, -1.0), jax.device_get(slots))
    graph, rng = oracle.graph_of(edges, config.parallel), np.random.default_rng(0)
    names = sorted(oracle.random_nodes(graph, rng))
    scores = np.stack([getattr(found, oracle.EDGE_KINDS[kind])[:, *index] for kind, *index in names], axis=1)
    assert ((scores > 0) & (scores <= 1)).all()
    ours = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    order = [oracle.random_nodes(graph, rng) for _ in range(n)]
    theirs = np.asarray([np.argsort(np.asarray([names.index(edge) for edge in one])) for one in order])
    spread = np.sqrt(ours.var(axis=0) + theirs.var(axis=0) + 1e-9)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * spread / np.sqrt(n)).all()
    np.testing.assert_allclose(ours.std(axis=0).mean(), theirs.std(axis=0).mean(), rtol=0.03)
    one = jax.tree.map(lambda leaf: leaf[0], found)
    best = jstrace.extract(one, (0.1, 0.3, 0.6), config=config)
    counts = sizes.counts((0.1, 0.3, 0.6), full_graph.n_edges(config, n_tokens))
    ranked = by_score(marked(one, slots), jnp.asarray(counts))
    for kind, stratum in best.items():
        np.testing.assert_array_equal(stratum, getattr(ranked, kind), kind)


def test_every_input_has_a_random_draw_of_its_own(tiny: Model, tokens: np.ndarray) -> None:
    """Of its tokens, their places and the seed: a baseline over inputs carries the variance of the draw."""

    def drawn(ids: np.ndarray, seed: int = 3) -> np.ndarray:
        return np.asarray(edge_scores(tiny.decoder, jnp.asarray(ids), len(tokens), score="random", seed=seed).mlp)

    one = drawn(tokens)
    np.testing.assert_array_equal(drawn(tokens), one)
    swapped = np.concatenate([tokens[1::-1], tokens[2:]])
    for other in (drawn(np.r_[tokens[:-1], (tokens[-1] + 1) % 97]), drawn(swapped), drawn(tokens, seed=4)):
        assert (other != one)[np.isfinite(one)].mean() > 0.9


def test_unknown_importance() -> None:
    with pytest.raises(InputError, match="l1, l2, ifr, cosine, random"):
        checked_score("lrp")
