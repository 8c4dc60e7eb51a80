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

    @staticmethod
    def of(
        model: Model, n_inputs: int, *, single: bool, target: Any = None, counterfactual: Any = None, metric: Any = None
    ) -> Questions:
        """Of what the caller gave: for one input, or lists beside a list of inputs; a metric may be one for all.

        Raises:
          InputError: other numbers of them than of inputs, or a target or metric that makes no sense.
        """
        targets = log_targets(model, target, n_inputs, single=single)
        pairs = None if counterfactual is None else _counterfactuals(model, counterfactual, n_inputs, single=single)
        asked = _metrics(model, metric, n_inputs, single=single)
        return Questions(model, targets, pairs, asked, metric is not None)

    @property
    def targeted(self) -> bool:
        """Whether any input has a target."""
        return any(each is not None for each in self.targets)

    def about(self, index: int, ids: Int[np.ndarray, "T"], where: str, trace: Any = None) -> Question:
        """Of one input; what nothing is said of is as its ``Trace`` says.

        Raises:
          InputError: its counterfactual is of another number of tokens, or the input itself.
        """
        pair = None if trace is None else trace.counterfactual
        if self.counterfactuals is not None:
            pair = _paired(self.model, ids, self.counterfactuals[index], where)
        metric = self.metrics[index] if self.said or trace is None else trace.metric
        return Question(self.targets[index], pair, metric)


def _counterfactuals(model: Model, given: Any, n_inputs: int, *, single: bool) -> Sequence[Tokens]:
    """One for each input."""
    alone, rows = listed(model, given)
    if alone != single or len(rows) != n_inputs:
        told = "one text" if alone else f"{len(rows)} texts"
        raise InputError(f"counterfactual: {told} for {'one input' if single else f'{n_inputs} inputs'}")
    return rows


def _paired(model: Model, ids: Int[np.ndarray, "T"], other: Tokens, where: str) -> Int[np.ndarray, "T"]:
    """Token ids of a counterfactual that fits."""
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


def _metrics(model: Model, metric: Any, n_inputs: int, *, single: bool) -> list[metrics.Metric | None]:
    """The metric of each input: one for all, or one for each in a list."""
    if single or metric is None or isinstance(metric, str) or not isinstance(metric, Sequence):
        return [metrics.resolved(metric, lambda word: token_of(model, word))] * n_inputs
    if len(metric) != n_inputs:
        raise InputError(f"metric: expected one, or {n_inputs}, one for each input, got {len(metric)}")
    return [metrics.resolved(each, lambda word: token_of(model, word)) for each in metric]


def token_of(model: Model, word: Any) -> int:
    """The token id of a word.

    Raises:
      InputError: a word of several tokens or of none, or an id outside the vocabulary.
    """
    if isinstance(word, str):
        if model.tokenizer is None:
            raise InputError(f"this model came without a tokenizer: give the token id of {word!r}")
        ids = _without_specials(model, word)
        if len(ids) != 1:
            texts = [model.tokenizer.token(token) for token in ids]
            hint = f"; did you mean {' ' + word!r}" if not word.startswith(" ") and _is_token(model, " " + word) else ""
            raise InputError(f"{word!r} is {len(ids)} tokens {texts}, expected one{hint}")
        return ids[0]
    if isinstance(word, bool) or not isinstance(word, int | np.integer):
        raise InputError(f"{word!r}: expected a word of one token, or its token id")
    if not 0 <= word < model.config.vocab_size:
        raise InputError(f"token id {word} is outside the vocabulary of {model.config.vocab_size}")
    return int(word)


def _is_token(model: Model, word: str) -> bool:
    return len(_without_specials(model, word)) == 1


def _without_specials(model: Model, word: str) -> list[int]:
    """Token ids of a word that goes on after another: without what the tokenizer puts around every text."""
    assert model.tokenizer is not None
    for start in (".", ""):
        before, after = (list(map(int, model.tokenizer.encode(text))) for text in (start, start + word))
        first = common(before, after)
        end = len(after) - (len(before) - first)
        if after[end:] == before[first:] and end > first:
            return after[first:end]
    return []


def common(some: Sequence[Any], others: Sequence[Any]) -> int:
    """How many items two sequences start with alike."""
    pairs = zip(some, others, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(some), len(others)))
