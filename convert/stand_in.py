"""What stands in for a tokenizer that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jstrace.models import InputError, Tokenizer


class NoTokenizer:
    """Stands in for a tokenizer that cannot be read, so that the model still takes token ids."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def encode(self, text: str) -> list[int]:
        """Refuse, with the reason and the remedy."""
        raise InputError(f"{self.reason}; pass token ids instead of text")

    def token(self, token_id: int) -> str:
        """The id itself."""
        return f"<{token_id}>"

    def save(self, folder: Path) -> None:
        """Nothing."""


def tokenizer_or_reason(make: Callable[[], Tokenizer]) -> Tokenizer:
    """The tokenizer, or a stand-in that refuses text with the reason."""
    try:
        return make()
    except InputError as error:
        return NoTokenizer(str(error))
