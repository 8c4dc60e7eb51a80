"""Extraction equals the heap for every budget, ties included; strata nest and counts are exact."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jstrace
from jstrace.method.graph import full_graph
from jstrace.method.graph import sizes as sizes_of
from jstrace.method.search import extraction, refinement
from jstrace.models import EdgeTree, InputError
from tests import oracle
from tests.conftest import TINY

SHAPES = [(1, 1, 1), (1, 2, 4), (3, 2, 4), (6, 1, 2)]
ASKED = [
    *((shape, ()) for shape in SHAPES),
    ((3, 2, 4), ("residual", "mlp")),
    ((3, 2, 4), ("attention",)),
]
"""Shapes and frozen components, each pair of which is a program of its own."""
SIZES = tuple(np.linspace(0.02, 1.0, 50).tolist())


def config_of(n_layers: int, n_heads: int) -> jstrace.ModelConfig:
    return dataclasses.replace(TINY, n_layers=n_layers, n_heads=n_heads, n_kv_heads=1)


def random_scores(shape: tuple[int, int, int], seed: int, levels: int, removed: float = 0.0) -> EdgeTree:
    """Uniform scores; rounded to ``levels`` values if it is not 0, and with some edges removed."""
    n_layers, n_heads, n_tokens = shape
    rng = np.random.default_rng(seed)
    slots = full_graph.edge_slots(config_of(n_layers, n_heads), n_tokens, n_tokens)

    def draw(slot: jax.Array) -> np.ndarray:
        values = rng.random(slot.shape).astype(np.float32)
        if levels:
            values = np.floor(values * levels) / np.float32(levels)
        keep = np.asarray(slot) & (rng.random(slot.shape) >= removed)
        return np.where(keep, values, -1).astype(np.float32)

    return EdgeTree(**{name: draw(slot) for name, slot in slots.items()})


def marked(scores: EdgeTree) -> EdgeTree:
    """Scores as the stages have them: NaN where the oracle reads a negative number."""
    return jax.tree.map(lambda leaf: jnp.where(leaf < 0, jnp.nan, leaf), scores)


def in_one(
    scores: EdgeTree, cuts: jax.Array, length: int, frozen: tuple[str, ...] = (), platform: str | None = None
) -> EdgeTree:
    """Extraction in the pool, and on all edges where that is not complete, of scores that may lack edges."""
    step = functools.partial(extraction.extract_padded, parallel=False, frozen=frozen)
    lean, complete = step(marked(scores), cuts, length, platform=platform)
    whole, _ = step(marked(scores), cuts, length, whole=True)
    return jax.tree.map(lambda a, b: jnp.where(complete, a, b), lean, whole)


def assert_same(got: EdgeTree, expected: EdgeTree) -> None:
    chex.assert_trees_all_equal(jax.device_get(got), expected)


@given(asked=st.sampled_from(ASKED), seed=st.integers(0, 2**31), levels=st.sampled_from([0, 1, 2, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_equals_the_heap(asked: tuple[tuple[int, int, int], tuple[str, ...]], seed: int, levels: int) -> None:
    shape, first = asked
    scores = random_scores(shape, seed, levels)
    families = {"residual": ("residual_attn", "residual_mlp"), "mlp": ("mlp",), "attention": ("attn",)}
    expected = oracle.strata(scores, SIZES, tuple(f for name in first for f in families[name]))
    assert_same(jstrace.extract(scores, SIZES, config=config_of(*shape[:2]), frozen=first), expected)


_as_on_a_tpu = jax.jit(functools.partial(in_one, platform="tpu"), static_argnames=("length", "frozen"))


@given(
    asked=st.sampled_from(ASKED),
    seed=st.integers(0, 2**31),
    levels=st.sampled_from([0, 1, 2, 3, 8]),
    removed=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_the_form_for_tpus_equals_the_heap(
    asked: tuple[tuple[int, int, int], tuple[str, ...]], seed: int, levels: int, removed: float
) -> None:
    """Ties, frozen components, and edges that are none or that cannot be reached; cuts beyond the last of them."""
    shape, first = asked
    scores = random_scores(shape, seed, levels, removed)
    families = {"residual": ("residual_attn", "residual_mlp"), "mlp": ("mlp",), "attention": ("attn",)}
    order = oracle.best_first(oracle.graph_of(scores), tuple(f for name in first for f in families[name]))
    cuts = sizes_of.counts(SIZES, full_graph.n_edges(config_of(*shape[:2]), shape[2]))
    expected = oracle.strata_of(order, cuts, scores)
    assert_same(_as_on_a_tpu(scores, jnp.asarray(cuts), length=shape[2], frozen=first), expected)


@pytest.mark.quick
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_every_budget(levels: int) -> None:
    """One cut at each number of edges, in chunks of the sizes that strata can hold."""
    scores = random_scores((3, 2, 4), seed=levels, levels=levels)
    config = config_of(3, 2)
    edges = full_graph.n_edges(config, 4)
    cuts = [(n + 0.5) / edges for n in range(edges)]
    for start in range(0, len(cuts), 200):
        chunk = tuple(cuts[start : start + 200])
        assert_same(jstrace.extract(scores, chunk, config=config), oracle.strata(scores, chunk))


@given(seed=st.integers(0, 2**31), levels=st.sampled_from([0, 1, 4]))
@settings(max_examples=25, deadline=None)
def test_whole_graph_refinement(seed: int, levels: int) -> None:
    """With a buffer for three edges nearly every group needs the fallback; with bisection too."""
    scores = random_scores((4, 3, 5), seed, levels)
    cuts = jnp.asarray(sizes_of.counts(SIZES, full_graph.n_edges(config_of(4, 3), 5)))
    expected = oracle.strata(scores, SIZES)
    assert_same(_with_small_buffer(scores, cuts), expected)
    assert_same(_with_bisection(scores, cuts), expected)


@functools.cache
def _compiled(name: str, replacement: Callable[..., object]) -> Callable[[EdgeTree, jax.Array], EdgeTree]:
    def run(scores: EdgeTree, cuts: jax.Array) -> EdgeTree:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extraction, name, replacement)
            return in_one(scores, cuts, scores.mlp.shape[1])

    return jax.jit(run)


def _with_small_buffer(scores: EdgeTree, cuts: jax.Array) -> EdgeTree:
    return _compiled("pool_capacity", _three)(scores, cuts)


def _with_bisection(scores: EdgeTree, cuts: jax.Array) -> EdgeTree:
    return _compiled("select_for", _bisected)(scores, cuts)


def _three(n_slots: int) -> int:
    return 3


def _bisected(n_edges: int, n_sizes: int, platform: str | None = None) -> refinement.Select:
    return lambda k, g, c: refinement.select_bisected(k, g, c, bits=(n_edges + 2).bit_length())


def test_under_jit_and_vmap() -> None:
    batch = [random_scores((3, 2, 4), seed, levels=seed) for seed in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
    config = config_of(3, 2)
    strata = jax.jit(jax.vmap(lambda s: jstrace.extract(s, SIZES, config=config)))(stacked)
    for index, scores in enumerate(batch):
        assert_same(jax.tree.map(lambda leaf, i=index: leaf[i], strata), oracle.strata(scores, SIZES))


def test_one_program_serves_all_values() -> None:
    traced = chex.assert_max_traces(lambda scores: jstrace.extract(scores, SIZES, config=config_of(2, 1)), 1)
    compiled = jax.jit(traced)
    for seed in range(3):
        compiled(random_scores((2, 1, 3), seed, levels=0))


@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**31), levels=st.sampled_from([0, 2]))
@settings(max_examples=25, deadline=None)
def test_counts_are_exact_and_traces_nest(shape: tuple[int, int, int], seed: int, levels: int) -> None:
    config = config_of(*shape[:2])
    strata = jstrace.extract(random_scores(shape, seed, levels), SIZES, config=config)
    flat = np.concatenate([np.ravel(leaf) for _, leaf in strata.items()])
    edges = full_graph.n_edges(config, shape[2])
    assert (flat != sizes_of.NO_EDGE).sum() == edges
    held = [(flat <= k).sum() for k in range(len(SIZES) + 1)]
    assert held == [*(math.floor(size * edges) for size in SIZES), edges]


def test_padding_changes_nothing() -> None:
    """The same scores in wider arrays, the rest of which is no edge."""
    scores = random_scores((3, 2, 4), seed=5, levels=3)
    cuts = jnp.asarray(sizes_of.counts(SIZES, full_graph.n_edges(config_of(3, 2), 4)))
    wide = EdgeTree(
        **{
            name: np.pad(leaf, [(0, 0)] * (leaf.ndim - n) + [(0, 4)] * n, constant_values=-1)
            for (name, leaf), n in zip(scores.items(), (1, 2, 1, 1), strict=True)
        }
    )
    compiled = jax.jit(in_one)
    narrow, padded = (compiled(s, cuts, 4) for s in (scores, wide))
    for (name, a), (_, b) in zip(narrow.items(), padded.items(), strict=True):
        b = np.asarray(b)
        np.testing.assert_array_equal(np.asarray(a), b[..., :4, :4] if name == "attn" else b[..., :4])
        assert (b == sizes_of.NO_EDGE).sum() == (np.asarray(a) == sizes_of.NO_EDGE).sum() + b.size - a.size


@given(seed=st.integers(0, 2**31), removed=st.sampled_from([0.2, 0.5, 0.8]))
@settings(max_examples=20, deadline=None)
def test_removed_edges_are_no_edges(seed: int, removed: float) -> None:
    """What cannot reach the output any more leaves the graph with an edge that is none."""
    scores = random_scores((3, 2, 4), seed, levels=4, removed=removed)
    order = oracle.best_first(oracle.graph_of(scores))
    cuts = sizes_of.counts(SIZES, len(order))
    assert_same(_compiled_plain(scores, jnp.asarray(cuts)), oracle.strata_of(order, cuts, scores))


@pytest.mark.parametrize("removed", [0.2, 0.6, 1.0])
def test_fewer_edges_than_a_cut_asks_for(removed: float) -> None:
    """Where fewer edges reach the output, the larger traces hold them all."""
    scores = random_scores((3, 2, 4), seed=9, levels=4, removed=removed)
    order = oracle.best_first(oracle.graph_of(scores))
    cuts = sizes_of.counts(SIZES, full_graph.n_edges(config_of(3, 2), 4))
    expected = oracle.strata_of(order, cuts, scores)
    assert_same(_compiled_plain(scores, jnp.asarray(cuts)), expected)
    assert_same(_with_bisection(scores, jnp.asarray(cuts)), expected)


def _compiled_plain(scores: EdgeTree, cuts: jax.Array) -> EdgeTree:
    return _compiled("pool_capacity", extraction.pool_capacity)(scores, cuts)


# --- one function, whatever the scores ------------------------------------------------------------------------------


def ranks(scores: EdgeTree) -> EdgeTree:
    """Numbers from 0 of the same order, on the host; -1 in slots that are no edge, for the oracle."""
    slots = full_graph.edge_slots(config_of(scores.mlp.shape[0], scores.attn.shape[1]), *(scores.mlp.shape[1],) * 2)
    values = np.unique(np.concatenate([np.ravel(leaf) for _, leaf in scores.items()]))
    found = {
        name: np.where(np.asarray(slot), np.searchsorted(values, leaf), -1)
        for (name, leaf), (_, slot) in zip(scores.items(), slots.items(), strict=True)
    }
    return EdgeTree(**found)


@pytest.mark.parametrize("first", [(), ("attention",)])
@pytest.mark.parametrize("levels", [0, 5])
def test_any_finite_score_is_a_score(levels: int, first: tuple[str, ...]) -> None:
    """Signed scores, both zeros, huge and tiny ones: eagerly and under jit the heap's order, and no edge is lost."""
    shape, rng = (3, 2, 4), np.random.default_rng(levels)
    config = config_of(3, 2)

    def draw(leaf: np.ndarray) -> np.ndarray:
        values = rng.normal(size=leaf.shape).astype(np.float32) * np.float32(10.0) ** rng.integers(-38, 38, leaf.shape)
        values = np.round(rng.normal(size=leaf.shape) * levels) * np.float32(-1.0) if levels else values
        return np.where(rng.random(leaf.shape) < 0.1, np.float32(-0.0), values).astype(np.float32)

    scores = jax.tree.map(draw, random_scores(shape, 0, 0))
    families = {"attention": ("attn",)}
    expected = oracle.strata(ranks(scores), SIZES, tuple(f for name in first for f in families[name]))
    assert_same(jstrace.extract(scores, SIZES, config=config, frozen=first), expected)
    compiled = jax.jit(lambda s: jstrace.extract(s, SIZES, config=config, frozen=first))
    assert_same(compiled(scores), expected)
    held = sum(int((np.asarray(leaf) <= len(SIZES)).sum()) for _, leaf in expected.items())
    assert held == full_graph.n_edges(config, 4)


def test_the_smallest_scores_keep_their_order() -> None:
    """Subnormals, which a processor may take for zero; and counts beyond those of int32."""
    config, scores = config_of(3, 2), random_scores((3, 2, 4), seed=5, levels=0)
    small = jax.tree.map(lambda leaf: np.where(leaf < 0, leaf, np.floor(leaf * 1000) * np.float32(1e-42)), scores)
    same = jax.tree.map(lambda leaf: np.where(leaf < 0, leaf, np.floor(leaf * 1000)), scores)
    assert_same(
        jstrace.extract(small, SIZES, config=config), jax.device_get(jstrace.extract(same, SIZES, config=config))
    )
    with pytest.raises(InputError, match="decrease"):
        inspect.unwrap(jstrace.extract)(scores, config=config, counts=np.asarray([5, 3], np.uint32))
    with pytest.raises(InputError, match="expected floats"):
        jstrace.extract(jax.tree.map(lambda leaf: leaf * 1j, scores), SIZES, config=config)
    with jax.enable_x64(True), pytest.raises(InputError, match="finite"):
        jstrace.extract(jax.tree.map(lambda leaf: leaf.astype(float) * 1e300, scores), SIZES, config=config)
    strata = jstrace.extract(scores, config=config, counts=np.asarray([3, 2**32 + 3]))
    assert sum(int((np.asarray(leaf) <= 1).sum()) for _, leaf in strata.items()) == full_graph.n_edges(config, 4)


def test_slots_that_are_no_edge_are_not_read() -> None:
    scores = random_scores((3, 2, 4), seed=5, levels=3)
    odd = jax.tree.map(lambda leaf: np.where(leaf < 0, np.float32(np.nan), leaf), scores)
    config = config_of(3, 2)
    assert_same(
        jstrace.extract(odd, SIZES, config=config), jax.device_get(jstrace.extract(scores, config=config, sizes=SIZES))
    )


def test_counts_that_a_program_closes_over() -> None:
    """They are known inside it, and checked."""
    scores, config = random_scores((3, 2, 4), seed=3, levels=0), config_of(3, 2)
    counts, falling = jnp.asarray([1, 5, 9]), jnp.asarray([2, 1])
    got = jax.jit(lambda s: jstrace.extract(s, config=config, counts=counts))(scores)
    assert_same(got, jax.device_get(jstrace.extract(scores, config=config, counts=counts)))
    with pytest.raises(InputError, match="nor decrease"):
        jax.jit(lambda s: jstrace.extract(s, config=config, counts=falling))(scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite(bad: float) -> None:
    """Refused where they are known; under jit every slot is marked as none, so that no mask looks like an answer."""
    config = config_of(1, 1)
    scores = random_scores((1, 1, 2), 0, 0)
    wrong = dataclasses.replace(scores, mlp=np.full_like(scores.mlp, bad))
    with pytest.raises(InputError, match="finite"):
        jstrace.extract(wrong, (0.5,), config=config)
    strata = jax.jit(lambda s: jstrace.extract(s, (0.5,), config=config))(wrong)
    assert all(bool((leaf == sizes_of.NO_EDGE).all()) for _, leaf in strata.items())


def test_lengths_and_counts_of_a_padded_input() -> None:
    """A length that is traced, with counts of edges, gives what the true tokens alone give."""
    config = config_of(3, 2)
    scores = random_scores((3, 2, 4), seed=3, levels=0)
    wide = EdgeTree(
        **{
            name: np.pad(leaf, [(0, 0)] * (leaf.ndim - n) + [(0, 3)] * n, constant_values=7)
            for (name, leaf), n in zip(scores.items(), (1, 2, 1, 1), strict=True)
        }
    )
    counts = sizes_of.counts(SIZES, full_graph.n_edges(config, 4))
    got = jax.jit(lambda s, n, c: jstrace.extract(s, config=config, length=n, counts=c))(wide, 4, counts)
    same = jstrace.extract(wide, SIZES, config=config, length=4)
    for tree in (got, same):
        short = {name: leaf[..., :4, :4] if name == "attn" else leaf[..., :4] for name, leaf in tree.items()}
        assert_same(EdgeTree(**short), oracle.strata(scores, SIZES))
    with pytest.raises(InputError, match="counts of edges rather than sizes"):
        jax.jit(lambda s, n: jstrace.extract(s, SIZES, config=config, length=n))(wide, 4)
    for wrong in ([[3]], [], [-1, 2], [2, 1], [0.5]):
        with pytest.raises(InputError, match="counts"):
            inspect.unwrap(jstrace.extract)(scores, config=config, counts=np.asarray(wrong))
    for length in (0, 5):
        with pytest.raises(InputError, match="length"):
            jstrace.extract(scores, SIZES, config=config, length=length)


def test_x64_changes_nothing() -> None:
    scores = random_scores((3, 2, 4), seed=3, levels=4)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        got = jstrace.extract(scores, SIZES, config=config_of(3, 2))
    assert_same(got, oracle.strata(scores, SIZES))


def test_scores_of_another_shape() -> None:
    with pytest.raises(InputError, match="shape"):
        jstrace.extract(random_scores((3, 2, 4), 0, 0), SIZES, config=config_of(2, 2))
    with pytest.raises(InputError, match="scores are dict, expected an EdgeTree"):
        inspect.unwrap(jstrace.extract)({}, SIZES, config=config_of(2, 2))


def test_maximal_number_of_sizes() -> None:
    sizes = tuple((k + 1) / 254 for k in range(254))
    scores = random_scores((4, 3, 5), seed=1, levels=0)
    assert_same(jstrace.extract(scores, sizes, config=config_of(4, 3)), oracle.strata(scores, sizes))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((), "0 sizes"),
        ((0.0, 0.5), "outside"),
        ((0.5, 1.5), "outside"),
        ((0.5, 0.5), "increase"),
        ((float("nan"),), "outside"),
        (tuple((k + 1) / 255 for k in range(255)), "255 sizes"),
    ],
)
def test_sizes_that_make_no_sense(sizes: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        jstrace.extract(random_scores((1, 1, 1), 0, 0), sizes, config=config_of(1, 1))


def test_other_bad_input() -> None:
    scores = random_scores((1, 1, 2), 0, 0)
    with pytest.raises(InputError, match="frozen"):
        jstrace.extract(scores, (0.5,), config=config_of(1, 1), frozen=("heads",))
