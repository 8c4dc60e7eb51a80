"""Every family's flags against the literal oracle: graph, scores, extraction, masked forward, skipping, padding."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.conditions import Condition
from jstrace.method.graph import full_graph
from jstrace.method.graph.masks import kept
from jstrace.method.scores.measured import Norm
from jstrace.method.scores.scoring import edge_scores
from jstrace.models import (
    Decoder,
    EdgeTree,
    InputError,
    Model,
    ModelConfig,
    clean_forward,
    every_row,
    live_rows,
    masked_forward,
)
from jstrace.pipeline.padding import without_marks
from tests import oracle
from tests.conftest import ARITHMETIC, FAMILIES, KINDS, SHAPES, SIZES, family_config, tiny_params
from tests.oracle_mlp import softmax

LENGTHS = (1, 6)
N_MASKS = len(SIZES) + 1
"""As many as a trace has, for which a program is compiled."""


@functools.cache
def made(family: str) -> tuple[ModelConfig, dict, Model]:
    config = family_config(family)
    params = tiny_params(config)
    return config, params, Model(Decoder(config, params))


def tokens_of(config: ModelConfig, n_tokens: int) -> np.ndarray:
    return np.random.default_rng(n_tokens).integers(0, config.vocab_size, n_tokens).astype(np.int32)


def random_masks(config: ModelConfig, n_tokens: int, rng: np.random.Generator, count: int, *, soft: bool) -> EdgeTree:
    rows = (count, config.n_layers, n_tokens)
    shapes = (rows, (count, config.n_layers, config.n_heads, n_tokens, n_tokens), rows, rows)
    share = np.linspace(0, 1, count)

    def draw(shape: tuple[int, ...]) -> jax.Array:
        kept = rng.random(shape) < share.reshape(-1, *[1] * (len(shape) - 1))
        return jnp.asarray(kept * rng.random(shape).astype(np.float32) if soft else kept)

    return EdgeTree(*(draw(shape) for shape in shapes))


@functools.partial(jax.jit, static_argnames=("skip", "pre_softmax"))
def over_masks(model: Model, tokens: jax.Array, masks: EdgeTree, *, skip: bool, pre_softmax: bool = False) -> jax.Array:
    def one(mask: EdgeTree) -> jax.Array:
        row_map = live_rows if skip else every_row
        return masked_forward(model.decoder, tokens, mask, row_map=row_map, pre_softmax=pre_softmax)

    return jax.vmap(one)(masks)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_tokens", LENGTHS)
def test_edges_and_constants_sum_to_their_node(family: str, n_tokens: int) -> None:
    config, params, _ = made(family)
    literal = oracle.Literal(config, params, tokens_of(config, n_tokens))
    for node, edges, constants, whole in literal.nodes():
        np.testing.assert_allclose(sum(edges.values()) + constants, whole, atol=1e-9, err_msg=str(node))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_tokens", LENGTHS)
def test_the_formula_counts_what_can_be_reached(family: str, n_tokens: int) -> None:
    config, params, _ = made(family)
    literal = oracle.Literal(config, params, tokens_of(config, n_tokens))
    reached = oracle.reachable(literal)
    expected = sum(len(edges) for node, edges, _, _ in literal.nodes() if node in reached)
    slots = full_graph.edge_slots(config, n_tokens + 3, n_tokens)
    assert full_graph.n_edges(config, n_tokens) == expected == sum(int(leaf.sum()) for _, leaf in slots.items())
    assert full_graph.n_nodes(config, n_tokens) == n_tokens * (1 + len({node[0] for node, *_ in literal.nodes()}))


LINEARISED = ("olmo2", "gpt_neox")


@pytest.mark.parametrize(
    ("family", "score"),
    [*((family, "l1") for family in ARITHMETIC), *((f, i) for f in LINEARISED for i in ("ifr", "cosine"))],
)
def test_scores_equal_the_oracle(family: str, score: str) -> None:
    config, params, model = made(family)
    tokens = tokens_of(config, 6)
    expected = oracle.scores(oracle.Literal(config, params, tokens), score)
    got = edge_scores(model.decoder, jnp.asarray([*tokens, 0, 0]), 6, score=score, seed=0)
    for name, leaf in without_marks(jax.device_get(got)).items():
        cropped = leaf[..., :6, :6] if name == "attn" else leaf[..., :6]
        np.testing.assert_allclose(cropped, getattr(expected, name), atol=3e-5, err_msg=name)


@pytest.mark.parametrize(
    ("family", "score"),
    [
        *((family, "l1") for family in ("mistral", *KINDS)),
        *((family, "random") for family in ("llama", "gemma2", "gpt_neox", "nemotron_h")),  # of each shape of graphs
    ],
)
def test_traces_equal_the_heap(family: str, score: str) -> None:
    config, _, model = made(family)
    trace = jstrace.trace(model, tokens_of(config, 6), sizes=SIZES, score=score)
    expected = oracle.strata(trace.scores, SIZES, parallel=config.parallel)
    for name, leaf in trace.strata.items():
        np.testing.assert_array_equal(leaf, getattr(expected, name), err_msg=name)
    again = jstrace.extract(trace.scores, SIZES, config=config)
    for name, leaf in again.items():
        np.testing.assert_array_equal(leaf, getattr(trace.strata, name), err_msg=name)
    composed = trace.composition()
    for k in range(len(SIZES) + 1):
        edges = [(e.layer if config.parallel else 2 * e.layer + ("mlp" in e.kind), e.source) for e in trace.edges(k)]
        assert composed.nodes[k] == 1 + len(set(edges))
        assert composed.input_reached[k] == any(level == 0 for level, _ in edges)


@pytest.mark.quick
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pre_softmax", [False, True])
def test_masked_forward_equals_the_oracle(family: str, pre_softmax: bool) -> None:
    """Any soft masks at all, traces or not: from nothing kept to everything."""
    config, params, model = made(family)
    tokens = tokens_of(config, 6)
    masks = random_masks(config, 6, np.random.default_rng(1), N_MASKS, soft=True)
    if pre_softmax and config.has_linear:
        with pytest.raises(InputError, match="without a softmax"):
            over_masks(model, jnp.asarray(tokens), masks, skip=False, pre_softmax=True)
        return
    got = over_masks(model, jnp.asarray(tokens), masks, skip=False, pre_softmax=pre_softmax)
    literal = oracle.Literal(config, params, tokens)
    for k in range(N_MASKS):
        mask = jax.tree.map(lambda leaf, k=k: leaf[k], masks)
        expected = literal.masked(mask, pre_softmax=pre_softmax)
        np.testing.assert_allclose(got[k], expected, atol=2e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("family", KINDS)
def test_skipping_dead_rows_changes_nothing(family: str) -> None:
    """The keys of unreached tokens are those of their state: zero, a bias, or the output bias of the layer below."""
    config, _, model = made(family)
    ids = tokens_of(config, 6)
    trace, tokens = jstrace.trace(model, ids, sizes=SIZES), jnp.asarray(ids)
    for masks in (random_masks(config, 6, np.random.default_rng(0), N_MASKS, soft=False), trace.masks()):
        dense = over_masks(model, tokens, masks, skip=False)
        skipping = over_masks(model, tokens, masks, skip=True)
        np.testing.assert_allclose(skipping, dense, atol=2e-4)


@pytest.mark.parametrize("family", [*SHAPES, "qwen2_moe", "gpt_oss"])
def test_skipping_dead_rows_in_bfloat16(family: str) -> None:
    """Skipping rounds elsewhere, but costs no precision: it stays within what the dtype itself loses."""
    config, _, wide = made(family)
    tokens = jnp.asarray(tokens_of(config, 6))
    narrow = Model(Decoder(config, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny_params(config))))
    masks = random_masks(config, 6, np.random.default_rng(0), N_MASKS, soft=False)
    exact = over_masks(wide, tokens, masks, skip=False)
    dense, skipping = (over_masks(narrow, tokens, masks, skip=skip) for skip in (False, True))
    lost, apart, lost_too = (
        float(jnp.sqrt(jnp.mean(d**2))) for d in (dense - exact, skipping - dense, skipping - exact)
    )
    assert lost > 1e-3, "bfloat16 is computed in"
    assert apart < 1.5 * lost
    assert lost_too < 1.5 * lost


@pytest.mark.parametrize(
    ("family", "condition"),
    [
        *((family, Condition()) for family in KINDS),
        *(("gpt_neox", condition) for condition in (Condition("residual+mlp"), Condition(inverse=True))),
    ],
)
def test_evaluation_equals_the_oracle(family: str, condition: Condition) -> None:
    config, params, model = made(family)
    tokens = tokens_of(config, 6)
    trace = jstrace.trace(model, tokens, sizes=SIZES)
    got = jstrace.evaluate(model, trace, **dataclasses.asdict(condition))
    literal = oracle.Literal(config, params, tokens)
    full = softmax(literal.masked(EdgeTree(*(leaf != 255 for _, leaf in trace.strata.items()))))
    for k, ranges in enumerate(condition.ranges(len(SIZES))[: len(SIZES) + 1]):
        mask = kept(jax.tree.map(jnp.asarray, trace.strata), jnp.asarray(ranges))
        p = softmax(literal.masked(jax.tree.map(np.asarray, mask)))
        np.testing.assert_allclose(got.tv[k], 0.5 * np.abs(p - full).sum(), atol=1e-4)


@jax.jit
def clean(decoder: Decoder, tokens: jax.Array, length: jax.Array) -> jax.Array:
    return clean_forward(decoder, tokens, Norm(1), length=length).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str) -> None:
    """Longrope's choice, windows and positions follow the true length."""
    config, _, model = made(family)
    tokens = tokens_of(config, 4)
    plain = clean(model.decoder, jnp.asarray(tokens), jnp.asarray(4))
    wide = jnp.asarray([*tokens, 1, 1, 1])
    np.testing.assert_allclose(clean(model.decoder, wide, jnp.asarray(4)), plain, atol=2e-5 * np.abs(plain).max())
    assert not np.allclose(clean(model.decoder, wide, jnp.asarray(7)), plain, atol=1e-2), "the length is read"


def test_learned_positions_end() -> None:
    _, _, model = made("gpt2")
    with pytest.raises(InputError, match="129 tokens, more than the 128 positions"):
        jstrace.trace(model, [1] * 129)


def test_every_number_of_edges_of_parallel_blocks() -> None:
    """One cut at each edge, with ties; the whole-graph refinement too."""
    config = dataclasses.replace(family_config("gpt_neox"), n_layers=3, n_heads=2, n_kv_heads=2)
    slots = full_graph.edge_slots(config, 4, 4)
    edges = full_graph.n_edges(config, 4)
    sizes = tuple((n + 0.5) / edges for n in range(edges))
    for levels in (1, 3, 1000):
        rng = np.random.default_rng(levels)
        scores = jax.tree.map(
            lambda slot, levels=levels, rng=rng: np.where(
                slot, rng.integers(0, levels, slot.shape) / np.float32(levels), np.float32(-1)
            ).astype(np.float32),
            slots,
        )
        got = jstrace.extract(scores, sizes, config=config)
        for name, leaf in oracle.strata(scores, sizes, parallel=True).items():
            np.testing.assert_array_equal(getattr(got, name), leaf, err_msg=name)
