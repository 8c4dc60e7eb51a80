"""Models: GGUF files, Hugging Face folders and checkpoints of jstrace's own, down to their tokenizers."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.gguf.tokenizer import GgufTokenizer
from jstrace.convert.hf.folder import open_safetensors
from jstrace.convert.hf.tokenizer import HfTokenizer
from jstrace.loading import describe
from tests.conftest import ROOT
from tests.fuzz.hostile import HUGE, NUMBERS, cases, damaged, hostile_json, refusal, refusal_of
from tests.gguf_files import write_gguf

# --- GGUF -----------------------------------------------------------------------------------------------------------


def read_gguf(path: Path) -> None:
    """Everything that a file holds."""
    file = GgufFile(path)
    for tensor in file.tensors.values():
        tensor.read(tuple(slice(0, length) for length in tensor.shape))
    if "tokenizer.ggml.model" in file.metadata:
        GgufTokenizer(file.metadata, str(path)).encode("a b\U0001f600")


def _text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


TOKENS = ["<unk>", "<s>", "\u2581", "a", "b", "\u2581a", *(f"<0x{number:02X}>" for number in range(256))]
TOKENIZER: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": [-float(number) for number in range(len(TOKENS))],
    "tokenizer.ggml.token_type": [2, 3, *[1] * 4, *[6] * 256],
    "tokenizer.ggml.bos_token_id": 1,
}


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """A file of the tiny model with a tokenizer, and where its weights begin."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    write_gguf(path, **TOKENIZER)
    assert not refusal(lambda: read_gguf(path))
    return path.read_bytes(), gguf.GGUFReader(path).data_offset


def test_damaged_gguf(tiny_gguf: tuple[bytes, int], tmp_path: Path) -> None:
    whole, start = tiny_gguf

    @cases(150)
    @given(damaged(whole, start))
    def check(content: bytes) -> None:
        refusal_of(content, tmp_path / "tiny.gguf", read_gguf)

    check()


def _value(kind: int, inner: int, count: int, content: bytes) -> bytes:
    return _text("a") + struct.pack("<IIQ", kind, inner, count) + content


@pytest.mark.parametrize("count", [2**31, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    "claim",
    [
        lambda n: struct.pack("<QQ", n, 0),
        lambda n: struct.pack("<QQ", 0, n),
        lambda n: struct.pack("<QQ", 0, 1) + struct.pack("<Q", n) + b"name",
        *(
            lambda n, kind=kind: struct.pack("<QQ", 0, 1) + _value(9, kind, n, bytes(500))
            for kind in (0, 1, 4, 6, 7, 8, 9, 10, 12, 13, 99)
        ),
        lambda n: struct.pack("<QQ", 0, 1) + _text("a") + struct.pack("<IQ", 8, n) + b"text",
        lambda n: struct.pack("<QQ", 1, 0) + _text("w") + struct.pack("<IQIQ", 1, n, 0, 0) + bytes(500),
        lambda n: struct.pack("<QQ", 1, 0) + _text("w") + struct.pack("<IQIQ", 1, 1, 0, n) + bytes(500),
        lambda n: struct.pack("<QQ", 1, 0) + _text("w") + struct.pack("<IQQIQ", 2, n, n, 0, 0) + bytes(500),
        lambda n: struct.pack("<QQ", 1, 0) + _text("w") + struct.pack("<IQQIQ", 2, 0, n, 0, 0) + bytes(500),
        lambda n: struct.pack("<QQ", 1, 0) + _text("w") + struct.pack("<I", n >> 33 or 9) + bytes(500),
        lambda n: (
            struct.pack("<QQ", 1, 1)
            + _text("general.alignment")
            + struct.pack("<IQ", 10, n)
            + _text("w")
            + struct.pack("<IQIQ", 1, 1, 0, 0)
            + bytes(99)
        ),
    ],
)
def test_huge_claims_take_nothing(claim: Any, count: int, tmp_path: Path) -> None:
    """A small file that claims billions is refused before anything is made for them."""
    path = tmp_path / "huge.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + claim(count))
    tracemalloc.start()
    message = refusal(lambda: read_gguf(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "not a whole GGUF file" in message
    assert peak < 2**22


@pytest.mark.parametrize("depth", [2, 9, 1000])
def test_lists_of_lists(depth: int, tmp_path: Path) -> None:
    nested = struct.pack("<Q", 0)
    for _ in range(depth):
        nested = struct.pack("<QI", 1, 9) + nested
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _text("a") + struct.pack("<II", 9, 9) + nested
    message = refusal_of(content, tmp_path / "deep.gguf", read_gguf)
    assert "not a whole GGUF file" in message or "architecture" in message


@pytest.mark.parametrize(
    ("offsets", "message"), [((0, 4), "begins at 4"), ((0, 0), "overlap"), ((32, 0), "overlap"), ((0, 64), "architect")]
)
def test_weights_that_overlap(offsets: tuple[int, int], message: str, tmp_path: Path) -> None:
    infos = b"".join(_text(name) + struct.pack("<IQIQ", 1, 16, 0, at) for name, at in zip("ab", offsets, strict=True))
    content = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + infos
    content += bytes(-len(content) % 32 + 500)
    assert message in refusal_of(content, tmp_path / "two.gguf", read_gguf)


@cases(60)
@given(
    metadata=st.lists(
        st.tuples(
            st.sampled_from(
                ("general.architecture", "general.alignment", "llama.block_count", "tokenizer.ggml.model", "")
            ),
            st.integers(0, 13),
            st.integers(0, 13),
            NUMBERS,
            st.binary(max_size=40),
        ),
        max_size=4,
    ),
    tensors=st.lists(
        st.tuples(
            st.sampled_from(("token_embd.weight", "rope_freqs.weight", "w\n")),
            st.lists(NUMBERS, max_size=9),
            st.integers(0, 40),
            NUMBERS,
        ),
        max_size=3,
    ),
    tail=st.binary(max_size=300),
    version=st.integers(0, 4),
)
def test_made_gguf(
    tmp_path_factory: pytest.TempPathFactory, metadata: list[Any], tensors: list[Any], tail: bytes, version: int
) -> None:
    content = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for name, kind, inner, count, value in metadata:
        content += _text(name) + struct.pack("<I", kind)
        content += struct.pack("<IQ", inner, count) + value if kind == 9 else _text(value) if kind == 8 else value
    for name, shape, kind, offset in tensors:
        content += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
    refusal_of(content + tail, tmp_path_factory.getbasetemp() / "made.gguf", read_gguf)


def test_a_tokenizer_with_an_endless_token() -> None:
    """Every way of cutting a token in two is looked at, which of a million letters takes hours."""
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["a", "b" * 2**20],
        "tokenizer.ggml.scores": [0.0, 1.0],
        "tokenizer.ggml.bos_token_id": 0,
    }
    assert "1048576 letters" in refusal(lambda: GgufTokenizer(metadata, "here"))


# --- safetensors ----------------------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> None:
    """Everything that a folder holds."""
    for tensor in open_safetensors(path.parent).values():
        tensor.read(tuple(slice(0, length) for length in tensor.shape))


WEIGHTS = save({"model.a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)})


@cases(100)
@given(content=damaged(WEIGHTS))
def test_damaged_safetensors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    refusal_of(content, tmp_path_factory.getbasetemp() / "st" / "model.safetensors", read_safetensors)


_DTYPES = ("F32", "F16", "BF16", "F64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", 3, None)


@cases(100)
@given(
    header=st.dictionaries(
        st.sampled_from(("a", "b", "model.a", "__metadata__", "", "x\ny")),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(_DTYPES),
                "shape": st.lists(st.sampled_from(HUGE), max_size=4),
                "data_offsets": st.lists(st.sampled_from(HUGE), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ),
    said=st.sampled_from((None, *HUGE)),
    tail=st.integers(0, 64),
)
def test_made_safetensors(tmp_path_factory: pytest.TempPathFactory, header: Any, said: int | None, tail: int) -> None:
    """Lengths, shapes and offsets that overlap, overflow or run out of the file, and types that there are none of."""
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if said is None else said) + text + bytes(tail)
    refusal_of(content, tmp_path_factory.getbasetemp() / "st" / "model.safetensors", read_safetensors)


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path_factory.getbasetemp() / "st").mkdir(exist_ok=True)


# --- JSON -----------------------------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "vocab_size": 97,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 64,
    },
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
GEMMA: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": LLAMA
    | {"model_type": "gemma3_text", "head_dim": 4, "sliding_window": 8, "layer_types": ["full_attention"] * 3}
    | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 4, "rope_local_base_freq": 100.0},
    "vision_config": {},
}


@cases(120)
@given(content=hostile_json(LLAMA) | hostile_json(GEMMA))
def test_configs(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    refusal_of(content, tmp_path_factory.getbasetemp() / "st" / "config.json", lambda path: describe(str(path.parent)))


@cases(60)
@given(content=hostile_json(json.loads((ROOT / "tests/golden/checkpoint/jstrace.json").read_text())))
def test_headers_of_checkpoints(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "own"
    folder.mkdir(exist_ok=True)
    refusal_of(content, folder / "jstrace.json", lambda path: describe(str(path.parent)))


def _tokenizer_json() -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2, "<s>": 3}, [("a", "b")]))
    tokenizer.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.NFC()])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    return json.loads(tokenizer.to_str())


@cases(40)
@given(content=hostile_json(_tokenizer_json()))
def test_tokenizers(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "words"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def read(path: Path) -> None:
        HfTokenizer(path.parent).encode("a b \U0001f600")

    refusal_of(content, folder / "tokenizer.json", read)
