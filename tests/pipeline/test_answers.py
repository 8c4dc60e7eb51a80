"""Answers of several tokens, through trace and evaluate (section 9 of the method)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.analysis.analysing import analyse
from jstrace.models import EdgeTree, InputError, Model, masked_forward
from jstrace.show.attribution import attribution_graph
from tests import oracle
from tests.conftest import SIZES, TINY, tiny_params

PROMPT, OTHER = np.asarray([5, 8, 13, 2], np.int32), np.asarray([5, 8, 21, 2], np.int32)
ANSWER = [40, 7, 33]
TOKENS = np.asarray([5, 8, 13, 2, 40, 7], np.int32)


def log_probs(model: Model, tokens: np.ndarray) -> np.ndarray:
    """At the outputs."""
    return np.asarray(jax.nn.log_softmax(model(tokens, every=True)))[-3:]


def of_answer(found: np.ndarray) -> float:
    return float(sum(row[token] for row, token in zip(found, ANSWER, strict=True)))


@pytest.fixture(scope="module")
def trace(tiny: Model) -> jstrace.Trace:
    how: dict[str, Any] = {"score": "gradient", "sizes": SIZES, "metric": jstrace.log_prob(ANSWER)}
    return jstrace.trace(tiny, PROMPT, answer=ANSWER, counterfactual=OTHER, **how)


@pytest.mark.quick
def test_the_empty_mask_is_the_counterfactual_run_at_every_output(tiny: Model, trace: jstrace.Trace) -> None:
    assert trace.tokens.tolist() == TOKENS.tolist()
    assert trace.counterfactual is not None
    assert trace.counterfactual.tolist() == [*OTHER, *ANSWER[:-1]]
    found = jstrace.evaluate(tiny, trace, masks=jax.tree.map(np.zeros_like, tiny.full_mask(6, n_outputs=3)))
    clean, other = log_probs(tiny, TOKENS), log_probs(tiny, trace.counterfactual)
    assert found.tv[0] == pytest.approx(np.mean(0.5 * np.abs(np.exp(clean) - np.exp(other)).sum(-1)), abs=1e-6)
    assert found.kl[0] == pytest.approx(np.mean((np.exp(clean) * (clean - other)).sum(-1)), abs=1e-5)
    ends = of_answer(other), of_answer(clean)
    np.testing.assert_allclose(found.metric, ends, atol=1e-5)
    assert found.surprisal is not None
    np.testing.assert_allclose(found.surprisal, np.negative(ends), atol=1e-5)
    assert found.agreement.tolist() == [bool((clean.argmax(-1) == other.argmax(-1)).all()), True]
    assert found.top_token.tolist() == [other[0].argmax(), clean[0].argmax()]
    assert (found.n_outputs, found.sizes) == (3, (0.0,))
    of_sizes = jstrace.evaluate(tiny, trace)
    np.testing.assert_allclose(of_sizes.metric_ends, ends, atol=1e-5)
    own = jstrace.evaluate(tiny, trace, masks=trace.masks())
    for name in ("tv", "kl", "surprisal", "entropy"):
        np.testing.assert_allclose(getattr(own, name)[: len(SIZES)], getattr(of_sizes, name)[:-1], atol=1e-5)
    np.testing.assert_array_equal(own.nucleus[: len(SIZES)], of_sizes.nucleus[:-1])


@pytest.mark.quick
def test_gradients_of_the_sum_of_the_answers_logits_equal_finite_differences(tiny: Model) -> None:
    found = jstrace.trace(tiny, PROMPT, answer=ANSWER, score="gradient", sizes=SIZES).scores
    full = jax.tree.map(jnp.float32, tiny.full_mask(6, n_outputs=3))

    @jax.jit
    def value(mask: EdgeTree) -> jax.Array:
        logits = masked_forward(tiny.decoder, jnp.asarray(TOKENS), mask, n_outputs=3)
        return logits[0, 40] + logits[1, 7] + logits[2, 33]

    step = 1e-2
    for kind, place in (("mlp", (1, 3)), ("attn", (1, 2, 4, 2)), ("residual_mlp", (1, 4)), ("residual_attn", (1, 3))):
        ends = [
            float(value(dataclasses.replace(full, **{kind: getattr(full, kind).at[place].add(change)})))
            for change in (step, -step)
        ]
        slope = abs(ends[0] - ends[1]) / (2 * step)
        assert getattr(found, kind)[place] == pytest.approx(slope, rel=2e-2, abs=2e-3), kind


@pytest.mark.quick
def test_scores_and_strata_equal_the_oracle(tiny: Model) -> None:
    found = jstrace.trace(tiny, PROMPT, answer=ANSWER, sizes=SIZES)
    expected = oracle.scores(oracle.Literal(TINY, tiny_params(), TOKENS.tolist()), "l1", n_outputs=3)
    strata = oracle.strata(found.scores, SIZES, n_outputs=3)
    for kind, leaf in found.scores.items():
        np.testing.assert_allclose(leaf, getattr(expected, kind), atol=2e-5, err_msg=kind)
        np.testing.assert_array_equal(getattr(found.strata, kind), getattr(strata, kind), err_msg=kind)
    assert found.n_outputs == 3
    assert found.n_edges == sum(int(leaf.sum()) for _, leaf in tiny.full_mask(6, n_outputs=3).items())
    assert len(found.first_edges(5)) == 5


@pytest.mark.quick
def test_batches_and_padding_change_nothing(tiny: Model) -> None:
    """Answers of several lengths and none, beside each other, as each alone."""
    rows = [PROMPT, np.arange(12, dtype=np.int32), PROMPT]
    answers = [ANSWER, ANSWER[:2], None]
    how: dict[str, Any] = {"score": "gradient", "sizes": SIZES}
    together = jstrace.trace(tiny, rows, answer=answers, **how)
    judged = jstrace.evaluate(tiny, together)
    for row, answer, trace, evaluation in zip(rows, answers, together, judged, strict=True):
        alone = jstrace.trace(tiny, row, answer=answer, **how)
        for (kind, leaf), (_, wide) in zip(alone.scores.items(), trace.scores.items(), strict=True):
            np.testing.assert_allclose(wide, leaf, atol=1e-5, err_msg=kind)
        same = jstrace.evaluate(tiny, trace)
        np.testing.assert_allclose(evaluation.tv, same.tv, atol=1e-5)
        assert evaluation.n_outputs == trace.n_outputs == (1 if answer is None else len(answer))
        assert (evaluation.surprisal is None) == (answer is None)


@pytest.mark.parametrize("score", ["rounds", jstrace.Fitted(steps=3, polish=0)])
def test_every_score_from_gradients_keeps_an_answer(tiny: Model, score: Any) -> None:
    trace = jstrace.trace(tiny, PROMPT, answer=ANSWER, counterfactual=OTHER, score=score, sizes=SIZES)
    found = jstrace.evaluate(tiny, trace)
    assert found.valid
    assert found.tv[-1] < 1e-5
    assert all(np.isfinite(leaf).all() for _, leaf in trace.scores.items())


@pytest.mark.quick
def test_files_hold_answers(tiny: Model, trace: jstrace.Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "answer.npz")
    again = jstrace.Trace.load(tmp_path / "answer.npz")
    assert again == trace
    assert (again.n_outputs, again.metric) == (3, trace.metric)
    assert jstrace.evaluate(tiny, again) == jstrace.evaluate(tiny, trace)
    for broken in (dataclasses.replace(trace, answer=None), dataclasses.replace(trace, answer=trace.answer[::-1])):
        with pytest.raises(InputError, match=r"answer|number of edges"):
            jstrace.evaluate(tiny, broken)


@pytest.mark.quick
def test_the_smallest_trace_and_several_replacements(tiny: Model, trace: jstrace.Trace) -> None:
    found = jstrace.smallest(tiny, trace, tv=0.2, top_token=True)
    assert found.evaluation.n_outputs == found.trace.n_outputs == 3
    assert found.tv <= 0.2
    draws = [jstrace.resample_replacement(tiny, tokens) for tokens in (TOKENS[::-1].copy(), TOKENS + 1)]
    each = [jstrace.evaluate(tiny, trace, replace=draw).tv for draw in draws]
    np.testing.assert_allclose(jstrace.evaluate(tiny, trace, replace=draws).tv, np.mean(each, axis=0), atol=1e-5)


@pytest.mark.quick
def test_metrics_of_ones_own_are_given_all_outputs(tiny: Model, trace: jstrace.Trace) -> None:
    found = jstrace.evaluate(
        tiny, trace, metric=lambda logits: jax.nn.log_softmax(logits)[jnp.arange(3), jnp.asarray(ANSWER)].sum()
    )
    np.testing.assert_allclose(found.metric, jstrace.evaluate(tiny, trace).metric, atol=1e-5)
    assert jstrace.evaluate(tiny, trace, metric="kl").metric is None


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer": []}, "the answer is empty"),
        ({"answer": ""}, "without a tokenizer"),
        ({"answer": " Paris"}, "without a tokenizer: give the token ids of the answer"),
        ({"answer": [3, 97]}, "answer: "),
        ({"answer": 3}, "expected a text or its token ids"),
        ({"answer": ANSWER, "target": np.full(97, 1 / 97)}, "give one of them"),
        ({"answer": ANSWER, "metric": jstrace.logit_difference(3, 4)}, "logit_difference is of one next token"),
        ({"answer": ANSWER, "metric": jstrace.log_prob([1, 2])}, "expected the answer's [40, 7, 33]"),
        ({"answer": ANSWER, "metric": jstrace.log_prob(3)}, "expected the answer's [40, 7, 33]"),
    ],
)
def test_bad_answers_are_one_line(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        jstrace.trace(tiny, PROMPT, **({"score": "gradient", "sizes": SIZES} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.quick
def test_what_takes_one_output_says_so(tiny: Model, trace: jstrace.Trace) -> None:
    with pytest.raises(InputError, match="answer: expected 1 answers"):
        jstrace.trace(tiny, [PROMPT], answer="a text")
    with pytest.raises(InputError, match="next_token: the trace has an answer"):
        jstrace.evaluate(tiny, trace, next_token=3)
    for refused in (
        lambda: jstrace.view(trace),
        lambda: analyse(trace, 1),
        lambda: attribution_graph(trace, 1, "name"),
    ):
        with pytest.raises(InputError, match="takes traces of one output; this one has an answer of 3 tokens"):
            refused()
