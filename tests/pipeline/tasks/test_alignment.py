"""Images of edges: means over them against loops over edges, and components."""

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest

from jstrace.method.graph import full_graph
from jstrace.models import EDGE_KINDS, EdgeTree, InputError, edge_shapes
from jstrace.pipeline.tasks import alignment
from jstrace.pipeline.tasks.alignment import Alignment
from jstrace.pipeline.tasks.prompts import LogitDifference, Prompt
from tests.conftest import TINY, family_config

pytestmark = pytest.mark.quick


def drawn(n_tokens: int, seed: int) -> EdgeTree:
    rng, shapes = np.random.default_rng(seed), edge_shapes(TINY.n_layers, TINY.n_heads, n_tokens)
    return EdgeTree(**{kind: rng.normal(size=shape).astype(np.float32) for kind, shape in shapes.items()})


def places(kind: str, place: tuple[int, ...]) -> tuple[int, int]:
    """Target and source token."""
    return (place[2], place[3]) if kind == "attn" else (place[1], place[1])


def slots_of(n_tokens: int, kind: str) -> list[tuple[int, ...]]:
    slots = getattr(full_graph.edge_slots(TINY, n_tokens, n_tokens, np), kind)
    return [tuple(map(int, place)) for place in np.argwhere(slots)]


def test_means_over_images_equal_loops() -> None:
    scores, classes = [drawn(4, 0), drawn(5, 1)], [np.asarray([0, 2, 2, 1]), np.asarray([1, 0, 2, 2, 1])]
    found = alignment.pooled(scores, classes, 4, TINY)
    images: dict[str, dict[tuple[int, ...], list[float]]] = {kind: collections.defaultdict(list) for kind in EDGE_KINDS}
    totals = []
    for tree, own in zip(scores, classes, strict=True):
        each = [(kind, place, float(leaf[place])) for kind, leaf in tree.items() for place in slots_of(len(own), kind)]
        totals.append(sum(abs(value) for _, _, value in each))
        for kind, place, value in each:
            target, source = (int(own[at]) for at in places(kind, place))
            image = (*place[:2], target, source) if kind == "attn" else (place[0], target)
            images[kind][image].append(value / totals[-1])
    for kind, leaf in found.items():
        wanted = np.zeros(leaf.shape)
        for image, values in images[kind].items():
            wanted[image] = np.mean(values) * np.mean(totals)
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_edges_have_their_images_scores() -> None:
    """And those whose tokens are of an unknown class have 0."""
    images, own = drawn(3, 2), np.asarray([2, 3, 0, 2])
    found = alignment.placed(images, own, TINY)
    for kind, leaf in found.items():
        edges = slots_of(4, kind)
        for place in edges:
            target, source = (int(own[at]) for at in places(kind, place))
            image = (*place[:2], target, source) if kind == "attn" else (place[0], target)
            assert leaf[place] == (0 if 3 in (target, source) else getattr(images, kind)[image])
        assert (leaf == -1).sum() >= leaf.size - len(edges)


def test_one_prompt_by_position_has_its_own_scores_back() -> None:
    scores = drawn(6, 3)
    for factor in (1.0, 1e-7, 3e8):
        own = jax.tree.map(lambda leaf, factor=factor: np.abs(leaf * np.float32(factor)), scores)
        classes = np.arange(6)
        found = alignment.placed(alignment.pooled([own], [classes], 6, TINY), classes, TINY)
        for kind, leaf in found.items():
            at = getattr(full_graph.edge_slots(TINY, 6, 6, np), kind)
            np.testing.assert_array_equal(leaf[at], getattr(own, kind)[at], err_msg=kind)


def test_scores_that_are_all_zero() -> None:
    none = jax.tree.map(np.zeros_like, drawn(3, 0))
    assert alignment.pooled([none], [np.arange(3)], 3, TINY) == none


def prompt(*roles: str) -> Prompt:
    tokens = np.arange(len(roles), dtype=np.int32)
    return Prompt(tokens, tokens[::-1].copy(), LogitDifference(1, 2), roles)


def test_the_default_alignment() -> None:
    assert Alignment.of([prompt("", ""), prompt("", "")], None) == Alignment("position", ("0", "1"))
    assert Alignment.of([prompt("S", ""), prompt("S", "")], None) == Alignment("roles", ("S", "-1"))
    assert Alignment.of([prompt("", ""), prompt("", "", "")], None) == Alignment("roles", ("-2", "-1", "-3"))
    assert Alignment.of([prompt("S", "")], "components") == Alignment("components", ("all",))
    found = Alignment("roles", ("-2", "-1", "S"))
    assert found.numbers(("S", "", "")).tolist() == [2, 0, 1]
    assert found.numbers(("", "", "R")).tolist() == [3, 0, 3]
    with pytest.raises(InputError, match="needs prompts of one length, these have 1 to 2"):
        Alignment.of([prompt(""), prompt("", "")], "position")
    with pytest.raises(InputError, match="is of prompts of 2 tokens, this one has 3"):
        Alignment("position", ("0", "1")).numbers(("", "", ""))
    with pytest.raises(InputError, match="expected one of position"):
        Alignment.of([prompt("")], "place")


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "mistral"])
def test_components(family: str) -> None:
    config = family_config(family)
    scores = drawn(5, 4)
    slots = full_graph.edge_slots(config, 5, 5, np)
    shares = alignment.component_shares([scores], config)
    whole = sum(float(np.abs(leaf[getattr(slots, kind)]).sum()) for kind, leaf in scores.items())
    wanted = np.abs(scores.attn[1, 2][slots.attn[1, 2]]).max() / whole
    assert shares[1, 2] == pytest.approx(wanted, rel=1e-5)
    assert shares[2, -1] == pytest.approx(np.abs(scores.mlp[2][slots.mlp[2]]).max() / whole, rel=1e-5)
    kept = alignment.kept_components(shares, 4, config)
    assert kept.sum() == 4
    assert shares[kept].min() >= shares[~kept].max()
    mask = alignment.component_mask(np.stack([kept, ~kept]), 5, config)
    assert jax.tree.map(lambda leaf: leaf[0] | leaf[1], mask) == jax.tree.map(np.asarray, slots)
    assert (mask.residual_attn[0] == slots.residual_attn).all()
    assert not (mask.attn[0] & mask.attn[1]).any()
    assert (mask.attn[0, 1, 2] == (slots.attn[1, 2] & kept[1, 2])).all()
