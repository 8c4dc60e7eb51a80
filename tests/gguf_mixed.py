"""What llama.cpp's conversion writes of models whose layers are unlike: its metadata, and its changes of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Named = list[tuple[str, np.ndarray]]


def _routed(c: Any) -> dict[str, Any]:
    return {
        "expert_count": c.n_routed_experts,
        "expert_used_count": c.num_experts_per_tok,
        "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_shared_count": c.n_shared_experts,
        "expert_group_count": c.n_group,
        "expert_group_used_count": c.topk_group,
        "expert_weights_scale": float(c.routed_scaling_factor),
        "leading_dense_block_count": c.first_k_dense_replace,
    }


def _glm4moe(c: Any) -> dict[str, Any]:
    turned = int(c.head_dim * c.rope_parameters["partial_rotary_factor"])
    gating = {"expert_gating_func": 2, "expert_weights_norm": c.norm_topk_prob}
    return _routed(c) | gating | {"rope.dimension_count": turned, "nextn_predict_layers": 0}


def _ernie(c: Any) -> dict[str, Any]:
    return {
        "expert_count": c.moe_num_experts,
        "expert_used_count": c.moe_k,
        "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_shared_count": c.moe_num_shared_experts,
        "expert_shared_feed_forward_length": c.intermediate_size // c.num_key_value_heads,
        "interleave_moe_layer_step": c.moe_layer_interval,
        "leading_dense_block_count": c.moe_layer_start_index,
    }


def _llama4(c: Any) -> dict[str, Any]:
    return {
        "feed_forward_length": c.intermediate_size_mlp,
        "expert_feed_forward_length": c.intermediate_size,
        "expert_count": c.num_local_experts,
        "expert_used_count": c.num_experts_per_tok,
        "interleave_moe_layer_step": c.interleave_moe_layer_step,
        "rope.dimension_count": c.head_dim,
        "rope.scaling.type": "none",
    }


def _deepseek2(c: Any) -> dict[str, Any]:
    """The old ones have no widths beside those of heads, and do not say what chooses."""
    rope, sigmoids = c.rope_parameters, c.model_type != "deepseek_v2"
    return {
        **_routed(c),
        **({"expert_gating_func": 2} if sigmoids else {}),
        **({"expert_weights_norm": True} if sigmoids and c.norm_topk_prob else {}),
        **({} if c.q_lora_rank is None else {"attention.q_lora_rank": c.q_lora_rank}),
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": c.kv_lora_rank,
        "attention.key_length": c.kv_lora_rank + c.qk_rope_head_dim,
        "attention.value_length": c.kv_lora_rank,
        "attention.key_length_mla": c.qk_nope_head_dim + c.qk_rope_head_dim,
        "attention.value_length_mla": c.v_head_dim,
        "rope.dimension_count": c.qk_rope_head_dim,
        **({"rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"]} if "mscale_all_dim" in rope else {}),
    }


def _linear(c: Any) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": c.linear_conv_kernel_dim,
        "ssm.state_size": c.linear_key_head_dim,
        "ssm.group_count": c.linear_num_key_heads,
        "ssm.time_step_rank": c.linear_num_value_heads,
        "ssm.inner_size": c.linear_value_head_dim * c.linear_num_value_heads,
        "full_attention_interval": 2,
        "rope.dimension_count": int(c.head_dim * c.rope_parameters["partial_rotary_factor"]),
    }


def _sections(c: Any) -> dict[str, Any]:
    return {"rope.dimension_sections": [2, 1, 1, 0]}


def _experts_with_gate(c: Any) -> dict[str, Any]:
    return {
        "expert_count": c.num_experts,
        "expert_used_count": c.num_experts_per_tok,
        "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_shared_feed_forward_length": c.shared_expert_intermediate_size,
    }


def _gemma4(c: Any) -> dict[str, Any]:
    local = [kind == "sliding_attention" for kind in c.layer_types]
    whole = _whole(c)
    return {
        "attention.head_count_kv": [
            c.num_key_value_heads if windowed else whole.num_key_value_heads for windowed in local
        ],
        "attention.key_length": whole.head_dim,
        "attention.value_length": whole.head_dim,
        "attention.key_length_swa": c.head_dim,
        "attention.value_length_swa": c.head_dim,
        "attention.shared_kv_layers": 0,
        "attention.sliding_window": c.sliding_window,
        "attention.sliding_window_pattern": local,
        "embedding_length_per_layer_input": 0,
        "rope.dimension_count": whole.head_dim,
        "rope.dimension_count_swa": c.head_dim,
        "rope.freq_base_swa": float(c.rope_parameters["sliding_attention"]["rope_theta"]),
        **({} if c.final_logit_softcapping is None else {"final_logit_softcapping": c.final_logit_softcapping}),
        "expert_count": c.num_experts,
        "expert_used_count": c.top_k_experts,
        "expert_feed_forward_length": c.moe_intermediate_size,
    }


def _whole(c: Any) -> Any:
    """The config of a layer without a window."""
    return c.per_layer_config[c.layer_types.index("full_attention")]


METADATA: dict[str, Callable[[Any], dict[str, Any]]] = {
    "deepseek2": _deepseek2,
    "ernie4_5-moe": _ernie,
    "gemma4": _gemma4,
    "glm4moe": _glm4moe,
    "llama4": _llama4,
    "qwen35": lambda c: _linear(c) | _sections(c),
    "qwen35moe": lambda c: _linear(c) | _sections(c) | _experts_with_gate(c),
    "qwen3next": lambda c: _linear(c) | _experts_with_gate(c),
}
"""Of single architectures."""


def without_widths(c: Any) -> dict[str, Any]:
    """What files of latent attention said before its matrix was divided."""
    return {
        "attention.head_count_kv": c.num_attention_heads,
        "attention.key_length": c.qk_nope_head_dim + c.qk_rope_head_dim,
        "attention.value_length": c.v_head_dim,
        "attention.key_length_mla": None,
        "attention.value_length_mla": None,
    }


def _tiled(weight: np.ndarray, axis: int, c: Any, width: int) -> np.ndarray:
    """Heads of values, of which those of one key's head are together: the first of every key's head, and so on."""
    keys, shape = c.linear_num_key_heads, weight.shape
    apart = weight.reshape(*shape[:axis], keys, c.linear_num_value_heads // keys, width, *shape[axis + 1 :])
    return apart.swapaxes(axis, axis + 1).reshape(shape)


def _with_tiles(name: str, weight: np.ndarray, c: Any) -> np.ndarray:
    value, first = c.linear_value_head_dim, 2 * c.linear_num_key_heads * c.linear_key_head_dim
    if ".in_proj_qkv." in name or ".conv1d" in name:
        return np.concatenate([weight[:first], _tiled(weight[first:], 0, c, value)])
    if ".in_proj_z." in name:
        return _tiled(weight, 0, c, value)
    if ".out_proj." in name:
        return _tiled(weight, 1, c, value)
    return weight if ".linear_attn.norm" in name else _tiled(weight, 0, c, 1)


def _side_by_side(weight: np.ndarray, c: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each key head its query, key, values and gates: all queries, keys and values; and all gates."""
    key, values = c.linear_key_head_dim, c.linear_num_value_heads // c.linear_num_key_heads * c.linear_value_head_dim
    apart = weight.reshape(c.linear_num_key_heads, -1, weight.shape[-1])
    parts = np.split(apart, np.cumsum([key, key, values]), axis=1)
    flat = [part.reshape(-1, weight.shape[-1]) for part in parts]
    return np.concatenate(flat[:3]), flat[3]


_GEMMA4 = {
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
}
"""Of its experts, as llama.cpp reads them."""


def changed(architecture: str, name: str, weight: np.ndarray, c: Any, odd: str) -> Named:
    """A weight as the conversion has it, under the names that the map of the gguf package knows or the file has.

    ``odd`` is ``kv_b`` or ``ssm_in`` for matrices as older files have them.
    """
    block = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
    if name.endswith("e_score_correction_bias"):
        own = name.replace("e_score_correction_bias", "e_score_correction.bias")
        return [(own.replace("gate.moe_statics", "moe_statics"), weight)]  # as files have it
    if architecture == "gemma4" and (".router." in name or name.endswith("feedforward_layernorm_2.weight")):
        return [(block + _GEMMA4[name.split(".", 3)[3]], weight)]
    if name.endswith("layer_scalar"):
        return [(f"{name}.weight", weight)]
    if name.endswith("kv_b_proj.weight") and odd != "kv_b":
        apart = weight.reshape(c.num_attention_heads, -1, weight.shape[-1])
        k, v = apart[:, : c.qk_nope_head_dim], apart[:, c.qk_nope_head_dim :]
        return [(f"{block}attn_k_b.weight", k.swapaxes(1, 2)), (f"{block}attn_v_b.weight", v)]
    if not architecture.startswith("qwen"):
        return [(name, weight)]
    if "in_proj_qkvz" in name:
        if odd == "ssm_in":
            return [(f"{block}ssm_in.weight", weight)]
        joint, gate = _side_by_side(weight, c)
        return [(f"{block}attn_qkv.weight", joint), (f"{block}attn_gate.weight", gate)]
    if architecture != "qwen3next" and ".linear_attn." in name:
        weight = _with_tiles(name, weight, c)
    if name.endswith(".A_log"):
        return [(name, -np.exp(weight))]
    if name.endswith(".dt_bias"):
        return [(name.replace(".dt_bias", ".dt_proj.bias"), weight)]
    if "conv1d" in name:
        return [(name, weight.squeeze())]
    more = name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight")
    return [(name, weight + 1 if more else weight)]


def further(architecture: str, c: Any) -> dict[str, np.ndarray]:
    """Weights that no other file has: what divides the frequencies of Gemma 4's layers without a window."""
    if architecture != "gemma4":
        return {}
    width = _whole(c).head_dim
    turned = int(width * c.rope_parameters["full_attention"]["partial_rotary_factor"] / 2)
    return {"rope_freqs.weight": np.repeat(np.float32([1, 1e30]), [turned, width // 2 - turned])}
