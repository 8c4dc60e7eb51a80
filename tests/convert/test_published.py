"""Configs of further types as their repositories publish them, and those of models with other parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jstrace.convert.hf.config import described, from_hf_fields
from jstrace.models import InputError, check_ids, n_params
from tests.convert.test_configs import minimal

pytestmark = pytest.mark.quick

# With the parameters that their pages give, and how many more there are here: a norm that stands for two counts twice,
# shifts that no file has are zeros, and positions that nobody uses are not read.
PUBLISHED: dict[str, tuple[int, int, dict[str, Any]]] = {
    "facebook/opt-125m": (
        125_239_296,
        -1_536,
        {
            "activation_dropout": 0.0,
            "activation_function": "relu",
            "architectures": ["OPTForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "do_layer_norm_before": True,
            "dropout": 0.1,
            "eos_token_id": 2,
            "ffn_dim": 3072,
            "hidden_size": 768,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "max_position_embeddings": 2048,
            "model_type": "opt",
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "pad_token_id": 1,
            "prefix": "</s>",
            "torch_dtype": "float16",
            "transformers_version": "4.21.0.dev0",
            "use_cache": True,
            "vocab_size": 50272,
            "word_embed_proj_dim": 768,
        },
    ),
    "microsoft/phi-2": (
        2_779_683_840,
        163_840,
        {
            "_name_or_path": "microsoft/phi-2",
            "architectures": ["PhiForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 50256,
            "embd_pdrop": 0.0,
            "eos_token_id": 50256,
            "hidden_act": "gelu_new",
            "hidden_size": 2560,
            "initializer_range": 0.02,
            "intermediate_size": 10240,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048,
            "model_type": "phi",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.4,
            "qk_layernorm": False,
            "resid_pdrop": 0.1,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.37.0",
            "use_cache": True,
            "vocab_size": 51200,
        },
    ),
    "EleutherAI/gpt-j-6b": (
        6_050_882_784,
        229_376,
        {
            "activation_function": "gelu_new",
            "architectures": ["GPTJForCausalLM"],
            "attn_pdrop": 0.0,
            "bos_token_id": 50256,
            "embd_pdrop": 0.0,
            "eos_token_id": 50256,
            "gradient_checkpointing": False,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gptj",
            "n_embd": 4096,
            "n_head": 16,
            "n_inner": None,
            "n_layer": 28,
            "n_positions": 2048,
            "resid_pdrop": 0.0,
            "rotary": True,
            "rotary_dim": 64,
            "scale_attn_weights": True,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True}},
            "tie_word_embeddings": False,
            "tokenizer_class": "GPT2Tokenizer",
            "transformers_version": "4.18.0.dev0",
            "use_cache": True,
            "vocab_size": 50400,
        },
    ),
    "EleutherAI/gpt-neo-125m": (
        125_198_592,
        0,
        {
            "activation_function": "gelu_new",
            "architectures": ["GPTNeoForCausalLM"],
            "attention_dropout": 0,
            "attention_layers": ["global", "local"] * 6,
            "attention_types": [[["global", "local"], 6]],
            "bos_token_id": 50256,
            "embed_dropout": 0,
            "eos_token_id": 50256,
            "gradient_checkpointing": False,
            "hidden_size": 768,
            "initializer_range": 0.02,
            "intermediate_size": None,
            "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 2048,
            "model_type": "gpt_neo",
            "num_heads": 12,
            "num_layers": 12,
            "resid_dropout": 0,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "transformers_version": "4.9.0.dev0",
            "use_cache": True,
            "vocab_size": 50257,
            "window_size": 256,
        },
    ),
    "HuggingFaceTB/SmolLM3-3B": (
        3_075_098_624,
        0,
        {
            "architectures": ["SmolLM3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": 128012,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 11008,
            "layer_types": ["full_attention"] * 36,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "mlp_bias": False,
            "model_type": "smollm3",
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0] * 9,
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 4,
            "pad_token_id": 128004,
            "pretraining_tp": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.54.0.dev0",
            "use_cache": False,
            "use_sliding_window": False,
            "vocab_size": 128256,
        },
    ),
    "tiiuae/falcon-7b": (
        6_921_720_704,
        290_816,
        {
            "alibi": False,
            "apply_residual_connection_post_layernorm": False,
            "architectures": ["FalconForCausalLM"],
            "attention_dropout": 0.0,
            "auto_map": {},
            "bias": False,
            "bos_token_id": 11,
            "eos_token_id": 11,
            "hidden_dropout": 0.0,
            "hidden_size": 4544,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "falcon",
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
            "parallel_attn": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.27.4",
            "use_cache": True,
            "vocab_size": 65024,
        },
    ),
    "google/gemma-2b": (
        2_506_172_416,
        0,
        {
            "architectures": ["GemmaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "head_dim": 256,
            "hidden_act": "gelu",
            "hidden_activation": None,
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 16384,
            "max_position_embeddings": 8192,
            "model_type": "gemma",
            "num_attention_heads": 8,
            "num_hidden_layers": 18,
            "num_key_value_heads": 1,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.38.0.dev0",
            "use_cache": True,
            "vocab_size": 256000,
        },
    ),
    "bigcode/starcoder2-3b": (
        3_030_371_328,
        0,
        {
            "architectures": ["Starcoder2ForCausalLM"],
            "attention_dropout": 0.1,
            "residual_dropout": 0.1,
            "embedding_dropout": 0.1,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 3072,
            "initializer_range": 0.018042,
            "intermediate_size": 12288,
            "max_position_embeddings": 16384,
            "mlp_type": "default",
            "model_type": "starcoder2",
            "norm_epsilon": 1e-05,
            "norm_type": "layer_norm",
            "num_attention_heads": 24,
            "num_hidden_layers": 30,
            "num_key_value_heads": 2,
            "rope_theta": 999999.4420358813,
            "sliding_window": 4096,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.37.0.dev0",
            "use_bias": True,
            "use_cache": True,
            "vocab_size": 49152,
        },
    ),
    "stabilityai/stablelm-2-1_6b": (
        1_644_515_328,
        0,
        {
            "architectures": ["StableLmForCausalLM"],
            "bos_token_id": 100257,
            "eos_token_id": 100257,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_dropout": 0.0,
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 5632,
            "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-05,
            "model_type": "stablelm",
            "num_attention_heads": 32,
            "num_hidden_layers": 24,
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "rope_scaling": None,
            "rope_theta": 10000,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.38.0",
            "use_cache": True,
            "use_qkv_bias": True,
            "vocab_size": 100352,
        },
    ),
    "allenai/Olmo-3-1025-7B": (
        7_298_011_136,
        0,
        {
            "architectures": ["Olmo3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": 100257,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 11008,
            "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
            "max_position_embeddings": 65536,
            "model_type": "olmo3",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "pad_token_id": 100277,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "attention_factor": 1.2079441541679836,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "yarn",
            },
            "rope_theta": 500000,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.57.0.dev0",
            "use_cache": False,
            "vocab_size": 100278,
        },
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        3_085_938_688,
        0,
        {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "vision_start_token_id": 151652,
            "vision_end_token_id": 151653,
            "vision_token_id": 151654,
            "image_token_id": 151655,
            "video_token_id": 151656,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 11008,
            "max_position_embeddings": 128000,
            "max_window_layers": 70,
            "model_type": "qwen2_5_vl",
            "num_attention_heads": 16,
            "num_hidden_layers": 36,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.41.2",
            "use_cache": True,
            "use_sliding_window": False,
            "vision_config": {"depth": 32, "hidden_act": "silu", "hidden_size": 1280},
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vocab_size": 151936,
        },
    ),
    "Qwen/Qwen3-VL-8B-Instruct": (
        8_190_735_360,
        0,
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "image_token_id": 151655,
            "model_type": "qwen3_vl",
            "text_config": {
                "attention_bias": False,
                "attention_dropout": 0.0,
                "bos_token_id": 151643,
                "dtype": "bfloat16",
                "eos_token_id": 151645,
                "head_dim": 128,
                "hidden_act": "silu",
                "hidden_size": 4096,
                "initializer_range": 0.02,
                "intermediate_size": 12288,
                "max_position_embeddings": 262144,
                "model_type": "qwen3_vl_text",
                "num_attention_heads": 32,
                "num_hidden_layers": 36,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-06,
                "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
                "rope_theta": 5000000,
                "use_cache": True,
                "vocab_size": 151936,
            },
            "tie_word_embeddings": False,
            "transformers_version": "4.57.0.dev0",
            "video_token_id": 151656,
            "vision_config": {"deepstack_visual_indexes": [8, 16, 24], "depth": 27},
            "vision_end_token_id": 151653,
            "vision_start_token_id": 151652,
        },
    ),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": (
        23_572_403_200,
        0,
        {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "image_token_index": 10,
            "model_type": "mistral3",
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu",
            "spatial_merge_size": 2,
            "text_config": {
                "attention_dropout": 0.0,
                "head_dim": 128,
                "hidden_act": "silu",
                "hidden_size": 5120,
                "initializer_range": 0.02,
                "intermediate_size": 32768,
                "max_position_embeddings": 131072,
                "model_type": "mistral",
                "num_attention_heads": 32,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05,
                "rope_theta": 1000000000.0,
                "sliding_window": None,
                "use_cache": True,
                "vocab_size": 131072,
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {"attention_dropout": 0.0, "head_dim": 64},
            "vision_feature_layer": -1,
        },
    ),
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": (
        8_190_735_360,
        0,
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 12288,
            "max_position_embeddings": 131072,
            "max_window_layers": 36,
            "model_type": "qwen3",
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "attn_factor": 0.8782488562869419,
            },
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.51.0",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
    ),
    "llava-hf/llava-1.5-7b-hf": (
        6_738_939_904,
        0,
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "ignore_index": -100,
            "image_token_index": 32000,
            "model_type": "llava",
            "pad_token_id": 32001,
            "projector_hidden_act": "gelu",
            "text_config": {
                "_name_or_path": "lmsys/vicuna-7b-v1.5",
                "architectures": ["LlamaForCausalLM"],
                "max_position_embeddings": 4096,
                "model_type": "llama",
                "rms_norm_eps": 1e-05,
                "torch_dtype": "float16",
                "vocab_size": 32064,
            },
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.36.0.dev0",
            "vision_config": {"hidden_size": 1024, "model_type": "clip_vision_model"},
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "vocab_size": 32064,
        },
    ),
    "mosaicml/mpt-7b": (
        6_649_286_656,
        266_240,
        {
            "architectures": ["MPTForCausalLM"],
            "attn_config": {
                "alibi": True,
                "alibi_bias_max": 8,
                "attn_impl": "torch",
                "attn_pdrop": 0,
                "attn_type": "multihead_attention",
                "attn_uses_sequence_id": False,
                "clip_qkv": None,
                "prefix_lm": False,
                "qk_ln": False,
                "softmax_scale": None,
            },
            "auto_map": {},
            "d_model": 4096,
            "emb_pdrop": 0,
            "embedding_fraction": 1.0,
            "expansion_ratio": 4,
            "init_config": {"emb_init_std": None},
            "init_device": "cpu",
            "learned_pos_emb": True,
            "logit_scale": None,
            "max_seq_len": 2048,
            "model_type": "mpt",
            "n_heads": 32,
            "n_layers": 32,
            "no_bias": True,
            "norm_type": "low_precision_layernorm",
            "resid_pdrop": 0,
            "tokenizer_name": "EleutherAI/gpt-neox-20b",
            "torch_dtype": "bfloat16",
            "transformers_version": "4.28.1",
            "use_cache": False,
            "verbose": 0,
            "vocab_size": 50432,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    published, more, fields = PUBLISHED[name]
    assert n_params(from_hf_fields(fields, where=name)) == published + more


def test_olmo_3_as_published() -> None:
    """YaRN is for the layers without a window."""
    config = from_hf_fields(PUBLISHED["allenai/Olmo-3-1025-7B"][2], where="olmo")
    assert config.kinds == (1, 1, 1, 0) * 8
    assert (config.local_rope_theta, config.rope_magnitude) == (500000.0, pytest.approx(1.2079441541679836))
    assert max(config.rope_divisors or ()) == pytest.approx(8.0)


def test_exaone_without_a_window() -> None:
    """All its layers see everything, and are rotated; with one those that do are not."""
    fields = minimal("exaone4") | {"num_hidden_layers": 4}
    assert from_hf_fields(fields, where="here").unrotated_layers == (3,)
    assert from_hf_fields(fields | {"sliding_window_pattern": "LG"}, where="here").unrotated_layers == (1, 3)
    whole = from_hf_fields(fields | {"sliding_window": None}, where="here")
    assert (whole.window, whole.unrotated_layers) == (None, ())


@pytest.mark.parametrize(
    ("model_type", "rope", "most"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, 16),
        ("ministral3", {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}, 8),
    ],
)
def test_positions_that_follow_another_rule_later(model_type: str, rope: dict[str, Any], most: int) -> None:
    """Texts that reach there are refused."""
    config = from_hf_fields(minimal(model_type) | {"rope_scaling": rope, "head_dim": 8}, where="here")
    check_ids(config, np.zeros(most, np.int32))
    with pytest.raises(InputError, match=f"{most + 1} tokens, more than the {most} positions of this model"):
        check_ids(config, np.zeros(most + 1, np.int32))


def test_fields_that_tools_leave() -> None:
    """Bookkeeping: passed over, whatever they say."""
    left = {
        "unsloth_fixed": True,
        "unsloth_version": "2026.4.5",
        "model_name": "somebody/model",
        "_pre_quantization_dtype": "bfloat16",
        "custom_pipelines": {"text-generation": {"impl": "code.Pipeline"}},
        "max_sequence_length": 4096,
        "chunk_size_feed_forward": 0,
        "tie_encoder_decoder": False,
        "add_cross_attention": False,
    }
    assert from_hf_fields(minimal("llama") | left, where="here") == from_hf_fields(minimal("llama"), where="here")
    with pytest.raises(InputError, match="add_cross_attention = True is not supported"):
        from_hf_fields(minimal("llama") | {"add_cross_attention": True}, where="here")


def test_several_unknown_fields() -> None:
    """All of them are named, with what to pass."""
    fields = minimal("llama") | {"one": 1, "other": [2]}
    message = r"fields 'one' = 1, 'other' = \[2\] are not known.*--ignore-field one --ignore-field other"
    with pytest.raises(InputError, match=message):
        from_hf_fields(fields, where="here")
    with pytest.raises(InputError, match=r"field 'other' = \[2\] is not known"):
        from_hf_fields(fields, where="here", ignore=["one"])
    assert from_hf_fields(fields, where="here", ignore=["other", "one"]).ignored_fields == ("one", "other")


def whole(**changes: Any) -> dict[str, Any]:
    """A Mistral that reads images."""
    text = {name: value for name, value in minimal("mistral").items() if name != "model_type"}
    return {"model_type": "mistral3", "text_config": text, "vision_config": {}, "image_token_index": 10} | changes


def test_the_text_part() -> None:
    """The whole says whether the head is tied, if it says anything; its other fields are known or refused."""
    assert from_hf_fields(whole(), where="here") == from_hf_fields(minimal("mistral"), where="here")
    tied = {"text_config": minimal("mistral") | {"tie_word_embeddings": True}}
    assert from_hf_fields(whole(**tied), where="here").tied_head
    assert not from_hf_fields(whole(**tied, tie_word_embeddings=False), where="here").tied_head
    with pytest.raises(InputError, match="'mystery' = 1 is not known"):
        from_hf_fields(whole(mystery=1), where="here")
    assert from_hf_fields(whole(mystery=1), where="here", ignore=["mystery"]).ignored_fields == ("mystery",)
    assert from_hf_fields(whole(vocab_size=9), where="here").vocab_size == 9, "said twice"
    with pytest.raises(InputError, match="text_config has model_type 'llama', expected 'mistral' or 'ministral3'"):
        from_hf_fields(whole(text_config=minimal("llama")), where="here")
    assert "vision_tower." in described(whole(), where="here").left_out


def test_ties_of_older_files() -> None:
    """Of Qwen2.5-VL the text's part may tie the head, too; its oldest files have the fields of both in one."""
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    flat = PUBLISHED[name][2]
    text = {
        key: value
        for key, value in flat.items()
        if "token_id" not in key and key not in ("model_type", "vision_config")
    }
    nested = {"model_type": "qwen2_5_vl", "text_config": text, "tie_word_embeddings": False}
    assert from_hf_fields(nested, where=name) == from_hf_fields(flat, where=name)
    text["rope_scaling"] = {"type": "default", "mrope_section": [16, 24, 24]}
    assert from_hf_fields(nested, where=name) == from_hf_fields(flat, where=name)


@pytest.mark.parametrize(
    ("model_type", "missing"),
    [
        ("dbrx", "mixture of experts"),
        ("glm4_moe", "first_k_dense_replace"),
        ("gemma4", "an embedding for each layer"),
        ("mamba", "state-space"),
    ],
)
def test_what_is_missing_of_types_that_are_not_read(model_type: str, missing: str) -> None:
    with pytest.raises(InputError, match=f"is not supported: .*{missing}.* is missing"):
        from_hf_fields({"model_type": model_type, "text_config": {}, "mystery": 9}, where="here")


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
        ("opt", {"word_embed_proj_dim": 8}, "word_embed_proj_dim = 8"),
        ("olmo", {"clip_qkv": -8.0}, "clip_qkv"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers is no list of 3 zeros and ones"),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 4, "no_rope_layers": [0, 1, 1]},
            "layer 0 is without",
        ),
        ("exaone4", {"sliding_window_pattern": "LX"}, "sliding_window_pattern = 'LX'"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "attention_types does not give 4 layers"),
        ("codegen", {"n_head": 2}, "2 heads do not divide into the four groups"),
        ("bloom", {"n_head": 2**20}, "expected at most 65536"),
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config: alibi = False"),
        ("mpt", {"attn_config": {"kv_n_heads": 2}}, "attn_config: field 'kv_n_heads' = 2 is not known"),
        ("starcoder2", {"norm_type": "rms_norm"}, "norm_type"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "olmo3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "only the default type",
        ),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_theta": 1.0}, "has no frequencies"),
        ("phi3", {"rope_scaling": {"type": "yarn"}}, "an older name of longrope"),
    ],
)
def test_what_is_refused(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_hf_fields(minimal(model_type) | changes, where="here")
