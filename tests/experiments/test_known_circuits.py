"""Programs of written weights: they answer what they should, in jstrace too, and their circuit is the one written."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jstrace
from experiments.circuits import measuring, orders
from experiments.circuits.blocks import START
from experiments.circuits.programs import PROGRAMS
from experiments.circuits.truth import run, truth
from experiments.circuits.writing import JUNK, SHAPES, WIDTH
from jstrace.models import EdgeTree, Model
from tests import oracle

GRAPHS = [(name, size) for name, program in PROGRAMS.items() for size in program.shapes]


@pytest.mark.parametrize(("name", "size"), GRAPHS)
@pytest.mark.parametrize("junk", [0.0, 4.0])
def test_programs_answer_what_the_tokens_say(name: str, size: str, junk: float) -> None:
    program, rng = PROGRAMS[name], np.random.default_rng(0)
    config, params = program.model(SHAPES[size]).finished(junk)
    for _ in range(10):
        tokens = program.draw(rng, SHAPES[size].n_tokens)
        other = program.counterfactual(rng, tokens)
        assert len(tokens) == len(other) == SHAPES[size].n_tokens
        for each in (tokens, other):
            logits = run(config, params, each)[1]
            np.testing.assert_allclose(logits, program.logits(each), atol=0.02)
        assert not np.allclose(program.logits(tokens), program.logits(other))


@pytest.mark.parametrize("name", [name for name, size in GRAPHS if size == "small"])
def test_jstrace_and_the_literal_oracle_run_them(name: str) -> None:
    program = PROGRAMS[name]
    config, params = program.model(SHAPES["small"]).finished(1.0)
    tokens = program.draw(np.random.default_rng(1), SHAPES["small"].n_tokens)
    logits = run(config, params, tokens)[1]
    states = oracle.Literal(config, params, tokens).states()
    np.testing.assert_allclose(states["mlp_input"][0], run(config, params, tokens)[0][0].middle, atol=1e-9)
    np.testing.assert_allclose(Model.from_arrays(config, params)(tokens), logits, atol=2e-3)


def test_the_circuit_of_induction_is_the_written_one() -> None:
    """START a b c d e f b: the head of the second layer reads c, where the first layer's head has written b."""
    config, params = PROGRAMS["induction"].model(SHAPES["small"]).finished(1.0)
    tokens = np.array([START, 3, 5, 7, 9, 11, 13, 5])
    found = truth(config, params, tokens).edges
    every = range(8)
    expected = {("residual_attn", 0, 3), ("residual_mlp", 0, 3), ("attn", 1, 0, 7, 3), ("residual_mlp", 1, 7)}
    expected |= {("residual_attn", 0, 7), ("residual_mlp", 0, 7)}  # the query: the token itself
    expected |= {("attn", 0, 0, i, max(i - 1, 0)) for i in every}  # keys: the token before each
    expected |= {("residual_mlp", 0, i) for i in every}
    got = {(kind, *map(int, at)) for kind, leaf in found.items() for at in np.argwhere(leaf)}
    assert got == expected
    values = truth(config, params, tokens, keys=False).edges
    assert {(kind, *map(int, at)) for kind, leaf in values.items() for at in np.argwhere(leaf)} == {
        ("residual_attn", 0, 3), ("residual_mlp", 0, 3), ("attn", 1, 0, 7, 3), ("residual_mlp", 1, 7)
    }  # fmt: skip


@pytest.mark.parametrize(("name", "size"), GRAPHS)
def test_junk_is_never_true(name: str, size: str) -> None:
    """True edges are the same with any junk, none is a junk head's, and the true edges alone give the answer."""
    program, shape = PROGRAMS[name], SHAPES[size]
    tokens = program.draw(np.random.default_rng(2), shape.n_tokens)
    found = {}
    for junk in (0.0, 1.0, 4.0):
        config, params = program.model(shape).finished(junk)
        found[junk] = truth(config, params, tokens).edges
        states = run(config, params, tokens)[0]
        norms = [np.linalg.norm(states[0].before[:, part]) for part in (slice(WIDTH - JUNK), slice(WIDTH - JUNK, None))]
        assert norms[1] / norms[0] == pytest.approx(junk, rel=0.4)
    assert found[0.0] == found[1.0] == found[4.0]
    for layer, written in enumerate(program.model(shape).heads):
        assert written < shape.n_heads
        assert not found[1.0].attn[layer, written:].any()
    slots = orders.slots_of(config, shape.n_tokens)
    assert found[1.0].difference(slots).count() == 0


def test_true_edges_give_the_answer_in_jstrace() -> None:
    """Under zeros; without one of the edges into the output nothing is left of it."""
    program, shape = PROGRAMS["induction"], SHAPES["small"]
    config, params = program.model(shape).finished(1.0)
    tokens = program.draw(np.random.default_rng(3), shape.n_tokens)
    model, true = Model.from_arrays(config, params), truth(config, params, tokens).edges
    np.testing.assert_allclose(model(tokens, true), program.logits(tokens), atol=0.1)
    broken = dataclasses.replace(true, attn=true.attn.copy())
    broken.attn[1] = False
    assert np.abs(model(tokens, broken)).max() < 0.1


def test_a_zero_flag_is_information() -> None:
    """The share of 1, 2 and 3 needs the flags that are zero, unless what is ablated is zero."""
    setting = measuring.Setting("fraction", PROGRAMS["fraction"], SHAPES["small"], 1.0)
    model, (one,), reference = setting.made(1)
    config, params = setting.program.model(setting.shape).finished(1.0)
    written = truth(config, params, one.tokens, one.other)
    there = ~np.isin(one.tokens, [1, 2, 3])
    found = one.true.edges.difference(written.edges)
    assert there.any()
    assert written.edges.difference(one.true.edges).count() == 0
    for got in (found.residual_attn[0], found.mlp[0], found.attn[1, 0, -1]):
        np.testing.assert_array_equal(got[:-1], there[:-1])
    masks = jax.tree.map(lambda *leaves: np.stack(leaves), written.edges, one.true.edges)
    for name in ("mean", "pair"):
        replace = measuring.replacements_of(model, one, reference)[name]
        lost, kept = jstrace.evaluate(model, one.tokens, masks=masks, replace=replace).tv[:2]
        assert lost > 0.5
        assert kept < 0.01


def test_zeros_and_states_are_jstraces_own() -> None:
    """What the measurements replace by, which shares programs, is zero ablation and ``counterfactual=``."""
    setting = measuring.Setting("parity", PROGRAMS["parity"], SHAPES["small"], 1.0)
    model, (one,), reference = setting.made(1)
    carried = measuring.replacements_of(model, one, reference)
    for name, asked in (("zero", {}), ("pair", {"counterfactual": one.other})):
        expected = jstrace.trace(model, one.tokens, score="gradient", sizes=(0.5,), **asked).scores
        got = measuring.traced(model, one, "gradient", replace=carried[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), got, expected)


def test_areas_and_connections() -> None:
    true = np.array([True, False, True, False])
    assert orders.area(np.array([0, 2, 1, 3]), true) == 1
    assert orders.area(np.array([2, 0, 3, 1]), true) == 0
    assert orders.area(np.array([0, 0, 0, 0]), true) == 0.5
    assert orders.area(np.array([0, 1, 2, 2]), true) == 0.625
    config = dataclasses.replace(SHAPES["small"].config, n_heads=1, n_kv_heads=1)
    slots = orders.slots_of(config, 2)
    rng = np.random.default_rng(0)
    scores = jax.tree.map(lambda slot: rng.random(slot.shape).astype(np.float32) * slot, slots)
    raised = orders.with_connections(scores, slots)
    graph = oracle.graph_of(EdgeTree(**{k: np.where(getattr(slots, k), v, -1) for k, v in raised.items()}))
    into: dict[tuple[int, int], float] = {}
    out: dict[tuple[int, int], float] = {}
    for _, source, target, score in graph.edges:
        into[target] = max(into.get(target, 0.0), score)
        out[source] = max(out.get(source, 0.0), score)
    assert all(out[node] >= into[node] for node in into if node in out)
    assert all((getattr(raised, k) >= v).all() for k, v in scores.items())
