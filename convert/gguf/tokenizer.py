"""The tokenizer that a GGUF file describes in its metadata, rebuilt without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jstrace.models import InputError

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Token types of llama.cpp."""
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's visible space."""
_LONGEST = 2000
"""Letters of a token; every way of cutting it in two is looked at."""


class GgufTokenizer:
    """A BPE rebuilt from GGUF metadata with the ``tokenizers`` library: byte-level, or SentencePiece's."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        sentencepiece = kind == "llama"
        if not sentencepiece and (kind != "gpt2" or not isinstance(pre, str) or pre not in _PRE_TOKENIZERS):
            known = ", ".join(sorted(_PRE_TOKENIZERS))
            raise InputError(
                f"{where}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; supported: llama, and gpt2"
                f" with {known}"
            )
        try:
            self._tokenizer = _sentencepiece_bpe(metadata) if sentencepiece else _byte_level_bpe(metadata, str(pre))
            bos = metadata.get("tokenizer.ggml.add_bos_token", sentencepiece)
            self._bos = [int(metadata["tokenizer.ggml.bos_token_id"])] if bos else []
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise InputError(f"{where}: its tokenizer metadata cannot be used ({error!r})") from error

    @classmethod
    def of_text(cls, text: str, bos: list[int]) -> GgufTokenizer:
        """What ``as_text`` gave."""
        import tokenizers

        found = cls.__new__(cls)
        found._tokenizer, found._bos = tokenizers.Tokenizer.from_str(text), bos
        return found

    def as_text(self) -> tuple[str, list[int]]:
        """The tokenizer as JSON of the ``tokenizers`` library, and the ids that it puts before every text."""
        return self._tokenizer.to_str(), self._bos

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
    return _with_added(tokenizer, metadata)


def _with_added(tokenizer: Any, metadata: Mapping[str, Any]) -> Any:
    """Special and user-defined tokens are never split."""
    import tokenizers

    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", [])
    special = [t for t, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
    added = [t for t, kind in zip(tokens, types, strict=False) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in added])
    return tokenizer


def _sentencepiece_bpe(metadata: Mapping[str, Any]) -> Any:
    """SentencePiece merges the adjacent pair whose union scores highest; as a BPE that is a list of merges by score."""
    import tokenizers
    from tokenizers import decoders, normalizers

    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    merges = _merges_by_score(vocabulary, scores)
    bpe = tokenizers.models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return _with_added(tokenizer, metadata)


def _merges_by_score(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way of making a token of two others, best token first."""
    found = []
    for token, index in vocabulary.items():
        if len(token) > _LONGEST:
            raise ValueError(f"token {index} has {len(token)} letters")
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        found += [(-scores[index], index, pair) for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
    return [pair for _, _, pair in sorted(found)]
