"""Counts of the edges of traces: by comparison, and without the memory of wide bins."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jstrace.method.graph.composition import compose, composed
from jstrace.method.graph.counting import Counts
from jstrace.models import EdgeTree, ModelConfig
from jstrace.pipeline import stages
from jstrace.scale.batching import widened
from tests.conftest import TINY

pytestmark = pytest.mark.quick

N_SIZES = 26


def strata_of(n_layers: int, n_heads: int, n_tokens: int, padding: int = 0) -> EdgeTree:
    """Random strata, 255 among them; with padding a view of larger arrays, as an input of a batch is."""
    rng, width = np.random.default_rng(0), n_tokens + padding
    level, maps = (n_layers, width), (n_layers, n_heads, width, width)
    wide = (rng.choice([*range(N_SIZES + 1), 255], shape).astype(np.uint8) for shape in (level, maps, level, level))
    return EdgeTree(*(leaf[..., :n_tokens, :n_tokens] if leaf.ndim == 4 else leaf[:, :n_tokens] for leaf in wide))


def config_of(strata: EdgeTree, **changes: Any) -> ModelConfig:
    """Two heads share a key where their number allows it."""
    n_layers, n_heads = strata.attn.shape[:2]
    n_kv_heads = n_heads // 2 if n_heads % 2 == 0 else n_heads
    return dataclasses.replace(TINY, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, **changes)


@pytest.mark.parametrize("shape", [(1, 1, 1, 0), (2, 3, 5, 2), (3, 2, 300, 0), (2, 40, 130, 14)])
def test_counts_are_those_of_comparison(shape: tuple[int, int, int, int]) -> None:
    """One block or many, rows shorter than a block and longer ones."""
    strata = strata_of(*shape)
    made = compose(strata, N_SIZES, config_of(strata))
    for k in (0, 7, N_SIZES):
        held = EdgeTree(*(leaf <= k for _, leaf in strata.items()))
        np.testing.assert_array_equal(made.head_edges[k], held.attn.sum(axis=(-1, -2)))
        np.testing.assert_array_equal(made.mlp_edges[k], held.mlp.sum(axis=-1))
        np.testing.assert_array_equal(made.residual_edges[k], (held.residual_attn + 1 * held.residual_mlp).sum(axis=-1))
        assert made.edges[k] == sum(leaf.sum() for _, leaf in held.items())
        attended = held.attn.any(axis=(1, 2)) | held.residual_attn
        assert made.nodes[k] == 1 + attended.sum() + (held.mlp | held.residual_mlp).sum()


@pytest.mark.parametrize("parallel", [False, True])
def test_the_device_counts_as_the_host(parallel: bool) -> None:
    """In a padded batch, whose slots beyond an input's length are no edge."""
    strata = [strata_of(3, 2, 5), EdgeTree(*(np.full_like(leaf, N_SIZES) for _, leaf in strata_of(3, 2, 5).items()))]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(widened(one, 8, np.uint8(255)) for one in strata))
    config = config_of(strata[0], parallel=parallel)
    (found,) = stages.compose_batch((batch,), n_sizes=N_SIZES, config=config)
    for index, one in enumerate(strata):
        got = composed(Counts(*(np.asarray(leaf[index]) for leaf in jax.tree.leaves(found))), config)
        expected = compose(one, N_SIZES, config)
        chex.assert_trees_all_equal(dataclasses.asdict(got), dataclasses.asdict(expected))


@pytest.mark.parametrize("padding", [0, 1])
def test_counting_needs_less_memory_than_the_strata(padding: int) -> None:
    """Bins of 8 bytes for every slot at once were 8.7 GB for 1,024 tokens of a model of 8B."""
    strata = strata_of(8, 8, 256, padding)
    tracemalloc.start()
    compose(strata, N_SIZES, config_of(strata))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert strata.attn.nbytes == 2**22
    assert peak < 2**21
