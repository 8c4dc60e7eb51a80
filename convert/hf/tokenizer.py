"""The tokenizer of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from jstrace.models import InputError


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
