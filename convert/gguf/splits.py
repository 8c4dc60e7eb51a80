"""How byte-level tokenizers of GGUF files split texts before they merge: one row for each ``tokenizer.ggml.pre``.

The names, and which of them begin texts with a BOS token and take whole words that are tokens, are those of llama.cpp
(``src/llama-vocab.cpp``, revision 00ad355e: ``llm_tokenizer_bpe`` and ``llama_vocab::impl::load``). Patterns are those
of the published ``tokenizer.json`` files, which llama.cpp approximates where its engine lacks a class of letters. Each
is applied to the pieces of the one before: what matches is a piece of its own, and so is what lies between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SLASH = _REST.replace(r"[\r\n]*", r"[\r\n/]*")
_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = (
    rf"{_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED_RANGES = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376-377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5
3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15
1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3
1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139
213C-213F 2145-2149 214E 2183-2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2-2CF3 A640-A66D A680-A69B A722-A76F A771-A787
A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2
118A0-118DF 1E900-1E943
"""
_CASED_LETTERS = "".join("-".join(f"\\x{{{end}}}" for end in ends.split("-")) for ends in _CASED_RANGES.split())
"""Letters that have a case, of DeepSeek-LLM."""
_MARKS = r"!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}"
_HAN = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_SENTENCE = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+"
"""Of BLOOM: no bracket and no mark that ends a clause."""
_LLAMA3 = (rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}{_REST}",)
_QWEN2 = (rf"{_ENDINGS}|{_WORD}|\p{{N}}{_REST}",)
_REST_OF_MARKS = _REST.replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}")
_WITH_MARKS = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}{_REST_OF_MARKS}"
_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "llama3": _LLAMA3,
    "qwen2": _QWEN2,
    "qwen3.5": (rf"{_ENDINGS}|{_WITH_MARKS}",),
    "tekken": (rf"{'|'.join(_CASED)}|\p{{N}}{_SLASH}",),
    "gpt-4o": (rf"{'|'.join(f'{word}{_ENDINGS}?' for word in _CASED)}|\p{{N}}{{1,3}}{_SLASH}",),
    "deepseek-llm": (
        r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", rf"\s?[{_MARKS}]+", r"\s+$", _HAN, r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}"),
    "deepseek-v3": (r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", _DEEPSEEK3),
    "bloom": (_SENTENCE,),
    "viking": (_SENTENCE, r"\p{N}"),
    "seed-coder": (rf"{_ENDINGS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",),
    "bailingmoe": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
}  # fmt: skip
"""Of splits that ``ByteLevel`` does not know."""
_THEN_GPT2: Mapping[str, tuple[str, ...]] = {
    "gpt2": (),
    "digits": (r"\p{N}",),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+",),
}
"""Of splits after which GPT-2's own comes."""


@dataclasses.dataclass(frozen=True)
class PreTokenizer:
    """A value of ``tokenizer.ggml.pre``: how texts are split, and what goes with it."""

    split: str
    """A key of the patterns."""
    add_bos: bool = False
    ignore_merges: bool = False
    """Whether a word that is a token is that token, whatever the merges make of it."""
    composed: bool = False
    """Whether texts are normalised to NFC first, which the published tokenizers do and llama.cpp leaves out."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """By which a text is split, one after another."""
        return _PATTERNS[self.split] if self.split in _PATTERNS else _THEN_GPT2[self.split]

    @property
    def then_gpt2(self) -> bool:
        """Whether what they leave is split as GPT-2 splits."""
        return self.split not in _PATTERNS

    @property
    def triples(self) -> bool:
        """Whether runs of digits are cut in threes last."""
        return self.split == "falcon"


def _named(names: str, how: PreTokenizer) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), how)


PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    **_named("gpt-2 phi-2 gigachat a.x-4.0 mellum jais trillion exaone4", PreTokenizer("gpt2")),
    **_named("mpt olmo", PreTokenizer("gpt2", composed=True)),  # GPT-NeoX's
    **_named("smollm starcoder refact codeshell exaone minerva-7b", PreTokenizer("digits")),
    "command-r": PreTokenizer("digits", composed=True),
    **_named(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        PreTokenizer("llama3", add_bos=True, ignore_merges=True),
    ),
    **_named("smaug-bpe dbrx glm4 chatglm-bpe", PreTokenizer("llama3")),
    "tekken": PreTokenizer("tekken", add_bos=True, ignore_merges=True),
    **_named("qwen2 deepseek-r1-qwen", PreTokenizer("qwen2", composed=True)),
    "qwen35": PreTokenizer("qwen3.5", composed=True),
    **_named("stablelm2 megrez hunyuan kormo solar-open", PreTokenizer("qwen2")),
    **_named("gpt-4o llama4 kanana2", PreTokenizer("gpt-4o")),
    "deepseek-llm": PreTokenizer("deepseek-llm"),
    "deepseek-coder": PreTokenizer("deepseek-coder"),
    **_named("deepseek-v3 hunyuan-dense", PreTokenizer("deepseek-v3")),
    "falcon": PreTokenizer("falcon"),
    **_named("bloom poro-chat gpt3-finnish", PreTokenizer("bloom")),
    "viking": PreTokenizer("viking"),
    "seed-coder": PreTokenizer("seed-coder"),
    **_named("bailingmoe bailingmoe2 llada-moe", PreTokenizer("bailingmoe")),
}
"""Of all that llama.cpp knows those are left out whose model is of no decoder here, or whose splits are no patterns."""
