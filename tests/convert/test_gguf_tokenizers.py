"""Tokenizers of GGUF files, by what llama.cpp's vocabulary loader takes where the metadata say nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.models.qwen3_5 import tokenization_qwen3_5

from jstrace.convert.fast_tokenizer import _alphabet
from jstrace.convert.gguf.splits import PRE_TOKENIZERS
from jstrace.convert.gguf.tokenizer import GgufTokenizer
from jstrace.convert.hf.tokenizer import HfTokenizer
from jstrace.models import InputError

pytestmark = pytest.mark.quick

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
LETTERS = sorted(_alphabet(), key=_alphabet().__getitem__)
"""Of a byte-level vocabulary: the token of every byte, by the byte."""
BEGIN, END = 256, 257


def byte_level(pre: str, more: tuple[str, ...] = (), types: tuple[int, ...] = (), **fields: Any) -> GgufTokenizer:
    """A vocabulary of bytes, of a token to begin and one to end with, and of others."""
    metadata = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*LETTERS, "<|begin|>", "<|end|>", *more],
        "token_type": [NORMAL] * 256 + [CONTROL, CONTROL, *types],
        "merges": [],
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }
    return made(metadata | fields)


def made(metadata: dict[str, Any]) -> GgufTokenizer:
    named = {f"tokenizer.ggml.{name}": value for name, value in metadata.items() if value is not None}
    return GgufTokenizer(named, "here")


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁▁", "<user>"]
ID = {piece: index for index, piece in enumerate(PIECES)}


def sentencepiece(**fields: Any) -> GgufTokenizer:
    """A vocabulary of SentencePiece's kind that says nothing but its tokens."""
    metadata = {
        "model": "llama",
        "tokens": PIECES,
        "scores": [-float(index) for index in range(len(PIECES))],
        "token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 5, USER_DEFINED],
    }
    return made(metadata | fields)


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "tekken"])
def test_pre_tokenizers_that_begin_texts(pre: str) -> None:
    """Llama 3's among them, whose files leave the field out."""
    assert byte_level(pre).encode("a") == [BEGIN, ord("a")]
    assert byte_level(pre, add_bos_token=False).encode("a") == [ord("a")]


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "deepseek-r1-qwen", "smaug-bpe"])
def test_pre_tokenizers_that_do_not(pre: str) -> None:
    assert byte_level(pre).encode("a") == [ord("a")]
    assert byte_level(pre, add_bos_token=True).encode("a") == [BEGIN, ord("a")]
    assert byte_level(pre, add_eos_token=True).encode("a") == [ord("a"), END]


def test_defaults_of_sentencepiece() -> None:
    """A BOS, a space and no EOS, which are the tokens 1 and 2 where the file names none."""
    assert sentencepiece().encode("a") == [1, ID["▁a"]]
    assert sentencepiece(add_bos_token=0, add_eos_token=1).encode("a") == [ID["▁a"], 2]
    assert sentencepiece(add_space_prefix=False).encode("a") == [1, ID["a"]]
    assert sentencepiece(bos_token_id=ID["b"], eos_token_id=2.0, add_eos_token=True).encode("a") == [
        *(ID["b"], ID["▁a"], 2)
    ]
    assert sentencepiece(bos_token_id=2**32 - 1).encode("a") == [1, ID["▁a"]], "no token: as if there were no field"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes', expected true or false"),
        ({"add_eos_token": 2}, "add_eos_token is '2', expected true or false"),
        ({"add_eos_token": [True]}, r"add_eos_token is '\[True\]', expected true or false"),
        ({"bos_token_id": None}, "texts are to have a BOS token, and tokenizer.ggml.bos_token_id names none"),
        ({"bos_token_id": 9999}, "tokenizer.ggml.bos_token_id names none"),
        ({"bos_token_id": "256"}, "bos_token_id is '256', expected the number of a token"),
        ({"bos_token_id": True}, "bos_token_id is 'True', expected the number of a token"),
        ({"token_type": [NORMAL]}, "token_type has 1 numbers for 258 tokens"),
        ({"token_type": "normal"}, "token_type is no list of numbers"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": [*LETTERS, "a"]}, "tokens 97 and 256 are both 'a'"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["ab"]}, "merge 'ab' is no pair of tokens"),
    ],
)
def test_metadata_that_make_no_tokenizer(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"its tokenizer metadata cannot be used \(.*{message}"):
        byte_level("llama-bpe", **fields)


def test_token_types() -> None:
    """Control, unknown and user-defined tokens are whole in a text; so are ends of texts, whatever their type."""
    tokenizer = sentencepiece()
    assert tokenizer.encode("a<unk>") == [1, ID["▁a"], ID["<unk>"]]
    assert tokenizer.encode("a</s><user>") == [1, ID["▁a"], ID["</s>"], ID["<user>"]]
    assert tokenizer.encode("é") == [1, ID["▁"], ID["<0xC3>"], ID["<0xA9>"]]
    normal = byte_level("gpt-2", ("<|eot_id|>", "<|fim_prefix|>", "<|other|>"), (NORMAL, NORMAL, NORMAL))
    assert normal.encode("<|eot_id|><|fim_prefix|>") == [END + 1, END + 2]
    assert normal.encode("<|other|>") == list(b"<|other|>")


def test_without_token_types() -> None:
    """All are normal; bytes are known by their names, and unknown letters are token 0 where there are no bytes."""
    assert sentencepiece(token_type=None).encode("é") == [1, ID["▁"], ID["<0xC3>"], ID["<0xA9>"]]
    few = ["<unk>", "<s>", "▁", "a"]
    assert sentencepiece(token_type=None, tokens=few).encode("aé") == [1, 2, 3, 0]


def test_spaces_around_special_tokens(tmp_path: Path) -> None:
    """One is put before the text in any case, and after a special token where the text has none; also once saved."""
    expected = {
        " a": [ID["▁"], ID["▁a"]],
        "a<unk>a": [ID["▁a"], ID["<unk>"], ID["▁a"]],
        "a <unk> a": [ID["▁a"], ID["▁"], ID["<unk>"], ID["▁a"]],
        "a<user>  b": [ID["▁a"], ID["<user>"], ID["▁▁"], ID["b"]],
        "<s>a": [ID["<s>"], ID["▁a"]],
    }
    tokenizer = sentencepiece(add_eos_token=True)
    tokenizer.save(tmp_path / "saved")
    kept = GgufTokenizer.of_text(tokenizer.as_text())
    for text, ids in expected.items():
        for one in (tokenizer, kept, HfTokenizer(tmp_path / "saved")):
            assert one.encode(text) == [1, *ids, 2]


def test_texts_of_tokens() -> None:
    """An added token is its own text, a byte a byte; a sequence is decoded as one."""
    added = ("<|début|>", "čaj", "ilÖ", "東京")
    tokenizer = byte_level("gpt-2", added, (CONTROL, *[USER_DEFINED] * 3))
    ids = tokenizer.encode("".join(added))
    assert [tokenizer.token(i) for i in ids] == list(added)
    parts = tokenizer.encode(" é日")
    assert [tokenizer.token(i) for i in parts] == [" ", "<0xC3>", "<0xA9>", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.text([*ids, *parts]) == "".join(added) + " é日"
    assert tokenizer.text(parts[:-1]) == " é\ufffd", "bytes that are truly incomplete"
    spaced = sentencepiece()
    assert [spaced.token(i) for i in spaced.encode("a é")] == ["<s>", " a", " ", "<0xC3>", "<0xA9>"]
    assert spaced.text(spaced.encode("a é")) == "<s> a é"
    assert spaced.text(spaced.encode("a é")[1:]) == "a é", "the space before the text is the tokenizer's own"
    assert spaced.text([ID["<0xC3>"], *spaced.encode("é")[2:]]) == "\ufffdé", "a broken character spoils no other"


def test_tokens_that_are_no_utf8() -> None:
    """They are in no text, and read as their bytes."""
    tokens = [*LETTERS, "<|begin|>", "<|end|>", "caf\udce9"]
    tokenizer = byte_level("gpt-2", tokens=tokens, token_type=None, add_bos_token=True)
    assert tokenizer.encode("caf") == [BEGIN, *b"caf"]
    assert tokenizer.token(END + 1) == "caf<0xE9>"
    spaced = sentencepiece(tokens=[*PIECES[:-1], "a\udcc3"])
    assert spaced.encode("aé") == [1, ID["▁a"], ID["<0xC3>"], ID["<0xA9>"]]
    assert spaced.encode("a<0xC3>")[:2] == [1, ID["▁a"]]


def merged(text: str, vocabulary: dict[str, int], scores: list[float], prefix: bool) -> list[int]:
    """The definition: merge the adjacent pair whose union scores highest, the leftmost first, until there is none."""
    pieces = list((("▁" if prefix else "") + text).replace(" ", "▁"))
    while True:
        unions = [(a + b, i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in vocabulary]
        if not unions:
            break
        _, at = min((-scores[vocabulary[union]], i) for union, i in unions)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    ids = []
    for piece in pieces:
        known = [piece] if piece in vocabulary else [f"<0x{byte:02X}>" for byte in piece.encode()]
        ids += [vocabulary[name] for name in known]
    return ids


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_sentencepiece_tokenizers(prefix: bool, seed: int, tmp_path: Path) -> None:
    """Against the definition, on a random vocabulary with byte fallback; the same after being saved and read."""
    rng = np.random.default_rng(seed)
    words = {"".join(rng.choice(list("abc▁"), int(n))) for n in rng.integers(2, 6, 120)}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abc▁", *sorted(words)]
    n_special, scores = len(tokens) - len(words), [0.0] * len(tokens)
    scores[n_special:] = [-float(s) for s in rng.permutation(len(words))]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    tokenizer = GgufTokenizer(metadata, "here")
    tokenizer.save(tmp_path / "saved")
    back, vocabulary = HfTokenizer(tmp_path / "saved"), {token: i for i, token in enumerate(tokens)}
    for text in ("abc abca  bcab", "a", "ccc é日 ab", *("".join(rng.choice(list("abc "), 30)) for _ in range(40))):
        expected = [1, *merged(text, vocabulary, scores, prefix)]
        assert tokenizer.encode(text) == expected
        assert back.encode(text) == expected
        if "é" not in text:
            assert "".join(tokenizer.token(i) for i in expected[1:]) == (" " if prefix else "") + text


# --- how texts are split ----------------------------------------------------------------------------------------------

SPLITS = {
    "gpt-2": ["It", "'s", " 1234", " ÀBé", "!?", " 東京", "\n", "\n", "x"],
    "starcoder": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n", "\n", "x"],
    "command-r": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n", "\n", "x"],
    "llama-bpe": ["It", "'s", " ", "123", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "qwen2": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "qwen35": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "tekken": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "gpt-4o": ["It's", " ", "123", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "deepseek-llm": ["It", "'", "s", " ", "1234", " À", "B", "é", "!?", " ", "東京", "\n", "\n", "x"],
    "deepseek-coder": ["It", "'", "s", " ", "1", "2", "3", "4", " ÀBé", "!?", " ", "東京", "\n", "\n", "x"],
    "deepseek-v3": ["It", "'s", " ", "123", "4", " ÀBé", "!?", " ", "東京", "\n\n", "x"],
    "falcon": ["It", "'", "s", " ", "123", "4", " ÀBé", "!?", " 東京", "\n", "\n", "x"],
    "bloom": ["It's", " 1234", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "viking": ["It's", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "seed-coder": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
    "bailingmoe": ["It", "'s", " ", "1", "2", "3", "4", " ÀBé", "!?", " 東京", "\n\n", "x"],
}
"""The pieces of a text, one name for each kind of split, by reading the published patterns: DeepSeek-LLM's
marks include the letters of ASCII, which part words of both."""


@pytest.mark.parametrize("pre", SPLITS)
def test_splits(pre: str) -> None:
    """Nothing is lost, and pieces are as written down from the published patterns."""
    text = "It's 1234 ÀBé!? 東京\n\nx"
    tokenizer = byte_level(pre)._tokenizer
    composed = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    found = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(composed)]
    alphabet = _alphabet()
    assert [bytes(map(alphabet.__getitem__, piece)).decode() for piece in found] == SPLITS[pre]


def test_marks_belong_to_words() -> None:
    """Of Qwen3.5, as transformers' own class of it has the pattern; before it they parted words."""
    assert PRE_TOKENIZERS["qwen35"].patterns == (tokenization_qwen3_5.PRETOKENIZE_REGEX,)
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    for pre, n_pieces in (("qwen35", 1), ("qwen2", 4)):
        assert len(byte_level(pre)._tokenizer.pre_tokenizer.pre_tokenize_str(hindi)) == n_pieces


def test_every_split_is_compared() -> None:
    assert {PRE_TOKENIZERS[name].split for name in SPLITS} == {how.split for how in PRE_TOKENIZERS.values()}
