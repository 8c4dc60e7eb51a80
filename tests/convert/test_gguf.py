"""GGUF files, written with the ``gguf`` package from tiny random models: equal logits, or a clear refusal."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jstrace
from jstrace.convert import read_config
from jstrace.convert.gguf import file as gguf_file
from jstrace.convert.gguf.tokenizer import GgufTokenizer
from jstrace.convert.hf.tokenizer import HfTokenizer
from jstrace.method.scores.measured import Norm
from jstrace.models import InputError, ModelConfig, clean_forward
from tests import hf_models
from tests.conftest import TINY, tiny_params

_PLACES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {
    False: {"post_attention_layernorm": "ffn_norm"},
    True: {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
"""Gemma's names differ: it has norms after the sub-layers too."""
_TOP = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def llama_cpp_name(name: str, gemma: bool) -> str:
    module, _, kind = name.removeprefix("model.").rpartition(".")
    if not module.startswith("layers."):
        return f"{_TOP[module]}.{kind}"
    _, layer, part = module.split(".", 2)
    return f"blk.{layer}.{(_PLACES | _NORMS[gemma])[part]}.{kind}"


def write_torch_model(path: Path, family: str, model: Any, kind: Any = None) -> None:
    """The file that llama.cpp's conversion makes: rotary rows interleaved for Llama alone, Gemma's norms plus one."""
    c, writer = model.config, gguf.GGUFWriter(path, family)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    gemma = family.startswith("gemma")
    rope = c.rope_parameters["full_attention"] if family == "gemma3" else c.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if family == "gemma3":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_freq_base_swa(c.rope_parameters["sliding_attention"]["rope_theta"])
    if gemma:
        writer.add_sliding_window(c.sliding_window)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        value = weight.numpy().astype(np.float32)
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
            value = value.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(value.shape)
        if gemma and "norm" in name:
            value = value + 1
        if kind is not None and value.ndim == 2:
            writer.add_tensor(llama_cpp_name(name, gemma), gguf.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(llama_cpp_name(name, gemma), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_QUERY_SCALE = {"query_pre_attn_scalar": 12}
"""llama.cpp takes the head width, which is what the released models have."""
GGUF_VARIANTS = {
    "llama": hf_models.VARIANTS["llama-mqa-wide-heads"],
    "qwen2": hf_models.VARIANTS["qwen2"],
    "qwen3": hf_models.VARIANTS["qwen3-wide-heads"],
    "gemma2": hf_models.varied(hf_models.VARIANTS["gemma2"], _QUERY_SCALE),
    "gemma3": hf_models.varied(hf_models.VARIANTS["gemma3"], _QUERY_SCALE),
}


@pytest.mark.parametrize("family", GGUF_VARIANTS)
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    torch_model = hf_models.make(GGUF_VARIANTS[family], tmp_path / "hf")
    write_torch_model(tmp_path / "tiny.gguf", family, torch_model)
    model, theirs = jstrace.load(str(tmp_path / "tiny.gguf")), jstrace.load(str(tmp_path / "hf"))
    tokens = np.random.default_rng(0).integers(0, 97, 20)
    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)[None]).logits[0, -1].numpy()
    logits = clean_forward(model.decoder, jnp.asarray(tokens), Norm(1)).logits
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert model.config.global_layers == theirs.config.global_layers
    assert read_config(str(tmp_path / "tiny.gguf")) == model.config


def test_biases_of_llama(tmp_path: Path) -> None:
    """Those that the file holds: no field tells. Rotary halves of biases are interleaved as those of matrices."""
    biased = {"attention_bias": True, "mlp_bias": True}
    variant = hf_models.varied(hf_models.VARIANTS["llama-mqa-wide-heads"], biased)
    torch_model = hf_models.make(variant, tmp_path / "hf")
    write_torch_model(tmp_path / "tiny.gguf", "llama", torch_model)
    model, tokens = jstrace.load(str(tmp_path / "tiny.gguf")), np.random.default_rng(0).integers(0, 97, 20)
    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)[None]).logits[0, -1].numpy()
    logits = clean_forward(model.decoder, jnp.asarray(tokens), Norm(1)).logits
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    for part, flag in (("attn_v", "qkv_bias"), ("attn_output", "o_bias"), ("ffn_up", "mlp_bias")):
        config = config_with("llama", {f"blk.0.{part}.bias": np.zeros(32)})
        assert config == dataclasses.replace(config_with("llama"), **{flag: True})


WHOLE_BLOCKS = hf_models.varied(hf_models.VARIANTS["qwen2"], {"intermediate_size": 64})
"""Quantised blocks are 32 wide."""


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16"])
def test_quantised_blocks(kind: str, tmp_path: Path) -> None:
    """Within a step of the largest number: an eighth of it for Q4_0, whose positive end is a step short."""
    torch_model = hf_models.make(WHOLE_BLOCKS, tmp_path / "hf")
    write_torch_model(tmp_path / "tiny.gguf", "qwen2", torch_model, gguf.GGMLQuantizationType[kind])
    up = jstrace.load(str(tmp_path / "tiny.gguf")).decoder.layers.weights()["up"]
    exact = np.stack([layer.mlp.up_proj.weight.detach().numpy().T for layer in torch_model.model.layers])
    error = np.abs(np.asarray(up) - exact).max() / np.abs(exact).max()
    assert 0 < error < {"Q8_0": 0.005, "Q4_0": 0.126, "BF16": 0.005}[kind]


@pytest.mark.parametrize(("family", "kind"), [("llama", None), ("qwen2", "Q8_0"), ("qwen2", "Q4_0"), ("qwen2", "BF16")])
def test_some_rows_are_those_of_the_whole(family: str, kind: str | None, tmp_path: Path) -> None:
    """Of matrices, of those whose heads are interleaved, and of vectors; after other rows, too."""
    torch_model = hf_models.make(GGUF_VARIANTS[family] if kind is None else WHOLE_BLOCKS, tmp_path / "hf")
    quantised = None if kind is None else gguf.GGMLQuantizationType[kind]
    write_torch_model(tmp_path / "tiny.gguf", family, torch_model, quantised)
    file = gguf_file.GgufFile(tmp_path / "tiny.gguf")

    def whole_of(tensor: Any) -> np.ndarray:
        """All blocks at once, as the package dequantises them."""
        value = gguf.dequantize(tensor._tensor.data, tensor._tensor.tensor_type).reshape(tensor.shape)
        heads, offset = gguf_file._as_stored(file.config, tensor.name)
        return (gguf_file._unpermuted(value, heads) if heads else value) - np.float32(offset)

    for tensor in file.tensors.values():
        whole = whole_of(tensor)
        for ranges in ((slice(1, 3), slice(2, 5)), (slice(0, 2), slice(0, 4)), (slice(1, 3), slice(0, 4))):
            part = ranges[: whole.ndim]
            np.testing.assert_array_equal(tensor.read(part), whole[part])


def test_a_quantisation_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the weight and the type."""
    torch_model = hf_models.make(WHOLE_BLOCKS, tmp_path / "hf")
    write_torch_model(tmp_path / "tiny.gguf", "qwen2", torch_model, gguf.GGMLQuantizationType.Q8_0)
    monkeypatch.delitem(gguf.quants._type_traits, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(InputError, match=r"weight \S+ is quantised as Q8_0, which the gguf package cannot dequantise"):
        jstrace.load(str(tmp_path / "tiny.gguf"))


def write_gguf(path: Path, **changes: Any) -> dict[str, Any]:
    """A GGUF file of the tiny model, rotary halves interleaved as llama.cpp does."""
    params = tiny_params()
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    if "llama.block_count" not in changes:
        writer.add_block_count(TINY.n_layers)
    writer.add_context_length(TINY.max_positions)
    writer.add_embedding_length(TINY.d_model)
    writer.add_feed_forward_length(TINY.d_mlp)
    writer.add_head_count(TINY.n_heads)
    writer.add_head_count_kv(TINY.n_kv_heads)
    writer.add_key_length(TINY.head_dim)
    writer.add_value_length(TINY.head_dim)
    if "llama.rope.freq_base" not in changes:
        writer.add_rope_freq_base(TINY.rope_theta)
    writer.add_layer_norm_rms_eps(TINY.norm_eps)
    for key, value in changes.items():
        add = {str: writer.add_string, list: writer.add_array, int: writer.add_uint32}
        add.get(type(value), writer.add_float32)(key, value)
    tensors = {"token_embd": params["embed"], "output_norm": params["final_norm"], "output": params["head"]}
    names = {"attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    names |= {"mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    for name, theirs in names.items():
        for layer, value in enumerate(np.asarray(params["layers"][name])):
            tensors[f"blk.{layer}.{theirs}"] = _as_llama_cpp(name, value)
    for name, value in tensors.items():
        array = np.ascontiguousarray(np.asarray(value, np.float32))
        writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return params


def _as_llama_cpp(name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim == 1:
        return value
    matrix = value.reshape(-1, TINY.d_model).T if name == "o" else value.reshape(value.shape[0], -1)
    matrix = matrix if name == "o" else matrix.T
    if name not in ("q", "k"):
        return matrix
    heads = value.shape[1]
    return matrix.reshape(heads, 2, TINY.head_dim // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


def test_gguf_equals_its_parameters(tmp_path: Path) -> None:
    params = write_gguf(tmp_path / "tiny.gguf")
    model = jstrace.load(str(tmp_path / "tiny.gguf"))
    assert model.tokenizer is None
    for name, value in params["layers"].items():
        np.testing.assert_array_equal(model.decoder.layers.weights()[name], value, err_msg=name)
    np.testing.assert_array_equal(model.decoder.head[...], params["head"])
    assert read_config(str(tmp_path / "tiny.gguf")).head_dim == TINY.head_dim


@pytest.mark.parametrize("damage", [{"tokenizer.ggml.model": "t5"}, {"tokenizer.ggml.pre": "unheard-of"}, {}])
def test_gguf_with_a_tokenizer_that_cannot_be_used(tmp_path: Path, damage: dict[str, str]) -> None:
    """The model loads; only text is refused, with the reason."""
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"} | damage
    write_gguf(tmp_path / "tiny.gguf", **fields)
    model = jstrace.load(str(tmp_path / "tiny.gguf"))
    assert jstrace.trace(model, [1, 2]).n_edges > 0
    with pytest.raises(InputError, match="pass token ids"):
        jstrace.trace(model, "text")


def test_gguf_files_that_are_off(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for keep in (3, 100, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="not a whole GGUF file"):
            jstrace.load(str(path))
    write_gguf(path, architecture="mamba")
    with pytest.raises(InputError, match="mamba"):
        jstrace.load(str(path))
    for damage in ({"llama.block_count": "x"}, {"llama.block_count": 2.5}, {"llama.rope.freq_base": float("inf")}):
        write_gguf(path, **damage)
        with pytest.raises(InputError, match="expected a positive"):
            jstrace.load(str(path))
    write_gguf(path, **{"llama.logit_scale": 2.0})
    with pytest.raises(InputError, match="logit_scale"):
        jstrace.load(str(path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.sliding_window_pattern", 2.5, "no list of 7 layers"),
        ("attention.sliding_window_pattern", ["a"] * 7, "no list of 7 layers"),
        ("rope.scaling.type", "yarn", "'yarn' is not supported"),
        ("attention.key_length", 2.0**33, "expected at most"),
    ],
)
def test_metadata_that_makes_no_sense(key: str, value: Any, message: str) -> None:
    metadata = {
        "general.architecture": "gemma3",
        **{f"gemma3.{name}": v for name, v in PLAIN.items()},
        f"gemma3.{key}": value,
    }
    with pytest.raises(InputError, match=message):
        gguf_file._config(metadata, {"token_embd.weight": np.zeros((32, 97))}, None, "here")


PLAIN = {
    "block_count": 7, "embedding_length": 32, "feed_forward_length": 48, "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
}  # fmt: skip


def config_with(family: str, tensors: dict[str, Any] | None = None, **fields: Any) -> ModelConfig:
    metadata = {"general.architecture": family, **{f"{family}.{name}": v for name, v in (PLAIN | fields).items()}}
    return gguf_file._config(metadata, {"token_embd.weight": np.zeros((32, 97)), **(tensors or {})}, None, "here")


def test_numbers_that_say_none() -> None:
    """Some converters write what a model does not have."""
    for family, name in (
        *(("llama", name) for name in ("expert_count", "expert_used_count", "rope.scaling.factor")),
        ("gemma3", "final_logit_softcapping"),
    ):
        assert config_with(family, **{name: 0}) == config_with(family)
        assert config_with(family, **{name: 0.0}) == config_with(family)
    with pytest.raises(InputError, match="expert_count = 8 is not supported; only 0 is"):
        config_with("llama", expert_count=8, expert_used_count=2)


def test_texts_that_are_no_utf8(tmp_path: Path) -> None:
    """An author's name in Latin-1 is nothing that a model needs."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, **{"general.author": "Jose"})
    expected = jstrace.load(str(path)).fingerprint()
    path.write_bytes(path.read_bytes().replace(b"Jose", b"Jos\xe9"))
    assert jstrace.load(str(path)).fingerprint() == expected
    path.write_bytes(path.read_bytes().replace(b"attn_q", b"attn_\xe9"))
    with pytest.raises(InputError, match=r"blk\.0\.attn_q\.weight"):
        jstrace.load(str(path))


def test_scaling_without_a_type_is_linear() -> None:
    """As llama.cpp reads it."""
    metadata = {"general.architecture": "qwen2", **{f"qwen2.{name}": v for name, v in PLAIN.items()}}
    tensors = {"token_embd.weight": np.zeros((32, 97))}
    assert gguf_file._config(metadata, tensors, None, "here").rope_divisors is None
    scaled = gguf_file._config(metadata | {"qwen2.rope.scaling.factor": 4.0}, tensors, None, "here")
    assert scaled.rope_divisors == (4.0,) * 4
    for stored in ([1.0, 0.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0]):
        with pytest.raises(InputError, match="not positive"):
            gguf_file._config(metadata, tensors, np.asarray(stored), "here")


# --- tokenizers -----------------------------------------------------------------------------------------------------


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
