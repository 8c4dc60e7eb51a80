"""What both readers of tokenizers give: ids of texts, and texts of ids, by the bytes that each token stands for."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jstrace.models import InputError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What a space is in pieces of SentencePiece."""
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
"""A token of SentencePiece that stands for one byte of a character that has no token."""
_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


class FastTokenizer:
    """A tokenizer of the ``tokenizers`` library."""

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._pieces = _pieces(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, default special tokens included.

        Raises:
          InputError: what the tokenizer has no token for.
        """
        try:
            return list(self._tokenizer.encode(text).ids)
        except Exception as error:  # the library raises bare Exceptions
            raise InputError(f"the tokenizer has no tokens for this text ({error})") from error

    def token(self, token_id: int) -> str:
        """One token as text, the space before it included; bytes of a part of a character as ``<0xE6>``."""
        content = self._bytes(token_id)
        return self._decoded([token_id]) if content is None else escaped(content)

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a sequence, decoded together; U+FFFD stands where bytes make no character."""
        contents = [self._bytes(token_id) for token_id in token_ids]
        whole = b"".join(content for content in contents if content is not None)
        if None in contents:
            return self._decoded(token_ids)
        starts = self._pieces is not None and self._pieces.first_space and whole.startswith(b" ")
        return whole[starts:].decode("utf-8", "replace")

    def decode(self, token_ids: Sequence[int]) -> str:
        """``text``, as other libraries call it."""
        return self.text(token_ids)

    def save(self, folder: Path) -> None:
        """Write it as a fast tokenizer of ``transformers``."""
        folder.mkdir(parents=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")

    def _bytes(self, token_id: int) -> bytes | None:
        """What a token stands for; None where only the library's decoder knows."""
        if self._pieces is None:
            return None
        piece = self._tokenizer.id_to_token(int(token_id))
        return b"" if piece is None else self._pieces.content(int(token_id), piece)

    def _decoded(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(token) for token in token_ids], skip_special_tokens=False))


def put_around(tokenizer: Any, bos: int | None, eos: int | None) -> None:
    """Have a tokenizer of the library put these tokens before and after every text."""
    from tokenizers.processors import TemplateProcessing

    ends = {name: token for name, token in (("bos", bos), ("eos", eos)) if token is not None}
    if ends:
        order = [name for name in ("bos", "$A", "eos") if name in ends or name == "$A"]
        special = [
            {"id": name, "ids": [token], "tokens": [tokenizer.id_to_token(token)]} for name, token in ends.items()
        ]
        tokenizer.post_processor = TemplateProcessing(single=" ".join(order), special_tokens=special)


def escaped(content: bytes) -> str:
    """Bytes as text, each of those that make no character as ``<0xE6>``."""
    letters = content.decode("utf-8", "surrogateescape")
    if letters.isascii():
        return letters
    return "".join(f"<0x{ord(x) - 0xDC00:02X}>" if "\udc80" <= x <= "\udcff" else x for x in letters)


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """How the pieces of a vocabulary are bytes."""

    byte_level: bool
    """Every letter of a piece is a byte, as in GPT-2; else a piece is text with visible spaces, as in SentencePiece."""
    byte_tokens: bool
    """Of the second kind: ``<0xE6>`` is a byte."""
    first_space: bool
    """Of the second kind: the first space of a text is the tokenizer's own."""
    added: Mapping[int, str]
    """Tokens that never went through the model's alphabet, by id."""

    def content(self, token_id: int, piece: str) -> bytes:
        """The bytes of a token."""
        own = self.added.get(token_id)
        if self.byte_level:
            try:
                return bytes(map(_alphabet().__getitem__, piece)) if own is None else own.encode()
            except KeyError:
                return piece.encode()
        byte = _BYTE.fullmatch(piece) if self.byte_tokens else None
        if byte:
            return bytes.fromhex(byte[1])
        # Runs of spaces are added tokens in some vocabularies, which the model makes of spaces all the same.
        return piece.replace(SPACE, " ").encode() if own is None or not own.strip(SPACE) else own.encode()


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's letter for every byte: its own where that can be printed, else the next one from U+0100 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_STEPS: Mapping[str, Mapping[str, Any]] = {
    "Replace": {"pattern": {"String": SPACE}, "content": " "},
    "Metaspace": {"replacement": SPACE},
    "ByteFallback": {},
    "Fuse": {},
    "Strip": {"content": " ", "start": 1, "stop": 0},
}
"""What decoders of SentencePiece's kind are made of."""


def _pieces(tokenizer: Any) -> _Pieces | None:
    """How a tokenizer's pieces are bytes, by its decoder; None where that is of neither kind."""
    if tokenizer.decoder is None:
        return None
    steps = {step["type"]: step for step in _steps(json.loads(tokenizer.decoder.__getstate__()))}
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    if steps.keys() - {"Fuse"} == {"ByteLevel"}:
        return _Pieces(True, False, False, added)
    known = all(kind in _STEPS and _STEPS[kind].items() <= step.items() for kind, step in steps.items())
    if not known or not steps.keys() & {"Replace", "Metaspace"} or ("Strip" in steps and "Fuse" not in steps):
        return None
    taken = "Strip" in steps or steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never"
    return _Pieces(False, "ByteFallback" in steps, taken, added)


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The decoders that one is a sequence of."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _steps(part)]
