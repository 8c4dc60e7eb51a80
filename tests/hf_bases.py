"""The fields that tiny random models of transformers share, and what is said of a type."""

from __future__ import annotations

import dataclasses
from typing import Any

V = 61
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EPS = {"rms_norm_eps": 1e-5}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
BASE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    **TOKENS,
}
LLAMA = {**BASE, **EPS, **ROPE, "head_dim": 8}
NO_HEAD_DIM = {name: value for name, value in LLAMA.items() if name != "head_dim"}
NO_NORM = {name: value for name, value in NO_HEAD_DIM.items() if name != "rms_norm_eps"}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
LINEAR: dict[str, Any] = {
    **PARTIAL,
    "rms_norm_eps": 1e-3,  # heads whose output is all but zero would make much of how either side rounds
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_value_heads": 6,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 3,
}


MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_expand": 2,
    "mamba_n_groups": 2,
    "mamba_d_state": 6,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 7,
}
MAMBA_NEEDS = "layers of Mamba-2 among those of attention"


@dataclasses.dataclass(frozen=True)
class Type:
    """A ``model_type`` with a tiny config."""

    model_type: str
    fields: dict[str, Any]
    needs: str = "fields and layout"
    """What of the decoder it uses beside Llama's, in a few words."""
    whole: str | None = None
    """The class of a model with other parts."""
    flagged: bool = False
    """Whether it uses arithmetic of its own, which the oracle has too."""
    attention: str = "eager"
    """Of transformers' ways to compute attention, the right one."""
    double: bool = True
    """Whether transformers can compute it in double precision."""
