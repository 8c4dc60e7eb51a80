"""A model refuses what would be the answer to another question."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, EdgeTree, InputError, Model
from tests.conftest import TINY, family_config, tiny_params
from tests.models.test_decoder import ones


def test_masks_that_are_none(tiny: Model, tokens: np.ndarray) -> None:
    """Strata are integers of the same shape: multiplied by, they gave finite logits."""
    trace, whole = jstrace.trace(tiny, tokens), ones(TINY, len(tokens))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), whole)
    for mask, message in (
        (trace.strata, "mask residual_attn is uint8, expected bool or float; the mask of strata is strata <= k"),
        (two, r"mask residual_attn has shape \(2, 3, 7\), expected \(3, 7\); for several masks use jax.vmap"),
        (dataclasses.replace(whole, attn=whole.attn[:, :1]), r"mask attn has shape \(3, 1, 7, 7\)"),
        (whole.mlp, "expected an EdgeTree"),
        (dataclasses.replace(whole, mlp=None), "mask mlp is NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            tiny(tokens, mask)
        if message != "mask mlp is NoneType":  # no leaf of a pytree
            with pytest.raises(InputError, match=message):
                jax.jit(lambda model, ids, mask: model(ids, mask))(tiny, tokens, mask)


def test_tokens_that_are_none(tiny: Model) -> None:
    for ids, message in (
        ([1, 97], "token id 97 is outside the vocabulary of 97"),
        ([1, -1], "token id -1 is outside"),
        ([[1, 2], [3, 4]], r"tokens of shape \(2, 2\): expected those of one input"),
        ([], "tokens of shape"),
        ([0.5, 1.0], "tokens are float64, expected integers"),
        ([1, 2**32 + 3], "token id 4294967299 is outside"),
    ):
        with pytest.raises(InputError, match=message):
            tiny(np.asarray(ids), ones(TINY, 2))
    for odd in ("abc", [[1], [2, 3]], [2**70, 1], None):
        with pytest.raises(InputError, match=r"tokens"):
            tiny(odd, ones(TINY, 2))  # type: ignore[arg-type]


def test_unknown_tokens_under_jit_are_marked(tiny: Model) -> None:
    """A compiled program cannot refuse numbers: it answers NaN."""
    compiled = jax.jit(lambda model, ids, mask: model(ids, mask))
    whole = ones(TINY, 2)
    assert np.isnan(compiled(tiny, jnp.asarray([1, 97]), whole)).all()
    assert np.isnan(compiled(tiny, jnp.asarray([-1, 1]), whole)).all()
    np.testing.assert_array_equal(compiled(tiny, jnp.asarray([1, 96]), whole), tiny(np.asarray([1, 96]), whole))


def test_more_tokens_than_positions() -> None:
    config = dataclasses.replace(family_config("gpt2"), max_positions=4)
    model = Model(Decoder(config, tiny_params(config)))
    with pytest.raises(InputError, match="5 tokens, more than the 4 positions"):
        model(np.arange(5), ones(config, 5))
    assert np.isfinite(model(np.arange(4), ones(config, 4))).all()


def test_masks_of_numpy(tiny: Model, tokens: np.ndarray) -> None:
    whole = jstrace.trace(tiny, tokens).mask(26)
    soft = EdgeTree(*(leaf.astype(np.float32) for _, leaf in whole.items()))
    np.testing.assert_allclose(tiny(tokens, whole), tiny(tokens, soft), atol=1e-5)
