"""Tiny random mixtures of experts of transformers, with odd choices that real checkpoints have."""

from __future__ import annotations

from tests.hf_bases import LINEAR, LLAMA, MAMBA, MAMBA_NEEDS, NO_HEAD_DIM, PARTIAL, YARN, Type

_MOE = {"num_local_experts": 5, "num_experts_per_tok": 2}
_QWEN_MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MOE_NEEDS = "experts in every layer"

_MIXED_NEEDS = "one MLP in some layers, experts in others"
_SIGMOID_NEEDS = f"{_MIXED_NEEDS}; chosen by sigmoids and a correction in groups, an MLP beside them"
_GROUPED = {"moe_intermediate_size": 24, "num_experts_per_tok": 2, "n_group": 3, "topk_group": 2} | {
    "routed_scaling_factor": 1.7
}

_GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.1,
    "logits_scaling": 4.0,
} | {"tie_word_embeddings": True, "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_NEMOTRON = {name: value for name, value in LLAMA.items() if name not in ("num_hidden_layers", "rms_norm_eps")} | {
    "mamba_num_heads": 6,
    "mamba_head_dim": 5,
    "n_groups": 2,
    "ssm_state_size": 6,
    "conv_kernel": 3,
    "chunk_size": 7,
    "time_step_min": 0.3,
    "layer_norm_epsilon": 1e-3,
}
_ONE_BLOCK = "layers of one block each, some of Mamba-2"
MIXTURE = _QWEN_MOE | {"shared_expert_intermediate_size": 40}
LINEAR_NEEDS = "layers of Gated DeltaNet among those of gated attention"
OLMO_NEEDS = "layers of Gated DeltaNet among those of attention, whose norms come after them"
_LATENT_NEEDS = f"{_SIGMOID_NEEDS}; latent attention"
_NO_HEADS = {name: value for name, value in NO_HEAD_DIM.items() if name != "num_key_value_heads"}
_LATENT = (
    _NO_HEADS
    | {"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 20, "n_routed_experts": 6}
    | {
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 7,
        "first_k_dense_replace": 1,
    }
)
_MSCALE = {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.9}}

_LLAMA4_NEEDS = (
    f"{_MIXED_NEEDS}; experts that read what a sigmoid scales, an MLP beside them; layers without rotary positions"
    " (NoPE); a norm without weights after the rotation; inputs within a chunk"
)
_LLAMA4 = (
    LLAMA
    | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size_mlp": 40}
    | {
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 0, 1],
        "moe_layers": [1, 2],
        "attention_chunk_size": 64,
        "floor_scale": 65,
    }
)

EXPERT_TYPES: dict[str, Type] = {
    "qwen3_moe": Type("qwen3_moe", LLAMA | _QWEN_MOE | {"norm_topk_prob": True}, _MOE_NEEDS),
    "qwen2_moe": Type(
        "qwen2_moe",
        NO_HEAD_DIM | _QWEN_MOE | {"shared_expert_intermediate_size": 40},
        f"{_MOE_NEEDS}, with an MLP beside it that has a gate",
        flagged=True,
    ),
    "qwen3_moe-mixed": Type(
        "qwen3_moe", LLAMA | _QWEN_MOE | {"num_hidden_layers": 5, "decoder_sparse_step": 2}, _MIXED_NEEDS
    ),
    "qwen2_moe-mixed": Type(
        "qwen2_moe",
        NO_HEAD_DIM | _QWEN_MOE | {"shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
        _MIXED_NEEDS,
    ),
    "glm4_moe": Type(
        "glm4_moe",
        LLAMA | _GROUPED | {"n_routed_experts": 6, "use_qk_norm": True, "attention_bias": True},
        _SIGMOID_NEEDS,
        flagged=True,
    ),
    "exaone_moe": Type(
        "exaone_moe",
        LLAMA
        | _GROUPED
        | {"num_experts": 6, "norm_topk_prob": False, "sliding_window": 5, "sliding_window_pattern": 2}
        | {"mlp_layer_types": ["sparse", "dense", "sparse"]},
        f"{_SIGMOID_NEEDS}; NoPE on layers without a window",
        flagged=True,
    ),
    "ernie4_5_moe": Type(
        "ernie4_5_moe",
        LLAMA | {"moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1},
        f"{_MIXED_NEEDS}; chosen by a softmax and a correction; pairs beside one another",
        flagged=True,
    ),
    "qwen3_next": Type(
        "qwen3_next",
        LLAMA | LINEAR | MIXTURE | {"mlp_only_layers": [2]},
        f"{LINEAR_NEEDS}; {_MIXED_NEEDS}",
        flagged=True,
    ),
    "olmo_hybrid": Type(
        "olmo_hybrid",
        NO_HEAD_DIM
        | LINEAR
        | {"rope_parameters": {"rope_theta": None}, "linear_num_value_heads": 4}
        # transformers saves the weights of short convolutions in three equal parts, which released files do not
        | {"linear_value_head_dim": 3},
        OLMO_NEEDS,
        flagged=True,
    ),
    "bamba": Type(
        "bamba",
        NO_HEAD_DIM | MAMBA | PARTIAL | {"attn_layer_indices": [1], "rms_norm_eps": 1e-3},
        MAMBA_NEEDS,
        flagged=True,
    ),
    "bamba-biases": Type(
        "bamba",
        NO_HEAD_DIM
        | MAMBA
        | PARTIAL
        | {"attn_layer_indices": [0, 2], "rms_norm_eps": 1e-3}
        | {"attention_bias": True, "mamba_conv_bias": False, "mamba_n_groups": 4},
        MAMBA_NEEDS,
    ),
    "granitemoehybrid": Type(
        "granitemoehybrid",
        NO_HEAD_DIM | _MOE | MAMBA | _GRANITE | {"shared_intermediate_size": 20, "rms_norm_eps": 1e-3},
        f"{MAMBA_NEEDS}; {_MOE_NEEDS}, an MLP beside them; multipliers folded into weights",
        flagged=True,
    ),
    "granitemoehybrid-dense": Type(
        "granitemoehybrid",
        NO_HEAD_DIM
        | MAMBA
        | _GRANITE
        | {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 24}
        | {"position_embedding_type": "rope", "rms_norm_eps": 1e-3},
        f"{MAMBA_NEEDS}; multipliers folded into weights",
    ),
    "nemotron_h": Type(
        "nemotron_h",
        _NEMOTRON
        | {"layers_block_type": ["mamba", "moe", "attention", "mamba", "moe"], "n_routed_experts": 6}
        | {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 40}
        | {"n_group": 3, "topk_group": 2, "routed_scaling_factor": 1.7},
        f"{_ONE_BLOCK}; experts, chosen by sigmoids and a correction in groups, an MLP beside them",
        flagged=True,
    ),
    "nemotron_h-dense": Type(
        "nemotron_h",
        _NEMOTRON | {"layers_block_type": ["mlp", "mamba", "attention"], "mlp_bias": True, "use_conv_bias": False},
        _ONE_BLOCK,
    ),
    "deepseek_v2": Type(
        "deepseek_v2",
        _LATENT | _GROUPED | _MSCALE | {"q_lora_rank": None, "topk_method": "group_limited_greedy"},
        f"{_MIXED_NEEDS}; chosen in groups, an MLP beside them; latent attention; YaRN",
        flagged=True,
    ),
    "deepseek_v3": Type("deepseek_v3", _LATENT | _GROUPED | _MSCALE, f"{_LATENT_NEEDS}; YaRN", flagged=True),
    "deepseek_v32": Type(
        "deepseek_v32",
        _LATENT | _GROUPED | _MSCALE | {"index_topk": 48, "index_head_dim": 8, "index_n_heads": 2},
        f"{_LATENT_NEEDS}; inputs of which the indexer chooses all",
    ),
    "glm_moe_dsa": Type(
        "glm_moe_dsa",
        _LATENT | _GROUPED | _MSCALE | {"index_topk": 48, "index_head_dim": 8, "index_n_heads": 2},
        f"{_LATENT_NEEDS}; inputs of which the indexer chooses all",
    ),
    "glm4_moe_lite": Type("glm4_moe_lite", _LATENT | _GROUPED | _MSCALE | {"rope_interleave": False}, _LATENT_NEEDS),
    "kimi_k25": Type(
        "kimi_k25",
        {
            "text_config": _LATENT | _GROUPED | _MSCALE | {"model_type": "deepseek_v3"},
            "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
            | {"num_attention_heads": 2},
            "tie_word_embeddings": False,
        },
        "the text part",
        whole="Kimi_K25ForConditionalGeneration",
    ),
    "llama4_text": Type("llama4_text", _LLAMA4, _LLAMA4_NEEDS, flagged=True),
    "llama4": Type(
        "llama4",
        {
            "text_config": _LLAMA4 | {"use_qk_norm": False, "interleave_moe_layer_step": 1, "moe_layers": None},
            "vision_config": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1}
            | {"num_attention_heads": 2, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
            | {"patch_size": 4, "image_size": 16},
        },
        "the text part",
        whole="Llama4ForConditionalGeneration",
    ),
    "mixtral": Type("mixtral", LLAMA | _MOE | {"sliding_window": 5}, _MOE_NEEDS, flagged=True),
    "olmoe": Type("olmoe", NO_HEAD_DIM | _MOE | {"clip_qkv": 0.9}, _MOE_NEEDS),
    "flex_olmo": Type("flex_olmo", NO_HEAD_DIM | _MOE | {"norm_topk_prob": True}, _MOE_NEEDS),
    "granitemoe": Type(
        "granitemoe",
        NO_HEAD_DIM
        | _MOE
        | {"embedding_multiplier": 12.0, "residual_multiplier": 0.4, "attention_multiplier": 0.1}
        | {"logits_scaling": 4.0, "tie_word_embeddings": True},
        f"{_MOE_NEEDS}; multipliers folded into weights",
    ),
    "minimax_m2": Type(
        "minimax_m2", LLAMA | _MOE | PARTIAL, f"{_MOE_NEEDS}, chosen by sigmoids and a correction", flagged=True
    ),
    "gpt_oss": Type(
        "gpt_oss",
        LLAMA
        | _MOE
        | {"sliding_window": 5, "swiglu_limit": 0.7}
        | {"rope_parameters": YARN | {"truncate": False, "beta_fast": 32.0, "beta_slow": 1.0}},
        f"{_MOE_NEEDS}, with biases and a clamped gate; attention sinks; YaRN",
        flagged=True,
    ),
    "phimoe": Type(
        "phimoe",
        NO_HEAD_DIM | _MOE | {"attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.2},
        f"{_MOE_NEEDS}, chosen by SparseMixer; the head's bias",
        flagged=True,
    ),
}
"""By name: the type."""
