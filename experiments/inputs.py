"""Texts that experiments share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jstrace
from jstrace.models import Model
from jstrace.scale import batching

UNSEEN = (300, 310, 320, 330, 340)
"""Rows whose states no fit has seen."""


def texts_of(path: Path) -> list[str]:
    """The texts of a tab-separated file."""
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]


def unseen(model: Model, texts: list[str], n_tokens: int) -> list[jstrace.Replacement]:
    """States of texts that no fit has seen, filled up with those that follow them."""
    assert model.tokenizer is not None
    found = []
    for row in UNSEEN:
        joined = " ".join(texts[row : row + 8])
        found.append(jstrace.resample_replacement(model, model.tokenizer.encode(joined)[:n_tokens]))
    return found


def padded_to(width: int) -> Any:
    """All inputs of up to so many tokens in one bucket, while the context lasts."""
    real: Callable[[int], int] = batching.bucket
    return mock.patch.object(batching, "bucket", lambda n_tokens: width if n_tokens <= width else real(n_tokens))
