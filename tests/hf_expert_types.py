"""Tiny random mixtures of experts of transformers, with odd choices that real checkpoints have."""

from __future__ import annotations

from tests.hf_bases import LLAMA, NO_HEAD_DIM, PARTIAL, YARN, Type

_MOE = {"num_local_experts": 5, "num_experts_per_tok": 2}
_QWEN_MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MOE_NEEDS = "experts in every layer"

EXPERT_TYPES: dict[str, Type] = {
    "qwen3_moe": Type("qwen3_moe", LLAMA | _QWEN_MOE | {"norm_topk_prob": True}, _MOE_NEEDS),
    "qwen2_moe": Type(
        "qwen2_moe",
        NO_HEAD_DIM | _QWEN_MOE | {"shared_expert_intermediate_size": 40},
        f"{_MOE_NEEDS}, with an MLP beside it that has a gate",
        flagged=True,
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
