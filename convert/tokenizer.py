"""Text to token ids and back: what jstrace needs of a tokenizer, and the one of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from jstrace.models import InputError


@runtime_checkable
class Tokenizer(Protocol):
    """What jstrace needs of a tokenizer; special tokens are the tokenizer's own defaults, no chat template."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, default special tokens included."""
        ...

    def token(self, token_id: int) -> str:
        """One token as text, spaces included; for tables and words."""
        ...

    def save(self, folder: Path) -> None:
        """Write what ``HfTokenizer(folder)`` reads back, where there is anything to write."""
        ...


class HfTokenizer:
    """The tokenizer of a Hugging Face folder, through ``transformers`` (never its remote code)."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # damaged files give errors of every kind, bare Exceptions among them
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise InputError(f"{folder}: its tokenizer could not be read ({reason})") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, default special tokens included."""
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def token(self, token_id: int) -> str:
        """One token as text."""
        return self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write its files."""
        self._tokenizer.save_pretrained(folder)


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
