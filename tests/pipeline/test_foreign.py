"""One definition of a foreign prediction, of ``jstrace.selectivity`` and of runs; and how targets are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline import stages
from jstrace.pipeline.replacing import Replacing
from jstrace.runs.control import Control
from jstrace.runs.row import Row
from tests.conftest import top_token
from tests.stand_ins import Letters

SCORE: dict[str, Any] = {"score": "l1*gradient", "sizes": (0.2, 0.5)}


@pytest.fixture(scope="module")
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())


@pytest.fixture(scope="module")
def texts(model: Model) -> list[str]:
    """One, two that predict something else, and between them one that predicts the same."""
    words = [f"{first}{second}" for first in "abcdefgh" for second in "klmnop"]
    own = words[0]
    same = next(word for word in words[1:] if top_token(model, word) == top_token(model, own))
    others = [word for word in words[1:] if top_token(model, word) != top_token(model, own)]
    return [own, others[0], same, others[1]]


def test_texts_that_predict_the_same_are_left_out(model: Model, texts: list[str]) -> None:
    """As a run leaves them out, whose numbers are the same."""
    text, *others = texts
    found = jstrace.selectivity(model, text, others, **SCORE)
    assert found.told == (0, 2)
    assert found.foreign.shape == (2, 3)
    plan = Plan((SCORE["score"],), sizes=SCORE["sizes"], selectivity=2)
    control = Control(model, plan, [Row(one) for one in texts], Replacing(model))
    assert control.others(0) == tuple(index + 1 for index in found.told)
    for target, index in zip(found.foreign, found.told, strict=True):
        alone = jstrace.selectivity(model, text, [others[index]], **SCORE)
        np.testing.assert_allclose(alone.foreign[0], target, atol=1e-5)
        np.testing.assert_allclose(alone.own, found.own, atol=1e-5)
    with pytest.raises(InputError, match="others: each predicts the text's own most probable token"):
        jstrace.selectivity(model, text, [others[1]], **SCORE)


@pytest.mark.usefixtures("four_a_call")
def test_targets_are_computed_together(model: Model, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The own prediction in one call, all foreign ones in another, and no pass of the model outside of programs."""
    rows: list[int] = []
    score: Callable[..., Any] = stages.score_batch

    def counted(decoder: Any, tokens: Any, *given: Any, **how: Any) -> Any:
        rows.append(len(tokens))
        return score(decoder, tokens, *given, **how)

    def eager(*_: Any) -> None:
        raise AssertionError("an eager pass")

    monkeypatch.setattr(stages, "score_batch", counted)
    monkeypatch.setattr(Model, "__call__", eager)
    jstrace.selectivity(model, texts[0], texts[1:], **SCORE)
    assert rows == [1, 2]
