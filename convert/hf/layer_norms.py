"""Families with LayerNorm and rotary positions, whose fields are named as Llama's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, bias_flags, windows
from jstrace.convert.rope import take_rope
from jstrace.models import ModelConfig


def _cohere(f: Fields) -> Read:
    config = _any_cohere(f, "cohere", 500000.0)
    return config, _logits_scaled(f, layouts.interleaved(layouts.COHERE, config))


def _cohere2(f: Fields) -> Read:
    config = _any_cohere(f, "cohere2", 10000.0, windowed=True)
    return config, _logits_scaled(f, layouts.interleaved(layouts.COHERE, config))


def _logits_scaled(f: Fields, unscaled: dict[str, layouts.Layout]) -> dict[str, layouts.Layout]:
    """With the factor on logits folded into the last norm, which has no shift."""
    return layouts.scaled(unscaled, f.number("logit_scale", 0.0625), "final_norm")


def _any_cohere(f: Fields, family: str, theta: float, *, windowed: bool = False) -> ModelConfig:
    base = base_of(f, family, 8192, tied_head=True)
    bias = f.flag("attention_bias", False)
    f.fixed("use_qk_norm", False)
    sight: dict[str, Any] = {}
    if windowed:
        pattern, window = f.integer("sliding_window_pattern", 4), f.nullable("sliding_window", 4096)
        sight = windows(f, base, window, lambda layer: (layer + 1) % pattern != 0)
        sight["unrotated_layers"] = sight["global_layers"] if sight else tuple(range(base["n_layers"]))
        for name in ("rotary_pct", "order_of_interleaved_layers", "position_embedding_type", "layer_switch"):
            f.take(name)  # of an older module; they say the same in other words
        for name in ("use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding"):
            f.fixed(name, True)
    return ModelConfig(
        **base,
        **take_rope(f, base, theta=theta),
        **sight,
        norm_eps=f.number("layer_norm_eps", 1e-5),
        qkv_bias=bias,
        o_bias=bias,
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )


def _olmo(f: Fields) -> Read:
    """Norms without weights."""
    base = base_of(f, "olmo", 2048)
    bias = f.flag("attention_bias", False)
    config = ModelConfig(
        **base,
        **take_rope(f, base),
        norm_eps=1e-5,
        clip_qkv=f.number("clip_qkv", None),
        qkv_bias=bias,
        o_bias=bias,
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, layouts.OLMO


def _nemotron(f: Fields) -> Read:
    base = base_of(f, "nemotron", 4096)
    config = ModelConfig(
        **base,
        **take_rope(f, base, share=0.5, partial=True),
        **bias_flags(f),
        norm_eps=f.number("norm_eps", 1e-5),
        activation=f.choice("hidden_act", ACTIVATIONS, "relu2"),
    )
    return config, layouts.LAYER_NORM


def _stablelm(f: Fields) -> Read:
    base = base_of(f, "stablelm", 4096)
    f.fixed("qk_layernorm", False)
    parallel = f.flag("use_parallel_residual", False)
    config = ModelConfig(
        **base,
        **take_rope(f, base, share=0.25, partial=True),
        norm_eps=f.number("layer_norm_eps", 1e-5),
        parallel=parallel,
        qkv_bias=f.flag("use_qkv_bias", False),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, layouts.one_norm(layouts.LAYER_NORM) if parallel else layouts.LAYER_NORM


def _starcoder2(f: Fields) -> Read:
    base = base_of(f, "starcoder2", 4096, n_kv_heads=2, tied_head=True)
    window, bias = f.integer("sliding_window", None), f.flag("use_bias", True)
    for name, only in (("norm_type", "layer_norm"), ("mlp_type", "default")):
        f.fixed(name, only)
    config = ModelConfig(
        **base,
        **take_rope(f, base),
        **windows(f, base, window, lambda layer: window is not None),
        norm_eps=f.number("norm_epsilon", 1e-5),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        activation=f.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh"),
    )
    return config, layouts.STARCODER2


def _phi(f: Fields) -> Read:
    base = base_of(f, "phi", 2048)
    f.fixed("qk_layernorm", False)
    config = ModelConfig(
        **base,
        **take_rope(f, base, share=0.5, partial=True),
        norm_eps=f.number("layer_norm_eps", 1e-5),
        activation=f.choice("hidden_act", ACTIVATIONS, "gelu_new"),
    )
    return config, layouts.PHI


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "cohere": _cohere,
    "cohere2": _cohere2,
    "olmo": _olmo,
    "nemotron": _nemotron,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
    "phi": _phi,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
