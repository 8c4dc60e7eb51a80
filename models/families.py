"""What sets each family of models apart: the flags of ``ModelConfig`` that hold for all of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_GATED = {"norm_offset": 1.0, "qk_norm": "head", "gated_attention": True}
_GEMMA = {"norm_offset": 1.0, "post_norm": True}
_GEMMA4 = {"post_norm": True, "qk_norm": "head", "value_norm": True, "layer_scale": True, "query_scale": 1.0}
_LAYER_NORM = {"norm": "layer", "mlp_bias": True, "gated_mlp": False}
_ALL_BIASES = _LAYER_NORM | {"qkv_bias": True, "o_bias": True}
_LEARNED = {"learned_positions": True, "rotary_dim": 0}
_POST_NORM = {"pre_norm": False, "post_norm": True}

FLAGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "olmo2": _POST_NORM | {"qk_norm": "full"},
    "phi3": {},
    "gemma2": _GEMMA,
    "gemma3": _GEMMA | {"qk_norm": "head"},
    "gpt2": _ALL_BIASES | _LEARNED,
    "gpt_neox": _LAYER_NORM,
    "apertus": {"qk_norm": "head", "gated_mlp": False},
    "arcee": {"gated_mlp": False},
    "bloom": _ALL_BIASES | {"rotary_dim": 0},
    "codegen": _LAYER_NORM | {"parallel": True, "head_bias": True},
    "cohere": {"norm": "layer", "parallel": True},
    "cohere2": {"norm": "layer", "parallel": True},
    "cwm": {},
    "ernie4_5": {},
    "exaone4": _POST_NORM | {"qk_norm": "head"},
    "falcon": {"norm": "layer", "gated_mlp": False},
    "gemma": {"norm_offset": 1.0},
    "glm": {},
    "glm4": {"post_norm": True},
    "gpt_bigcode": _ALL_BIASES | _LEARNED,
    "gpt_neo": _LAYER_NORM | _LEARNED | {"o_bias": True, "query_scale": 1.0},
    "gptj": _LAYER_NORM | {"parallel": True, "head_bias": True},
    "granite": {},
    "helium": {},
    "internlm3": {},
    "ministral": {},
    "ministral3": {},
    "mpt": {"norm": "layer", "gated_mlp": False, "rotary_dim": 0},
    "nemotron": {"norm": "layer", "norm_offset": 1.0, "gated_mlp": False},
    "olmo": {"norm": "layer"},
    "olmo3": _POST_NORM | {"qk_norm": "full"},
    "opt": _ALL_BIASES | _LEARNED,
    "phi": _ALL_BIASES | {"parallel": True, "head_bias": True},
    "program": _LEARNED | {"norm": "none", "mlp_bias": True, "gated_mlp": False, "activation": "relu"},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {"norm": "layer"},
    "starcoder2": {"norm": "layer", "gated_mlp": False},
    "vaultgemma": {"norm_offset": 1.0},
    "xglm": _ALL_BIASES | _LEARNED,
    "hunyuan_v1_dense": {"qk_norm": "head", "qk_norm_last": True},
    "qwen3_moe": {"qk_norm": "head"},
    "qwen2_moe": {},
    "qwen3_next": _GATED | {"router": "chosen"},
    "qwen3_5": _GATED,
    "bamba": {},
    "granitemoehybrid": {"router": "chosen"},
    "nemotron_h": {"parallel": True, "gated_mlp": False},
    "olmo_hybrid": _POST_NORM | {"qk_norm": "full"},
    "qwen3_5_moe": _GATED | {"router": "chosen"},
    "mixtral": {"router": "chosen"},
    "olmoe": {"qk_norm": "full"},
    "flex_olmo": _POST_NORM | {"qk_norm": "full"},
    "granitemoe": {"router": "chosen"},
    "glm4_moe": {},
    "deepseek_v2": {},
    "deepseek_v3": {},
    "deepseek_v32": {},
    "glm4_moe_lite": {},
    "glm_moe_dsa": {},
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _GEMMA4),
    "llama4_text": {"router": "sigmoids", "scaled_inputs": True},
    "exaone_moe": {"qk_norm": "head"},
    "ernie4_5_moe": {"router": "corrected"},
    "minimax_m2": {"qk_norm": "full", "router": "sigmoid"},
    "gpt_oss": {"sinks": True, "mlp_bias": True, "router": "chosen", "router_bias": True},
    "phimoe": {"norm": "layer", "router": "mixer"},
}
"""What sets each family apart, by ``ModelConfig.family``; what its checkpoints differ in is read from their files."""


def llama3_divisors(
    theta: float, rotary_dim: int, factor: float, low: float, high: float, positions: float
) -> tuple[float, ...]:
    """Llama-3.1's rotary scaling: long waves are slowed by ``factor``, short ones kept, linearly blended in between.

    ``low`` and ``high`` bound the blend, in turns that a wave makes over the ``positions`` of the first training.
    """
    frequencies = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    turns = positions * frequencies / (2 * math.pi)
    unscaled = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return tuple(float(d) for d in 1 / (unscaled + (1 - unscaled) / factor))
