"""Rotary positions of configs: as transformers reads them, or refused where fields contradict each other."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import jstrace
from jstrace.convert.hf.config import described
from jstrace.models import InputError
from jstrace.models.layers import rope_frequencies
from tests.convert.test_configs import minimal

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 6.0, 7.0, 8.0]}
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
TRAINED = "original_max_position_embeddings"
NO_LENGTH = {"max_position_embeddings": None}
"""Left out, in what follows."""


def fields_of(model_type: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A config of heads of eight dimensions; what is None is not in the file."""
    layers = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    extra = {"head_dim": 8, "pad_token_id": 0, **(layers if model_type in ("gemma3_text", "olmo3") else {})}
    said = minimal(model_type) | (extra if model_type != "gpt_neox" else {}) | changes
    return {name: value for name, value in said.items() if value is not None}


def theirs(fields: dict[str, Any]) -> dict[str, Any]:
    """Inverse frequencies and the factor on cosines, by transformers' own module for positions."""
    fields = copy.deepcopy(fields)
    config = transformers.CONFIG_MAPPING[fields.pop("model_type")].from_dict(fields)
    rope = transformers.AutoModelForCausalLM.from_config(config).base_model.rotary_emb
    if hasattr(rope, "full_attention_inv_freq"):
        return {
            "": rope.full_attention_inv_freq.numpy(),
            "local": rope.sliding_attention_inv_freq.numpy(),
            "magnitude": rope.full_attention_attention_scaling,
        }
    found = {"": rope.original_inv_freq.numpy(), "magnitude": rope.attention_scaling}
    if rope.rope_type == "longrope":
        found["switch"] = config.rope_parameters[TRAINED]
    return found


def ours(fields: dict[str, Any]) -> dict[str, Any]:
    config = described(fields, where="here").config
    found: dict[str, Any] = {"": rope_frequencies(config), "magnitude": config.rope_magnitude}
    if config.local_rope_theta is not None:
        found["local"] = rope_frequencies(config, local=True)
    if config.rope_long_divisors is not None:
        found["switch"] = config.rope_switch
    return found


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"rope_scaling": LINEAR, "rope_theta": 500.0}),
        ("llama", {"rope_scaling": {}, "rope_parameters": LINEAR | {"rope_theta": 500.0}}),
        ("llama", {"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"rope_theta": 500.0}, "rope_theta": 500.0}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": LINEAR}),
        ("llama", {"rope_scaling": LLAMA3 | {TRAINED: 8}}),
        ("llama", {"rope_scaling": LLAMA3, TRAINED: 8}),
        ("llama", {"rope_scaling": LLAMA3 | {TRAINED: 8}, TRAINED: 8}),
        ("llama", {"rope_scaling": LLAMA3}),
        ("llama", {"rope_scaling": LLAMA3, **NO_LENGTH}),
        ("qwen2", {"rope_scaling": LINEAR | {TRAINED: 8}, TRAINED: 4}),
        ("llama", {"rope_scaling": LONGROPE | {TRAINED: 8}}),
        ("olmo2", {"rope_scaling": LONGROPE | {TRAINED: 8}, **NO_LENGTH}),
        ("mistral", {"rope_scaling": LONGROPE, **NO_LENGTH}),
        ("phi3", {"rope_scaling": LONGROPE, TRAINED: 8}),
        ("phi3", {"rope_scaling": LONGROPE, TRAINED: 8, **NO_LENGTH}),
        ("phi3", {"rope_scaling": LONGROPE | {TRAINED: 8}}),
        ("phi3", {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}}),
        ("gpt_neox", {"rope_theta": 500.0}),
        ("gpt_neox", {"partial_rotary_factor": 0.5}),
        ("gpt_neox", {"rotary_emb_base": 500.0, "rope_theta": 500, "rotary_pct": 0.5, "partial_rotary_factor": 0.5}),
        ("gpt_neox", {"rope_scaling": LLAMA3, "rotary_pct": 1.0, TRAINED: 8}),
        ("gemma3_text", {"rope_theta": 500.0, "rope_local_base_freq": 70.0, "rope_scaling": LINEAR}),
        ("gemma3_text", {"rope_theta": 500.0, "rope_parameters": {"sliding_attention": None}}),
        ("gemma3_text", {"rope_local_base_freq": 70.0, "rope_parameters": {"full_attention": LINEAR}}),
        ("gemma3_text", {"rope_parameters": {"full_attention": LLAMA3}}),
        ("gemma3_text", {"rope_scaling": LINEAR, "rope_parameters": {"full_attention": {"rope_theta": 500.0}}}),
        ("llama", {"rope_scaling": YARN}),
        ("llama", {"rope_scaling": YARN | {"attention_factor": 0.9, "beta_fast": 3.0, "beta_slow": 0.5}}),
        ("llama", {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False}}),
        ("qwen3", {"rope_scaling": YARN | {"attn_factor": 0.8, "factor": 1.0}}),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 500.0}),
        ("nemotron", {"rope_scaling": YARN, "head_dim": 16}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        ("olmo3", {"rope_scaling": YARN, "rope_theta": 500000.0}),
        ("olmo3", {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}}),
    ],
)  # fmt: skip
def test_positions_are_those_of_transformers(model_type: str, changes: dict[str, Any]) -> None:
    fields = fields_of(model_type, changes)
    expected, found = theirs(fields), ours(fields)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        (
            "llama",
            {"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 500.0}},
            "rope_scaling = {.*linear.* contradicts rope_parameters = {.*500",
        ),
        ("mistral", {"rope_scaling": LINEAR, "rope_parameters": LLAMA3}, "rope_scaling = .* contradicts rope_param"),
        ("qwen3", {"rope_scaling": {"rope_type": "default"}, "rope_parameters": LINEAR}, "contradicts rope_parameters"),
        ("llama", {"rope_scaling": LLAMA3 | {TRAINED: 8}, TRAINED: 16}, f"{TRAINED} in rope_scaling = 8 .* = 16"),
        ("gemma2", {"rope_parameters": LLAMA3 | {TRAINED: 8}, TRAINED: 16}, f"{TRAINED} in rope_parameters = 8 contra"),
        ("phi3", {"rope_scaling": LONGROPE | {TRAINED: 8}, TRAINED: 16}, f"{TRAINED} in rope_scaling = 8 contradicts"),
        ("qwen2", {"rope_parameters": {"rope_theta": 500.0}, "rope_theta": 600.0}, "rope_theta in .* contradicts"),
        ("llama", {"rope_scaling": LINEAR | {"type": "default"}}, "rope_type in .* contradicts type in"),
        ("gpt_neox", {"rotary_emb_base": 500.0, "rope_theta": 600.0}, "rotary_emb_base = 500.0 contra.* rope_theta"),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 1.0}, "rotary_pct = 0.5 contra.* partial_rotary"),
        (
            "gpt_neox",
            {"rope_parameters": {"partial_rotary_factor": 0.5}, "rotary_pct": 1.0},
            "partial_rotary_factor in rope_parameters = 0.5 contradicts rotary_pct = 1.0",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}},
            "partial_rotary_factor is not supported in this family",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_theta": 500.0}}, "rope_theta": 600.0},
            "rope_theta in full_attention = 500.0 contradicts rope_theta = 600.0",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_theta": 70.0}}, "rope_local_base_freq": 60.0},
            "rope_theta in sliding_attention = 70.0 contradicts rope_local_base_freq = 60.0",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}, "rope_scaling": LINEAR},
            "rope_type in rope_scaling = linear contradicts rope_type in full_attention = default",
        ),
        ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "contradicts type in full_att"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        described(fields_of(model_type, changes), where="here")
    assert "\n" not in str(caught.value)


def test_the_head_of_a_gemma_3_with_images() -> None:
    """Whether it is tied the whole says, whose head it is: transformers reads no other."""
    fields = {"model_type": "gemma3", "text_config": fields_of("gemma3_text", {"tie_word_embeddings": True})}
    assert not described(fields | {"tie_word_embeddings": False}, where="here").config.tied_head
    assert described(fields, where="here").config.tied_head


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map names code in the repository"),
        ({"architectures": ["MineForCausalLM"]}, "architectures names 'MineForCausalLM'"),
        ({"architectures": ["LlamaForCausalLM", "LlamaModel"]}, "architectures names 'LlamaModel'"),
        ({"architectures": "Mine\n"}, r"architectures names 'Mine\n'"),
    ],
)
def test_models_of_their_own_are_warned_of(
    hf_llama: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Where their weights are read; a config that says nothing of the kind is read in silence."""
    path = Path(shutil.copytree(hf_llama(), tmp_path / "model")) / "config.json"
    fields = json.loads(path.read_text()) | {"auto_map": {}}
    assert fields["architectures"] == ["LlamaForCausalLM"]
    path.write_text(json.dumps(fields))
    plain = jstrace.load(path.parent).config
    path.write_text(json.dumps(fields | changes))
    with pytest.warns(RuntimeWarning) as caught:
        assert jstrace.load(path.parent).config == plain
    (message,) = (str(one.message) for one in caught)
    assert said in message
    assert message.endswith("it is read as a plain LlamaForCausalLM, which may compute something else")
