"""What sets each family apart, as flags of ``ModelConfig`` that every checkpoint of the family shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA = {"norm_offset": 1.0, "post_norm": True}
_LAYER_NORM = {"norm": "layer", "mlp_bias": True, "gated_mlp": False}

FLAGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "olmo2": {"pre_norm": False, "post_norm": True, "qk_norm": "full"},
    "phi3": {},
    "gemma2": _GEMMA,
    "gemma3": _GEMMA | {"qk_norm": "head"},
    "gpt2": _LAYER_NORM | {"qkv_bias": True, "o_bias": True, "learned_positions": True, "rotary_dim": 0},
    "gpt_neox": _LAYER_NORM,
}
"""By ``ModelConfig.family``; what differs between the checkpoints of a family is read from their files."""
