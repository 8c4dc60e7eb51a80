"""Programs in the forms of other platforms, run on this one, give what its own forms give."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.method import graph
from jstrace.method.conditions import Condition
from jstrace.method.sizes import counts
from jstrace.models import Decoder
from jstrace.pipeline import masked, stages
from tests.conftest import FAMILIES, family_config, tiny_params

SIZES = tuple(np.linspace(0.05, 0.95, 10).tolist())
LENGTHS = np.asarray([7, 5], np.int32)


def batch_of(family: str) -> tuple[Decoder, np.ndarray, Any]:
    """A decoder, padded tokens and their scores."""
    config = family_config(family)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, 8)).astype(np.int32)
    decoder = Decoder(config, tiny_params(config))
    (scores,), _ = stages.score_batch(decoder, tokens, LENGTHS, 0, scorings=(("l1", "zero"),), replacements={})
    return decoder, tokens, scores


def cuts_of(decoder: Decoder) -> np.ndarray:
    return np.stack([counts(SIZES, graph.n_edges(decoder.config, int(n))) for n in LENGTHS])


@pytest.mark.parametrize("levels", [0, 40, 3])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_extraction(family: str, levels: int) -> None:
    """Of scores as they are and of few different ones, many edges at each cut; frozen components, too."""
    decoder, _, scores = batch_of(family)
    parallel = decoder.config.parallel
    if levels:
        scores = jax.tree.map(lambda leaf: jnp.floor(leaf * levels), scores)
    for frozen in ((), ("residual", "mlp")):
        options = {"parallel": parallel, "frozen": frozen}
        expected, complete = stages.extract_program(scores, cuts_of(decoder), LENGTHS, **options)
        got, also = stages.extract_program(scores, cuts_of(decoder), LENGTHS, **options, platform="tpu")
        assert bool(complete)
        assert bool(also)
        chex.assert_trees_all_equal(got, expected)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation(family: str, platform: str) -> None:
    decoder, tokens, scores = batch_of(family)
    parallel = decoder.config.parallel
    strata = stages.extract_batch(scores, cuts_of(decoder), LENGTHS, parallel=parallel, frozen=())
    conditions = (Condition(), Condition(inverse=True), Condition(pre_softmax=True))
    options = {"n_sizes": len(SIZES), "cases": tuple((0, condition) for condition in conditions)}
    given = (decoder, tokens, LENGTHS, (strata,), np.asarray([3, 4], np.int32))
    expected = masked.evaluate_batch(*given, **options)
    got = masked.evaluate_batch(*given, **options, platform=platform)
    for one, other in zip(expected, got, strict=True):
        exact = ("nucleus", "nucleus_unordered", "top_token", "rank")
        for name in exact:
            np.testing.assert_array_equal(getattr(other.measures, name), getattr(one.measures, name), err_msg=name)
        for name in ("tv", "kl", "entropy", "surprisal"):
            chex.assert_trees_all_close(getattr(other.measures, name), getattr(one.measures, name), atol=2e-5)
        assert jnp.array_equal(one.full_tokens, other.full_tokens)
