"""Traces as networks: every measure against networkx, and what is said of hubs and communities."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace.analysis import Network, betweenness, communities, degrees, measures, modularity, network_of, pagerank
from jstrace.models import Decoder, EdgeTree, InputError, Model
from tests.conftest import TINY, family_config, tiny_params
from tests.stand_ins import Hostile

pytestmark = pytest.mark.quick

networkx = pytest.importorskip("networkx")
SIZES = (0.03, 0.2, 0.6, 0.8)


def traced(family: str = "llama", **options: Any) -> jstrace.Trace:
    config = family_config(family)
    model = Model(Decoder(config, tiny_params(config)))
    return jstrace.trace(model, np.arange(9), **({"sizes": SIZES} | options))


def of(trace: jstrace.Trace, k: int) -> tuple[Network, Any, list[tuple[int, int]]]:
    """The network, the graph that networkx has of the same trace, and its nodes in the order of the network's."""
    network = network_of(trace.strata, k, parallel=trace.config.parallel)
    return network, trace.to_networkx(k), list(zip(network.level.tolist(), network.position.tolist(), strict=True))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "mistral"])
@pytest.mark.parametrize("k", range(4))
def test_measures_equal_networkx(family: str, k: int) -> None:
    network, graph, nodes = of(traced(family), k)
    assert sorted(graph) == nodes
    assert (network.n_edges, network.n_nodes) == (graph.number_of_edges(), len(graph))
    into, out = degrees(network)
    assert into.tolist() == [graph.in_degree(node) for node in nodes]
    assert out.tolist() == [graph.out_degree(node) for node in nodes]
    between, sources = betweenness(network)
    assert sources == len(nodes)
    wanted = networkx.betweenness_centrality(graph)
    np.testing.assert_allclose(between, [wanted[node] for node in nodes], atol=1e-12)
    for backward, directed in ((False, graph), (True, graph.reverse())):
        wanted = networkx.pagerank(directed, tol=1e-13, max_iter=1000)
        found = pagerank(network, backward=backward)
        np.testing.assert_allclose(found, [wanted[node] for node in nodes], atol=1e-9)
    label = communities(network)
    flat = networkx.Graph()
    flat.add_nodes_from(nodes)
    for one, other in graph.edges():
        weight = flat.get_edge_data(one, other, {"weight": 0})["weight"]
        flat.add_edge(one, other, weight=weight + 1)
    groups = [{nodes[i] for i in np.flatnonzero(label == number)} for number in range(label.max() + 1)]
    assert modularity(network, label) == pytest.approx(networkx.community.modularity(flat, groups))
    assert sorted(map(len, groups), reverse=True) == [*map(len, groups)], "the largest first"


def test_betweenness_is_the_number_of_paths() -> None:
    """Counted by hand: two nodes in the middle, one of which is joined to two."""
    shape = (2, 3)
    none = np.full(shape, 255, np.uint8)
    strata = EdgeTree(none.copy(), np.full((2, 1, 3, 3), 255, np.uint8), none.copy(), none.copy())
    for layer, target, source in ((0, 1, 0), (0, 2, 0), (1, 2, 1), (1, 2, 2)):
        strata.attn[layer, 0, target, source] = 0
    network = network_of(strata, 0, parallel=True)
    assert list(zip(network.level.tolist(), network.position.tolist(), strict=True)) == [(0, 0), (1, 1), (1, 2), (2, 2)]
    assert betweenness(network)[0].tolist() == [0, 0.5 / 6, 0.5 / 6, 0]
    assert degrees(network)[0].tolist() == [0, 1, 1, 2]
    assert network_of(strata, 0, parallel=False).level.tolist() == [0, 1, 1, 2, 2, 3], "levels are other ones there"


def test_sources_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, so that the last is the output by itself, as it may be of 257."""
    network, *_ = of(traced(), 2)
    whole, _ = betweenness(network)
    monkeypatch.setattr(measures, "_TOGETHER", 1)
    np.testing.assert_allclose(betweenness(network)[0], whole, rtol=1e-12)


def test_paths_beyond_any_float() -> None:
    """Of four hundred layers, each of which multiplies their number by ten."""
    strata = EdgeTree(*(np.full(s, 255, np.uint8) for s in ((400, 10), (400, 1, 10, 10), (400, 10), (400, 10))))
    strata.attn[:] = 0
    network = network_of(strata, 0, parallel=True)
    found = betweenness(network)[0].reshape(401, 10)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[200], 200 * 10 * 200 * 10 / 10 / (4009 * 4008), rtol=1e-9)


def test_a_sample_is_seeded_and_unbiased() -> None:
    network, *_ = of(traced(), 2)
    whole, _ = betweenness(network)
    drawn, sources = betweenness(network, sources=10, seed=3)
    assert sources == 10
    assert np.array_equal(drawn, betweenness(network, sources=10, seed=3)[0])
    assert not np.array_equal(drawn, betweenness(network, sources=10, seed=4)[0])
    many = np.mean([betweenness(network, sources=10, seed=seed)[0] for seed in range(400)], axis=0)
    np.testing.assert_allclose(many, whole, atol=0.1 * whole.max())
    with pytest.raises(InputError, match="at least 1"):
        betweenness(network, sources=0)


def test_communities_are_those_of_the_seed() -> None:
    network, *_ = of(traced(), 1)
    assert np.array_equal(communities(network, seed=1), communities(network, seed=1))
    assert modularity(network, np.zeros(network.n_nodes, np.int64)) == 0.0


def test_an_empty_trace() -> None:
    """Of so few edges that there are none."""
    found = jstrace.analyse(traced(sizes=(1e-9, 0.5)), 0)
    assert (found.network.n_nodes, found.network.n_edges, found.n_communities, found.hubs()) == (0, 0, 0, ())
    assert np.isnan(found.modularity)
    assert found.exact
    assert found.communities() == ()


def test_analysis_of_a_trace() -> None:
    trace = traced()
    found = jstrace.analyse(trace, size=0.2)
    assert (found.k, found.size, found.exact) == (1, 0.2, True)
    assert found.pagerank.sum() == pytest.approx(1) == found.backward_pagerank.sum()
    assert found.in_degree.sum() == found.out_degree.sum() == len(trace.edges(1))
    first, *others = found.hubs(5, by="pagerank")
    assert (first.layer, first.position) == (2, 8), "where all paths end"
    assert [hub.pagerank for hub in (first, *others)] == sorted(found.pagerank)[::-1][:5]
    assert sum(one.nodes for one in found.communities(1000)) == found.network.n_nodes
    assert "communities, modularity" in repr(found)
    whole = jstrace.analyse(trace, 4)
    assert (whole.size, whole.network.n_edges) == (1.0, trace.n_edges)
    for options, message in (
        ({}, "an index k or a size"),
        ({"k": 9}, "expected 0 to 4"),
        ({"size": 0.3}, "not one of"),
        ({"k": 1, "sources": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            jstrace.analyse(trace, **options)
    with pytest.raises(InputError, match="by = 'size'"):
        found.hubs(by="size")


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("llama", ["embedding", *["after attention", "after MLP"] * 2, "after attention", "output"]),
        ("gpt_neox", ["embedding", "after block", "after block", "output"]),
    ],
)
def test_hubs_are_named(family: str, kinds: list[str]) -> None:
    found = jstrace.analyse(traced(family), 3)
    by_level = {hub.level: hub for hub in found.hubs(1000)}
    assert [by_level[level].kind for level in sorted(by_level)] == kinds
    layers = [None, *itertools.chain.from_iterable([layer] * (1 if family == "gpt_neox" else 2) for layer in range(3))]
    assert [by_level[level].layer for level in sorted(by_level)] == layers


def test_tokens_are_as_they_are() -> None:
    trace = jstrace.trace(Model(Decoder(TINY, tiny_params()), Hostile()), "eight ch", sizes=SIZES)
    found = jstrace.analyse(trace, 3)
    assert {hub.token for hub in found.hubs(1000)} == set(trace.token_texts or ())


def test_a_model_of_another_depth() -> None:
    """Levels are of the strata: nothing is known of them beforehand."""
    config = dataclasses.replace(TINY, n_layers=1)
    trace = jstrace.trace(Model(Decoder(config, tiny_params(config))), [5], sizes=(0.9,))
    found = jstrace.analyse(trace, 1)
    assert [hub.kind for hub in found.hubs(9, by="in_degree")] == ["after attention", "output", "embedding"]
