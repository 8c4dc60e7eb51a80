"""Families with a mixture of experts in every layer: their Hugging Face fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import expert_layouts, layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, plain, rms, windows
from jstrace.convert.hf.mixed import with_dense
from jstrace.convert.rope import take_rope
from jstrace.models import InputError, ModelConfig

_TRAINED = "original_max_position_embeddings"
_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "truncate": False, _TRAINED: 4096}


def experts_of(f: Fields, total: int, chosen: int, *, own_width: int | None = None) -> dict[str, Any]:
    """How many experts there are and are chosen; ``own_width`` is the default of a field for their width alone.

    Arguments are what holds where a field is left out. Both names of the first are known to transformers.
    """
    names = [name for name in ("num_experts", "num_local_experts") if f.peek(name) is not None]
    counts = [f.integer(name) for name in names] or [total]
    if len(set(counts)) > 1:
        raise InputError(f"{f.where}: num_experts = {counts[0]} contradicts num_local_experts = {counts[1]}")
    width = {} if own_width is None else {"d_mlp": f.integer("moe_intermediate_size", own_width)}
    return {"n_experts": counts[0], "n_chosen": f.integer("num_experts_per_tok", chosen), **width}


def without_experts(f: Fields, n_layers: int) -> list[bool]:
    """Whether each layer has one MLP in the place of experts."""
    step, listed = f.integer("decoder_sparse_step", 1), f.take("mlp_only_layers") or []
    if not isinstance(listed, list) or any(not isinstance(index, int) or isinstance(index, bool) for index in listed):
        raise InputError(f"{f.where}: mlp_only_layers = {str(listed)[:80]}, expected a list of layers")
    return [layer in listed or (layer + 1) % step != 0 for layer in range(n_layers)]


def normed(f: Fields, *, default: bool = False) -> dict[str, Any]:
    """A softmax over all experts, divided by the sum of those chosen, is one over these."""
    return {"router": "chosen" if f.flag("norm_topk_prob", default) else "softmax"}


def _one_window(f: Fields, base: Mapping[str, Any], window: int | None) -> dict[str, Any]:
    return windows(f, base, window, lambda layer: window is not None)


def _used_window(f: Fields) -> int | None:
    """The width, if windows are used; where they are not, files hold zero, too."""
    if f.flag("use_sliding_window", False):
        return f.nullable("sliding_window", 4096)
    f.take("sliding_window")
    return None


def _qwen3_moe(f: Fields) -> Read:
    dense = plain(f, "qwen3_moe", 32768, n_kv_heads=4)
    llama = dense | experts_of(f, 128, 8, own_width=768) | normed(f)
    bias, window = f.flag("attention_bias", False), _used_window(f)
    f.take("max_window_layers")  # transformers does not read it here
    sight = _one_window(f, llama, window)
    config = ModelConfig(**llama, **sight, qkv_bias=bias, o_bias=bias)
    return with_dense(config, expert_layouts.QWEN3_MOE, without_experts(f, config.n_layers), dense["d_mlp"])


def _qwen2_moe(f: Fields) -> Read:
    dense = plain(f, "qwen2_moe", 32768, n_kv_heads=16)
    llama = dense | experts_of(f, 60, 4, own_width=1408) | normed(f)
    window = _used_window(f)
    first = f.integer("max_window_layers", 28)  # of the first layers every other one has the window
    config = ModelConfig(
        **llama,
        **windows(f, llama, window, lambda layer: window is not None and layer % 2 == 0 and layer < first),
        d_shared=f.integer("shared_expert_intermediate_size", 5632),
        shared_gate=True,
        qkv_bias=f.flag("qkv_bias", True),
    )
    return with_dense(config, expert_layouts.QWEN2_MOE, without_experts(f, config.n_layers), dense["d_mlp"])


def _mixtral(f: Fields) -> Read:
    f.take("router_jitter_noise")  # of training; Phi-3.5-MoE's router reads it always
    llama = plain(f, "mixtral", 131072, theta=1e6, n_kv_heads=8, norm_eps=1e-5) | experts_of(f, 8, 2)
    return ModelConfig(**llama, **_one_window(f, llama, f.integer("sliding_window", None))), expert_layouts.MIXTRAL


def _olmoe(f: Fields) -> Read:
    llama = plain(f, "olmoe", 4096, norm_eps=1e-5) | experts_of(f, 64, 8) | normed(f)
    bias = f.flag("attention_bias", False)
    config = ModelConfig(**llama, clip_qkv=f.number("clip_qkv", None), qkv_bias=bias, o_bias=bias)
    return config, expert_layouts.OLMOE


def _flex_olmo(f: Fields) -> Read:
    f.fixed("attention_bias", False)  # as in OLMo 2
    llama = plain(f, "flex_olmo", 4096, theta=500000.0) | experts_of(f, 7, 5) | normed(f)
    return ModelConfig(**llama), expert_layouts.FLEX_OLMO


def _granitemoe(f: Fields) -> Read:
    """Its multipliers are folded, as Granite's."""
    llama, share = plain(f, "granitemoe", 2048) | experts_of(f, 8, 2), f.number("residual_multiplier", 1.0)
    bias = f.flag("attention_bias", False)
    config = ModelConfig(
        **llama,
        qkv_bias=bias,
        o_bias=bias,
        embed_scale=f.number("embedding_multiplier", 1.0),
        query_scale=f.number("attention_multiplier", 1.0),
    )
    joining = layouts.scaled(expert_layouts.GRANITEMOE, share, "o", "o_bias", "down")
    return config, layouts.scaled(joining, 1 / f.number("logits_scaling", 1.0), "final_norm")


def _minimax_m2(f: Fields) -> Read:
    base = base_of(f, "minimax_m2", 196608, n_kv_heads=8, head_dim=128) | experts_of(f, 256, 8)
    _check_minimax(f, base["n_layers"])
    turned = f.integer("rotary_dim", None)  # as the first releases say it
    share = 1.0 if turned is None else turned / base["head_dim"]
    rope = take_rope(f, base, theta=5e6, share=share, partial=True)
    activation = f.choice("hidden_act", ACTIVATIONS, "silu")
    return ModelConfig(**base, **rope, **rms(f), activation=activation), expert_layouts.MINIMAX_M2


def _check_minimax(f: Fields, n_layers: int) -> None:
    """Refuse what the first releases could say of another computation, and pass over what changes nothing."""
    kinds = f.take("attn_type_list")
    if kinds is not None and kinds != [1] * n_layers:
        raise InputError(f"{f.where}: attn_type_list = {str(kinds)[:80]}, expected {n_layers} times 1 (softmax)")
    f.fixed("scoring_func", "sigmoid")
    f.fixed("use_routing_bias", True)
    f.fixed("use_qk_norm", True)
    f.fixed("qk_norm_type", "per_layer")
    f.fixed("shared_intermediate_size", 0)
    f.fixed("sliding_window", None)
    for part in ("full_attention", "linear_attention", "mlp"):
        f.fixed(f"layernorm_{part}_beta", 1.0, 1)
    for name in ("use_mtp", "num_mtp_modules", "mtp_transformer_layers"):  # of further tokens
        f.take(name)
    for name in ("router_jitter_noise", "mlp_intermediate_size", "shared_moe_mode"):
        f.take(name)


def _gpt_oss(f: Fields) -> Read:
    base = base_of(f, "gpt_oss", 131072, n_kv_heads=8, head_dim=64) | experts_of(f, 128, 4)
    f.choice("hidden_act", {"silu": "silu"}, "silu")  # of the experts, whose gate has numbers of its own
    f.take("experts_per_token")  # the same as num_experts_per_tok
    f.take("initial_context_length")  # the same as the rotary positions' first length
    bias = f.flag("attention_bias", True)
    config = ModelConfig(
        **base,
        **take_rope(f, base, theta=150000.0, absent=_OSS_ROPE),
        **rms(f, 1e-5),
        **windows(f, base, f.nullable("sliding_window", 128), lambda layer: layer % 2 == 0),
        gate_clamp=(f.number("swiglu_alpha", 1.702), f.number("swiglu_limit", 7.0)),
        qkv_bias=bias,
        o_bias=bias,
    )
    return config, expert_layouts.GPT_OSS


def _phimoe(f: Fields) -> Read:
    """Inputs longer than the first training are refused: other tables would hold there."""
    base = base_of(f, "phimoe", 131072, n_kv_heads=8) | experts_of(f, 16, 2)
    bias, window = f.flag("attention_bias", False), f.integer("sliding_window", None)
    config = ModelConfig(
        **base | _phimoe_rope(f, base),
        **rms(f, 1e-5),
        **_one_window(f, base, window),
        mixer_noise=f.number("router_jitter_noise", 0.01),
        qkv_bias=bias,
        o_bias=bias,
        head_bias=f.flag("lm_head_bias", False),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, expert_layouts.PHIMOE


def _phimoe_rope(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    """Longrope, whose magnitude is given, one for short inputs and one for long ones."""
    given = f.peek("rope_parameters") or f.peek("rope_scaling") or {}
    scales = given if isinstance(given, dict) and given.get("short_mscale") is not None else {}
    rope = take_rope(f, base, theta=1e6, passed_over=("short_mscale", "long_mscale"))
    if rope.get("rope_long_divisors") is None:
        return rope
    magnitude = Fields(scales, f"{f.where}: RoPE").number("short_mscale", rope["rope_magnitude"])
    trained = min(base["max_positions"], rope["rope_switch"])
    return rope | {"rope_magnitude": magnitude, "max_positions": trained, "bounded": True}


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "qwen3_moe": _qwen3_moe,
    "qwen2_moe": _qwen2_moe,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "flex_olmo": _flex_olmo,
    "granitemoe": _granitemoe,
    "minimax_m2": _minimax_m2,
    "gpt_oss": _gpt_oss,
    "phimoe": _phimoe,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
