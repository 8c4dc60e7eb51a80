"""GGUF files of models whose layers are unlike: what is left out of them, kept in blocks, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.layouts import file_sizes, layout_of
from jstrace.convert.stored import stored_leaf
from jstrace.convert.weights import _Part
from jstrace.models import ModelConfig
from jstrace.models.declared import Weight
from jstrace.models.narrow import widened
from jstrace.models.params import map_weights, place_of
from tests import gguf_files, hf_types
from tests.convert.test_damage import refusal
from tests.hf_types import TYPES

Written = Callable[..., Path]
Names = tuple[str, ...]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Writes the file of a type, with further metadata and weights."""
    made: dict[str, Any] = {}

    def write(architecture: str, name: str, tensors: dict[str, np.ndarray] | None = None, **metadata: Any) -> Path:
        folder = tmp_path_factory.mktemp("model")
        if name not in made:
            made[name] = hf_types.make(TYPES[name], folder)
        config = gguf_files.text_config(made[name])
        said = {**gguf_files.metadata_of(architecture, config), **metadata}
        own = {f"{architecture}.{field}": value for field, value in said.items() if value is not None}
        weights = gguf_files.tensors_of(architecture, made[name]) | (tensors or {})
        gguf_files.write(folder / "tiny.gguf", architecture, own, weights)
        return folder / "tiny.gguf"

    return write


def test_blocks_behind_the_last_layer_are_left_out(written: Written) -> None:
    """They are counted among the blocks, and predict further tokens."""
    plain = GgufFile(written("glm4moe", "glm4_moe"))
    more = {
        "blk.3.nextn.eh_proj.weight": np.ones((32, 64), np.float32),
        "blk.3.attn_norm.weight": np.ones(32, np.float32),
    }
    file = GgufFile(written("glm4moe", "glm4_moe", more, block_count=4, nextn_predict_layers=1))
    assert file.config == plain.config
    assert file.tensors.keys() == plain.tensors.keys()
    for number in (4, 2.5):
        message = refusal(
            lambda n=number: GgufFile(written("glm4moe", "glm4_moe", block_count=4, nextn_predict_layers=n))
        )
        assert f"nextn_predict_layers = {number:g}, expected fewer than the 4 blocks" in message


def test_layers_by_a_list(written: Written) -> None:
    """In the place of an interval; a list may count blocks behind the last layer."""
    expected = GgufFile(written("qwen35", "qwen3_5")).config
    recurrent = [True, False, True, False]
    path = written("qwen35", "qwen3_5", full_attention_interval=None, **{"attention.recurrent_layers": recurrent})
    assert GgufFile(path).config == expected
    assert GgufFile(written("qwen35", "qwen3_5", full_attention_interval=None)).config != expected


_OF_DELTA = {"linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_value_heads": 4}
_OF_LATENT = {"qk_nope_head_dim": 32, "kv_lora_rank": 32, "rope_parameters": {"rope_type": "default"}}


@pytest.mark.parametrize(("architecture", "name", "changes", "weights", "wide"), [
    ("qwen35", "qwen3_5", _OF_DELTA, ("1.q", "1.v", "1.o_gate", "1.o"), ()),
    ("qwen35", "qwen3_5", _OF_DELTA | {"linear_value_head_dim": 16}, ("1.v", "1.o"), ()),
    ("deepseek2", "deepseek_v3", _OF_LATENT, ("1.v", "1.kv_down", "1.k_turned"), ("1.k",)),
])  # fmt: skip
def test_blocks_whose_rows_and_columns_are_in_another_order(
    architecture: str, name: str, changes: dict[str, Any], weights: Names, wide: Names, tmp_path: Path
) -> None:
    """They widen to the weights that are read wide, and those whose blocks are of outputs stay wide."""
    kind = TYPES[name]
    text = {"text_config": kind.fields["text_config"] | changes} if "text_config" in kind.fields else changes
    torch_model = hf_types.make(dataclasses.replace(kind, fields=kind.fields | text), tmp_path)
    gguf_files.write_torch_model(tmp_path / "tiny.gguf", architecture, torch_model, gguf.GGMLQuantizationType.Q8_0)
    file, here = GgufFile(tmp_path / "tiny.gguf"), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    declared = {path: weight for path, weight in _declared(file.config).items() if path in {*weights, *wide}}
    assert len(declared) == len(weights) + len(wide)
    for path, weight in declared.items():
        form, layers = place_of(file.config, f"layers.{path}")
        layout, sizes = layout_of(file.layouts, path), file_sizes(form)
        leaf = stored_leaf(form, layout, weight, layers, file.tensors, here, jnp.dtype("float32"), "here")
        if path in wide:
            assert leaf is None
            continue
        assert leaf is not None
        part = _Part(form, layout, layers[0], file.tensors, np.float32, "here", checked=True)
        expected = part(tuple(slice(0, sizes[letter]) for letter in layout.letters))
        axes = [layout.letters.index(letter) for letter in weight.axes if letter != "L"]
        np.testing.assert_array_equal(widened(leaf)[0], expected.transpose(axes), err_msg=path)


def _declared(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the layers by its name."""
    declared: dict[str, Weight] = {}
    map_weights(lambda path, weight: declared.setdefault(path.removeprefix("layers."), weight), config, named=True)
    return declared


@pytest.mark.parametrize(("architecture", "name", "field", "value", "message"), [
    ("glm4moe", "glm4_moe", "expert_gating_func", 1, "expert_gating_func = 1 is not supported; only 2 is"),
    ("deepseek2", "deepseek_v3", "expert_gating_func", 3, "expert_gating_func = 3, expected 1 or 2"),
    ("deepseek2", "deepseek_v3", "rope.scaling.yarn_attn_factor", 1.5, "yarn_attn_factor is not supported"),
    ("deepseek2", "deepseek_v3", "attention.temperature_scale", 0.1, "field 'attention.temperature_scale' = "),
    ("llama4", "llama4_text", "attention.sliding_window", 0, "sliding_window = 0 is not supported"),
    ("qwen35", "qwen3_5", "ssm.inner_size", 31, "ssm.inner_size = 31 does not divide into 6 heads"),
    ("qwen35", "qwen3_5", "attention.recurrent_layers", [True], "recurrent_layers is no list of 3 layers"),
    ("gemma4", "gemma4_text", "attention.head_count_kv", [4, 2, 1], "differs between layers with a window"),
    ("gemma4", "gemma4_text", "attention.head_count_kv", [4, 4], "head_count_kv is no list of 3 positive integers"),
    ("gemma4", "gemma4_text", "feed_forward_length", [48, 48, 96], "feed_forward_length differs between layers"),
    ("gemma4", "gemma4_text", "embedding_length_per_layer_input", 8, "an embedding for each layer"),
    ("gemma4", "gemma4_text", "attention.shared_kv_layers", 1, "num_kv_shared_layers = 1 is not supported"),
    ("gemma4", "gemma4_text", "expert_count", 8, "expert_used_count"),
    ("gemma4", "gemma4_text", "attention.head_count", 64, "head_count = 64, expected at most embedding_length"),
    ("deepseek2", "deepseek_v3", "rope.scaling.yarn_log_multiplier", 1e30, "on queries and keys"),
    ("qwen35", "qwen3_5", "ssm.time_step_rank", 2**30, "does not divide"),
])  # fmt: skip
def test_what_is_refused(written: Written, architecture: str, name: str, field: str, value: Any, message: str) -> None:
    assert message in refusal(lambda: GgufFile(written(architecture, name, **{field: value})))


def test_layers_of_a_single_kind(tmp_path: Path) -> None:
    """All of them linear: their weights have the names of a model whose layers are alike."""
    kind = TYPES["qwen3_5"]
    text = kind.fields["text_config"] | {"layer_types": ["linear_attention"] * 3}
    torch_model = hf_types.make(dataclasses.replace(kind, fields=kind.fields | {"text_config": text}), tmp_path)
    said = gguf_files.metadata_of("qwen35", gguf_files.text_config(torch_model)) | {"full_attention_interval": 4}
    own = {f"qwen35.{field}": value for field, value in said.items() if value is not None}
    gguf_files.write(tmp_path / "tiny.gguf", "qwen35", own, gguf_files.tensors_of("qwen35", torch_model))
    theirs, ours = jstrace.load(tmp_path), jstrace.load(str(tmp_path / "tiny.gguf"))
    assert not ours.config.forms
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours.decoder.params(), theirs.decoder.params()
    )


def test_weights_that_make_no_sense(written: Written) -> None:
    """Divisors that are neither ones nor beyond any input, and a decay that would grow."""
    divisors = {"rope_freqs.weight": np.linspace(1, 2, 6, dtype=np.float32)}
    assert "rope_freqs.weight, expected ones and then 1e+30" in refusal(
        lambda: GgufFile(written("gemma4", "gemma4_text", divisors))
    )
    assert "expected a number for each rotary pair" in refusal(
        lambda: GgufFile(written("gemma4", "gemma4_text", {"rope_freqs.weight": np.ones(2**16 + 1, np.float32)}))
    )
    growing = {"blk.0.ssm_a": np.float32([1, -1, -1, -1, -1, -1])}
    path = written("qwen35", "qwen3_5", growing)
    assert "blk.0.ssm_a holds numbers that are not negative" in refusal(lambda: jstrace.load(str(path)))
