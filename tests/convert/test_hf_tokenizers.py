"""Tokenizers of Hugging Face folders: ``tokenizer.json`` is what counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre

from jstrace.convert.hf.tokenizer import HfTokenizer
from jstrace.models import InputError

pytestmark = pytest.mark.quick

ALPHABET = sorted(pre.ByteLevel.alphabet())


def byte_level(*steps: Any) -> tokenizers.Tokenizer:
    """Bytes, two spaces as one token, two digits as one, and two special tokens."""
    words = [*ALPHABET, "ĠĠ", "42", "<s>", "</s>"]
    merges = [("Ġ", "Ġ"), ("4", "2")]
    found = tokenizers.Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    found.pre_tokenizer = pre.Sequence([*steps, pre.ByteLevel(add_prefix_space=False)])
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<s>", "</s>"])
    return found


def written(folder: Path, tokenizer: tokenizers.Tokenizer, **config: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "named", ["GPT2Tokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "OfNobodyTokenizer"]
)
def test_the_class_that_is_named_changes_nothing(named: str, tmp_path: Path) -> None:
    """GPT-2's class would split spaces and digits its own way, and Llama's would leave the bytes out."""
    whole = byte_level(pre.Digits(individual_digits=True), pre.Split(tokenizers.Regex(r" +"), "isolated"))
    read = HfTokenizer(written(tmp_path, whole, tokenizer_class=named))
    for text in ("in  42", "  é日", "a</s> b"):
        ids = read.encode(text)
        assert ids == whole.encode(text).ids
        assert read.text(ids) == text
    assert [whole.id_to_token(i) for i in read.encode("in  42")] == ["i", "n", "ĠĠ", "4", "2"]


def test_prefixes_of_llama_2(tmp_path: Path) -> None:
    """Its file prepends a space to every part of a text; the class that it names, only where there is none."""
    words = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "▁b", "▁▁"]
    bpe = models.BPE(
        {word: index for index, word in enumerate(words)},
        [("▁", "▁"), ("▁", "a"), ("▁", "b")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    whole = tokenizers.Tokenizer(bpe)
    whole.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    whole.decoder = decoders.Sequence(steps)
    whole.add_special_tokens(["<unk>", "<s>", "</s>"])
    whole.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "bos_token": "<s>", "add_bos_token": True}
    read = HfTokenizer(written(tmp_path, whole, **config))
    assert read.encode(" a</s>b") == [1, 8, 4, 2, 7]
    assert read.text([1, 8, 4, 2, 7]) == "<s>  a</s> b"


@pytest.mark.parametrize(
    ("config", "names", "expected"),
    [
        ({}, {}, "a"),
        ({"add_bos_token": True, "bos_token": "<s>"}, {}, "<s>a"),
        ({"add_bos_token": True, "bos_token": {"__type": "AddedToken", "content": "<s>"}}, {}, "<s>a"),
        ({"add_bos_token": True, "add_eos_token": True}, {"bos_token": "<s>", "eos_token": "</s>"}, "<s>a</s>"),
        ({"add_bos_token": False, "add_eos_token": True, "eos_token": "</s>"}, {}, "a</s>"),
        ({"add_bos_token": True, "bos_token": None}, {}, "a"),
        ({"add_bos_token": True, "bos_token": "<of nobody>"}, {}, "a"),
    ],
)
def test_tokens_around_texts(config: dict[str, Any], names: dict[str, Any], expected: str, tmp_path: Path) -> None:
    """Those that the config asks for, where ``tokenizer.json`` puts none: DeepSeek's files have it so."""
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    read = HfTokenizer(written(tmp_path, byte_level(), tokenizer_class="LlamaTokenizerFast", **config))
    assert read.text(read.encode("a")) == expected


def test_tokens_around_texts_of_the_file_count(tmp_path: Path) -> None:
    whole = byte_level()
    whole.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", whole.token_to_id("<s>"))]
    )
    config = {"add_bos_token": False, "add_eos_token": True, "eos_token": "</s>"}
    read = HfTokenizer(written(tmp_path, whole, **config))
    assert read.text(read.encode("a")) == "<s>a"


def entry(content: str, **flags: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "special": False} | flags


def test_tokens_that_the_config_adds(tmp_path: Path) -> None:
    """New ones, one of the vocabulary that was no added token, and one that is there already."""
    whole = byte_level()
    size, digits = whole.get_vocab_size(), whole.token_to_id("42")
    added = {str(size + 1): entry("<é>"), str(size): entry("<new>", special=True), str(digits): entry("42")}
    added |= {str(whole.token_to_id("<s>")): entry("<s>", special=True)}
    read = HfTokenizer(written(tmp_path, whole, added_tokens_decoder=added))
    assert read.encode("<new><é><s>") == [size, size + 1, whole.token_to_id("<s>")]
    assert [read.token(i) for i in (size, size + 1, digits)] == ["<new>", "<é>", "42"]
    read.save(tmp_path / "saved")
    assert HfTokenizer(tmp_path / "saved").encode("<new><é>") == [size, size + 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": {"999": entry("<new>")}}, "'<new>' is token 999 in tokenizer_config.json and 260 by"),
        ({"added_tokens_decoder": {"1": entry("<s>")}}, "'<s>' is token 1 in tokenizer_config.json and 258 by"),
        ({"added_tokens_decoder": {"x": entry("<new>")}}, "tokenizer could not be read"),
        ({"added_tokens_decoder": ["<new>"]}, "tokenizer could not be read"),
        ({"add_bos_token": "yes"}, "add_bos_token = 'yes' in tokenizer_config.json, expected true or false"),
    ],
)
def test_configs_that_contradict(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        HfTokenizer(written(tmp_path, byte_level(), **config))


def test_texts_are_read_whole(tmp_path: Path) -> None:
    """Whatever length the file was last used with."""
    whole = byte_level()
    whole.enable_truncation(4)
    whole.enable_padding(length=16)
    assert len(HfTokenizer(written(tmp_path, whole)).encode("123456")) == 6


def test_a_text_without_tokens(tmp_path: Path) -> None:
    whole = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    with pytest.raises(InputError, match="no tokens for this text"):
        HfTokenizer(written(tmp_path, whole)).encode("b")


def test_added_tokens_and_parts_of_characters(tmp_path: Path) -> None:
    added, whole = ["<|début|>", "čaj", "đem", "東京"], byte_level()
    whole.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in added])
    read = HfTokenizer(written(tmp_path, whole))
    assert [read.token(i) for i in read.encode("".join(added))] == added
    assert [read.token(i) for i in read.encode("é")] == ["<0xC3>", "<0xA9>"]
    assert read.text(read.encode("čajé日")) == "čajé日"


@pytest.mark.parametrize("made", ["spaces", "metaspace", "words"])
def test_texts_of_other_decoders(made: str, tmp_path: Path) -> None:
    """Runs of spaces that are added tokens are spaces; other added tokens are their own text."""
    words = {"▁the": 0, "▁cat": 1, "s": 2, "▁▁": 3, "<a▁b>": 4}
    whole = tokenizers.Tokenizer(models.WordLevel(words, unk_token="s"))
    whole.decoder = {
        "spaces": decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
        "metaspace": decoders.Metaspace(),
        "words": decoders.WordPiece(),
    }[made]
    whole.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in ("▁▁", "<a▁b>")])
    read = HfTokenizer(written(tmp_path, whole))
    expected = {"spaces": " the cats  <a▁b>", "metaspace": "the cats  <a▁b>", "words": whole.decode([0, 1, 2, 3, 4])}
    assert read.text([0, 1, 2, 3, 4]) == expected[made]
    assert made == "words" or [read.token(i) for i in range(5)] == [" the", " cat", "s", "  ", "<a▁b>"]
