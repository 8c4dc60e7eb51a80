"""Configs of mixtures of experts as their repositories publish them, and what of them is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jstrace.convert.hf.config import described
from jstrace.models import InputError, n_params
from jstrace.models.slots import with_mlp
from tests.convert.test_configs import minimal

pytestmark = pytest.mark.quick

_OF_ALL: dict[str, Any] = {
    "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "output_router_logits": False,
    "router_aux_loss_coef": 0.001, "tie_word_embeddings": False, "use_cache": True,
}  # fmt: skip
_OF_QWEN = {"decoder_sparse_step": 1, "sliding_window": None, "use_sliding_window": False, "vocab_size": 151936}
_DEEPSEEK: dict[str, Any] = _OF_ALL | {
    "attention_bias": False, "ep_size": 1, "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_layer_freq": 1,
    "pretraining_tp": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "v_head_dim": 128,
}  # fmt: skip

# With the parameters that their pages give, but for layers that predict further tokens.
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "Qwen/Qwen3-30B-A3B": (
        30_532_122_624,
        _OF_ALL
        | _OF_QWEN
        | {
            "attention_bias": False, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144,
            "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
            "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": True,
            "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
            "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000.0,
        },
    ),
    "Qwen/Qwen1.5-MoE-A2.7B": (
        14_315_784_192,
        _OF_ALL
        | _OF_QWEN
        | {
            "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 8192, "max_window_layers": 21,
            "model_type": "qwen2_moe", "moe_intermediate_size": 1408, "norm_topk_prob": False,
            "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 16, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "shared_expert_intermediate_size": 5632,
        },
    ),
    "mistralai/Mixtral-8x7B-v0.1": (
        46_702_792_704,
        _OF_ALL
        | {
            "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
            "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "num_local_experts": 8, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": None,
            "vocab_size": 32000,
        },
    ),
    "allenai/OLMoE-1B-7B-0924": (
        6_919_161_856,
        _OF_ALL
        | {
            "attention_bias": False, "clip_qkv": None, "hidden_size": 2048, "intermediate_size": 1024,
            "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": False,
            "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
            "num_key_value_heads": 16, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0,
            "vocab_size": 50304,
        },
    ),
    "openai/gpt-oss-20b": (
        20_914_757_184,
        _OF_ALL
        | {
            "attention_bias": True, "experts_per_token": 4, "head_dim": 64, "hidden_size": 2880,
            "initial_context_length": 4096, "intermediate_size": 2880,
            "layer_types": ["sliding_attention", "full_attention"] * 12, "max_position_embeddings": 131072,
            "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                "rope_type": "yarn", "truncate": False,
            },
            "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
            "vocab_size": 201088,
        },
    ),
    "microsoft/Phi-3.5-MoE-instruct": (
        41_873_153_344,
        _OF_ALL
        | {
            "attention_bias": True, "hidden_size": 4096, "input_jitter_noise": 0.01, "intermediate_size": 6400,
            "lm_head_bias": True, "max_position_embeddings": 131072, "model_type": "phimoe",
            "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "num_local_experts": 16, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "long_factor": [2.0] * 64, "long_mscale": 1.243163121016122, "original_max_position_embeddings": 4096,
                "short_factor": [1.0] * 64, "short_mscale": 1.243163121016122, "type": "longrope",
            },
            "rope_theta": 10000.0, "router_jitter_noise": 0.01, "sliding_window": 131072, "vocab_size": 32064,
        },
    ),
    "deepseek-ai/DeepSeek-V3": (
        671_026_419_200,
        _DEEPSEEK
        | {
            "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432, "model_type": "deepseek_v3",
            "moe_intermediate_size": 2048, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
            "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
            "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
            "rope_scaling": _DEEPSEEK["rope_scaling"] | {"mscale": 1.0, "mscale_all_dim": 1.0},
            "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4, "topk_method": "noaux_tc",
            "vocab_size": 129280,
        },
    ),
    "deepseek-ai/DeepSeek-V2-Lite": (
        15_706_484_224,
        _DEEPSEEK
        | {
            "aux_loss_alpha": 0.001, "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944,
            "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 64,
            "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16, "num_experts_per_tok": 6,
            "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None, "routed_scaling_factor": 1.0,
            "scoring_func": "softmax", "seq_aux": True, "topk_group": 1, "topk_method": "greedy", "vocab_size": 102400,
        },
    ),
    "zai-org/GLM-4.5-Air": (
        106_852_251_264,
        _OF_ALL
        | {
            "attention_bias": True, "first_k_dense_replace": 1, "head_dim": 128, "hidden_size": 4096,
            "intermediate_size": 10944, "max_position_embeddings": 131072, "model_type": "glm4_moe",
            "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 1,
            "norm_topk_prob": True, "num_attention_heads": 96, "num_experts_per_tok": 8, "num_hidden_layers": 46,
            "num_key_value_heads": 8, "num_nextn_predict_layers": 1, "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 1000000, "routed_scaling_factor": 1.0,
            "topk_group": 1, "use_qk_norm": False, "vocab_size": 151552,
        },
    ),
    "meta-llama/Llama-4-Scout-17B-16E": (
        107_769_861_120 + 36 * 2 * 128 + 48 * 16,  # norms whose weights are one, corrections that are zero
        {
            "boi_token_index": 200080, "eoi_token_index": 200081, "image_token_index": 200092, "model_type": "llama4",
            "text_config": _OF_ALL
            | {
                "attention_bias": False, "attention_chunk_size": 8192, "attn_scale": 0.1, "attn_temperature_tuning": 4,
                "floor_scale": 8192, "for_llm_compressor": False, "head_dim": 128, "hidden_size": 5120,
                "interleave_moe_layer_step": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
                "max_position_embeddings": 262144, "model_type": "llama4_text", "no_rope_layers": [],
                "num_attention_heads": 40, "num_experts_per_tok": 1, "num_hidden_layers": 48, "num_key_value_heads": 8,
                "num_local_experts": 16, "rms_norm_eps": 1e-5,
                "rope_scaling": {
                    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                    "original_max_position_embeddings": 8192, "rope_type": "llama3",
                },
                "rope_theta": 500000.0, "router_jitter_noise": 0.0, "use_qk_norm": True, "vocab_size": 202048,
            },
            "vision_config": {"model_type": "llama4_vision_model"},
        },
    ),
    "LGAI-EXAONE/K-EXAONE-236B-A23B": (
        236_571_156_352,
        _OF_ALL
        | {
            "first_last_k_dense_replace": 1, "head_dim": 128, "hidden_size": 6144, "intermediate_size": 18432,
            "is_moe_layer": [False] + [True] * 47,
            "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 12, "max_position_embeddings": 262144,
            "model_type": "exaone_moe", "moe_intermediate_size": 2048, "n_group": 1, "norm_topk_prob": True,
            "num_attention_heads": 64, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
            "num_key_value_heads": 8, "num_nextn_predict_layers": 1, "num_shared_experts": 1, "rms_norm_eps": 1e-5,
            "rope_scaling": None, "rope_theta": 1000000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
            "sliding_window": 128, "sliding_window_pattern": "LLLG", "tokenizer_class": "GPT2Tokenizer",
            "topk_group": 1, "topk_method": "noaux_tc", "vocab_size": 153600,
        },
    ),
    "MiniMaxAI/MiniMax-M2": (
        228_689_764_864,
        _OF_ALL
        | {
            "attn_type_list": [1] * 62, "head_dim": 128, "hidden_size": 3072, "intermediate_size": 1536,
            "layernorm_full_attention_beta": 1.0, "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_beta": 1.0,
            "max_position_embeddings": 196608, "mlp_intermediate_size": 8192, "model_type": "minimax_m2",
            "mtp_transformer_layers": 1, "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62,
            "num_key_value_heads": 8, "num_local_experts": 256, "num_mtp_modules": 3, "qk_norm_type": "per_layer",
            "rms_norm_eps": 1e-6, "rope_theta": 5000000, "rotary_dim": 64, "router_jitter_noise": 0.0,
            "scoring_func": "sigmoid", "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid",
            "sliding_window": None, "use_mtp": True, "use_qk_norm": True, "use_routing_bias": True,
            "vocab_size": 200064,
        },
    ),
}  # fmt: skip
_V3 = PUBLISHED["deepseek-ai/DeepSeek-V3"][1]


def test_what_changes_nothing() -> None:
    """What stands beside the language model, and the older name of a width that nothing has."""
    whole = {"model_type": "kimi_k25", "text_config": _V3, "vision_config": {}} | {
        "ignore_index": -100, "media_placeholder_token_id": 163605, "use_unified_vision_chunk": True,
        "video_placeholder": "<|kimi_k25_video_placeholder|>",
    }  # fmt: skip
    assert described(whole, where="kimi").config == described(_V3, where="v3").config
    gemma = minimal("gemma4_text")
    older = described(gemma | {"expert_intermediate_size": None}, where="gemma").config
    assert older == described(gemma, where="gemma").config


def test_exaone_names_its_layers() -> None:
    fields = minimal("exaone_moe")
    listed = described(fields | {"is_moe_layer": [0, 0, 1]}, where="exaone").config
    assert listed == described(fields | {"first_k_dense_replace": 2}, where="exaone").config


def test_scout_as_published() -> None:
    """Neither a chunk nor the temperature of queries changes a shorter input; no list of layers means the interval."""
    config = described(PUBLISHED["meta-llama/Llama-4-Scout-17B-16E"][1], where="scout").config
    assert (config.most_tokens, config.unrotated_layers) == (8191, tuple(range(3, 48, 4)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    expected, fields = PUBLISHED[name]
    assert n_params(described(fields, where=name).config) == expected


def test_gpt_oss_as_published() -> None:
    fields = PUBLISHED["openai/gpt-oss-20b"][1]
    config = described(fields, where="gpt-oss").config
    assert config.kinds == (1, 0) * 12
    assert (config.gate_clamp, config.rope_magnitude) == ((1.702, 7.0), pytest.approx(1.3465735902799727))
    absent = {name: value for name, value in fields.items() if name not in ("rope_scaling", "layer_types")}
    assert described(absent, where="gpt-oss").config == config


def test_deepseek_as_published() -> None:
    """YaRN's factor is squared into the scale of queries and keys; the first layers have one MLP."""
    config = described(PUBLISHED["deepseek-ai/DeepSeek-V3"][1], where="v3").config
    assert config.scale == pytest.approx(192**-0.5 * 1.3688879454113936**2)
    assert (config.rope_magnitude, config.router_groups, config.form_of) == (1.0, (8, 4, 2), (0,) * 3 + (1,) * 58)


def test_phi_moe_as_published() -> None:
    """Its tables have a factor of their own; inputs up to the length of the first training are read."""
    config = described(PUBLISHED["microsoft/Phi-3.5-MoE-instruct"][1], where="phi").config
    assert (config.rope_magnitude, config.most_tokens, config.mixer_noise) == (1.243163121016122, 4096, 0.01)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("qwen3_moe", {"decoder_sparse_step": -2}, "decoder_sparse_step = -2"),
        ("qwen2_moe", {"mlp_only_layers": ["0"]}, r"mlp_only_layers = \['0'\], expected a list of layers"),
        ("glm4_moe", {"mlp_layer_types": ["dense"]}, "mlp_layer_types is no list of 3"),
        ("glm4_moe", {"n_group": 3, "topk_group": 1}, "experts in groups"),
        ("deepseek_v3", {"n_group": 1, "topk_group": 2, "first_k_dense_replace": 1}, r"groups .* \(1, 2, 2\)"),
        ("exaone_moe", {"is_moe_layer": [True]}, "is_moe_layer is no list of 3"),
        ("exaone_moe", {"is_moe_layer": [0, 0, 1], "first_k_dense_replace": 1}, "is_moe_layer contradicts"),
        ("exaone_moe", {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ("llama4_text", {"moe_layers": [3]}, r"moe_layers = \[3\], expected a list of layers from 0 to 2"),
        ("llama4_text", {"no_rope_layers": [0, 1, 1], "floor_scale": 1}, "max_positions = 0, expected a positive"),
        ("llama4_text", {"attn_temperature_tuning": None}, "attn_temperature_tuning = None, expected true or false"),
        ("minimax_m2", {"attn_type_list": [1, 0, 1]}, r"attn_type_list = \[1, 0, 1\], expected 3 times 1"),
        ("minimax_m2", {"use_routing_bias": False}, "use_routing_bias = False is not supported"),
        ("deepseek_v3", {"num_key_value_heads": 1}, "num_key_value_heads = 1, expected the 2 of latent attention"),
        ("deepseek_v3", {"attention_bias": True}, "attention_bias = True is not supported"),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"}, "without n_group and topk_group"),
        ("gemma4_text", {"hidden_size_per_layer_input": 8}, "an embedding for each layer"),
        ("gemma4_unified_text", {"enable_moe_block": True}, "num_experts"),
        ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "M*X"}, "expected layers_block_type"),
        (
            "nemotron_h",
            {"layers_block_type": ["mamba", "mlp"]},
            "3, but the blocks of 2 are listed",
        ),
        ("nemotron_h", {"layer_types": ["mamba"] * 3}, "layer_types contradicts layers_block_type"),
        (
            "nemotron_h",
            {"layers_block_type": ["moe"] * 3, "moe_latent_size": 4},
            "moe_latent_size = 4",
        ),
        ("nemotron_h", {"time_step_limit": [0.0, 0.1]}, "only \\[0, Infinity\\] is"),
        ("nemotron_h", {"n_groups": 3}, "128 mamba_num_heads do not divide into 3 n_groups"),
        ("ernie4_5_moe", {"use_bias": True}, "use_bias = True is not supported"),
        ("mixtral", {"num_experts_per_tok": 9}, "9 experts for each token, expected 1 to the 8"),
        ("phimoe", {"num_experts_per_tok": 1}, "1 experts for each token, expected the 2 of SparseMixer"),
        ("olmoe", {"num_experts": 4, "num_local_experts": 5}, "num_experts = 4 contradicts num_local_experts = 5"),
        ("flex_olmo", {"attention_bias": True}, "attention_bias"),
        ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("gpt_oss", {"swiglu_limit": -1.0}, "swiglu_limit = -1.0"),
        ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": -1.0}}, "alpha = -1.0"),
    ],
)
def test_what_is_refused(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        described(minimal(model_type) | changes, where="here")


_OLMO_HYBRID: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3840,
    "initializer_range": 0.02, "intermediate_size": 11008, "linear_a_log_max": 16.0, "linear_a_log_min": 0.0,
    "linear_allow_neg_eigval": True, "linear_conv_kernel_dim": 4, "linear_dt_init_floor": 1e-4, "linear_dt_max": 0.1,
    "linear_dt_min": 0.001, "linear_key_head_dim": 96, "linear_num_key_heads": 30, "linear_num_value_heads": 30,
    "linear_value_head_dim": 192, "max_position_embeddings": 65536, "model_type": "olmo_hybrid",
    "num_attention_heads": 30, "num_hidden_layers": 32, "num_key_value_heads": 30, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": None}, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 100352,
}  # fmt: skip


def test_olmo_hybrid() -> None:
    """As many numbers as the released file has, and no positions where there is no base of them."""
    config = described(_OLMO_HYBRID, where="allenai/Olmo-Hybrid-7B").config
    assert n_params(config) == 14_861_741_376 // 2
    delta, full = (dict(form) for form in sorted(config.forms, key=lambda form: dict(form)["mixer"]))
    assert (delta["delta_strength"], delta["delta_eps"], full["rotary_dim"]) == (2.0, 1e-5, 0)
    assert config.form_of[:8] == (1, 1, 1, 0) * 2
    changes = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "linear_allow_neg_eigval": False}
    turned = described(_OLMO_HYBRID | changes, where="here").config
    assert (turned.layer_forms[0].n_rotary, turned.rope_theta) == (128, 500000.0)
    assert turned.layer_forms[1].delta_strength == 1
    few = {name: value for name, value in _OLMO_HYBRID.items() if not name.startswith("linear_")}
    short = described(few | {"num_hidden_layers": 3}, where="here").config
    assert short.form_of == (1, 1, 0)
    assert [(form.head_dim, form.value_width) for form in short.layer_forms] == [(128, 128), (96, 192)]


def test_nemotron_h() -> None:
    """The letters of older files are the names of newer ones, at the shape of the 8B model."""
    pattern = "M-M-M-M*-" + 3 * "M-M-M-M-M*-" + "M-M-M-M-M-"
    fields = {
        "model_type": "nemotron_h", "attention_head_dim": 128, "hidden_size": 4096, "intermediate_size": 21504,
        "num_attention_heads": 32, "num_hidden_layers": 52, "num_key_value_heads": 8,
        "time_step_limit": [0.0, math.inf], "time_step_rank": 256, "vocab_size": 131072,
    }  # fmt: skip
    config = described(fields | {"hybrid_override_pattern": pattern}, where="here").config
    names = [{"M": "mamba", "-": "mlp", "*": "attention"}[letter] for letter in pattern]
    assert described(fields | {"layers_block_type": names}, where="here").config == config
    assert 8.05e9 < n_params(config) < 8.15e9
    assert config.heads[:9] == (128, 0, 128, 0, 128, 0, 128, 32, 0)
    assert with_mlp(config) == tuple(letter == "-" for letter in pattern)
