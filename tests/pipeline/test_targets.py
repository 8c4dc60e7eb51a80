"""Traces and evaluations with a target: another prediction than the model's own, of some inputs of a list or of all."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jstrace
from jstrace.method.conditions import Source
from jstrace.method.questions import Question
from jstrace.models import InputError, Model
from jstrace.pipeline import Driver, Input, Outcome
from jstrace.pipeline.records import Ask
from jstrace.show import plots, records, tables

SIZES = (0.2, 0.6)
ROWS = [np.random.default_rng(seed).integers(0, 97, 7) for seed in range(3)]


def prediction(model: Model, row: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(model(row, model.full_mask(len(row)))))


@pytest.fixture(scope="module")
def target(tiny: Model) -> np.ndarray:
    """What another input predicts, most probably another token than the three do."""
    tops = {int(prediction(tiny, row).argmax()) for row in ROWS}
    others = (prediction(tiny, np.random.default_rng(seed).integers(0, 97, 7)) for seed in range(10, 99))
    return next(other for other in others if int(other.argmax()) not in tops)


def test_full_is_the_models_own_prediction(tiny: Model, target: np.ndarray) -> None:
    """Rows are measured against the target, and the evaluation says so; what is called full stays the model's."""
    own, trace = prediction(tiny, ROWS[0]), jstrace.trace(tiny, ROWS[0], sizes=SIZES)
    plain, told = (jstrace.evaluate(tiny, trace, target=one) for one in (None, target))
    np.testing.assert_array_equal(told.full_tokens, plain.full_tokens)
    np.testing.assert_allclose(told.full_probs, plain.full_probs, atol=1e-6)
    np.testing.assert_array_equal(told.full_tokens, np.argsort(-own, kind="stable")[: len(told.full_tokens)])
    assert (plain.targeted, plain.target_tokens, plain.target_probs) == (False, None, None)
    assert told.targeted
    order = np.argsort(-target, kind="stable")[: len(told.full_tokens)]
    np.testing.assert_array_equal(told.target_tokens, order)
    np.testing.assert_allclose(told.target_probs, target[order], rtol=1e-5)
    assert told.tv[-1] == pytest.approx(0.5 * np.abs(own - target).sum(), abs=1e-5)
    assert plain.agreement[-1]
    assert not told.agreement[-1], "its top token is not the target's"
    assert told.back == len(SIZES)
    assert told.density is None


def test_every_view_of_it_says_so(tiny: Model, target: np.ndarray) -> None:
    trace = jstrace.trace(tiny, ROWS[0], sizes=SIZES)
    plain, told = (jstrace.evaluate(tiny, trace, target=one) for one in (None, target))
    words = "measured against a target"
    for shown in (repr, type(told)._repr_html_):
        assert (words in shown(plain), words in shown(told)) == (False, True)
    assert told._repr_html_().count("✓ the target's top token") == 1
    assert "against" not in plain.to_pandas()
    assert set(told.to_pandas()["against"]) == {"target"}
    assert tables.curve_table(trace, told, str).caption == "TV, KL and nuclei against a target"
    made = records.as_json(None, trace, told, str, top=0)
    assert [one["token"] for one in made["target"]] == told.target_tokens.tolist()
    assert [one["token"] for one in made["prediction"]] == plain.full_tokens.tolist()
    assert "target" not in records.as_json(None, trace, plain, str, top=0)
    assert plots.plot_curves(told).axes[0].get_ylabel() == "TV distance from targets"
    assert "zero, all, against a target" in jstrace.view(trace, told).html


def test_none_is_the_models_own_in_its_place(tiny: Model, target: np.ndarray) -> None:
    """Of a list some inputs have a target: each is traced and evaluated as it is alone."""
    targets = [None, target, None]
    how = {"score": "l1*gradient", "replace": "zero", "sizes": SIZES}
    found = jstrace.trace(tiny, ROWS, target=targets, **how)
    assert [one.score for one in found] == ["l1*gradient", "l1*gradient-to-target", "l1*gradient"]
    judged = jstrace.evaluate(tiny, found, target=targets)
    assert [one.targeted for one in judged] == [False, True, False]
    assert [one.density is None for one in judged] == [False, True, False]
    for row, told, trace, evaluation in zip(ROWS, targets, found, judged, strict=True):
        alone = jstrace.trace(tiny, row, target=told, **how)
        np.testing.assert_allclose(trace.scores.attn, alone.scores.attn, rtol=1e-3, atol=1e-7)
        again = jstrace.evaluate(tiny, trace, target=told)
        np.testing.assert_allclose(evaluation.tv, again.tv, atol=1e-5)
        np.testing.assert_array_equal(evaluation.full_tokens, again.full_tokens)


def test_no_target_at_all_is_none(tiny: Model) -> None:
    """A list of None is a list without targets, for any score."""
    found = jstrace.trace(tiny, ROWS, target=[None] * 3, sizes=SIZES)
    assert {one.score for one in found} == {"l1"}
    with pytest.raises(InputError, match=r"^target: expected 3 distributions or None, one for each input$"):
        jstrace.trace(tiny, ROWS, target=[None], sizes=SIZES)


@pytest.mark.usefixtures("four_a_call")
def test_a_driver_keeps_inputs_with_a_target_apart(tiny: Model, target: np.ndarray) -> None:
    told = np.log(target)
    asked = [Question(target=told if index == 1 else None) for index in range(len(ROWS))]
    given = {index: Input(row, question=asked[index]) for index, row in enumerate(ROWS)}
    ask = Ask((Source("l1*gradient", replace="zero"),), (), SIZES, keep_scores=True)
    batches = list(Driver(tiny, ask).batches(given))
    assert sorted(map(sorted, batches)) == [[0, 2], [1]]
    assert all(isinstance(one, Outcome) for batch in batches for one in batch.values())
