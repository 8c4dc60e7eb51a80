"""Counterfactual prompts, and metrics, of texts: what is asked of each input, checked (section 9 of the method)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jstrace.method.measure import metrics
from jstrace.method.questions import Question
from jstrace.models import InputError, Model
from jstrace.pipeline.answers import answers_of, asked_of, common, continued, hint_of_space, ids_of
from jstrace.pipeline.answers import token_of as token_of
from jstrace.pipeline.inputs import Tokens, listed, log_targets, token_ids, token_texts


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of each of some inputs beside its own prediction."""

    model: Model
    targets: Sequence[np.ndarray | None]
    counterfactuals: Sequence[Tokens] | None
    metrics: Sequence[metrics.Metric | None]
    said: bool
    """Whether a metric was given, if only "kl"."""
    answers: Sequence[Int[np.ndarray, "_"] | None] = ()
    """What each goes on with; of none where it is empty."""
    words: Sequence[Sequence[Any]] = ()
    """What was given of each as words of the metric and as an answer."""

    @staticmethod
    def of(
        model: Model, n_inputs: int, *, single: bool, target: Any = None, counterfactual: Any = None,
        metric: Any = None, answer: Any = None,
    ) -> Questions:  # fmt: skip
        """Of what the caller gave: for one input, or lists beside a list of inputs; a metric may be one for all.

        Raises:
          InputError: other numbers of them than of inputs, or a target or metric that makes no sense.
        """
        targets = log_targets(model, target, n_inputs, single=single)
        pairs = None if counterfactual is None else _counterfactuals(model, counterfactual, n_inputs, single=single)
        given = answers_of(model, answer, n_inputs, single=single)
        asked = _metrics(model, metric, n_inputs, single=single)
        followed = [answer] * n_inputs if single or answer is None else answer
        raw = [metric] * n_inputs if _is_for_all(metric, single=single) else metric
        words = [(getattr(m, "answer", None), getattr(m, "rival", None), a) for m, a in zip(raw, followed, strict=True)]
        return Questions(model, targets, pairs, asked, metric is not None, given, words)

    @property
    def targeted(self) -> bool:
        """Whether any input has a target."""
        return any(each is not None for each in self.targets)

    def at(self, indices: Sequence[int]) -> Questions:
        """Of these inputs, which may be there several times."""

        def taken(values: Any) -> Any:
            return [values[index] for index in indices] if values else values

        fields = ("targets", "counterfactuals", "metrics", "answers", "words")
        return dataclasses.replace(self, **{name: taken(getattr(self, name)) for name in fields})

    def about(self, index: int, ids: Int[np.ndarray, "T"], where: str, trace: Any = None) -> Question:
        """Of one input, a prompt or the tokens of its ``Trace``; what nothing is said of is as that says.

        Raises:
          InputError: its counterfactual is of another number of tokens, or the input itself, or its answer does not go
            with a target or the metric.
        """
        pair = None if trace is None else trace.counterfactual
        answer = self.answers[index] if self.answers else None if trace is None else trace.answer
        prompt = ids if trace is None or answer is None else ids[: len(ids) - len(answer) + 1]
        if self.words:
            hint_of_space(self.model, prompt, self.words[index])
        if self.counterfactuals is not None:
            pair = continued(_paired(self.model, prompt, self.counterfactuals[index], where), answer)
        metric = self.metrics[index] if self.said or trace is None else trace.metric
        if answer is not None and self.targets[index] is not None:
            raise InputError(
                f"{where}target is of one next token, which an answer takes the place of: give one of them"
            )
        return Question(self.targets[index], pair, asked_of(metric, answer, where), answer)


def _counterfactuals(model: Model, given: Any, n_inputs: int, *, single: bool) -> Sequence[Tokens]:
    """One for each input."""
    alone, rows = listed(model, given)
    if alone != single or len(rows) != n_inputs:
        told = "one text" if alone else f"{len(rows)} texts"
        wanted = "one text or its token ids" if single else f"a list of {n_inputs}, one for each input"
        raise InputError(f"counterfactual: {told} for {'one input' if single else f'{n_inputs} inputs'}: give {wanted}")
    return rows


def _paired(model: Model, ids: Int[np.ndarray, "T"], other: Tokens, where: str) -> Int[np.ndarray, "T"]:
    """Token ids of a counterfactual that fits."""
    if other is None:
        raise InputError(f"{where}counterfactual is None, expected a text or token ids for every input")
    pair = token_ids(model, other, f"{where}counterfactual: ")
    if len(pair) != len(ids):
        raise InputError(f"{where}{_lengths_differ(model, ids, pair)}")
    if np.array_equal(pair, ids):
        raise InputError(f"{where}the counterfactual is the text itself: no edge could make a difference")
    return pair


def _lengths_differ(model: Model, ids: Int[np.ndarray, "T"], pair: Int[np.ndarray, "T2"]) -> str:
    """Both token lists, where they part, and what would fit."""
    words, others = (list(token_texts(model, each) or map(int, each)) for each in (ids, pair))
    first = common(words, others)
    last = common(words[first:][::-1], others[first:][::-1])
    ours, theirs = words[first : len(words) - last], others[first : len(others) - last]
    return (
        f"the counterfactual has {len(pair)} tokens, the text {len(ids)}, and a pair needs as many: text {words},"
        f" counterfactual {others}; they part at token {first}: for {ours} of the text give {len(ours)} tokens in the"
        f" place of {theirs}"
    )


def _is_for_all(metric: Any, *, single: bool) -> bool:
    return single or isinstance(metric, str) or not isinstance(metric, Sequence)


def _metrics(model: Model, metric: Any, n_inputs: int, *, single: bool) -> list[metrics.Metric | None]:
    """The metric of each input: one for all, or one for each in a list."""

    def resolved(given: Any) -> metrics.Metric | None:
        return metrics.resolved(given, lambda word: token_of(model, word), lambda word: ids_of(model, word))

    if _is_for_all(metric, single=single):
        return [resolved(metric)] * n_inputs
    if len(metric) != n_inputs:
        raise InputError(f"metric: expected one, or {n_inputs}, one for each input, got {len(metric)}")
    return [resolved(each) for each in metric]
