"""Words as tokens, and answers: what a text goes on with (section 9 of the method)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jstrace.method.measure import metrics
from jstrace.models import InputError, Model, text_of
from jstrace.pipeline.inputs import token_ids


def answers_of(model: Model, given: Any, n_inputs: int, *, single: bool) -> Sequence[Int[np.ndarray, "_"] | None]:
    """Token ids of the answer of each input; none at all where nothing was given.

    Raises:
      InputError: other than one, or None, for each, or an answer without tokens.
    """
    if given is None:
        return ()
    rows = [given] if single else given
    if isinstance(rows, str | bytes) or not hasattr(rows, "__len__") or len(rows) != n_inputs:
        raise InputError(f"answer: expected {n_inputs} answers or None, one for each input")
    where = [""] if single else [f"input {index}: " for index in range(n_inputs)]
    return [None if row is None else _answer(model, row, at) for row, at in zip(rows, where, strict=True)]


def _answer(model: Model, given: Any, where: str) -> Int[np.ndarray, "A"]:
    if isinstance(given, str):
        if model.tokenizer is None:
            raise InputError(
                f"{where}this model came without a tokenizer: give the token ids of the answer {given!r:.60}"
            )
        given = _without_specials(model, given) if given else []
    if not hasattr(given, "__len__"):
        raise InputError(f"{where}answer = {given!r:.60}, expected a text or its token ids")
    if not len(given):
        raise InputError(f"{where}the answer is empty: give what the text goes on with")
    return token_ids(model, given, f"{where}answer: ")


def check_one_output(trace: Any, what: str) -> None:
    """Refuse a trace with an answer of several tokens where there is no place for it.

    Raises:
      InputError: naming what refuses it.
    """
    if trace.n_outputs > 1:
        raise InputError(f"{what} takes traces of one output; this one has an answer of {trace.n_outputs} tokens")


def continued(ids: Int[np.ndarray, "T"], answer: Int[np.ndarray, "A"] | None) -> Int[np.ndarray, "N"]:
    """A prompt with all tokens of its answer but the last, which nothing follows."""
    return ids if answer is None else np.concatenate([ids, answer[:-1]])


def asked_of(metric: metrics.Metric | None, answer: Int[np.ndarray, "A"] | None, where: str) -> metrics.Metric | None:
    """A metric of an input with an answer, or without one.

    Raises:
      InputError: a metric of one token for an answer, of several for none, or of another answer.
    """
    if isinstance(metric, metrics.LogitDifference) and answer is not None:
        raise InputError(f"{where}logit_difference is of one next token; with an answer give jstrace.log_prob(answer)")
    if not isinstance(metric, metrics.LogProb):
        return metric
    ids = metric.answer if isinstance(metric.answer, tuple) else (metric.answer,)
    if answer is None:
        if len(ids) > 1:
            raise InputError(
                f"{where}log_prob of {len(ids)} tokens {[*map(int, ids)]!s:.60}, expected one: traces of an answer"
                " of several are made with jstrace.trace(answer=)"
            )
        return metrics.LogProb(ids[0])
    if len(ids) != len(answer) or [*map(int, ids[:-1])] != answer[:-1].tolist():
        raise InputError(f"{where}log_prob of tokens {[*map(int, ids)]}, expected the answer's {answer.tolist()}")
    return metrics.LogProb(ids)


def ids_of(model: Model, word: Any) -> tuple[int, ...]:
    """The token ids of an answer, given as a text, as one id or as several."""
    if isinstance(word, str) and word and model.tokenizer is not None:
        ids = _without_specials(model, word)
        return tuple(ids) if len(ids) > 1 else (token_of(model, word),)
    if isinstance(word, str) or not hasattr(word, "__len__"):
        return (token_of(model, word),)
    return tuple(map(int, _answer(model, word, "log_prob: ")))


def token_of(model: Model, word: Any) -> int:
    """The token id of a word.

    Raises:
      InputError: a word of several tokens or of none, or an id outside the vocabulary.
    """
    if isinstance(word, str):
        if model.tokenizer is None:
            raise InputError(f"this model came without a tokenizer: give the token id of {word!r}")
        ids = _without_specials(model, word) if word else []
        if not ids:
            raise InputError(f"{word!r} has no token, expected a word of one")
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


def hint_of_space(model: Model, ids: Int[np.ndarray, "T"], words: Sequence[Any]) -> None:
    """Warn of words that would follow a text without the space that they are as few or fewer tokens with."""
    text = None if model.tokenizer is None else text_of(model.tokenizer, ids.tolist())
    if not text or not (text[-1].isalnum() or text[-1] in ",.;:!?)"):
        return
    for word in words:
        if not isinstance(word, str) or not word[:1].isalnum() or (word[0].isdigit() and text[-1].isdigit()):
            continue
        alone, spaced = _without_specials(model, word), _without_specials(model, f" {word}")
        if 0 < len(spaced) <= len(alone) and spaced != alone:
            warnings.warn(f"{word!r} would follow the text without a space; did you mean {' ' + word!r}?", stacklevel=2)


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
