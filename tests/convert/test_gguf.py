"""GGUF files, written with the ``gguf`` package from tiny random models: equal logits, or a clear refusal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jstrace
from jstrace.convert import read_config
from jstrace.convert.gguf.config import described
from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.gguf.positions import DIVISORS, LONG, SHORT
from jstrace.method.scores.measured import Norm
from jstrace.models import InputError, Model, ModelConfig, clean_forward, make_mesh, n_params
from jstrace.models.narrow import widened
from tests import hf_models
from tests.conftest import TINY
from tests.gguf_files import write_gguf, write_torch_model

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
        config = config_with("llama", {f"blk.0.{part}.bias": (32,)})
        assert config == dataclasses.replace(config_with("llama"), **{flag: True})


WHOLE_BLOCKS = hf_models.varied(hf_models.VARIANTS["qwen2"], {"intermediate_size": 64})
"""Quantised blocks are 32 wide."""


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16"])
def test_quantised_blocks(kind: str, tmp_path: Path) -> None:
    """Within a step of the largest number: an eighth of it for Q4_0, whose positive end is a step short."""
    torch_model = hf_models.make(WHOLE_BLOCKS, tmp_path / "hf")
    write_torch_model(tmp_path / "tiny.gguf", "qwen2", torch_model, gguf.GGMLQuantizationType[kind])
    model = jstrace.load(str(tmp_path / "tiny.gguf"))
    up = model.decoder.layers.weights()["up"]
    exact = np.stack([layer.mlp.up_proj.weight.detach().numpy().T for layer in torch_model.model.layers])
    error = np.abs(np.asarray(up) - exact).max() / np.abs(exact).max()
    assert 0 < error < {"Q8_0": 0.005, "Q4_0": 0.126, "BF16": 0.005}[kind]
    if kind == "BF16":
        with pytest.raises(
            InputError, match="holds no blocks, which weights stored keeps of GGUF files; use weights int8"
        ):
            jstrace.load(str(tmp_path / "tiny.gguf"), weights="stored")
        return
    for mesh in (None, make_mesh(model=2)):
        narrow = jstrace.load(str(tmp_path / "tiny.gguf"), weights="stored", mesh=mesh)
        assert narrow.weights == "stored"
        assert Model.from_arrays(model.config, narrow.decoder.params()).fingerprint() == model.fingerprint()


@pytest.mark.real
def test_blocks_of_the_default_model(real: Model) -> None:
    """Of four bits with offsets, and rotary pairs beside one another; vocabularies of eight bits."""
    narrow = jstrace.load("smollm2", weights="stored")
    params = narrow.decoder.params()
    assert (params["layers"]["q"].values.dtype, params["embed"].values.dtype) == (np.uint8, np.int8)
    assert params["layers"]["q"].least.shape == (30, 18, 1, 9, 64)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(params)) < 0.3 * 4 * n_params(real.config)
    for name, wide in real.decoder.layers.weights().items():
        found = narrow.decoder.layers.weights()[name]
        np.testing.assert_allclose(found, wide, atol=1e-6 * np.abs(wide).max(), err_msg=name)
    np.testing.assert_array_equal(widened(params["embed"]), real.decoder.embed[...])


@pytest.mark.parametrize(("family", "kind"), [("llama", None), ("qwen2", "Q8_0"), ("qwen2", "Q4_0"), ("qwen2", "BF16")])
def test_some_rows_are_those_of_the_whole(family: str, kind: str | None, tmp_path: Path) -> None:
    """Of matrices, of those whose heads are interleaved, and of vectors; after other rows, too."""
    torch_model = hf_models.make(GGUF_VARIANTS[family] if kind is None else WHOLE_BLOCKS, tmp_path / "hf")
    quantised = None if kind is None else gguf.GGMLQuantizationType[kind]
    write_torch_model(tmp_path / "tiny.gguf", family, torch_model, quantised)
    file = GgufFile(tmp_path / "tiny.gguf")

    for tensor in file.tensors.values():
        whole = gguf.dequantize(tensor._tensor.data, tensor._tensor.tensor_type).reshape(tensor.shape)
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
        ("rope.scaling.type", "su", "'su' is not supported"),
        ("rope.scaling.type", "yarn", "factor is missing"),
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
        described(metadata, EMBEDDING, {}, "here")


EMBEDDING = {"token_embd.weight": (97, 32)}
PLAIN = {
    "block_count": 7, "embedding_length": 32, "feed_forward_length": 48, "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
}  # fmt: skip


def config_with(family: str, shapes: dict[str, Any] | None = None, **fields: Any) -> ModelConfig:
    metadata = {"general.architecture": family, **{f"{family}.{name}": v for name, v in (PLAIN | fields).items()}}
    return described(metadata, EMBEDDING | (shapes or {}), {}, "here")[0]


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
    assert described(metadata, EMBEDDING, {}, "here")[0].rope_divisors is None
    scaled, _ = described(metadata | {"qwen2.rope.scaling.factor": 4.0}, EMBEDDING, {}, "here")
    assert scaled.rope_divisors == (4.0,) * 4
    for stored in ([1.0, 0.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0]):
        with pytest.raises(InputError, match="not positive"):
            described(metadata, EMBEDDING, {DIVISORS: np.asarray(stored)}, "here")


def test_magnitudes_of_yarn() -> None:
    """Of 0.1 log(factor) + 1, of that over itself (``yarn_log_multiplier``), and as the file says."""
    yarn = {f"rope.scaling.{name}": value for name, value in (("type", "yarn"), ("factor", 4.0))}
    yarn["rope.scaling.original_context_length"] = 16
    assert config_with("llama", **yarn).rope_magnitude == pytest.approx(0.1 * np.log(4) + 1)
    assert config_with("llama", **yarn, **{"rope.scaling.yarn_log_multiplier": 1.0}).rope_magnitude == 1
    assert config_with("llama", **yarn, **{"rope.scaling.yarn_attn_factor": 1.5}).rope_magnitude == 1.5
    for name, value in (("yarn_ext_factor", 2), ("attn_factor", 2.0)):
        with pytest.raises(InputError, match=f"{name} = 2"):
            config_with("llama", **yarn, **{f"rope.scaling.{name}": value})


def test_long_positions_without_their_factors() -> None:
    """Neither none of the two sets, nor the set of another type beside them."""
    with pytest.raises(InputError, match=r"weight rope_factors_short.weight is missing"):
        config_with("llama", **{"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0})
    metadata = {"general.architecture": "llama", **{f"llama.{name}": value for name, value in PLAIN.items()}}
    metadata["llama.rope.scaling.original_context_length"] = 16
    with pytest.raises(InputError, match=r"rope_freqs.weight beside rope_factors_short.weight or"):
        described(metadata, EMBEDDING, dict.fromkeys((DIVISORS, SHORT, LONG), np.ones(4)), "here")
