"""What each family is in terms of ``ModelConfig``: its Hugging Face fields and the flags that it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.rope import agreeing, joined, read_rope, take_rope
from jstrace.models import InputError, ModelConfig
from jstrace.models.config import FLAGS

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def _base(f: Fields, family: str, max_positions: int, **defaults: Any) -> dict[str, Any]:
    """The fields that all families but GPT-2 share; the other arguments hold for those that are left out."""
    n_heads, d_model = f.integer("num_attention_heads", **_default(defaults, "n_heads")), f.integer("hidden_size")
    head_dim = f.head_dim("head_dim", defaults.get("head_dim"))
    return {
        "family": family,
        **FLAGS[family],
        "vocab_size": f.integer("vocab_size", **_default(defaults, "vocab_size")),
        "n_layers": f.layers("num_hidden_layers"),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": f.integer("num_key_value_heads", defaults.get("n_kv_heads", n_heads)),
        "head_dim": head_dim or d_model // max(n_heads, 1),
        "d_mlp": f.integer("intermediate_size"),
        "max_positions": f.integer("max_position_embeddings", max_positions),
        "tied_head": f.flag("tie_word_embeddings", defaults.get("tied_head", False)),
    }


def _default(defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"default": defaults[name]} if name in defaults else {}


def _rms(f: Fields, default: float = 1e-6) -> dict[str, Any]:
    return {"norm_eps": f.number("rms_norm_eps", default)}


def _windows(f: Fields, base: Mapping[str, Any], window: int | None, is_local: Callable[[int], bool]) -> dict[str, Any]:
    """Which layers have the window: as ``layer_types`` says, else as the family's rule.

    Mistral's and Phi-3's modules know the rule alone.
    """
    n_layers = base["n_layers"]
    given = f.take("layer_types")
    rule = ["sliding_attention" if is_local(layer) else "full_attention" for layer in range(n_layers)]
    types = rule if given is None else given
    if types != rule and base["family"] in ("mistral", "phi3"):
        raise InputError(f"{f.where}: layer_types is not supported in this family; all layers have sliding_window")
    if not isinstance(types, list) or len(types) != n_layers:
        raise InputError(f"{f.where}: layer_types is no list of {n_layers} kinds")
    unknown = [kind for kind in types if kind not in ("sliding_attention", "full_attention")]
    if unknown:
        raise InputError(f"{f.where}: layer_types holds {unknown[0]!r}, expected sliding_attention or full_attention")
    everywhere = tuple(layer for layer, kind in enumerate(types) if kind == "full_attention")
    if len(everywhere) == n_layers:
        return {}
    if window is None:
        raise InputError(f"{f.where}: layer_types asks for sliding_attention, but sliding_window is missing")
    return {"window": window, "global_layers": everywhere}


def _llama(f: Fields) -> ModelConfig:
    base = _base(f, "llama", 2048)
    f.fixed("rope_interleaved", False)
    bias = f.flag("attention_bias", False)
    return ModelConfig(
        **base,
        **take_rope(f, base),
        **_rms(f),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=f.flag("mlp_bias", False),
        activation=f.choice("hidden_act", _ACTIVATIONS, "silu"),
    )


def _mistral(f: Fields) -> ModelConfig:
    base = _base(f, "mistral", 131072, n_kv_heads=8)
    window = f.nullable("sliding_window", 4096)
    return ModelConfig(
        **base,
        **take_rope(f, base),
        **_rms(f),
        **_windows(f, base, window, lambda layer: window is not None),
        activation=f.choice("hidden_act", _ACTIVATIONS, "silu"),
    )


def _qwen_windows(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    used, window = f.flag("use_sliding_window", False), f.nullable("sliding_window", 4096)
    first = f.take("max_window_layers", 28)  # the first layers see everything
    if not isinstance(first, int) or first < 0:
        raise InputError(f"{f.where}: max_window_layers = {first!r}, expected a number of layers")
    return _windows(f, base, window if used else None, lambda layer: used and window is not None and layer >= first)


def _qwen2(f: Fields) -> ModelConfig:
    base = _base(f, "qwen2", 32768)
    f.fixed("use_mrope", False, None)
    return ModelConfig(
        **base,
        **take_rope(f, base),
        **_rms(f),
        **_qwen_windows(f, base),
        activation=f.choice("hidden_act", _ACTIVATIONS, "silu"),
    )


def _qwen3(f: Fields) -> ModelConfig:
    base = _base(f, "qwen3", 32768, head_dim=128)
    bias = f.flag("attention_bias", False)
    return ModelConfig(
        **base,
        **take_rope(f, base),
        **_rms(f),
        **_qwen_windows(f, base),
        qkv_bias=bias,
        o_bias=bias,
        activation=f.choice("hidden_act", _ACTIVATIONS, "silu"),
    )


def _olmo2(f: Fields) -> ModelConfig:
    base = _base(f, "olmo2", 2048)
    f.fixed("attention_bias", False)  # a bias before a post-norm is neither an edge nor a constant of the node
    return ModelConfig(
        **base,
        **take_rope(f, base),
        **_rms(f, 1e-5),
        activation=f.choice("hidden_act", _ACTIVATIONS, "silu"),
    )


def _phi3(f: Fields) -> ModelConfig:
    base = _base(f, "phi3", 4096)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        f.fixed(name, False)
    f.fixed("full_attn_mod", 1)
    f.fixed("interpolate_factor", 1)
    window = f.integer("sliding_window", None)
    return ModelConfig(
        **base,
        **take_rope(f, base, partial=True, trained=4096),
        **_rms(f, 1e-5),
        **_windows(f, base, window, lambda layer: window is not None),
        activation=f.choice("hidden_act", _ACTIVATIONS, "silu"),
    )


def _gemma(f: Fields, base: Mapping[str, Any], *, softcap: float | None) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common; ``softcap`` of the output where the config is silent."""
    f.fixed("attention_bias", False)
    f.fixed("use_bidirectional_attention", False, None)
    f.take("hidden_act")  # transformers reads hidden_activation alone
    return {
        **_rms(f),
        "activation": f.choice("hidden_activation", _ACTIVATIONS, "gelu_pytorch_tanh"),
        "embed_scale": math.sqrt(base["d_model"]),
        "query_scale": 1 / math.sqrt(f.number("query_pre_attn_scalar", 256)),
        "logit_softcap": f.nullable("final_logit_softcapping", softcap),
    }


def _gemma2(f: Fields) -> ModelConfig:
    base = _base(f, "gemma2", 8192, head_dim=256, tied_head=True)
    window = f.nullable("sliding_window", 4096)
    f.fixed("sliding_window_size", window)  # an older name of the same
    return ModelConfig(
        **base,
        **take_rope(f, base),
        **_gemma(f, base, softcap=30.0),
        attn_softcap=f.nullable("attn_logit_softcapping", 50.0),
        **_windows(f, base, window, lambda layer: layer % 2 == 0),
    )


def _gemma3(f: Fields) -> ModelConfig:
    base = _base(f, "gemma3", 131072, n_heads=8, n_kv_heads=4, head_dim=256, vocab_size=262208, tied_head=True)
    f.fixed("attn_logit_softcapping", None)  # transformers' module does not read it
    pattern = f.integer("sliding_window_pattern", 6)
    f.take("_sliding_window_pattern")  # transformers writes it beside layer_types and does not read it
    return ModelConfig(
        **base,
        **_gemma3_rope(f, base),
        **_gemma(f, base, softcap=None),
        **_windows(f, base, f.nullable("sliding_window", 4096), lambda layer: (layer + 1) % pattern != 0),
    )


def _gemma3_rope(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    """Two bases: as ``rope_theta`` and ``rope_local_base_freq``, or as one object per kind of layer."""
    per_kind, scaling = f.object("rope_parameters"), f.object("rope_scaling")
    kinds = Fields(per_kind, f.where)
    local, whole = kinds.object("sliding_attention"), kinds.object("full_attention")
    kinds.refuse_unread((), "RoPE field")
    for field, value in scaling.items():
        agreeing([(f"{field} in rope_scaling", value), (f"{field} in full_attention", whole.get(field))], f.where)
    whole = ({} if per_kind else {"rope_type": "default"}) | whole | scaling  # beside which "type" says nothing new

    def read(rope: Mapping[str, Any], kind: str, name: str, theta: float) -> dict[str, Any]:
        beside = {"rope_theta": [(name, f.take(name))]}
        return read_rope(joined(rope, kind, beside, {"rope_theta": theta}, f.where), f.where, base)

    local_rope = read(local, "sliding_attention", "rope_local_base_freq", 10000.0)
    if local_rope["rope_divisors"] is not None:
        raise InputError(f"{f.where}: rope_parameters of sliding_attention, only the default type is supported")
    return read(whole, "full_attention", "rope_theta", 1e6) | {"local_rope_theta": local_rope["rope_theta"]}


def _gpt2(f: Fields) -> ModelConfig:
    f.fixed("scale_attn_weights", True)
    f.fixed("scale_attn_by_inverse_layer_idx", False)
    f.fixed("add_cross_attention", False)
    n_heads, d_model = f.integer("n_head"), f.integer("n_embd")
    if d_model % n_heads:
        raise InputError(f"{f.where}: n_embd = {d_model} does not divide into {n_heads} heads")
    return ModelConfig(
        family="gpt2",
        **FLAGS["gpt2"],
        vocab_size=f.integer("vocab_size"),
        n_layers=f.layers("n_layer"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_mlp=f.integer("n_inner", 4 * d_model),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        rope_theta=10000.0,
        rope_divisors=None,
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=f.integer("n_positions"),
        activation=f.choice("activation_function", _ACTIVATIONS, "gelu_new"),
    )


_NEOX_NAMES = {
    "rope_theta": ("rotary_emb_base", "rope_theta"),
    "partial_rotary_factor": ("rotary_pct", "partial_rotary_factor"),
}


def _gpt_neox(f: Fields) -> ModelConfig:
    base = _base(f, "gpt_neox", 2048)
    if base["n_kv_heads"] != base["n_heads"]:
        raise InputError(f"{f.where}: num_key_value_heads = {base['n_kv_heads']}, expected {base['n_heads']} or none")
    bias = f.flag("attention_bias", True)
    return ModelConfig(
        **base,
        **take_rope(f, base, share=0.25, partial=True, names=_NEOX_NAMES),
        norm_eps=f.number("layer_norm_eps", 1e-5),
        parallel=f.flag("use_parallel_residual", True),
        qkv_bias=bias,
        o_bias=bias,
        activation=f.choice("hidden_act", _ACTIVATIONS, "gelu"),
    )


FAMILIES: Mapping[str, Callable[[Fields], ModelConfig]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
