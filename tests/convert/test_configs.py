"""Configs of every family: what the hub's files say, what is refused, and what an absent field means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jstrace.convert.hf.config import IRRELEVANT, described
from jstrace.convert.hf.registry import FAMILIES as READERS
from jstrace.method.scores.measured import Norm
from jstrace.models import Decoder, InputError, clean_forward, n_params, shapes
from tests.conftest import FAMILIES, family_config

pytestmark = pytest.mark.quick

_DEFAULTS = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16"}
# Fields as the repositories publish them, with the parameters that their pages give.
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "openai-community/gpt2": (
        124_439_808,
        {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
            "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
        },
    ),
    "EleutherAI/pythia-70m": (
        70_426_624,
        {
            "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
            "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 2048, "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8, "num_hidden_layers": 6,
            "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.24.0", "attention_probs_dropout_prob": 0, "use_cache": True,
            "use_parallel_residual": True, "vocab_size": 50304,
        },
    ),
    "google/gemma-2-2b": (
        2_614_341_888,
        _DEFAULTS
        | {
            "attention_bias": False, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
            "cache_implementation": "hybrid", "eos_token_id": 1, "final_logit_softcapping": 30.0,
            "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
            "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26,
            "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000,
        },
    ),
    "google/gemma-3-1b-pt": (
        999_885_952,
        _DEFAULTS
        | {
            "attention_bias": False, "attn_logit_softcapping": None, "cache_implementation": "hybrid",
            "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
            "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": None,
            "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
        },
    ),
    "microsoft/Phi-4-mini-instruct": (
        3_836_021_760,
        _DEFAULTS
        | {
            "attention_bias": False, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0,
            "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
            "interpolate_factor": 1, "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False,
            "model_type": "phi3", "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75,
            "resid_pdrop": 0.0, "rms_norm_eps": 1e-5,
            "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
            "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064,
        },
    ),
    "Qwen/Qwen3-0.6B": (
        596_049_920,
        _DEFAULTS
        | {
            "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
            "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
            "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
            "use_sliding_window": False, "vocab_size": 151936,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    expected, fields = PUBLISHED[name]
    assert n_params(described(fields, where=name).config) == expected


def test_longrope_as_published() -> None:
    config = described(PUBLISHED["microsoft/Phi-4-mini-instruct"][1], where="phi").config
    assert (config.n_rotary, config.head_dim, config.rope_switch) == (96, 128, 4096)
    assert config.rope_magnitude == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_gemma_layers_as_published() -> None:
    two, three = (described(PUBLISHED[f"google/gemma-{n}"][1], where="gemma").config for n in ("2-2b", "3-1b-pt"))
    assert two.kinds == (1, 0) * 13
    assert three.global_layers == (5, 11, 17, 23)
    assert (three.rope_theta, three.local_rope_theta) == (1e6, 1e4)


def test_the_text_part_of_gemma_3() -> None:
    """The repositories with images hold only what differs from the family's defaults."""
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }  # fmt: skip
    whole = {
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": {"hidden_size": 1152},
        "mm_tokens_per_image": 256,
    }
    for field in ("quantization_config", "mystery"):
        with pytest.raises(InputError, match=field):
            described(whole | {field: 1}, where="gemma")
    with pytest.raises(InputError, match="expected 'gemma3_text'"):
        described(whole | {"text_config": text | {"model_type": "llama"}}, where="gemma")
    config = described(whole, where="gemma").config
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262208)
    assert config.rope_divisors == (8.0,) * 128
    assert config.window == 1024
    assert config.tied_head


_ODD_NAMES = {
    "bloom": {"hidden_size": 16, "n_head": 2, "n_layer": 3},
    "codegen": {"n_embd": 16, "n_head": 4, "n_layer": 3, "rotary_dim": 2},
    "gpt2": {"n_embd": 8, "n_head": 2, "n_layer": 3, "n_positions": 16},
    "gpt_bigcode": {"n_embd": 16, "n_head": 2, "n_layer": 3},
    "gpt_neo": {"hidden_size": 16, "num_heads": 2, "num_layers": 4},
    "gptj": {"n_embd": 16, "n_head": 2, "n_layer": 3, "rotary_dim": 4},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 3, "attn_config": {"alibi": True}},
    "opt": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "ffn_dim": 8},
    "xglm": {"d_model": 16, "attention_heads": 2, "num_layers": 3, "ffn_dim": 8},
    "falcon": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3},
}


def minimal(model_type: str) -> dict[str, Any]:
    """The least that a config of the family must say."""
    if model_type in _ODD_NAMES:
        return {"model_type": model_type, "vocab_size": 9, **_ODD_NAMES[model_type]}
    heads = {} if model_type == "gpt_neox" else {"num_key_value_heads": 2}
    heads |= {"hidden_size_per_layer_input": 0} if model_type == "gemma4_text" else {}
    heads |= {"layers_block_type": ["mamba", "attention", "mlp"]} if model_type == "nemotron_h" else {}
    heads |= {"mamba_n_heads": 4} if model_type in ("bamba", "granitemoehybrid") else {}
    return heads | {
        "model_type": model_type, "vocab_size": 9, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 16,
    }  # fmt: skip


@pytest.mark.parametrize("model_type", READERS)
def test_a_field_that_nobody_knows(model_type: str) -> None:
    fields = minimal(model_type)
    plain = described(fields | dict.fromkeys(IRRELEVANT, "anything"), where="here").config
    unknown = fields | {"mystery_multiplier": 2.5}
    with pytest.raises(
        InputError, match=r"'mystery_multiplier' = 2\.5 is not known.*--ignore-field mystery_multiplier"
    ):
        described(unknown, where="here")
    config = described(unknown, where="here", ignore=["mystery_multiplier"]).config
    assert config == dataclasses.replace(plain, ignored_fields=("mystery_multiplier",))
    for known in ("vocab_size", "nowhere"):
        with pytest.raises(InputError, match=f"field '{known}' to be ignored is not there, or is read"):
            described(fields, where="here", ignore=[known])


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"n_head": 3}, "does not divide into 3 heads"),
        ("olmo2", {"attention_bias": True}, "attention_bias"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"layer_types": ["full_attention"]}, "no list of 3 kinds"),
        ("gemma3_text", {"layer_types": ["chunked_attention"] * 3}, "'chunked_attention'"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}, "full_attention": {}}},
            "only the default type",
        ),
        ("qwen2", {"rope_scaling": {"type": "ntk", "factor": 4.0}}, "'ntk' is not supported"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "sliding_window is missing"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            "phi3",
            {
                "original_max_position_embeddings": 1,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
            },
            "original_max_position_embeddings = 1, expected more than 1",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ("olmo2", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not supported"),
        ("phi3", {"partial_rotary_factor": 3.0}, "turns 24 dimensions of 8"),
        ("llama", {"head_dim": 10**9, "rope_scaling": {"type": "linear", "factor": 2.0}}, "head_dim = 1000000000"),
        ("mistral", {"sliding_window": 10**12}, "expected at most"),
        ("llama", {"rope_theta": 10**400}, "rope_theta"),
        ("gemma2", {"layer_types": []}, "no list of 3 kinds"),
        (
            "phi3",
            {"original_max_position_embeddings": 8, "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4}},
            "long_factor",
        ),
        (
            "phi3",
            {
                "original_max_position_embeddings": 8,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
            },
            "1 RoPE factors, expected 4",
        ),
        ("gpt_neox", {"rotary_pct": 0.4}, "3 of 8 dimensions"),
        ("mistral", {"sliding_window": 0}, "sliding_window = 0"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types is not supported in this family"),
        ("mixtral", {"layer_types": ["full_attention"] * 3, "sliding_window": 4}, "layer_types is not supported"),
        ("starcoder2", {"layer_types": ["full_attention"] * 3, "sliding_window": 4}, "layer_types is not supported"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
        ("gemma2", {"sliding_window": 8, "sliding_window_size": 9}, "sliding_window_size = 9"),
        ("gpt_neox", {"num_key_value_heads": 1}, "num_key_value_heads = 1, expected 2"),
        ("qwen2", {"use_mrope": True}, "use_mrope"),
        ("llama", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ],
)
def test_what_is_refused(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        described(minimal(model_type) | changes, where="here")


def test_absent_and_null_differ() -> None:
    """What a file leaves out is the family's default, which null switches off."""
    mistral, gemma = minimal("mistral"), minimal("gemma2")
    assert described(mistral, where="").config.window == 4096
    assert described(mistral | {"sliding_window": None}, where="").config.window is None
    assert described(gemma, where="").config.attn_softcap == 50
    assert described(gemma | {"attn_logit_softcapping": None}, where="").config.attn_softcap is None
    assert described(minimal("gemma3_text"), where="").config.attn_softcap is None


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_scores_in_float32(family: str) -> None:
    config = family_config(family)
    model = jax.eval_shape(lambda params: Decoder(config, params), shapes(config, jnp.dtype("bfloat16")))

    def run(model: Decoder, tokens: jax.Array) -> tuple[Any, ...]:
        clean = clean_forward(model, tokens, Norm(1))
        return clean.logits, *jax.tree.leaves(clean.magnitudes)

    found = jax.eval_shape(run, model, jax.ShapeDtypeStruct((5,), jnp.int32))
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}
