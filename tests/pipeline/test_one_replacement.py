"""``replace`` is what ablated edges carry, in scores and in evaluations: what a trace says of it, and what follows."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace import archives
from jstrace.models import EdgeTree, InputError, Model
from jstrace.pipeline.trace_file import _arrays, _header

TEXT = np.random.default_rng(3).integers(0, 97, 6)
REFERENCE = [np.random.default_rng(seed).integers(0, 97, 9) for seed in range(3)]
SIZES = (0.2, 0.5)
SCORE: dict[str, Any] = {"score": "l1*gradient", "sizes": SIZES}
MEANS: dict[str, Any] = {"replace": "mean", "reference": REFERENCE}


def same(one: EdgeTree, other: EdgeTree) -> bool:
    return all(np.array_equal(getattr(one, kind), leaf) for kind, leaf in other.items())


@pytest.fixture(scope="module")
def zero(tiny: Model) -> jstrace.Trace:
    return jstrace.trace(tiny, TEXT, **SCORE)


@pytest.fixture(scope="module")
def mean(tiny: Model) -> jstrace.Trace:
    return jstrace.trace(tiny, TEXT, **SCORE, **MEANS)


def test_a_trace_is_judged_under_what_it_was_found_under(tiny: Model, zero: jstrace.Trace, mean: jstrace.Trace) -> None:
    """Zero unless it is said otherwise, for scores from gradients, too; both records say which."""
    assert (zero.replace, zero.score_replace) == ("zero", "zero")
    assert (mean.replace, mean.score_replace) == ("mean", "mean")
    assert not same(zero.scores, mean.scores)
    for trace in (zero, mean):
        own = jstrace.evaluate(tiny, trace, reference=REFERENCE)
        assert (own.replace, own.score_replace) == (trace.replace, trace.replace)
        assert own == jstrace.evaluate(tiny, trace, replace=trace.replace, reference=REFERENCE)
        assert own == jstrace.evaluate(tiny, [zero, mean], reference=REFERENCE)[trace is mean], "each of a list"
        pairs = list(jstrace.evaluate_iter(tiny, [mean, zero], reference=REFERENCE))
        assert pairs[trace is zero][1] == own
        by_masks = jstrace.evaluate(tiny, trace, masks=trace.masks(), reference=REFERENCE)
        np.testing.assert_allclose(by_masks.tv[: len(SIZES)], own.tv[: len(SIZES)], atol=1e-6)


def test_scores_that_read_nothing_are_judged_under_it(tiny: Model) -> None:
    plain, under = jstrace.trace(tiny, TEXT, sizes=SIZES), jstrace.trace(tiny, TEXT, sizes=SIZES, **MEANS)
    assert [(one.replace, one.score_replace) for one in (plain, under)] == [("zero", ""), ("mean", "")]
    assert same(plain.scores, under.scores)
    assert jstrace.evaluate(tiny, plain).replace == "zero"
    found = jstrace.evaluate(tiny, under, reference=REFERENCE)
    assert found == jstrace.evaluate(tiny, plain, **MEANS)
    assert "scored under" not in repr(found) + repr(under)


def test_two_of_them_are_said(tiny: Model, mean: jstrace.Trace) -> None:
    """``score_replace`` is about scores alone, and what is printed names both."""
    split = jstrace.trace(tiny, TEXT, **SCORE, score_replace="mean", reference=REFERENCE)
    assert (split.replace, split.score_replace) == ("zero", "mean")
    assert same(split.scores, mean.scores)
    found = jstrace.evaluate(tiny, split)
    assert (found.replace, found.score_replace) == ("zero", "mean")
    for shown in (repr(found), found._repr_html_()):
        assert "scored under" in shown
        assert "mean" in shown
    assert "replace 'zero', scored under 'mean'" in repr(found)
    assert "scored under 'mean'" in repr(split)
    assert jstrace.evaluate(tiny, split, masks=split.masks()).score_replace == "mean"
    assert "scored under" not in repr(jstrace.evaluate(tiny, mean, reference=REFERENCE))
    with pytest.raises(InputError, match="score_replace is for scores from gradients"):
        jstrace.trace(tiny, TEXT, score_replace="mean", reference=REFERENCE)


def test_what_is_of_ones_own_is_asked_for_again(tiny: Model, mean: jstrace.Trace) -> None:
    """A trace does not hold texts or arrays, and does not take others in their place."""
    own = dataclasses.replace(jstrace.mean_replacement(tiny, REFERENCE[:2]), name="mean")
    noise = dataclasses.replace(own, name="mine")
    for trace, given in (
        (mean, {"reference": REFERENCE[:2]}),
        (mean, {}),
        (jstrace.trace(tiny, TEXT, **SCORE, replace=own), {"reference": REFERENCE}),
        (jstrace.trace(tiny, TEXT, sizes=SIZES, replace=noise), {}),
    ):
        with pytest.raises(
            InputError, match=r"of your own, which it does not hold: give the same reference, or replace$"
        ):
            jstrace.evaluate(tiny, trace, **given)
        (kept,) = jstrace.evaluate(tiny, [trace], on_invalid="keep", **given)
        assert isinstance(kept, jstrace.Invalid)
    trace = jstrace.trace(tiny, TEXT, **SCORE, replace=noise)
    assert jstrace.evaluate(tiny, trace, replace=noise).replace == "mine" == trace.score_replace


def test_what_makes_no_sense(tiny: Model, mean: jstrace.Trace) -> None:
    for score in (SCORE, {"score": "l1"}):
        with pytest.raises(InputError, match=r"^reference has texts for replace mean or resample; ablated"):
            jstrace.trace(tiny, TEXT, **score, reference=REFERENCE)
    jstrace.trace(tiny, TEXT, **SCORE, reference=REFERENCE, replace="zero")
    with pytest.raises(InputError, match=r"nothing is left to replace by 'mean'; give replace=.zero.$"):
        jstrace.evaluate(tiny, mean, pre_softmax=True, reference=REFERENCE)
    with pytest.raises(InputError, match=r"^pre_softmax masks attention, which ablate=.residual\+mlp. leaves in place"):
        jstrace.evaluate(tiny, mean, pre_softmax=True, replace="zero", ablate="residual+mlp")
    jstrace.evaluate(tiny, mean, pre_softmax=True, replace="zero")
    with pytest.raises(InputError, match=r"replace = 'means', expected one of .*; did you mean 'mean'\?$"):
        jstrace.trace(tiny, TEXT, **SCORE, score_replace="means")


def test_scores_of_ones_own(tiny: Model, zero: jstrace.Trace) -> None:
    own = jstrace.Trace.from_scores(tiny, TEXT, zero.scores, sizes=SIZES, replace="mean")
    assert own.replace == "mean"
    with pytest.raises(InputError, match="'mean' of the texts that come with jstrace: give the same reference, or"):
        jstrace.evaluate(tiny, own, reference=REFERENCE)
    assert jstrace.evaluate(tiny, own, **MEANS).replace == "mean"
    with pytest.raises(InputError, match=r"^replace = 'no', expected one of zero, mean, resample$"):
        jstrace.Trace.from_scores(tiny, TEXT, zero.scores, sizes=SIZES, replace="no")


@pytest.mark.parametrize(
    ("score", "held", "meant"),
    [
        ("rounds", {"replace": "mean"}, ("mean", "mean")),
        ("rounds", {"replace": "zero"}, ("zero", "zero")),
        ("l1", {"replace": "zero"}, ("zero", "")),
        ("l1", {}, ("zero", "")),
        ("mine", {"replace": "zero"}, ("zero", "")),
    ],
)
def test_files_of_older_versions(
    zero: jstrace.Trace, tmp_path: Path, score: str, held: dict[str, str], meant: tuple[str, str]
) -> None:
    """They say one thing, what gradients were taken under: that is what ablated edges carry."""
    path = tmp_path / "t.npz"
    zero.save(path)
    assert jstrace.Trace.load(path) == zero
    header = {key: value for key, value in _header(zero).items() if key not in ("replace", "score_replace")}
    archives.write(path, header | {"importance": score} | held, _arrays(zero))
    found = jstrace.Trace.load(path)
    assert (found.replace, found.score_replace) == meant


def test_one_default_everywhere() -> None:
    for function in (
        jstrace.trace,
        jstrace.trace_iter,
        jstrace.fit_trace,
        jstrace.selectivity,
        jstrace.trace_generation,
    ):
        given = inspect.signature(function).parameters
        assert (given["replace"].default, given["score_replace"].default) == (None, None), function.__name__
    assert inspect.signature(jstrace.evaluate).parameters["replace"].default is None
