"""Texts and token ids as checked arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jstrace.models import InputError, Model, check_ids, text_of

_SUM = 1e-3
"""How far a distribution's sum may be from one."""

Tokens = str | Sequence[int] | np.ndarray
"""A text, or token ids."""


def checked_model(model: object) -> None:
    """Refuse what is no model, with the call that makes one."""
    if not isinstance(model, Model):
        hint = f": jstrace.load({model!r})" if isinstance(model, str) else ""
        raise InputError(f"model is {type(model).__name__}, expected what jstrace.load returns{hint}")


def with_weights(fingerprint: str, weights: str) -> str:
    """A model's fingerprint, and how its weights are stored where that is not in its dtype."""
    return f"{fingerprint}, weights {weights}" if weights else fingerprint


def token_texts(model: Model, ids: np.ndarray) -> tuple[str, ...] | None:
    """Each token as text, if the model has a tokenizer."""
    return None if model.tokenizer is None else tuple(model.tokenizer.token(int(token)) for token in ids)


def token_words(model: Model, ids: np.ndarray) -> tuple[str, ...]:
    """Each token as text, or as its id where there is no tokenizer."""
    return token_texts(model, ids) or tuple(map(str, ids.tolist()))


def whole_text(model: Model, ids: np.ndarray) -> str | None:
    """The tokens as one text, if the model has a tokenizer."""
    return None if model.tokenizer is None else text_of(model.tokenizer, ids.tolist())


def listed(model: Model, inputs: Any) -> tuple[bool, Sequence[Any]]:
    """Whether ``inputs`` is a single one, and a list of them, each of which may still be no input.

    Raises:
      InputError: no model, or what is neither a text, token ids nor a list of them.
    """
    checked_model(model)
    inputs = _positional(inputs)
    sequence = isinstance(inputs, Sequence) or (hasattr(inputs, "ndim") and inputs.ndim > 0)
    if not sequence or isinstance(inputs, bytes | bytearray):
        raise InputError(f"expected a text, token ids or a list of them, got {type(inputs).__name__}")
    if isinstance(inputs, list | tuple) and not inputs:
        return False, []  # no inputs, no traces
    first = inputs[0] if len(inputs) else 0
    single = isinstance(inputs, str) or (np.ndim(first) == 0 and not isinstance(first, str))
    return single, [inputs] if single else list(inputs)


def _positional(inputs: Any) -> Any:
    """What is indexed by position: of a column of a table, whose index may be anything, its values."""
    if isinstance(inputs, np.ndarray | jax.Array) or not hasattr(inputs, "__array__"):
        return inputs
    try:
        values = np.asarray(inputs)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a text, token ids or a list of them, got {type(inputs).__name__}") from error
    return values.tolist() if values.dtype == object else values


def tokenised(model: Model, inputs: Tokens | Sequence[Tokens]) -> tuple[bool, list[np.ndarray]]:
    """Whether ``inputs`` is a single one, and the token ids of each."""
    single, rows = listed(model, inputs)
    return single, [token_ids(model, row, "" if single else f"input {i}: ") for i, row in enumerate(rows)]


def token_ids(model: Model, row: Tokens, where: str = "") -> np.ndarray:
    """Token ids of one input, int32 ``[T]``.

    Raises:
      InputError: with the reason, after ``where``, which names the input.
    """
    if isinstance(row, str):
        if model.tokenizer is None:
            raise InputError(f"{where}this model came without a tokenizer; pass token ids")
        if not row.strip():
            raise InputError(f"{where}the text is empty; a trace needs at least one token")
        try:
            row.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{where}the text is not valid Unicode ({error.reason} at {error.start})") from error
        row = model.tokenizer.encode(row)
    if isinstance(row, Sequence) and any(isinstance(token, bool | np.bool_) for token in row):
        raise InputError(f"{where}token ids must be integers, and a bool is none")
    try:
        ids = np.asarray(row)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}token ids must be a flat list of integers") from error
    if ids.size == 0:
        raise InputError(f"{where}no tokens: a trace needs at least one")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{where}token ids must be a flat list of integers, got {ids.dtype} of shape {ids.shape}")
    check_ids(model.config, ids, where)
    return ids.astype(np.int32)


def log_targets(model: Model, target: Any, n_inputs: int, *, single: bool) -> list[np.ndarray | None]:
    """Log-probabilities of the distribution of each input; None where it is the model's own prediction.

    Raises:
      InputError: other than one over the vocabulary, or None, for each.
    """
    if target is None:
        return [None] * n_inputs
    given = [target] if single or isinstance(target, str) else target
    if isinstance(given, bytes) or not hasattr(given, "__len__") or len(given) != n_inputs:
        raise InputError(f"target: expected {n_inputs} distributions or None, one for each input")
    return [None if distribution is None else _log_target(model, distribution) for distribution in given]


def _log_target(model: Model, target: Any) -> np.ndarray:
    """Log-probabilities ``[V]`` of a distribution, float32.

    Raises:
      InputError: not one over this vocabulary.
    """
    if isinstance(target, str):
        raise InputError(
            f"target = {target!r:.60}, expected probabilities of every token; to ask for a word, give"
            " metric=jstrace.log_prob(word)"
        )
    try:
        if np.iscomplexobj(target):
            raise TypeError("complex")
        probs = np.asarray(target, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"target is {type(target).__name__}, expected probabilities") from error
    wanted = (model.config.vocab_size,)
    if probs.shape != wanted:
        raise InputError(f"target has shape {probs.shape}, expected {wanted}: a probability of every token")
    if not np.isfinite(probs).all() or (probs < 0).any() or abs(probs.sum() - 1) > _SUM:
        raise InputError(f"target is no distribution: its numbers sum to {probs.sum():g}, from {probs.min():g}")
    return np.log(np.maximum(probs / probs.sum(), 1e-30)).astype(np.float32)
