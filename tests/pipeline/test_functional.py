"""The method as functions: the same numbers as ``trace`` and ``evaluate``, inside the caller's own transformations."""

from __future__ import annotations

import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, EdgeTree, InputError, Model, plain_forward
from tests.conftest import SHAPES, SIZES, family_config, tiny_params

pytestmark = pytest.mark.quick


def masks_of(strata: EdgeTree) -> EdgeTree:
    """All traces, and the full graph last."""
    return jax.vmap(lambda k: jax.tree.map(lambda leaf: (leaf <= k) & (leaf < 255), strata))(jnp.arange(len(SIZES) + 1))


def traced(model: Model, tokens: Any) -> Any:
    scores = jstrace.edge_scores(model, tokens)
    strata = jstrace.extract(scores, SIZES, config=model.config)
    logits = jax.vmap(lambda mask: jstrace.masked_logits(model, tokens, mask))(masks_of(strata))
    return scores, strata, jstrace.measures(model(tokens), logits, 3)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_whole_method_in_one_program(family: str, tokens: np.ndarray) -> None:
    config = family_config(family)
    model = Model(Decoder(config, tiny_params(config)))
    scores, strata, found = jax.jit(traced)(model, jnp.asarray(tokens))
    trace = jstrace.trace(model, tokens, sizes=SIZES)
    expected = jstrace.evaluate(model, trace, next_token=3)
    chex.assert_trees_all_equal(strata, trace.strata)
    for (_, leaf), (_, other) in zip(scores.items(), trace.scores.items(), strict=True):
        np.testing.assert_allclose(np.where(np.isnan(leaf), -1, leaf), other, atol=1e-6)
    np.testing.assert_allclose(found.tv, expected.tv, atol=1e-5)
    np.testing.assert_allclose(found.kl, expected.kl, atol=1e-5)
    np.testing.assert_array_equal(found.top_token, expected.top_token)
    np.testing.assert_array_equal(found.rank, expected.rank)


def test_inside_transformations(tiny: Model, tokens: np.ndarray) -> None:
    """A batch at once, and the gradient of a measure in a soft mask."""
    rows = jnp.stack([jnp.asarray(tokens), jnp.asarray(tokens[::-1])])
    together = jax.jit(jax.vmap(lambda row: jstrace.edge_scores(tiny, row, "l2")))(rows)
    for index, row in enumerate(rows):
        alone = jstrace.edge_scores(tiny, row, "l2")
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, at=index: leaf[at], together), alone, atol=1e-6)

    def kept(mask: EdgeTree) -> jax.Array:
        return jstrace.measures(tiny(rows[0]), jstrace.masked_logits(tiny, rows[0], mask)).kl

    half = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), tiny.full_mask(len(tokens)))
    slope = jax.jit(jax.grad(kept))(half)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("family", SHAPES)
def test_a_plain_forward_pass(family: str, tokens: np.ndarray) -> None:
    """Is the full graph's, after every token that of what is before it."""
    config = family_config(family)
    model = Model(Decoder(config, tiny_params(config)))
    whole = jax.jit(lambda model, tokens: model(tokens, every=True))(model, jnp.asarray(tokens))
    assert whole.shape == (len(tokens), config.vocab_size)
    masked = jax.jit(lambda model, tokens, mask: model(tokens, mask))
    np.testing.assert_allclose(whole[-1], masked(model, tokens, model.full_mask(len(tokens))), atol=2e-5)
    np.testing.assert_allclose(whole[-1], jax.jit(lambda model, tokens: model(tokens))(model, tokens), atol=1e-6)
    padded = jnp.asarray([*tokens, 1, 2])
    np.testing.assert_allclose(plain_forward(model.decoder, padded, length=len(tokens)), whole[-1], atol=2e-5)
    if config.rope_long_divisors is None:
        np.testing.assert_allclose(whole[2], masked(model, tokens[:3], model.full_mask(3)), atol=2e-5)


def test_what_makes_no_sense(tiny: Model, tokens: np.ndarray) -> None:
    full, logits = tiny.full_mask(len(tokens)), np.zeros((2, 97), np.float32)
    scored = inspect.unwrap(jstrace.edge_scores)
    mean, unchecked = jstrace.mean_replacement(tiny, [tokens]), inspect.unwrap(jstrace.measures)
    for call, message in (
        (lambda: tiny(tokens, replace=mean), "without a mask nothing is ablated"),
        (lambda: tiny(tokens, full, every=True), "every is for no mask"),
        (lambda: jstrace.edge_scores(tiny, tokens, "l3"), "score 'l3' is not known"),
        (lambda: scored(tiny, tokens, "l1", replace=mean), "replace is for scores from gradients"),
        (lambda: scored(tiny, tokens, "rounds", replace="mean"), "expected a jstrace.Replacement"),
        (lambda: scored(tiny, tokens, "l2", length=8), "length = 8, expected 1 to 7"),
        (lambda: unchecked(logits[0], logits, 97), "next_token 97 is outside"),
        (lambda: unchecked(logits, logits), r"expected \[V\] and \[\.\.\., V\]"),
        (lambda: unchecked(logits[0], logits[:, :5]), r"expected \[V\] and \[\.\.\., V\]"),
        (
            lambda: jax.jit(lambda model: jstrace.edge_scores(model, tokens, "learned"))(tiny),
            "not known inside a transformation",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
