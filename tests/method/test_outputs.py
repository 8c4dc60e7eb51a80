"""Graphs of several outputs against the literal oracle: edges, scores, extraction, logits after every output."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.graph import full_graph
from jstrace.method.graph import sizes as sizes_of
from jstrace.method.scores.measured import Norm
from jstrace.method.search import extraction
from jstrace.models import EdgeTree, InputError, Model, clean_forward, live_rows, masked_forward
from tests import oracle
from tests.conftest import KINDS, SHAPES, SIZES, TINY
from tests.method.test_families import made, random_masks, tokens_of

N_TOKENS, N_OUTPUTS = 6, 3
WIDE = 8
"""Tokens with padding."""


def cropped(tree: EdgeTree, n_tokens: int) -> EdgeTree:
    """The slots of the first tokens."""
    cut = {kind: np.asarray(leaf)[..., :n_tokens] for kind, leaf in tree.items()}
    return EdgeTree(**cut | {"attn": cut["attn"][..., :n_tokens, :]})


def padded_to_wide(tree: EdgeTree, more: int, value: float) -> EdgeTree:
    """The tree with so many tokens of padding."""

    def wide(kind: str, leaf: np.ndarray) -> np.ndarray:
        n_axes = 2 if kind == "attn" else 1
        widths = [(0, 0)] * (np.ndim(leaf) - n_axes) + [(0, more)] * n_axes
        return np.pad(leaf, widths, constant_values=value)

    return EdgeTree(**{kind: wide(kind, leaf) for kind, leaf in tree.items()})


@pytest.mark.quick
@pytest.mark.parametrize("family", ["mistral", *SHAPES])
@pytest.mark.parametrize("n_outputs", [1, 2, N_OUTPUTS, N_TOKENS])
def test_the_formula_counts_what_reaches_an_output(family: str, n_outputs: int) -> None:
    config, params, _ = made(family)
    literal = oracle.Literal(config, params, tokens_of(config, N_TOKENS))
    reached = oracle.reachable(literal, n_outputs)
    edges = {edge for node, edges, _, _ in literal.nodes() if node in reached for edge in edges}
    slots = full_graph.edge_slots(config, WIDE, N_TOKENS, np, n_outputs=n_outputs)
    found = {(at, *place) for at, (_, leaf) in enumerate(slots.items()) for place in np.argwhere(leaf).tolist()}
    assert found == edges
    assert full_graph.n_edges(config, N_TOKENS, n_outputs) == len(edges)


@functools.partial(jax.jit, static_argnames=("n_outputs",))
def magnitudes_and_logits(model: Model, tokens: jax.Array, length: int, n_outputs: int) -> tuple[EdgeTree, jax.Array]:
    clean = clean_forward(model.decoder, tokens, Norm(1), length=length, n_outputs=n_outputs)
    return clean.magnitudes, clean.logits


@functools.partial(jax.jit, static_argnames=("n_outputs",))
def over_masks(model: Model, tokens: jax.Array, length: int, masks: EdgeTree, n_outputs: int | None) -> jax.Array:
    def one(mask: EdgeTree) -> jax.Array:
        options = {"length": length, "row_map": live_rows, "n_outputs": n_outputs}
        return masked_forward(model.decoder, tokens, mask, **options)

    return jax.vmap(one)(masks)


@pytest.mark.parametrize("family", KINDS)
def test_logits_equal_the_oracle_at_every_output(family: str) -> None:
    """Under soft masks, with padding; the last of them are those of one output."""
    config, params, model = made(family)
    tokens = tokens_of(config, N_TOKENS)
    masks = random_masks(config, N_TOKENS, np.random.default_rng(1), 3, soft=True)
    padded = padded_to_wide(masks, 2, 0)
    ids = jnp.asarray([*tokens, 1, 1])
    got = over_masks(model, ids, N_TOKENS, padded, N_OUTPUTS)
    assert got.shape == (3, N_OUTPUTS, config.vocab_size)
    literal = oracle.Literal(config, params, tokens)
    for k in range(3):
        expected = literal.masked(jax.tree.map(lambda leaf, k=k: leaf[k], masks), n_outputs=N_OUTPUTS)
        np.testing.assert_allclose(got[k], expected, atol=2e-4 * max(1, np.abs(expected).max()))
    one = over_masks(model, ids, N_TOKENS, padded, None)
    np.testing.assert_allclose(got[:, -1], one, atol=1e-5 * max(1, np.abs(one).max()))
    _, clean = magnitudes_and_logits(model, ids, N_TOKENS, N_OUTPUTS)
    full = literal.masked(model.full_mask(N_TOKENS, n_outputs=N_OUTPUTS), n_outputs=N_OUTPUTS)
    np.testing.assert_allclose(clean, full, atol=2e-4 * np.abs(full).max())


@pytest.mark.parametrize(("n_outputs", "levels"), [(1, 2), (2, 0), (4, 3)])
def test_extraction_equals_the_heap(n_outputs: int, levels: int) -> None:
    """With ties, on padded scores, in the pool and on all edges, as on a TPU, and with frozen components."""
    config = dataclasses.replace(TINY, n_heads=2, n_kv_heads=1, window=3, global_layers=(1,))
    rng = np.random.default_rng(levels)
    slots = full_graph.edge_slots(config, 5, 5, np, n_outputs=n_outputs)

    def draw(slot: np.ndarray) -> np.ndarray:
        values = rng.random(slot.shape)
        values = np.floor(values * levels) / levels if levels else values
        return np.where(slot, values, -1).astype(np.float32)

    scores = jax.tree.map(draw, slots)
    padded = padded_to_wide(scores, 3, 7)
    for frozen, first in (((), ()), (("mlp",), ("mlp",))):
        expected = oracle.strata(scores, SIZES, first, n_outputs=n_outputs)
        got = jstrace.extract(padded, SIZES, config=config, length=5, frozen=frozen, n_outputs=n_outputs)
        for kind, leaf in cropped(got, 5).items():
            np.testing.assert_array_equal(leaf, getattr(expected, kind), err_msg=kind)
    expected = oracle.strata(scores, SIZES, n_outputs=n_outputs)
    cuts = sizes_of.counts(SIZES, full_graph.n_edges(config, 5, n_outputs))
    marked = jax.tree.map(lambda leaf: jnp.where(leaf < 0, jnp.nan, leaf), scores)
    for options in ({"whole": True}, {"platform": "tpu"}):
        how = {"parallel": False, "n_outputs": n_outputs, **options}
        got, _ = jax.jit(functools.partial(extraction.extract_padded, **how))(marked, cuts, 5)
        for kind, leaf in got.items():
            np.testing.assert_array_equal(leaf, getattr(expected, kind), err_msg=f"{kind} {options}")


@pytest.mark.quick
@pytest.mark.parametrize("n_outputs", [0, 7])
def test_numbers_of_outputs_that_make_no_sense(n_outputs: int) -> None:
    with pytest.raises(InputError, match=r"n_outputs = \d, expected 1 to the 6 tokens"):
        made("llama")[2].full_mask(6, n_outputs=n_outputs)
