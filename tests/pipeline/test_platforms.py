"""Programs in the forms of other platforms, run on this one, give what its own forms give."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jstrace.method.conditions import Condition
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import counts
from jstrace.models import Decoder, hidden_states, make_mesh, param_shardings, rows
from jstrace.pipeline import masked, stages
from jstrace.scale import meshes
from tests.conftest import family_config, tiny_params

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
    return np.stack([counts(SIZES, full_graph.n_edges(decoder.config, int(n))) for n in LENGTHS])


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


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_evaluation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU in all capacities of buffers in one family, and in three of them in the others."""
    if family != "llama":
        monkeypatch.setattr(rows, "_SHARES", (2, 10, 32))
    decoder, tokens, scores = batch_of(family)
    parallel = decoder.config.parallel
    strata = stages.extract_batch(scores, cuts_of(decoder), LENGTHS, parallel=parallel, frozen=())
    conditions = (Condition(), Condition(inverse=True), Condition(pre_softmax=True))
    options = {"n_sizes": len(SIZES), "cases": tuple((0, condition) for condition in conditions)}
    given = (decoder, tokens, LENGTHS, (strata,), np.asarray([3, 4], np.int32))
    expected = masked.evaluate_batch(*given, **options)
    for platform in ("gpu", "tpu"):
        got = masked.evaluate_batch(*given, **options, platform=platform)
        for one, other in zip(expected, got, strict=True):
            for name in ("nucleus", "nucleus_unordered", "top_token", "rank"):
                np.testing.assert_array_equal(getattr(other.measures, name), getattr(one.measures, name), err_msg=name)
            for name in ("tv", "kl", "entropy", "surprisal"):
                chex.assert_trees_all_close(getattr(other.measures, name), getattr(one.measures, name), atol=2e-5)
            assert jnp.array_equal(one.full_tokens, other.full_tokens)


@pytest.mark.parametrize("family", ["mistral", "gpt_neox"])
@pytest.mark.parametrize("replaced", [False, True])
def test_attention_by_queries(family: str, replaced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under masks of several sizes that are made when it is their turn, with and without replacements."""
    decoder, tokens, scores = batch_of(family)
    parallel = decoder.config.parallel
    strata = stages.extract_batch(scores, cuts_of(decoder), LENGTHS, parallel=parallel, frozen=())
    other = hidden_states(decoder, jnp.asarray(tokens[1])) if replaced else None
    given = (decoder, jnp.asarray(tokens), jnp.asarray(LENGTHS), strata, jnp.asarray(Condition().ranges(len(SIZES))))
    expected = masked.predicted(*given, replace=other)
    monkeypatch.setattr(masked, "N_QUERIES", 3)
    got = masked.predicted(*given, replace=other, platform="tpu")
    chex.assert_trees_all_close(got, expected, atol=2e-5)


@pytest.mark.parametrize("n_inputs", [4, 1])
def test_the_forms_for_tpus_on_a_mesh(n_inputs: int) -> None:
    """Inputs over devices, or the sizes of one, with weights and vocabulary divided: as on one device."""
    config, mesh = dataclasses.replace(family_config("llama"), vocab_size=98), make_mesh(data=4, model=2)
    params = tiny_params(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (n_inputs, 8)).astype(np.int32)
    lengths = np.full(n_inputs, 7, np.int32)
    cuts = np.stack([counts(SIZES, full_graph.n_edges(config, 7))] * n_inputs)

    def results(mesh: Mesh | None, platform: str | None) -> tuple[Any, Any]:
        own = params if mesh is None else jax.device_put(params, param_shardings(config, mesh))
        decoder = Decoder(config, own)
        given = meshes.placed((tokens, lengths, cuts), mesh)
        how = {"scorings": (("l1", "zero"),), "replacements": {}, "mesh": mesh}
        (scores,), _ = stages.score_batch(decoder, *given[:2], 0, **how)
        strata, _ = stages.extract_program(
            scores, given[2], given[1], parallel=False, frozen=(), mesh=mesh, platform=platform
        )
        options = {"n_sizes": len(SIZES), "cases": ((0, Condition()),), "mesh": mesh, "platform": platform}
        return strata, masked.evaluate_batch(decoder, *given[:2], (strata,), given[1], **options)[0]

    (strata, expected), (also, got) = results(None, None), results(mesh, "tpu")
    chex.assert_trees_all_equal(jax.device_get(also), jax.device_get(strata))
    np.testing.assert_array_equal(got.measures.nucleus, expected.measures.nucleus)
    np.testing.assert_allclose(got.measures.tv, expected.measures.tv, atol=2e-5)
    np.testing.assert_array_equal(got.full_tokens, expected.full_tokens)
