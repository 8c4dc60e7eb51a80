"""Architectures of GGUF files some of whose layers differ from others, or whose attention is latent.

The facts are those of llama.cpp's ``conversion`` and ``src/models``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.gguf.positions import number_unless_zero
from jstrace.convert.gguf.rows import LLAMA, Architecture, Shape, flags, kinds, windows
from jstrace.models import InputError

_SOFTMAX, _SIGMOID = 1, 2
"""Values of ``expert_gating_func``."""


def _counts(f: Fields) -> tuple[int, int, int]:
    """The number of experts, of those chosen, and their width."""
    return f.integer("expert_count"), f.integer("expert_used_count"), f.integer("expert_feed_forward_length")


def _routed(f: Fields) -> dict[str, Any]:
    """Experts in groups, and an MLP beside them, as DeepSeek's config has them."""
    total, chosen, width = _counts(f)
    groups = {"n_group": f.integer("expert_group_count", 1), "topk_group": f.integer("expert_group_used_count", 1)}
    return groups | {
        "n_routed_experts": total,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": width,
        "n_shared_experts": f.integer("expert_shared_count"),
        "norm_topk_prob": f.flag("expert_weights_norm", False),
        "routed_scaling_factor": number_unless_zero(f, "expert_weights_scale") or 1.0,
        "first_k_dense_replace": f.take("leading_dense_block_count", 0),
    }


def _glm4moe(f: Fields, shape: Shape) -> dict[str, Any]:
    f.fixed("expert_gating_func", _SIGMOID)
    own = {"attention_bias": "blk.0.attn_q.bias", "use_qk_norm": "blk.0.attn_q_norm.weight"}
    return _routed(f) | {field: weight in shape.names for field, weight in own.items()}


def _ernie4_5_moe(f: Fields, shape: Shape) -> dict[str, Any]:
    total, chosen, width = _counts(f)
    f.take("expert_shared_feed_forward_length")  # the MLP of the layers without experts over their key/value heads
    return {
        "moe_num_experts": total,
        "moe_k": chosen,
        "moe_intermediate_size": width,
        "moe_num_shared_experts": f.take("expert_shared_count", 0),
        "moe_layer_interval": f.integer("interleave_moe_layer_step"),
        "moe_layer_start_index": f.take("leading_dense_block_count", 0),
    }


_CHUNK, _EVERY, _WITHOUT_NORMS = 8192, 4, 128
"""Of Llama 4, in no field: how many tokens attention sees, every which layer is without positions, and the number of
experts of the model without norms of queries and keys."""


def _llama4(f: Fields, shape: Shape) -> dict[str, Any]:
    total, chosen, width = _counts(f)
    f.fixed("attention.sliding_window", _CHUNK)
    f.fixed("leading_dense_block_count", 0)
    return {
        "num_local_experts": total,
        "num_experts_per_tok": chosen,
        "intermediate_size": width,
        "interleave_moe_layer_step": f.integer("interleave_moe_layer_step"),
        "attention_chunk_size": _CHUNK,
        "floor_scale": _CHUNK,
        "no_rope_layers": [int((layer + 1) % _EVERY != 0) for layer in range(shape.n_layers)],
        "use_qk_norm": total != _WITHOUT_NORMS,
    }


_LOG = "mscale_all_dim"


def _deepseek2(f: Fields, shape: Shape) -> dict[str, Any]:
    """DeepSeek-V2 by its softmax, which old files do not name; with sigmoids DeepSeek-V3 and its relatives."""
    gating = f.take("expert_gating_func", 0)
    if gating not in (0, _SOFTMAX, _SIGMOID):
        raise InputError(f"{f.where}: expert_gating_func = {gating!r}, expected {_SOFTMAX} or {_SIGMOID}")
    experts = _routed(f)
    limited = "group_limited_greedy" if experts["n_group"] > 1 else "greedy"
    kind = (
        {"model_type": "deepseek_v3"} if gating == _SIGMOID else {"model_type": "deepseek_v2", "topk_method": limited}
    )
    turned = int(shape.head_dim * shape.rope["partial_rotary_factor"])
    value = f.integer("attention.value_length_mla", None)
    given = f.integer("attention.value_length", value)
    return {
        **experts,
        **kind,
        "num_key_value_heads": shape.n_heads,
        "kv_lora_rank": f.integer("attention.kv_lora_rank"),
        "q_lora_rank": f.integer("attention.q_lora_rank", None),
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": shape.head_dim - turned,
        "v_head_dim": given if value is None else value,
        "rope_parameters": _latent_rope(f, shape.rope),
    }


def _latent_rope(f: Fields, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The multiplier of the logarithm is a tenth of ``mscale_all_dim`` here, which ``mscale`` equals."""
    if "attention_factor" in rope:
        raise InputError(f"{f.where}: rope.scaling.yarn_attn_factor is not supported beside latent attention")
    own = {name: value for name, value in rope.items() if name not in ("partial_rotary_factor", "mscale", _LOG)}
    return own | ({"mscale": 10 * rope[_LOG], _LOG: 10 * rope[_LOG]} if _LOG in rope else {})


def _linear(f: Fields, shape: Shape) -> dict[str, Any]:
    """Layers of Gated DeltaNet: as a list of layers says, or else all but each at the interval."""
    n_heads, width = f.integer("ssm.time_step_rank"), f.integer("ssm.inner_size")
    if width % n_heads:
        raise InputError(f"{f.where}: ssm.inner_size = {width} does not divide into {n_heads} heads")
    f.take("rope.dimension_sections")  # of images
    recurrent = f.take("attention.recurrent_layers")
    if recurrent is not None:
        recurrent = flags(f, "attention.recurrent_layers", recurrent, shape.n_layers, ahead=True)
    types = ["linear_attention" if linear else "full_attention" for linear in recurrent or ()]
    return {
        "linear_num_value_heads": n_heads,
        "linear_num_key_heads": f.integer("ssm.group_count"),
        "linear_key_head_dim": f.integer("ssm.state_size"),
        "linear_value_head_dim": width // n_heads,
        "linear_conv_kernel_dim": f.integer("ssm.conv_kernel"),
        "full_attention_interval": f.integer("full_attention_interval", 4),
        "layer_types": types or None,
    }


def _gated_experts(f: Fields, shape: Shape) -> dict[str, Any]:
    """Experts beside an MLP with a gate."""
    total, chosen, width = _counts(f)
    shared = f.integer("expert_shared_feed_forward_length")
    experts = {"num_experts": total, "num_experts_per_tok": chosen, "moe_intermediate_size": width}
    return _linear(f, shape) | experts | {"shared_expert_intermediate_size": shared}


def _qwen3next(f: Fields, shape: Shape) -> dict[str, Any]:
    return _gated_experts(f, shape) | {"norm_topk_prob": True}


_LOCAL, _STILL = "sliding_attention", 1e30
"""What divides the frequencies of pairs that are not rotated."""


def _gemma4(f: Fields, shape: Shape) -> dict[str, Any]:
    """Layers that see everything have heads of another width and number, and may have no values of their own."""
    head_dim = f.head_dim("attention.key_length_swa", shape.head_dim)
    for name in ("attention.value_length_swa", "rope.dimension_count_swa"):
        f.fixed(name, head_dim)
    sight = windows(f, shape, f.integer("attention.sliding_window"), 6)
    heads = _by_layer(f, "attention.head_count_kv", shape.n_layers, shape.n_kv_heads)
    local = {n for n, kind in zip(heads, sight["layer_types"], strict=True) if kind == _LOCAL}
    if len(local) > 1:
        raise InputError(f"{f.where}: attention.head_count_kv differs between layers with a window")
    whole = [layer for layer, kind in enumerate(sight["layer_types"]) if kind != _LOCAL]
    widths = _by_layer(f, "feed_forward_length", shape.n_layers, 0)
    if len(set(widths)) > 1:
        raise InputError(f"{f.where}: feed_forward_length differs between layers, expected one for all of them")
    rope = kinds({**shape.rope, **_turned(f, shape)}, f.number("rope.freq_base_swa", 10000.0))
    return {
        **sight,
        **rope,
        "head_dim": head_dim,
        "num_key_value_heads": next(iter(local), shape.n_kv_heads),
        "per_layer_config": {
            str(layer): {"head_dim": shape.head_dim, "num_key_value_heads": heads[layer]} for layer in whole
        },
        "attention_k_eq_v": any(f"blk.{layer}.attn_v.weight" not in shape.names for layer in whole),
        "final_logit_softcapping": number_unless_zero(f, "final_logit_softcapping"),
        "hidden_size_per_layer_input": f.take("embedding_length_per_layer_input", 0),
        "num_kv_shared_layers": f.take("attention.shared_kv_layers", 0),
        **_experts_of_gemma4(f),
    }


def _experts_of_gemma4(f: Fields) -> dict[str, Any]:
    """Of experts beside the MLP, where there are any."""
    if not f.peek("expert_count"):
        return {}
    total, chosen, width = _counts(f)
    names = {"num_experts": total, "top_k_experts": chosen, "moe_intermediate_size": width}
    return names | {"enable_moe_block": True}


def _by_layer(f: Fields, name: str, n_layers: int, of_all: int) -> list[int]:
    """A number of each layer: as listed, or ``of_all`` for all of them."""
    numbers = f.take(name)
    if numbers is None:
        return [of_all] * n_layers
    if len(numbers) != n_layers or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise InputError(f"{f.where}: {name} is no list of {n_layers} positive integers")
    return list(numbers)


def _turned(f: Fields, shape: Shape) -> dict[str, Any]:
    """The share of pairs that are rotated, which come first."""
    count = sum(divisor == 1 for divisor in shape.divisors)
    rest = shape.divisors[count:]
    if 2 * len(shape.divisors) != shape.head_dim or any(divisor < 0.99 * _STILL for divisor in rest):
        raise InputError(
            f"{f.where}: rope_freqs.weight, expected ones and then {_STILL:g} for {shape.head_dim // 2} pairs"
        )
    return {"rope_type": "proportional", "partial_rotary_factor": math.nextafter(2 * count / shape.head_dim, 1.0)}


ROWS: Mapping[str, Architecture] = {
    "deepseek2": Architecture("deepseek_v3", _deepseek2, paired=True, partial=True, latent=True, ahead=True),
    "ernie4_5-moe": Architecture("ernie4_5_moe", _ernie4_5_moe, paired=True),
    "gemma4": Architecture(
        "gemma4_text", _gemma4, divided=False, listed=("attention.head_count_kv", "feed_forward_length")
    ),
    "glm4moe": Architecture("glm4_moe", _glm4moe, partial=True, ahead=True),
    "llama4": Architecture(
        "llama4_text", _llama4, names=LLAMA | {"feed_forward_length": "intermediate_size_mlp"}, paired=True
    ),
    "qwen35": Architecture("qwen3_5_text", _linear, partial=True, ahead=True),
    "qwen35moe": Architecture("qwen3_5_moe_text", _gated_experts, partial=True, ahead=True),
    "qwen3next": Architecture("qwen3_next", _qwen3next, partial=True),
}
"""By ``general.architecture``."""
