"""Tokenizers for tiny models."""

from __future__ import annotations

from pathlib import Path


class Letters:
    """A tokenizer of single characters, spaces left out."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 97 for letter in text if letter != " "]

    def token(self, token_id: int) -> str:
        return f"<b>{token_id}"

    def save(self, folder: Path) -> None:
        pass
