"""Tokens of a dataset: the true next one of a row, and how often each occurs in a corpus."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from jstrace.runs.following import between
from jstrace.runs.row import Passage, Row


@runtime_checkable
class Encoder(Protocol):
    """What this module needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


def next_token(tokenizer: Encoder, row: Row, tokens: list[int]) -> int | None:
    """The token that follows in the text as it goes on, where the text's own tokens stay what they are before it."""
    if row.next_word is None:
        return None
    space = " " if isinstance(row, Passage) else between(row.text, row.next_word)
    longer = tokenizer.encode(f"{row.text}{space}{row.next_word}")
    return longer[len(tokens)] if longer[: len(tokens)] == tokens and len(longer) > len(tokens) else None


def token_fingerprint(counts: Counter[int]) -> str:
    """A short hash that tells tokenizers apart by what they make of a corpus."""
    return hashlib.sha256(repr(sorted(counts.items())).encode()).hexdigest()[:16]


def token_counts(tokenizer: Encoder, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs in a corpus (Fig. 8)."""
    found: Counter[int] = Counter()
    for text in texts:
        found.update(tokenizer.encode(text))
    return found
