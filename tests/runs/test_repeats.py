"""Repetitions with weights that differ by rounding: of traces, of evaluations, and of runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline.repeats import perturbed
from jstrace.runs import Data, Extras
from jstrace.runs.data import Row
from tests.conftest import SIZES
from tests.runs.small_runs import read

TEXTS = ["hello", "abcd"]


def test_weights_move_by_rounding(model: Model) -> None:
    """By 1e-6 in float32, by another draw for every number; weights of fewer digits move, too, but not all of them."""
    one, again, two = (perturbed(model, number).decoder for number in (0, 0, 1))
    for own, *moved in zip(*map(jax.tree.leaves, (model.decoder, one, again, two)), strict=True):
        factors = [np.asarray(leaf, np.float64) / np.asarray(own, np.float64) - 1 for leaf in moved]
        assert 0.5e-6 < factors[0][own != 0].std() < 2e-6
        np.testing.assert_array_equal(factors[0], factors[1])
        assert (factors[0] != factors[2]).any()
    half = Model(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.decoder))
    before, after = (np.asarray(one.decoder.head[...]) for one in (half, perturbed(half, 0)))
    assert 0.005 < np.mean(before != after) < 0.1


def test_traces_are_repeated(model: Model, tmp_path: Path) -> None:
    """Each repetition is the trace of the model with those weights, and evaluated with the model itself."""
    traces = jstrace.trace(model, TEXTS, score="gradient", sizes=SIZES, repeats=2)
    results = jstrace.evaluate(model, traces)
    for text, trace, result in zip(TEXTS, traces, results, strict=True):
        once = jstrace.trace(model, text, score="gradient", sizes=SIZES)
        assert dataclasses.replace(trace, repeated=()) == once
        assert once.repeated == ()
        assert jstrace.evaluate(model, once).tv_std is None
        own = [jstrace.trace(perturbed(model, number), text, score="gradient", sizes=SIZES) for number in (0, 1)]
        assert trace.repeated == tuple(one.strata for one in own)
        curves = [jstrace.evaluate(model, dataclasses.replace(once, strata=one.strata)).tv for one in own]
        np.testing.assert_array_equal(result.tv_repeats, curves)
        np.testing.assert_allclose(result.tv_std, np.abs(curves[0] - curves[1]) / np.sqrt(2), atol=1e-7)
    traces[0].save(tmp_path / "a.npz")
    assert jstrace.Trace.load(tmp_path / "a.npz") == traces[0]


def test_what_is_left_of_repetitions(model: Model) -> None:
    """One has no deviation."""
    trace = jstrace.trace(model, TEXTS[0], score="gradient", sizes=SIZES)
    assert jstrace.evaluate(model, dataclasses.replace(trace, repeated=(trace.strata,))).tv_std is None


@pytest.mark.parametrize("repeats", [1, -1, True])
def test_what_is_no_number_of_repetitions(model: Model, repeats: int) -> None:
    with pytest.raises(InputError, match="repeats = "):
        jstrace.trace(model, "hello", repeats=repeats)


def test_runs_are_repeated(model: Model, tmp_path: Path) -> None:
    """An input's repetitions depend on nothing beside it."""
    data, plan = Data("letters", tuple(map(Row, TEXTS)), ("hello",)), Plan(("gradient",), sizes=SIZES)
    runs.run(model, data, tmp_path, plan, extras=Extras(repeats=2))
    rows = read(tmp_path, "curves").to_pylist()
    for index, text in enumerate(TEXTS):
        own = [row for row in rows if row["input"] == index]
        for number in (0, 1):
            other = perturbed(model, number)
            expected = jstrace.evaluate(other, jstrace.trace(other, text, score="gradient", sizes=SIZES)).tv
            np.testing.assert_allclose([row["tv_repeats"][number] for row in own], expected, atol=1e-6)
        stds = [np.std(row["tv_repeats"], ddof=1) for row in own]
        np.testing.assert_allclose([row["tv_std"] for row in own], stds, atol=1e-6)
