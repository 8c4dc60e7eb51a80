"""Counterfactual prompts and metrics, through trace and evaluate (section 9 of the method)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.measure import metrics
from jstrace.models import EdgeTree, InputError, Model
from jstrace.pipeline.pairs import Questions
from tests.conftest import SIZES

pytestmark = pytest.mark.quick
CLEAN, OTHER = np.asarray([5, 8, 13, 2, 40, 7], np.int32), np.asarray([5, 8, 21, 2, 40, 9], np.int32)
ASKED = jstrace.logit_difference(3, 11)


def predicted(model: Model, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(model(tokens)))


def apart(p: np.ndarray, q: np.ndarray) -> float:
    return float(0.5 * np.abs(p - q).sum())


@pytest.fixture(scope="module")
def trace(tiny: Model) -> jstrace.Trace:
    return jstrace.trace(tiny, CLEAN, counterfactual=OTHER, score="rounds", sizes=SIZES, metric=ASKED)


def test_the_empty_mask_is_the_counterfactual_run(tiny: Model, trace: jstrace.Trace) -> None:
    """And the full graph the text's own; recovered is 0 and 1 there, whatever the way they are evaluated."""
    none = jax.tree.map(np.zeros_like, tiny.full_mask(6))
    found = jstrace.evaluate(tiny, trace, masks=none)
    clean, other = (predicted(tiny, tokens) for tokens in (CLEAN, OTHER))
    assert found.tv[0] == pytest.approx(apart(clean, other), abs=1e-6)
    logits, others = (np.asarray(tiny(tokens)) for tokens in (CLEAN, OTHER))
    ends = others[3] - others[11], logits[3] - logits[11]
    np.testing.assert_allclose(found.metric, ends, atol=1e-5)
    np.testing.assert_allclose(found.metric_ends, ends, atol=1e-5)
    np.testing.assert_allclose(found.recovered, [0, 1], atol=1e-5)
    of_sizes = jstrace.evaluate(tiny, trace)
    np.testing.assert_allclose(of_sizes.metric_ends, ends, atol=1e-5)
    assert of_sizes.replace == "counterfactual"
    assert of_sizes.recovered is not None
    assert of_sizes.recovered[-1] == pytest.approx(1, abs=1e-5)


def test_traces_equal_the_model_under_their_masks(tiny: Model, trace: jstrace.Trace) -> None:
    """Every row is the model called with the trace's mask and the states of the other prompt."""
    found, carried = jstrace.evaluate(tiny, trace), jstrace.resample_replacement(tiny, OTHER)
    full = predicted(tiny, CLEAN)
    assert found.metric is not None
    for k in range(len(SIZES)):
        logits = np.asarray(tiny(CLEAN, trace.mask(k), replace=carried))
        assert found.tv[k] == pytest.approx(apart(full, np.asarray(jax.nn.softmax(logits))), abs=1e-5)
        assert found.metric[k] == pytest.approx(logits[3] - logits[11], abs=1e-4)
    own = jstrace.evaluate(tiny, trace, masks=trace.masks())
    np.testing.assert_allclose(own.metric[: len(SIZES)], found.metric[:-1], atol=1e-4)
    np.testing.assert_allclose(own.metric_ends, found.metric_ends, atol=1e-5)


def test_edges_before_the_first_difference_make_none(tiny: Model, trace: jstrace.Trace) -> None:
    """They have no gradient, and no mask of them moves the prediction."""
    scores = jstrace.trace(tiny, CLEAN, counterfactual=OTHER, score="gradient", sizes=SIZES).scores
    assert trace.first_difference == 2
    assert scores.mlp[:, :2].max() <= 1e-6 * scores.mlp.max()
    assert scores.attn[..., :2].max() <= 1e-6 * scores.attn.max()
    masks = jax.tree.map(np.array, tiny.full_mask(6))
    masks.attn[..., :2], masks.mlp[:, :2], masks.residual_mlp[:, :2], masks.residual_attn[:, :2] = (False,) * 4
    assert jstrace.evaluate(tiny, trace, masks=masks).tv[0] < 1e-5


def test_batches_and_padding_change_nothing(tiny: Model) -> None:
    """Inputs of several lengths, each with its own counterfactual and metric, as each alone."""
    rows = [CLEAN, CLEAN[:4], np.arange(12, dtype=np.int32)]
    others, asked = [row[::-1].copy() for row in rows], [ASKED, jstrace.logit_difference(1, 2), ASKED]
    how: dict[str, Any] = {"score": "gradient", "sizes": SIZES}
    together = jstrace.trace(tiny, rows, counterfactual=others, metric=asked, **how)
    judged = jstrace.evaluate(tiny, together)
    for row, other, metric, trace, evaluation in zip(rows, others, asked, together, judged, strict=True):
        alone = jstrace.trace(tiny, row, counterfactual=other, metric=metric, **how)
        for (kind, leaf), (_, wide) in zip(alone.scores.items(), trace.scores.items(), strict=True):
            np.testing.assert_allclose(wide, leaf, atol=1e-5, err_msg=kind)
        same = jstrace.evaluate(tiny, dataclasses.replace(trace))
        np.testing.assert_allclose(evaluation.metric, same.metric, atol=1e-5)
        np.testing.assert_allclose(evaluation.tv, same.tv, atol=1e-5)


@pytest.mark.parametrize("metric", [ASKED, jstrace.log_prob(3), lambda logits: jnp.tanh(logits[4]) * logits[9]])
def test_gradients_of_metrics_equal_finite_differences(tiny: Model, metric: Any) -> None:
    found = jstrace.trace(tiny, CLEAN, counterfactual=OTHER, score="gradient", metric=metric, sizes=SIZES).scores
    carried, full = jstrace.resample_replacement(tiny, OTHER), jax.tree.map(jnp.float32, tiny.full_mask(6))

    def value(mask: EdgeTree) -> float:
        logits = tiny(CLEAN, mask, replace=carried)
        if metric is ASKED:
            return float(logits[3] - logits[11])
        return float(jax.nn.log_softmax(logits)[3] if isinstance(metric, jstrace.LogProb) else metric(logits))

    step = 1e-2
    for kind, place in (("mlp", (1, 3)), ("attn", (0, 2, 5, 2)), ("residual_mlp", (2, 5)), ("residual_attn", (1, 2))):
        ends = [
            value(dataclasses.replace(full, **{kind: getattr(full, kind).at[place].add(change)}))
            for change in (step, -step)
        ]
        slope = abs(ends[0] - ends[1]) / (2 * step)
        assert getattr(found, kind)[place] == pytest.approx(slope, rel=2e-2, abs=2e-3), kind


def test_other_rows_around_a_metric(tiny: Model, trace: jstrace.Trace) -> None:
    """Inverse, residual+mlp and several replacements have the metric's ends, too."""
    inverse = jstrace.evaluate(tiny, trace, inverse=True)
    assert inverse.metric_ends == pytest.approx(jstrace.evaluate(tiny, trace).metric_ends, abs=1e-5)
    part = jstrace.evaluate(tiny, trace, ablate="residual+mlp")
    mask = jax.tree.map(np.zeros_like, tiny.full_mask(6))
    mask.attn[:] = tiny.full_mask(6).attn
    logits = tiny(CLEAN, mask, replace=jstrace.resample_replacement(tiny, OTHER))
    assert part.metric_ends[0] == pytest.approx(float(logits[3] - logits[11]), abs=1e-5)
    draws = [jstrace.resample_replacement(tiny, tokens) for tokens in (OTHER, OTHER[::-1].copy())]
    each = [jstrace.evaluate(tiny, trace, replace=draw, metric=ASKED).metric for draw in draws]
    both = jstrace.evaluate(tiny, trace, replace=draws, metric=ASKED)
    np.testing.assert_allclose(both.metric, np.mean(each, axis=0), atol=1e-5)


def test_files_hold_pairs_and_metrics(tiny: Model, trace: jstrace.Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "pair.npz")
    again = jstrace.Trace.load(tmp_path / "pair.npz")
    assert again == trace
    assert again.metric == trace.metric
    assert jstrace.evaluate(tiny, again) == jstrace.evaluate(tiny, trace)
    own = jstrace.trace(tiny, CLEAN, counterfactual=OTHER, score="gradient", metric=lambda x: x[0], sizes=SIZES)
    with pytest.warns(UserWarning, match=r"own.npz does not hold the function <lambda>: give"):
        own.save(tmp_path / "own.npz")
    assert jstrace.Trace.load(tmp_path / "own.npz").metric is None  # no file holds a function
    broken = dataclasses.replace(trace, counterfactual=None)
    with pytest.raises(InputError, match="does not go with its counterfactual"):
        jstrace.evaluate(tiny, broken)


def test_recovered_of_a_constant_is_undefined(tiny: Model, trace: jstrace.Trace) -> None:
    found = jstrace.evaluate(tiny, trace, metric=lambda logits: logits[0] * 0 + 2.0)
    assert found.recovered is not None
    assert np.isnan(found.recovered).all()
    assert jstrace.evaluate(tiny, trace, metric="kl").metric is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counterfactual": OTHER[:5]}, "the counterfactual has 5 tokens, the text 6, and a pair needs as many: text"),
        ({"counterfactual": CLEAN}, "the counterfactual is the text itself"),
        ({"counterfactual": OTHER, "replace": "mean"}, "a counterfactual is what ablated edges carry"),
        ({"counterfactual": [OTHER, OTHER]}, "counterfactual: 2 texts for one input: give one text"),
        ({"counterfactual": OTHER, "metric": jstrace.logit_difference(3, 97)}, "token id 97 is outside"),
        ({"counterfactual": OTHER, "metric": "tv"}, "metric = 'tv', expected \"kl\""),
        ({"counterfactual": OTHER, "metric": lambda x: x}, "metric <lambda> gave float32"),
        ({"counterfactual": OTHER, "metric": lambda _: None}, "metric <lambda> failed (ValueError: None is not"),
        ({"counterfactual": OTHER, "metric": lambda _: 1 / 0}, "metric <lambda> failed (ZeroDivisionError: division"),
        (
            {"counterfactual": OTHER, "metric": lambda x: x[0] * jnp.nan},
            "or a metric whose gradient is finite",
        ),
        ({"counterfactual": OTHER, "metric": jstrace.log_prob([3, 4])}, "are made with jstrace.trace(answer=)"),
        ({"counterfactual": OTHER, "metric": jstrace.log_prob([])}, "the answer is empty"),
        (
            {"metric": jstrace.log_prob(3), "target": np.full(97, 1 / 97)},
            "gradients of a metric do not look at it",
        ),
        ({"counterfactual": "a text"}, "without a tokenizer"),
        ({"counterfactual": OTHER, "metric": jstrace.log_prob(" Mary")}, "without a tokenizer"),
    ],
)
def test_bad_pairs_and_metrics_are_one_line(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        jstrace.trace(tiny, CLEAN, **({"score": "gradient", "sizes": SIZES} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_own_metric_that_is_nan_is_named(tiny: Model, trace: jstrace.Trace) -> None:
    """One that is kept takes no other evaluation with it."""

    def shy(logits: Any) -> Any:
        return jnp.log(-jnp.abs(logits[0]) - 1)

    with pytest.raises(InputError, match="metric shy is NaN"):
        jstrace.evaluate(tiny, trace, metric=shy)
    kept = jstrace.evaluate(tiny, [trace, trace], metric=[shy, ASKED], on_invalid="keep")
    assert [type(one) for one in kept] == [jstrace.Invalid, jstrace.Evaluation]
    with pytest.raises(InputError, match="metric shy is NaN"):
        jstrace.effects(tiny, CLEAN, counterfactual=OTHER, metric=shy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counterfactual": CLEAN}, "its counterfactual is the text itself"),
        ({"counterfactual": OTHER.astype(np.int64)}, "its counterfactual is not of 6 int32 tokens"),
        ({"counterfactual_texts": ("a",)}, "1 texts for 6 tokens of its counterfactual"),
        ({"metric": jstrace.log_prob(" Mary")}, "its metric is LogProb(answer=' Mary'), expected one of tokens"),
        ({"metric": jstrace.log_prob(97)}, "its metric is LogProb(answer=97)"),
        ({"metric": jstrace.log_prob(())}, "its metric is LogProb(answer=())"),
    ],
)
def test_traces_that_do_not_hold_together(
    tiny: Model, trace: jstrace.Trace, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        jstrace.evaluate(tiny, dataclasses.replace(trace, **changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("answer", [[], 97, [3, -1], True, "a", 3.0])
def test_metrics_of_files_are_of_tokens(answer: Any) -> None:
    with pytest.raises(ValueError, match="its metric has tokens"):
        metrics.from_json({"kind": "log_prob", "answer": answer}, 97)
    with pytest.raises(ValueError, match="its metric has tokens"):
        metrics.from_json({"kind": "logit_difference", "answer": 3, "rival": 3}, 97)


class Spaced:
    """A tokenizer of words, a space before them with them; "spare" alone is two tokens."""

    def __init__(self) -> None:
        self.pieces = list[str]()

    def encode(self, text: str) -> list[int]:
        found = re.findall(r"(?<! )spa(?=re)| ?[a-z]+|.", text)
        self.pieces += [piece for piece in dict.fromkeys(found) if piece not in self.pieces]
        return [self.pieces.index(piece) for piece in found]

    def token(self, token_id: int) -> str:
        return self.pieces[token_id]

    def save(self, folder: Path) -> None:
        pass


def test_a_word_without_its_space(tiny: Model) -> None:
    """A warning names the word that was meant, of metrics and of answers; where none was forgotten there is none."""
    model = Model(tiny.decoder, Spaced())
    for options in ({"metric": jstrace.log_prob("mary")}, {"answer": "mary"}, {"answer": "spare"}):
        (word,) = (getattr(value, "answer", value) for value in options.values())
        with pytest.warns(UserWarning, match=f"did you mean ' {word}'"):
            Questions.of(model, 1, single=True, **options).about(0, np.asarray(model.tokenizer.encode("a gift to")), "")
    for text, word in (("a gift to", " mary"), ("a (", "mary"), ("a gift to", ".")):
        ids = np.asarray(model.tokenizer.encode(text))
        Questions.of(model, 1, single=True, metric=jstrace.log_prob(word)).about(0, ids, "")


def test_the_same_word_twice() -> None:
    with pytest.raises(InputError, match="twice"):
        jstrace.logit_difference(" Mary", " Mary")
