"""What a GGUF file's metadata say of its tokenizer: checked, with llama.cpp's defaults where they say nothing.

The facts are those of llama.cpp's ``src/llama-vocab.cpp``, ``llama_vocab::impl::load``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jstrace.convert.fast_tokenizer import escaped
from jstrace.convert.gguf.splits import PreTokenizer

_PREFIX = "tokenizer.ggml."
SENTENCEPIECE, BYTE_LEVEL = "llama", "gpt2"
"""Values of ``tokenizer.ggml.model``; llama.cpp's others (bert, t5, rwkv, plamo2) are of no family here."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types. Unused ones and those of unknown types are read and written as normal ones are."""
_CONTROL_ALWAYS = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "</s>",
    "<eos>", "[EOS]", "<EOT>", "_<EOT>", "[EOT]", "<end_of_turn>", "<end_of_utterance>", "<|endoftext|>",
    "<|end_of_text|>", "<｜end▁of▁sentence｜>",
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
}  # fmt: skip
"""Tokens that end a text or a turn, and those around the parts of code, whatever type the file gives them."""


_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}
"""Of files that do not say; llama.cpp's ids of byte-level ones (11) are those of a single model."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file, and what is put around texts."""

    splitting: PreTokenizer | None
    """None of SentencePiece's kind, which splits nothing."""
    tokens: list[str]
    """Bytes that are no UTF-8 as ``<0xE6>``: no text holds them."""
    stored: list[str]
    """The same as the file has them, such bytes as Python's halves of surrogate pairs."""
    types: list[int]
    scores: list[float]
    """Of SentencePiece's kind."""
    merges: list[tuple[str, str]]
    """Of the byte-level kind."""
    unknown: str | None
    """Of SentencePiece's kind."""
    bos: int | None
    """Where it is put before texts."""
    eos: int | None
    """Where it is put after texts."""
    space_prefix: bool
    """Of SentencePiece's kind: whether a space is put before texts."""

    def of_types(self, *types: int) -> list[str]:
        """The tokens of these types that a text can hold."""
        rows = zip(self.tokens, self.stored, self.types, strict=True)
        return [token for token, stored, kind in rows if kind in types and token == stored]


def read_vocabulary(metadata: Mapping[str, Any], splitting: PreTokenizer | None) -> Vocabulary:
    """The vocabulary of a file: byte-level with a pre-tokenizer, without one of SentencePiece's kind.

    Raises:
      ValueError: what is missing, of another type than it should be, or does not belong together.
    """
    fields, sentencepiece = _Metadata(metadata), splitting is None
    stored = [token or f"[EMPTY_{index}]" for index, token in enumerate(fields.texts("tokens"))]
    tokens = [_spelled(token) for token in stored]
    places: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if places.setdefault(token, index) != index:
            raise ValueError(f"tokens {places[token]} and {index} are both {token!r}")
    known = _SENTENCEPIECE_IDS if sentencepiece else {}
    unknown = fields.token("unknown", len(tokens), known) if sentencepiece else None
    return Vocabulary(
        splitting,
        tokens,
        stored,
        types=_types(fields, tokens),
        scores=fields.numbers("scores", len(tokens)) if sentencepiece else [],
        merges=[] if sentencepiece else [_halves(_spelled(merge)) for merge in fields.texts("merges")],
        unknown=None if unknown is None else tokens[unknown],
        bos=fields.end("bos", True if splitting is None else splitting.add_bos, len(tokens), known),
        eos=fields.end("eos", False, len(tokens), known),
        space_prefix=fields.flag("add_space_prefix", True) if sentencepiece else False,
    )


def _halves(merge: str) -> tuple[str, str]:
    """The two tokens that a merge joins."""
    first, space, second = merge.partition(" ")
    if not space:
        raise ValueError(f"merge {merge[:80]!r} is no pair of tokens")
    return first, second


def _spelled(text: str) -> str:
    """A text of the file; where it is no UTF-8 its bytes, as no library takes halves of letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return escaped(text.encode("utf-8", "surrogateescape"))
    return text


def _types(fields: _Metadata, tokens: list[str]) -> list[int]:
    """The type of every token; without a list all are normal."""
    given = fields.numbers("token_type", len(tokens), [NORMAL] * len(tokens))
    return [CONTROL if token in _CONTROL_ALWAYS else int(kind) for token, kind in zip(tokens, given, strict=True)]


class _Metadata:
    """The fields of the tokenizer by their short names, checked."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._values = metadata

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        texts = self._values.get(_PREFIX + name)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{_PREFIX}{name} is {'missing' if texts is None else 'no list of texts'}")
        return texts

    def numbers(self, name: str, count: int, default: list[int] | None = None) -> list[Any]:
        """A number for each of ``count`` tokens; a list may be longer, as llama.cpp has it."""
        numbers = self._values.get(_PREFIX + name, default)
        if not isinstance(numbers, list) or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{_PREFIX}{name} is {'missing' if numbers is None else 'no list of numbers'}")
        if len(numbers) < count:
            raise ValueError(f"{_PREFIX}{name} has {len(numbers)} numbers for {count} tokens")
        return numbers[:count]

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(_PREFIX + name, default)
        if not isinstance(value, int | float) or value not in (0, 1):
            raise ValueError(f"{_PREFIX}{name} is {str(value)[:80]!r}, expected true or false")
        return bool(value)

    def token(self, which: str, count: int, known: Mapping[str, int]) -> int | None:
        """The id of a token with a part of its own; outside the vocabulary it is none, and the default counts."""
        name = f"{_PREFIX}{which}_token_id"
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None) or (value or 0) % 1:
            raise ValueError(f"{name} is {str(value)[:80]!r}, expected the number of a token")
        ids = (None if number is None else int(number) for number in (value, known.get(which)))
        return next((number for number in ids if number is not None and 0 <= number < count), None)

    def end(self, which: str, default: bool, count: int, known: Mapping[str, int]) -> int | None:
        """The id of the BOS or EOS token, where texts are to have it."""
        if not self.flag(f"add_{which}_token", default):
            return None
        token = self.token(which, count, known)
        if token is None:
            raise ValueError(f"texts are to have a {which.upper()} token, and {_PREFIX}{which}_token_id names none")
        return token
