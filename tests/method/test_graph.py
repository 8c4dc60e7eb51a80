"""The number of edges by formula, slots, names and endpoints."""

from __future__ import annotations

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jstrace.method.graph import full_graph, indexing
from jstrace.method.graph import sizes as sizes_of
from jstrace.models import EdgeTree, InputError
from jstrace.scale import batching
from tests import oracle
from tests.conftest import TINY


@settings(deadline=None)
@given(
    n_layers=st.integers(1, 4),
    n_heads=st.integers(1, 3),
    n_tokens=st.integers(1, 6),
    window=st.sampled_from([None, 1, 2, 4]),
)
def test_formula_counts_the_slots(n_layers: int, n_heads: int, n_tokens: int, window: int | None) -> None:
    config = dataclasses.replace(TINY, n_layers=n_layers, n_heads=n_heads, window=window)
    slots = full_graph.edge_slots(config, n_tokens + 2, n_tokens, np)
    assert sum(int(leaf.sum()) for _, leaf in slots.items()) == full_graph.n_edges(config, n_tokens)


def test_known_sizes() -> None:
    smol = dataclasses.replace(TINY, n_layers=30, n_heads=9)
    assert full_graph.n_edges(smol, 50) == 337_578
    llama = dataclasses.replace(TINY, n_layers=32, n_heads=32)
    assert full_graph.n_edges(llama, 55) == 1_534_558


def test_too_many_edges() -> None:
    with pytest.raises(InputError, match="shorten"):
        full_graph.n_edges(dataclasses.replace(TINY, n_layers=80, n_heads=64), 1_000)
    with pytest.raises(InputError, match="no tokens"):
        full_graph.n_edges(TINY, 0)


def test_too_many_slots() -> None:
    """The message has the tokens of the input and how many would fit, padded as they will be."""
    config = dataclasses.replace(TINY, n_layers=30, n_heads=9)
    for padded, fitting in ((None, 2820), (batching.bucket, 2560)):
        full_graph.check_slots(config, fitting, padded)
        with pytest.raises(InputError, match=f"^3000 tokens are too many.*up to {fitting} tokens fit"):
            full_graph.check_slots(config, 3000, padded)
        with pytest.raises(InputError, match=f"up to {fitting} tokens"):
            full_graph.check_slots(config, fitting + 1, padded)


def test_sizes_must_be_numbers() -> None:
    unhooked = inspect.unwrap(sizes_of.checked_sizes)  # which must refuse other types itself
    with pytest.raises(InputError, match="numbers"):
        unhooked(("a",))


def test_endpoints_and_flattening() -> None:
    rng = np.random.default_rng(0)
    rows = (3, 5)
    tree = EdgeTree(*(rng.random(shape).astype(np.float32) for shape in (rows, (3, 2, 5, 5), rows, rows)))
    flat = indexing.flat(tree)
    for name, leaf in indexing.unflat(flat, tree).items():
        np.testing.assert_array_equal(leaf, getattr(tree, name))
    sources, targets = indexing.endpoints(jnp.arange(flat.size), tree, parallel=False)
    for number, (_, source, target, score) in enumerate(oracle.graph_of(tree).edges):
        assert flat[number] == np.float32(score)
        assert (sources[number], targets[number]) == (source[0] * 5 + source[1], target[0] * 5 + target[1])
