"""Text to token ids and back, from a Hugging Face folder or from GGUF metadata; neither needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jstrace.models import InputError

_CONTROL = 3  # llama.cpp's token type of special tokens
_USER_DEFINED = 4


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


class GgufTokenizer:
    """A byte-level BPE rebuilt from GGUF metadata with the ``tokenizers`` library."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        if kind != "gpt2" or not isinstance(pre, str) or pre not in _PRE_TOKENIZERS:
            known = ", ".join(sorted(_PRE_TOKENIZERS))
            raise InputError(
                f"{where}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; supported: gpt2 with {known}"
            )
        try:
            self._tokenizer = _byte_level_bpe(metadata, pre)
            bos = metadata.get("tokenizer.ggml.add_bos_token", False)
            self._bos = [int(metadata["tokenizer.ggml.bos_token_id"])] if bos else []
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise InputError(f"{where}: its tokenizer metadata cannot be used ({error!r})") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, after a BOS token if the file asks for one."""
        return self._bos + self._tokenizer.encode(text, add_special_tokens=False).ids

    def token(self, token_id: int) -> str:
        """One token as text."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Write it as a fast tokenizer of ``transformers``, its BOS token as a template."""
        import tokenizers

        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        if self._bos:
            word = copy.id_to_token(self._bos[0])
            copy.post_processor = tokenizers.processors.TemplateProcessing(
                single=f"{word} $A", special_tokens=[(word, self._bos[0])]
            )
        folder.mkdir(parents=True)
        copy.save(str(folder / "tokenizer.json"))
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")


def _gpt2() -> Sequence[Any]:
    from tokenizers import pre_tokenizers as pre

    return (pre.ByteLevel(add_prefix_space=False),)


def _single_digits() -> Sequence[Any]:
    from tokenizers import pre_tokenizers as pre

    return (pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False))


def _llama3(digits: str = r"\p{N}{1,3}") -> Sequence[Any]:
    from tokenizers import Regex
    from tokenizers import pre_tokenizers as pre

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre.Split(Regex(pattern), behavior="isolated")
    return (split, pre.ByteLevel(add_prefix_space=False, use_regex=False))


def _qwen2() -> Sequence[Any]:
    return _llama3(digits=r"\p{N}")


_PRE_TOKENIZERS = {"gpt-2": _gpt2, "smollm": _single_digits, "llama-bpe": _llama3, "qwen2": _qwen2}
"""Values of ``tokenizer.ggml.pre`` with the splitting that each stands for."""


def _byte_level_bpe(metadata: Mapping[str, Any], pre: str) -> Any:
    import tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    bpe = tokenizers.models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=pre == "llama-bpe")
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(list(_PRE_TOKENIZERS[pre]()))
    if pre == "qwen2":
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type", [])
    special = [t for t, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
    added = [t for t, kind in zip(tokens, types, strict=False) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in added])
    return tokenizer
