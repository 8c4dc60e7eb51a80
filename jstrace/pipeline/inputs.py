"""Texts and token ids as checked arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jstrace.models import InputError, Model, check_ids

Tokens = str | Sequence[int] | np.ndarray
"""A text, or token ids."""


def tokenised(model: Model, inputs: Tokens | Sequence[Tokens]) -> tuple[bool, list[np.ndarray]]:
    """Whether ``inputs`` is a single one, and the token ids of each."""
    if not hasattr(inputs, "__len__"):
        raise InputError(f"expected a text, token ids or a list of them, got {type(inputs).__name__}")
    if isinstance(inputs, list | tuple) and not inputs:
        return False, []  # no inputs, no traces
    first = inputs[0] if len(inputs) else 0
    single = isinstance(inputs, str) or (np.ndim(first) == 0 and not isinstance(first, str))
    rows: Sequence[Tokens] = [inputs] if single else inputs  # type: ignore[list-item,assignment]
    return single, [_token_ids(model, row, "" if single else f"input {i}: ") for i, row in enumerate(rows)]


def _token_ids(model: Model, row: Tokens, where: str) -> np.ndarray:
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
