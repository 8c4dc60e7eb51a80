"""Loading at scale: slices onto meshes, presets, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.convert import read_config, refusals
from jstrace.convert.hf.layouts import LLAMA
from jstrace.convert.weights import build_params
from jstrace.loading import describe
from jstrace.method.scores.measured import Norm
from jstrace.models import (
    PRESETS,
    Decoder,
    InputError,
    clean_forward,
    make_mesh,
    n_params,
    param_shardings,
    preset,
    random_params,
    shapes,
)
from tests import hf_models
from tests.conftest import TINY
from tests.gguf_files import write_gguf

COUNTS = {
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
    "Qwen/Qwen3-14B-Base": 14_768_307_200,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-2-1124-13B": 13_716_198_400,
    "deepseek-ai/deepseek-llm-7b-base": 6_910_365_696,
    "microsoft/phi-4": 14_659_507_200,
}


# --- the paper's models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_their_parameters(name: str) -> None:
    """Counted, and laid out with ``eval_shape`` through the whole decoder: nothing is allocated."""
    config = PRESETS[name]
    assert n_params(config) == COUNTS[name]
    abstract = jax.eval_shape(lambda params: Decoder(config, params), shapes(config, jnp.dtype("bfloat16")))
    leaves = jax.tree.leaves(abstract)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) == 2 * COUNTS[name]
    tokens = jax.ShapeDtypeStruct((55,), jnp.int32)

    def run(model: Decoder, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        clean = clean_forward(model, tokens, Norm(1))
        return clean.logits, clean.magnitudes.attn

    logits, attn = jax.eval_shape(run, abstract, tokens)
    assert logits.shape == (config.vocab_size,)
    assert attn.shape == (config.n_layers, config.n_heads, 55, 55)
    assert attn.dtype == jnp.float32


def test_presets_are_known_offline() -> None:
    assert set(PRESETS) == set(COUNTS)
    assert describe("allenai/OLMo-2-1124-13B") == PRESETS["allenai/OLMo-2-1124-13B"]
    assert preset("Llama-3.1-8b") is PRESETS["meta-llama/Llama-3.1-8B"]
    assert preset("llama") is None
    with pytest.raises(InputError, match=r"random:llama-3\.1-8b for random weights"):
        jstrace.load("llama-3.1-8b")


def test_presets_equal_the_hub_configs() -> None:
    """The fields that the repositories publish, read by the same code as any config.json."""
    from jstrace.convert.hf.config import described

    shared = {"hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": False}
    qwen = {"vocab_size": 152064, "max_position_embeddings": 131072, "rope_theta": 1e6, "use_sliding_window": False}
    published = {
        "Qwen/Qwen2.5-7B": {
            "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
            "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "max_window_layers": 28,
            "sliding_window": 131072, **qwen,
        },
        "microsoft/phi-4": {
            "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920, "num_attention_heads": 40,
            "num_hidden_layers": 40, "num_key_value_heads": 10, "rms_norm_eps": 1e-5, "rope_theta": 250000,
            "rope_scaling": None, "original_max_position_embeddings": 16384, "max_position_embeddings": 16384,
            "sliding_window": None, "vocab_size": 100352, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "auto_map": {},
        },
        "meta-llama/Llama-3.1-8B": {
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            "max_position_embeddings": 131072, "vocab_size": 128256, "mlp_bias": False, "attention_bias": False,
        },
        "mistralai/Mistral-7B-v0.1": {
            "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "max_position_embeddings": 32768, "vocab_size": 32000, "sliding_window": 4096,
        },
    }  # fmt: skip
    for name, fields in published.items():
        assert described(shared | fields, where=name).config == PRESETS[name]


def test_random_weights(tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["gemma2"], tmp_path)
    model, shaped = jstrace.load(f"random:{tmp_path}", dtype="bfloat16"), read_config(str(tmp_path))
    assert model.config == shaped
    leaves = jax.tree.leaves(model)
    assert sum(leaf.size for leaf in leaves) == n_params(shaped)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert jstrace.evaluate(model, jstrace.trace(model, [1, 2, 3])).valid
    write_gguf(tmp_path / "tiny.gguf")
    for name, near in (
        ("random:no-such-model", "random:NAME$"),
        ("smolm2", "; did you mean 'smollm2'\\?$"),
        ("SmolLM2", "; did you mean 'smollm2'\\?$"),
        ("random:lama-3.1-8b", "; did you mean 'meta-llama/Llama-3.1-8B'\\?$"),
        (f"{tmp_path / 'tyni.gguf'}", f"; did you mean '{tmp_path / 'tiny.gguf'}'\\?$"),
    ):
        with pytest.raises(InputError, match=f"unknown model .*{near}"):
            jstrace.load(name)
    with pytest.raises(InputError, match="no model named"):
        jstrace.load("random:")


def test_random_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "resident_memory", lambda: 2**32)
    with pytest.raises(InputError, match=r"16 GB of weights do not fit into this machine's memory; try dtype bfloat16"):
        jstrace.load("random:llama-3.1-8b", dtype="bfloat16")


@pytest.mark.parametrize("variant", ["llama-gqa", "qwen2", "olmo2-gqa-sharded", "phi3", "gemma2", "gpt2", "gpt_neox"])
def test_every_device_reads_its_own_part(variant: str, tmp_path: Path) -> None:
    """A mesh gives the same weights; each shard is a part, fused matrices among them."""
    hf_models.make(hf_models.varied(hf_models.VARIANTS[variant], {"vocab_size": 98}), tmp_path)
    mesh = make_mesh(data=2, model=2)
    one, many = jstrace.load(str(tmp_path)), jstrace.load(str(tmp_path), mesh=mesh)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one.decoder.params()), jax.tree.leaves(many.decoder.params()), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    divided = {"q", "k", "v", "o", "gate", "up", "down", "q_bias", "k_bias", "v_bias", "gate_bias", "up_bias"}
    divided |= {"q_norm", "k_norm"} if one.config.qk_norm == "full" else set()
    for name, stack in many.decoder.layers.weights().items():
        share = stack.addressable_shards[0].data.size / stack.size
        assert share == (0.5 if name in divided else 1.0), name
    assert many.decoder.embed[...].addressable_shards[0].data.shape == (49, 32)
    assert many.fingerprint() == one.fingerprint()


def test_reads_are_slices(tmp_path: Path) -> None:
    """No device's read goes beyond its share of the rows, and replicas are read once."""
    hf_models.make(hf_models.VARIANTS["llama-mha"], tmp_path)
    from jstrace.convert.hf.folder import open_safetensors

    config, reads = read_config(str(tmp_path)), []

    class Watched:
        def __init__(self, tensor: Any) -> None:
            self._tensor, self.name, self.shape, self.dtype = tensor, tensor.name, tensor.shape, tensor.dtype

        def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
            part = self._tensor.read(ranges)
            reads.append((self.name, part.size / np.prod(self.shape)))
            return part

    tensors = {name: Watched(tensor) for name, tensor in open_safetensors(tmp_path).items()}
    shardings = param_shardings(config, make_mesh(data=2, model=4))
    build_params(config, tensors, LLAMA, dtype=jnp.dtype("float32"), shardings=shardings, where="here")
    queries = [share for name, share in reads if name.endswith("layers.0.self_attn.q_proj.weight")]
    assert queries == [0.25] * 4
    assert [share for name, share in reads if name.endswith("layers.1.input_layernorm.weight")] == [1.0]
    assert [share for name, share in reads if "embed_tokens" in name] == [1.0], "97 rows stay whole"


def test_meshes_that_do_not_fit(tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path)
    with pytest.raises(InputError, match=r"model=8 does not divide query heads 4; sizes that would: 1, 2, 4$"):
        jstrace.load(str(tmp_path), mesh=make_mesh(model=8))
    whole = jstrace.load(str(tmp_path), mesh=make_mesh(model=4)).decoder.layers.weights()
    assert whole["k"].sharding.is_fully_replicated, "two key/value heads do not divide by four"
    assert not whole["q"].sharding.is_fully_replicated
    with pytest.raises(InputError, match="needs 16 devices, there are 8"):
        make_mesh(data=4, model=4)
    for size in (0, 1.5, "2", True):
        with pytest.raises(InputError, match="positive"):
            make_mesh(data=size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected a mesh of jstrace\.make_mesh"):
        jstrace.load(str(tmp_path), mesh=(1, 2))  # type: ignore[arg-type]
    explicit = jstrace.load(str(tmp_path), mesh=jax.make_mesh((1, 2), ("data", "model")))
    assert jstrace.trace(explicit, [1, 2, 3]).n_edges > 0
    odd = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("x",))
    with pytest.raises(InputError, match=r"axes \('x',\)"):
        jstrace.load(str(tmp_path), mesh=odd)


@pytest.mark.parametrize("kind", ["random", "hf", "gguf", "native"])
def test_the_default_device_of_the_context(converted: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    """All weights go there, and are the same; nothing stays on the first device, which may be full."""
    write_gguf(tmp_path / "tiny.gguf")
    names = {"random": f"random:{converted[0]}", "hf": converted[0], "gguf": tmp_path / "tiny.gguf"}
    name = str(names.get(kind, converted[1]))
    one, there = jstrace.load(name), jax.devices()[3]
    before = {id(array) for array in jax.live_arrays()}
    for device in (there, "cpu"):
        with jax.default_device(device):
            other = jstrace.load(name)
            models = [other, *([jstrace.load(name, dtype="bfloat16")] if device is there else [])]
        found = {leaf.device for model in models for leaf in jax.tree.leaves(model)}
        assert found == {there if device is there else jax.devices()[0]}
        assert other.fingerprint() == one.fingerprint()
        if device is there:
            made = [array for array in jax.live_arrays() if id(array) not in before]
            assert {array.device for array in made} == {there}


def test_random_weights_of_a_key_from_elsewhere() -> None:
    """Onto the default device, or onto a mesh without the first device, whose key is on the first."""
    key, dtype = jax.random.key(0), jnp.dtype("float32")
    one = random_params(TINY, key=key, dtype=dtype)
    with jax.default_device(jax.devices()[3]):
        other = random_params(TINY, key=key, dtype=dtype)
    assert {leaf.device for leaf in jax.tree.leaves(other)} == {jax.devices()[3]}
    mesh = make_mesh(data=2, model=2, devices=jax.devices()[4:])
    many = random_params(TINY, key=key, dtype=dtype, shardings=param_shardings(TINY, mesh))
    for params in (other, many):
        jax.tree.map(np.testing.assert_array_equal, params, one)
