"""Edges between components and edges of tokens: what one selection holds, its translation holds, and no more."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import jstrace
from experiments.peers.measuring import with_masks
from experiments.peers.selections import packed, unpacked
from experiments.peers.tables import at, least
from experiments.peers.translation import components, edges_of, mask_of
from jstrace.models import EdgeTree, InputError, Model
from jstrace.models.slots import edge_slots
from jstrace.pipeline.coherence import check
from tests.conftest import TINY

TOKENS = 5
LAYERS, HEADS = TINY.n_layers, TINY.n_heads


def slots() -> EdgeTree:
    return edge_slots(TINY, TOKENS, TOKENS, np)


def source(layer: int, head: int | None = None) -> int:
    return 1 + layer * (HEADS + 1) + (HEADS if head is None else head)


def test_components_are_those_of_a_literal_walk() -> None:
    """As the other tool lists them: every node reads all that was written before it."""
    found, stream = np.zeros(components(TINY).edges.shape, bool), [0]
    for layer in range(LAYERS):
        at = layer * (3 * HEADS + 1)
        found[np.ix_(stream, range(at, at + 3 * HEADS))] = True
        stream += [source(layer, head) for head in range(HEADS)]
        found[stream, at + 3 * HEADS] = True
        stream.append(source(layer))
    found[stream, -1] = True
    np.testing.assert_array_equal(components(TINY).edges, found)


def test_all_edges_are_all_edges() -> None:
    every = components(TINY).edges
    whole = mask_of(every, TINY, TOKENS)
    assert whole == EdgeTree(**{name: np.asarray(leaf) for name, leaf in slots().items()})
    np.testing.assert_array_equal(edges_of(whole, TINY), every)


def test_a_left_out_node_is_its_edges() -> None:
    """A model without an MLP and a head is one without their edges, in logits too."""
    kept = components(TINY).edges.copy()
    for node, column in ((source(1), 1 * (3 * HEADS + 1) + 3 * HEADS), (source(2, 1), None)):
        kept[node] = False
        if column is not None:
            kept[:, column] = False
    kept[:, 2 * (3 * HEADS + 1) + 1 + np.arange(3) * HEADS] = False  # the three inputs of the head
    got, expected = mask_of(kept, TINY, TOKENS), {name: np.array(leaf) for name, leaf in slots().items()}
    expected["mlp"][1], expected["attn"][2, 1] = False, False
    assert got == EdgeTree(**expected)
    np.testing.assert_array_equal(edges_of(got, TINY), kept)


def test_paths_of_one_edge() -> None:
    """A head of layer 0 that the logits read: its row of the last token, and the stream of that token after it."""
    kept = np.zeros(components(TINY).edges.shape, bool)
    kept[source(0, 2), -1] = kept[0, 2 * HEADS + 2] = True
    got = mask_of(kept, TINY, TOKENS)
    last = np.arange(TOKENS) == TOKENS - 1
    expected = {name: np.zeros(leaf.shape, bool) for name, leaf in slots().items()}
    expected["attn"][0, 2, -1] = True
    expected["residual_mlp"][:, -1] = expected["residual_attn"][1:, -1] = True
    assert got == EdgeTree(**expected)
    later = mask_of(kept, TINY, TOKENS, first=3)
    np.testing.assert_array_equal(later.attn[0, 2, -1], np.arange(TOKENS) >= 3)
    np.testing.assert_array_equal(later.residual_mlp, expected["residual_mlp"] & last)


def literal_edges(mask: EdgeTree) -> np.ndarray:
    """Every source, target and token by itself, along the stream step by step."""
    graph = components(TINY)
    stream = [leaf[layer] for layer in range(LAYERS) for leaf in (mask.residual_attn, mask.residual_mlp)]
    found = np.zeros(graph.edges.shape, bool)
    for (u, v), token in itertools.product(np.argwhere(graph.edges), range(TOKENS)):
        layer, node = divmod(int(u) - 1, HEADS + 1)
        written = u == 0 or (mask.mlp[layer, token] if node == HEADS else mask.attn[layer, node, token].any())
        place, at = divmod(int(v), 3 * HEADS + 1)
        if place == LAYERS:
            read = token == TOKENS - 1
        elif at == 3 * HEADS:
            read = mask.mlp[place, token]
        else:
            rows = mask.attn[place, at % HEADS]
            read = rows[token].any() if at < HEADS else rows[:, token].any()
        between = all(stream[level][token] for level in range(graph.writes[u], graph.reads[v]))
        found[u, v] |= bool(written and read and between)
    return found


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_random_masks_keep_the_edges_of_a_literal_walk(share: float) -> None:
    rng = np.random.default_rng(0)
    mask = EdgeTree(**{name: leaf & (rng.random(leaf.shape) < share) for name, leaf in slots().items()})
    got = edges_of(mask, TINY)
    np.testing.assert_array_equal(got, literal_edges(mask))
    whole = mask_of(components(TINY).edges, TINY, TOKENS)
    assert mask_of(got, TINY, TOKENS).difference(whole).count() == 0


def test_translations_there_and_back_hold_what_they_were_made_of() -> None:
    """A random selection without dead ends comes back whole, with the edges that its paths take beside it."""
    rng, every = np.random.default_rng(3), components(TINY).edges
    kept = every & (rng.random(every.shape) < 0.5)
    kept[0] = every[0]  # every node has a way in,
    kept[:, -1] = True  # and a way out
    back = edges_of(mask_of(kept, TINY, TOKENS), TINY)
    assert (back >= kept).all()
    assert back.sum() > kept.sum()


def test_what_has_no_translation_is_refused() -> None:
    with pytest.raises(InputError, match="parallel"):
        components(dataclasses.replace(TINY, parallel=True))
    with pytest.raises(InputError, match="expected edges"):
        mask_of(~components(TINY).edges, TINY, TOKENS)


def test_selections_in_files() -> None:
    rng = np.random.default_rng(1)
    chosen = {name: [rng.random((3, 7)) < 0.5 for _ in range(4)] for name in ("EAP", "EAP-IG, foreign")}
    found = unpacked({name: np.asarray(each) for name, each in packed(chosen, seconds=1.0).items()})
    assert found.keys() == chosen.keys()
    for name, each in chosen.items():
        np.testing.assert_array_equal(found[name], np.stack(each))


def test_shares_are_read_off_between_selections() -> None:
    row = {"edges": [0.0, 0.01, 0.1], "tv": [0.9, 0.3, 0.1], "told": "own"}
    assert least(row, "edges", 0.2) == pytest.approx(10**-1.5)
    assert least(row, "edges", 0.3) == 0.01
    assert least(row, "edges", 0.05) == pytest.approx(10**-0.5)
    np.testing.assert_allclose(at(row, "edges", (0.001, 0.01, 10**-1.5, 1)), [np.nan, 0.3, 0.2, 0], atol=1e-12)


def test_a_trace_of_masks_holds_them(tiny: Model) -> None:
    """Nested masks, two of them equal, as one trace: its sizes ask for what they hold."""
    ids = np.arange(TOKENS, dtype=np.int32) + 3
    rng = np.random.default_rng(2)
    order = {name: np.where(leaf, rng.random(leaf.shape), 2).astype(np.float32) for name, leaf in slots().items()}
    base = jstrace.Trace.from_scores(tiny, ids, EdgeTree(**order), sizes=(0.2, 0.4, 0.6, 0.8), order="score")
    masks = [EdgeTree(**{name: leaf < cut for name, leaf in order.items()}) for cut in (0, 0.2, 0.2, 0.7)]
    made = with_masks(base, masks)
    assert [made.mask(k) for k in range(4)] == masks
    assert made.counts.tolist() == [int(mask.count()) for mask in masks]
    check(made)
