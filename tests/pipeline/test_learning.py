"""Traces fitted to one input, and the control: what fits find in tiny models, and what they cannot."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.naming import SCORE_NAMES
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.gradients import Pass, ShareTimesGradient, kl
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.scoring import SCORES
from jstrace.models import Decoder, InputError, Model, make_mesh, param_shardings
from jstrace.pipeline import call
from jstrace.pipeline.replacing import Replacing
from jstrace.pipeline.scorers import built_in, settings_of
from tests.conftest import TINY, family_config, tiny_params
from tests.pipeline.test_fitting import ROWS, planted, start_of
from tests.stand_ins import Letters

TEXT = np.random.default_rng(7).integers(0, 97, 9)
SIZES = (0.05, 0.1, 0.2, 0.4)
MEANS: dict[str, Any] = {"replace": "mean", "reference": ROWS, "order": "score"}
QUICK: dict[str, Any] = {"sizes": SIZES, "start": "l1*gradient", **MEANS} | {"steps": 2, "smallest": 0.05, "polish": 0}


def tv_of(model: Model, trace: jstrace.Trace, **options: Any) -> np.ndarray:
    return jstrace.evaluate(model, trace, replace="mean", reference=ROWS, **options).tv[:-1]


def other_prediction(model: Model, seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).integers(0, 97, 8)
    return np.asarray(jax.nn.softmax(model(row, model.full_mask(8))))


@pytest.mark.parametrize("seed", [0, 1])
def test_finds_the_planted_sub_graph(seed: int) -> None:
    """A head carries large vectors that means replace exactly: shares want them, the fit does without."""
    model = planted(seed)
    start = jstrace.trace(model, TEXT, sizes=SIZES, order="score")
    found = jstrace.fit_trace(model, TEXT, **(QUICK | {"steps": 60}))
    assert tv_of(model, found).mean() < 0.5 * tv_of(model, start).mean()

    def useless(trace: jstrace.Trace) -> float:
        kept = trace.mask(size=0.1).attn
        return float(kept[1, :2].sum() / max(kept.sum(), 1))

    assert useless(start) > 0.2
    assert useless(found) < 0.5 * useless(start)
    assert found.score == "fitted-steps-60-smallest-0_05-start-l1*gradient-polish-0"
    assert found.replace == "mean"


def test_more_steps_fit_better() -> None:
    model = planted(2)
    few, many = (jstrace.fit_trace(model, TEXT, **(QUICK | {"steps": steps})) for steps in (1, 60))
    assert tv_of(model, many).mean() < 0.7 * tv_of(model, few).mean()


def test_the_polish_is_of_the_first_edges_alone() -> None:
    """Five times the least size are the same edges in another order, which keeps more at the least."""
    model = planted(2)
    scores = [Fitted(steps=10, smallest=0.05, polish=polish, start=ShareTimesGradient()) for polish in (0, 40)]
    how: dict[str, Any] = {"sizes": (0.03, 0.05, 0.25, 0.4), **MEANS}
    plain, polished = (jstrace.trace(model, TEXT, score=score, **how) for score in scores)
    for k in (2, 3):
        chex.assert_trees_all_equal(plain.mask(k), polished.mask(k))
    before, after = (tv_of(model, trace)[:2] for trace in (plain, polished))
    assert after.mean() < 0.9 * before.mean(), (before, after)


def test_a_target_that_no_mask_expresses_is_not_reached(tiny: Model) -> None:
    certain = np.zeros(97)
    certain[int(np.argmin(other_prediction(tiny, 0)))] = 1.0
    found = jstrace.fit_trace(tiny, TEXT, target=certain, **(QUICK | {"steps": 30}))
    assert found.score == "fitted-steps-30-smallest-0_05-start-l1*gradient-polish-0-to-target"
    evaluation = jstrace.evaluate(tiny, found, replace="mean", reference=ROWS, target=certain)
    assert evaluation.tv[:-1].min() > 0.7
    assert evaluation.density is None
    full = np.asarray(jax.nn.softmax(tiny(TEXT, tiny.full_mask(9))))
    assert evaluation.tv[-1] == pytest.approx(0.5 * np.abs(full - certain).sum(), abs=1e-5)


def test_a_target_beyond_the_cap_is_followed(tiny: Model) -> None:
    """A fit that does not move would pass for a target that cannot be reached."""
    target = other_prediction(tiny, 0)
    start, followed = (
        ShareTimesGradient(),
        Fitted(steps=40, smallest=0.05, cap=1e-3, polish=0, start=ShareTimesGradient()),
    )
    assert float(kl(jnp.log(target), tiny(TEXT, tiny.full_mask(9)))) > 10 * followed.cap

    def away(score: Any) -> np.ndarray:
        found = jstrace.trace(tiny, TEXT, score=score, target=target, sizes=SIZES, **MEANS)
        return tv_of(tiny, found, target=target)

    assert away(followed).mean() < 0.9 * away(start).mean()


def test_a_target_of_its_own_changes_nothing(tiny: Model) -> None:
    own = np.asarray(jax.nn.softmax(tiny(TEXT, tiny.full_mask(9))), np.float64)
    plain, told = (jstrace.fit_trace(tiny, TEXT, target=target, **QUICK) for target in (None, own))
    np.testing.assert_allclose(plain.scores.attn, told.scores.attn, rtol=5e-2)
    np.testing.assert_allclose(tv_of(tiny, plain), tv_of(tiny, plain, target=own), atol=1e-5)


def test_selectivity(tiny: Model) -> None:
    others = [ROWS[0], ROWS[1]]
    told: list[tuple[float, int]] = []
    score = Fitted(steps=2, smallest=0.05, polish=0, start=ShareTimesGradient())
    how: dict[str, Any] = {"sizes": SIZES, **MEANS}
    found = jstrace.selectivity(tiny, TEXT, others, score=score, progress=lambda *each: told.append(each), **how)
    assert told == [(done, 3) for done in (0.5, 1, 1, 1.5, 2, 2, 2.5, 3, 3)]
    assert found.own.shape == (5,)
    assert found.foreign.shape == (2, 5)
    np.testing.assert_allclose(found.selectivity, found.foreign.mean(axis=0) - found.own)
    assert found.own[-1] == pytest.approx(0, abs=1e-6)
    assert found.peak in SIZES
    nearly_whole = dataclasses.replace(found, sizes=(0.1, 0.2, 0.5, 0.8), own=np.array([0.9, 0.7, 0.6, 0.1, 0]))
    assert dataclasses.replace(nearly_whole, foreign=np.ones((2, 5))).peak == 0.5
    trace = jstrace.fit_trace(tiny, TEXT, **QUICK)
    np.testing.assert_array_equal(found.own[:-1], tv_of(tiny, trace))


@pytest.mark.parametrize(("family", "replace"), [("gpt2", "zero"), ("gemma2", "mean"), ("gpt_neox", "resample")])
def test_padding_batches_and_seeds(family: str, replace: str) -> None:
    config = family_config(family)
    model = Model(Decoder(config, tiny_params(config)), Letters())
    polish = 0 if replace == "zero" else 40  # which draws states, too; under zeros it is that of means
    options = QUICK | {"replace": replace, "polish": polish}
    alone, again = (jstrace.fit_trace(model, TEXT, **options) for _ in range(2))
    assert alone == again
    together = jstrace.fit_trace(model, [TEXT, np.arange(5)], **options)[0]
    score = Fitted(steps=2, smallest=0.05, polish=polish, start=ShareTimesGradient())
    for kind, leaf in together.scores.items():
        np.testing.assert_allclose(leaf, getattr(alone.scores, kind), rtol=2e-2)
    if replace != "resample":  # whose draws go by the padded length
        other = Replacing(model, ROWS).first(replace, 9)
        exact = jax.jit(lambda decoder: score.edge_scores(Pass(decoder, jnp.asarray(TEXT), 9, other)))(model.decoder)
        for kind, leaf in exact.items():
            kept = np.asarray(getattr(alone.scores, kind))
            close = np.isclose(np.where(kept < 0, kept, leaf), kept, rtol=5e-2)
            assert close.mean() > 0.98
    elsewhere = jstrace.fit_trace(model, TEXT, seed=1, **options)
    assert not np.array_equal(elsewhere.scores.attn, alone.scores.attn)


def test_parts_of_a_fit_change_no_digit(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps of the polish at a time, or all of them in one program; and both stretches count."""
    told: list[float] = []
    options: dict[str, Any] = QUICK | {"steps": 41, "polish": 11, "counterfactual": TEXT[::-1].copy()}
    options |= {"replace": None, "reference": None}
    target = other_prediction(tiny, 0)
    parts = jstrace.fit_trace(tiny, TEXT, target=target, progress=lambda done, _: told.append(done), **options)
    expected = [*range(3, 41, 3), 41, *range(44, 52, 3), 52]
    np.testing.assert_allclose(told, [*(steps / 52 for steps in expected), 1])
    monkeypatch.setattr(call, "_PARTS", 1)
    assert jstrace.fit_trace(tiny, TEXT, target=target, **options) == parts


def test_on_a_mesh(tiny: Model) -> None:
    mesh = make_mesh(data=2, model=2)
    placed = Model(Decoder(TINY, jax.device_put(tiny_params(), param_shardings(TINY, mesh))), Letters())
    texts = [TEXT, TEXT[::-1].copy(), TEXT + 1 - 2 * (TEXT > 90)]
    one, two = (jstrace.fit_trace(model, texts, **QUICK) for model in (tiny, placed))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.scores.attn, b.scores.attn, rtol=5e-2)


@pytest.mark.parametrize("start", ["scorer", "rounds"])
def test_a_fit_begins_where_its_start_ends(tiny: Model, start: str) -> None:
    """A step that moves next to nothing leaves the start's order."""
    score = start_of(tiny, "activations") if start == "scorer" else jstrace.Rounds(cuts=2)
    still = Fitted(steps=1, rate=1e-6, last_rate=1e-6, polish=0, start=score)
    how: dict[str, Any] = {"sizes": SIZES, **MEANS}
    expected, got = (jstrace.trace(tiny, TEXT, score=each, **how) for each in (score, still))
    chex.assert_trees_all_equal(got.strata, expected.strata)
    moved = jstrace.fit_trace(tiny, TEXT, **(QUICK | {"start": score, "steps": 30, "polish": 0}))
    assert any(not np.array_equal(leaf, getattr(expected.strata, kind)) for kind, leaf in moved.strata.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": [0.5, 0.5]}, r"target has shape \(2,\), expected \(97,\)"),
        ({"target": np.full(97, 0.5)}, "target is no distribution"),
        ({"target": np.full(97, math.nan)}, "target is no distribution"),
        ({"target": -np.full(97, 1 / 97)}, "target is no distribution"),
        ({"target": "word"}, "expected probabilities of every token"),
        ({"steps": 0}, "steps = 0"),
        ({"smallest": 0}, "smallest = 0"),
        ({"smallest": 0.9}, "fitted from"),
        ({"seed": -1}, "seed = -1"),
        ({"start": "flow"}, "start = 'flow', expected one of gradient"),
        ({"start": "learned"}, "fit one to this model"),
        ({"replace": "no"}, "replace = 'no'"),
    ],
)
def test_bad_arguments(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        jstrace.fit_trace(tiny, TEXT, **(QUICK | options))


def test_bad_targets_of_lists(tiny: Model) -> None:
    with pytest.raises(InputError, match="expected 2 distributions"):
        jstrace.fit_trace(tiny, [TEXT, TEXT], target=[np.full(97, 1 / 97)], **QUICK)
    with pytest.raises(InputError, match="target is for traces"):
        jstrace.evaluate(tiny, TEXT, masks=tiny.full_mask(9), target=np.full(97, 1 / 97))
    with pytest.raises(InputError, match="at least one text"):
        jstrace.selectivity(tiny, TEXT, [])


def test_another_models_start_is_refused(tiny: Model) -> None:
    fitted = jstrace.train_scorer(tiny, ROWS, features="activations", reference=ROWS, steps=1)
    with pytest.raises(InputError, match="fitted to model"):
        jstrace.fit_trace(planted(0), TEXT, **(QUICK | {"start": fitted}))


@pytest.mark.parametrize("replace", ["mean", "resample"])
def test_the_name_is_the_default_fit(tiny: Model, monkeypatch: pytest.MonkeyPatch, replace: str) -> None:
    """ "fitted" by name, in ``trace`` as in runs, is what ``fit_trace`` does: draws and batches of one included."""
    monkeypatch.setitem(SCORES, "fitted", lambda: Fitted(steps=2, smallest=0.05, start=ShareTimesGradient()))
    options: dict[str, Any] = {"sizes": SIZES, "reference": ROWS, "order": "score", "replace": replace}
    named = jstrace.trace(tiny, TEXT, score="fitted", **options)
    learned = jstrace.fit_trace(tiny, TEXT, steps=2, smallest=0.05, start="l1*gradient", **options)
    assert learned.score == "fitted-steps-2-smallest-0_05-start-l1*gradient"
    assert named == dataclasses.replace(learned, score="fitted")


def test_ones_own_states_are_not_drawn_over(tiny: Model) -> None:
    own = jstrace.resample_replacement(tiny, TEXT[::-1].copy())
    told, by_name = (jstrace.fit_trace(tiny, TEXT, **(QUICK | {"replace": how})) for how in (own, "resample"))
    renamed = jstrace.fit_trace(tiny, TEXT, **(QUICK | {"replace": dataclasses.replace(own, name="mine")}))
    np.testing.assert_array_equal(told.scores.attn, renamed.scores.attn)
    assert not np.array_equal(told.scores.attn, by_name.scores.attn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": math.nan}, "smallest = nan"),
        ({"fall": -1.0}, "fall = -1.0"),
        ({"temperature": 1e-300}, "temperature = 1e-300"),
        ({"start": Scorer}, "expected a jstrace.GradientScore"),
        ({"rate": True}, "rate = True"),
        ({"polish": -1}, "polish"),
        ({"polish": True}, "polish"),
        ({"polish_temperature": 0.0}, "polish_temperature = 0.0"),
    ],
)
def test_fits_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fitted(**options)


def test_selectivity_refuses(tiny: Model) -> None:
    for others, options, message in (
        ([TEXT], {}, "the text itself"),
        ([ROWS[0]], {"score": "l1"}, "selectivity is for scores from gradients"),
        ([ROWS[0]], {"score": "learned"}, "fit one to this model"),
    ):
        with pytest.raises(InputError, match=message):
            jstrace.selectivity(tiny, TEXT, others, **options)
    with pytest.raises(InputError, match="target is for scores from gradients"):
        jstrace.trace(tiny, TEXT, target=np.full(97, 1 / 97))
    fitted = jstrace.train_scorer(tiny, ROWS, features="activations", reference=ROWS, steps=1)
    with pytest.raises(InputError, match="fitted to model"):
        jstrace.trace(planted(0), TEXT, score=Fitted(steps=1, start=fitted))


def test_settings_tell_scores_apart() -> None:
    """Of every name, as JSON has them: numbers, those of scores inside, and of what is learned a digest."""
    every = {name: settings_of(name) for name in SCORE_NAMES}
    assert json.loads(json.dumps(every)) == every
    assert len({json.dumps(settings) for settings in every.values()}) == len(every)
    assert (every["fitted"]["steps"], every["fitted"]["start.cuts"]) == (100, 10)
    assert every["learned"]["coefficients"] == built_in().coefficients.digest
