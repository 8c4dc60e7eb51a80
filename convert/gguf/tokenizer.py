"""The tokenizer that a GGUF file describes in its metadata, rebuilt without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jstrace.convert.fast_tokenizer import SPACE, FastTokenizer, put_around
from jstrace.convert.gguf.splits import PRE_TOKENIZERS
from jstrace.convert.gguf.vocabulary import (
    BYTE_LEVEL,
    CONTROL,
    SENTENCEPIECE,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from jstrace.models import InputError

_LONGEST = 2000
"""Letters of a token; every way of cutting it in two is looked at."""


class GgufTokenizer(FastTokenizer):
    """A BPE rebuilt from GGUF metadata with the ``tokenizers`` library: byte-level, or SentencePiece's."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        splitting = PRE_TOKENIZERS.get(pre) if isinstance(pre, str) else None
        if kind != SENTENCEPIECE and (kind != BYTE_LEVEL or splitting is None):
            raise InputError(
                f"{where}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; supported: {SENTENCEPIECE},"
                f" and {BYTE_LEVEL} with {', '.join(sorted(PRE_TOKENIZERS))}"
            )
        try:
            vocabulary = read_vocabulary(metadata, None if kind == SENTENCEPIECE else splitting)
            made = _sentencepiece(vocabulary) if vocabulary.splitting is None else _byte_level(vocabulary)
            _add_tokens(made, vocabulary)
            put_around(made, vocabulary.bos, vocabulary.eos)
            super().__init__(made)
        except Exception as error:  # the tokenizers library raises bare Exceptions
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise InputError(f"{where}: its tokenizer metadata cannot be used ({reason})") from error

    @classmethod
    def of_text(cls, text: str) -> GgufTokenizer:
        """What ``as_text`` gave."""
        import tokenizers

        tokenizer = cls.__new__(cls)
        FastTokenizer.__init__(tokenizer, tokenizers.Tokenizer.from_str(text))
        return tokenizer

    def as_text(self) -> str:
        """The tokenizer as JSON of the ``tokenizers`` library."""
        return str(self._tokenizer.to_str())


def _byte_level(vocabulary: Vocabulary) -> Any:
    import tokenizers
    from tokenizers import pre_tokenizers as pre

    how = vocabulary.splitting
    assert how is not None
    bpe = tokenizers.models.BPE(_places(vocabulary), vocabulary.merges, fuse_unk=False, ignore_merges=how.ignore_merges)
    tokenizer = tokenizers.Tokenizer(bpe)
    steps: list[Any] = [pre.Split(tokenizers.Regex(pattern), behavior="isolated") for pattern in how.patterns]
    if how.split == "digits":  # as the files of such tokenizers have it
        steps = [pre.Digits(individual_digits=True)]
    steps.append(pre.ByteLevel(add_prefix_space=False, use_regex=how.then_gpt2))
    if how.triples:
        steps.append(pre.Split(tokenizers.Regex("[0-9][0-9][0-9]"), behavior="isolated"))
    tokenizer.pre_tokenizer = pre.Sequence(steps)
    if how.composed:
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _places(vocabulary: Vocabulary) -> dict[str, int]:
    return {token: index for index, token in enumerate(vocabulary.tokens)}


def _add_tokens(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Special and user-defined tokens are never split."""
    from tokenizers import AddedToken

    special, added = vocabulary.of_types(CONTROL, UNKNOWN), vocabulary.of_types(USER_DEFINED)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])


def _sentencepiece(vocabulary: Vocabulary) -> Any:
    """SentencePiece merges the adjacent pair whose union scores highest; as a BPE that is a list of merges by score."""
    import tokenizers
    from tokenizers import decoders, normalizers
    from tokenizers import pre_tokenizers as pre

    places = _places(vocabulary)
    unknown = next(iter(vocabulary.of_types(UNKNOWN)), vocabulary.unknown)
    merges = _merges_by_score(places, vocabulary)
    bpe = tokenizers.models.BPE(places, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.space_prefix:
        # A space before the text, whatever it begins with; and one after each special token, unless there is one.
        first = pre.Metaspace(replacement=" ", prepend_scheme="first", split=False)
        others = pre.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
        tokenizer.pre_tokenizer = pre.Sequence([first, others])
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_by_score(places: Mapping[str, int], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way of making a token of two others, best token first."""
    merges = []
    for index, token in enumerate(vocabulary.stored):
        if len(token) > _LONGEST:
            raise ValueError(f"token {index} has {len(token)} letters")
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = (pair for pair in halves if pair[0] in places and pair[1] in places)
        merges += [(-vocabulary.scores[index], index, pair) for pair in pairs]
    return [pair for _, _, pair in sorted(merges)]
