"""Effects of components, and the smallest trace that keeps a prediction."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import jstrace
from jstrace.models import EdgeTree, InputError, Model
from jstrace.pipeline.smallest import Goal, all_smallest
from tests.conftest import SIZES

pytestmark = pytest.mark.quick
CLEAN, OTHER = np.asarray([5, 8, 13, 2, 40, 7], np.int32), np.asarray([5, 8, 21, 2, 40, 9], np.int32)
ASKED = jstrace.logit_difference(3, 11)
PAIR: dict[str, Any] = {"counterfactual": OTHER, "metric": ASKED}


def without(model: Model, kind: str, place: tuple[Any, ...]) -> EdgeTree:
    mask = jax.tree.map(np.array, model.full_mask(len(CLEAN)))
    getattr(mask, kind)[place] = False
    return mask


EVERY = slice(None)


@pytest.mark.parametrize(
    ("by", "place", "kind", "edges"),
    [
        ("head", (1, 2), "attn", (1, 2)),
        ("head,target", (0, 3, 5), "attn", (0, 3, 5)),
        ("head,source", (2, 1, 2), "attn", (2, 1, EVERY, 2)),
        ("mlp", (1,), "mlp", (1,)),
        ("mlp,token", (2, 5), "mlp", (2, 5)),
        ("node", (1, 2), "attn", (1, 2)),
        ("node", (1, 4), "mlp", (1,)),
    ],
)
@pytest.mark.parametrize("paired", [True, False])
def test_effects_equal_the_model_without_a_component(
    tiny: Model, by: str, place: tuple[int, ...], kind: str, edges: tuple[Any, ...], paired: bool
) -> None:
    found = jstrace.effects(tiny, CLEAN, by=by, **(PAIR if paired else {"metric": ASKED}))
    carried = jstrace.resample_replacement(tiny, OTHER) if paired else None
    logits = [
        np.asarray(tiny(CLEAN, mask, replace=carried)) for mask in (tiny.full_mask(6), without(tiny, kind, edges))
    ]
    full, other = (each[3] - each[11] for each in logits)
    assert found.full == pytest.approx(full, abs=1e-5)
    assert found.values[place] == pytest.approx(full - other, abs=1e-5)  # type: ignore[index]
    p, q = (np.asarray(jax.nn.softmax(each)) for each in logits)
    assert found.tv is not None
    assert found.tv[place] == pytest.approx(0.5 * np.abs(p - q).sum(), abs=1e-6)
    columns = found.columns()
    assert len(columns["effect"]) == found.tv.size
    assert (np.diff(np.abs(columns["effect"])) <= 0).all()


def test_effects_of_edges_are_gradients(tiny: Model) -> None:
    found = jstrace.effects(tiny, CLEAN, by="edge", **PAIR)
    scores = jstrace.trace(tiny, CLEAN, score="gradient", sizes=SIZES, **PAIR).scores
    assert isinstance(found.values, EdgeTree)
    slots = tiny.full_mask(6)
    for kind, leaf in found.values.items():
        at = getattr(slots, kind)
        np.testing.assert_allclose(np.abs(leaf)[at], getattr(scores, kind)[at], rtol=1e-4, atol=1e-6, err_msg=kind)
    with pytest.raises(InputError, match="EdgeTree of their own"):
        found.columns()


def test_the_default_metric_is_the_predicted_token(tiny: Model) -> None:
    found = jstrace.effects(tiny, CLEAN, by="mlp")
    logits = np.asarray(tiny(CLEAN))
    assert found.full == pytest.approx(float(jax.nn.log_softmax(logits)[logits.argmax()]), abs=1e-5)
    assert found.metric_name == f"log p({logits.argmax()})"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "layer"}, "by = 'layer', expected one of head"),
        ({"counterfactual": OTHER, "replace": "mean"}, "a counterfactual is what ablated components carry"),
        ({"metric": 3}, 'expected "kl"'),
        ({"metric": "kl"}, "how far a prediction moves is Effects.tv"),
        ({"reference": [[1, 2, 3]]}, "reference has texts for replace mean or resample"),
    ],
)
def test_bad_effects_are_one_line(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        jstrace.effects(tiny, CLEAN, **options)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def trace(tiny: Model) -> jstrace.Trace:
    return jstrace.trace(tiny, CLEAN, score="gradient", sizes=SIZES, **PAIR)


@pytest.mark.parametrize("goal", [{"tv": 0.02}, {"tv": None, "top_token": True}, {"tv": 0.05, "top_token": True}])
def test_the_smallest_trace(tiny: Model, trace: jstrace.Trace, goal: dict[str, Any]) -> None:
    """It meets the goal, and the next smaller one of its order does not."""
    found = jstrace.smallest(tiny, trace, **goal)
    every = [
        jstrace.evaluate(tiny, trace, masks=first(tiny, trace, int(count))) for count in (found.edges, found.edges - 1)
    ]
    here, before = ((e.tv[0] <= (goal["tv"] or 1)) & (e.agreement[0] | ("top_token" not in goal)) for e in every)
    assert here
    assert not before
    assert found.mask.count() == found.edges
    assert found.share == found.edges / trace.n_edges
    assert found.tv == pytest.approx(every[0].tv[0], abs=1e-5)


def test_the_smallest_trace_of_one_size(tiny: Model) -> None:
    """However few sizes there are, gaps are divided to single edges, of two goals beside one another, too."""
    one = jstrace.trace(tiny, CLEAN, score="gradient", sizes=SIZES[-1:], **PAIR)
    goals = [Goal(0.02), Goal(0.1)]
    found = all_smallest(tiny, one, jstrace.evaluate(tiny, one), goals)
    assert [len(each.trace.sizes) for each in found] == [1, 1]
    for goal, each in zip(goals, found, strict=True):
        masks = [first(tiny, one, count) for count in (each.edges, each.edges - 1)]
        here, before = (jstrace.evaluate(tiny, one, masks=mask).tv[0] <= (goal.tv or 1) for mask in masks)
        assert here
        assert not before


def first(model: Model, trace: jstrace.Trace, count: int) -> EdgeTree:
    return model.mask_of(trace.first_edges(count), len(trace.tokens))


def test_a_goal_that_only_the_full_graph_meets(tiny: Model, trace: jstrace.Trace) -> None:
    found = jstrace.smallest(tiny, trace, tv=0.0)
    assert found.tv <= 1e-6
    with pytest.raises(InputError, match="give tv"):
        jstrace.smallest(tiny, trace, tv=None)
    with pytest.raises(InputError, match="expected 0 to 1"):
        jstrace.smallest(tiny, dataclasses.replace(trace), tv=2.0)
    with pytest.raises(InputError, match="gives of this trace, or leave it out"):
        jstrace.smallest(tiny, trace, evaluation=jstrace.evaluate(tiny, trace, replace="zero"))
