"""Tokenizers for tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class Letters:
    """A tokenizer of single characters, spaces left out."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 97 for letter in text if letter != " "]

    def token(self, token_id: int) -> str:
        return f"<b>{token_id}"

    def save(self, folder: Path) -> None:
        pass


class Halves:
    """A tokenizer of half bytes, so that even a letter is several tokens; a byte is two of them."""

    def encode(self, text: str) -> list[int]:
        return [half for byte in text.encode() for half in divmod(byte, 16)]

    def token(self, token_id: int) -> str:
        return f"<{token_id:X}>"

    def text(self, token_ids: Sequence[int]) -> str:
        pairs = zip(token_ids[::2], token_ids[1::2], strict=False)
        return bytes(16 * (high % 16) + low % 16 for high, low in pairs).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        pass


HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'`${x}",
    "\u202eback",
    "😀\u200b",
    "\x00\x07\n\t",
    "<!--",
    "\u2028",
    "&lt;",
)


class Hostile:
    """A tokenizer whose tokens are what a page must not take for its own."""

    def encode(self, text: str) -> list[int]:
        return list(range(len(text)))

    def token(self, token_id: int) -> str:
        return HOSTILE[token_id % len(HOSTILE)]

    def save(self, folder: Path) -> None:
        pass
