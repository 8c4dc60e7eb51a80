"""The tokenizer of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from jstrace.models import InputError

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What a space is in pieces of SentencePiece."""


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
        """One token as text, the space before it included."""
        text: str = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(piece, str):
            return text
        # Decoders of SentencePiece's kind take the first space of all that they decode for one that was put there.
        missing = len(piece) - len(piece.lstrip(_SPACE)) - (len(text) - len(text.lstrip(" ")))
        return " " * missing + text

    def save(self, folder: Path) -> None:
        """Write its files."""
        self._tokenizer.save_pretrained(folder)
