"""Families that are Llama with other norms, windows, biases or positions: their Hugging Face fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, bias_flags, plain, rms, windowed, windows
from jstrace.convert.hf.layouts import LLAMA, QWEN3
from jstrace.convert.rope import kinds_rope, take_rope
from jstrace.models import InputError, ModelConfig

_TRAINED = "original_max_position_embeddings"
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, _TRAINED: 8192}
_YARN = {"rope_type": "yarn", "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0, _TRAINED: 16384}
_MROPE = ("mrope_section", "mrope_interleaved")
"""Of a text every token has one position, whatever it would have in an image."""


def _qwen3_vl_text(f: Fields) -> Read:
    base = base_of(f, "qwen3", 128000, head_dim=128, n_kv_heads=32)
    rope = take_rope(f, base, theta=500000.0, passed_over=_MROPE)
    bias, activation = f.flag("attention_bias", False), f.choice("hidden_act", ACTIVATIONS, "silu")
    return ModelConfig(**base, **rope, **rms(f), qkv_bias=bias, o_bias=bias, activation=activation), QWEN3


def _qwen2_vl_text(f: Fields) -> Read:
    base = base_of(f, "qwen2", 32768, n_kv_heads=8)
    rope = take_rope(f, base, theta=1e6, passed_over=_MROPE)
    window, used = f.nullable("sliding_window", 4096), f.flag("use_sliding_window", False)
    first = f.integer("max_window_layers", 80)
    sight = windows(f, base, window if used else None, lambda layer: used and window is not None and layer >= first)
    activation = f.choice("hidden_act", ACTIVATIONS, "silu")
    return ModelConfig(**base, **rope, **rms(f, 1e-5), **sight, activation=activation), LLAMA


def _gemma(f: Fields) -> Read:
    base = base_of(f, "gemma", 8192, n_kv_heads=16, head_dim=256, tied_head=True)
    f.fixed("attention_bias", False)
    f.fixed("use_bidirectional_attention", False, None)
    f.take("hidden_activation")  # transformers reads hidden_act alone
    activations = ACTIVATIONS | {"gelu": "gelu_tanh"}  # as the first releases said and did not mean
    config = ModelConfig(
        **base,
        **take_rope(f, base),
        **rms(f),
        activation=f.choice("hidden_act", activations, "gelu_pytorch_tanh"),
        embed_scale=math.sqrt(base["d_model"]),
    )
    return config, LLAMA


def _vaultgemma(f: Fields) -> Read:
    base = base_of(f, "vaultgemma", 8192, n_kv_heads=4, head_dim=256, tied_head=True)
    f.fixed("attention_bias", False)
    f.take("hidden_act")  # transformers reads hidden_activation alone
    config = ModelConfig(
        **base,
        **take_rope(f, base),
        **rms(f),
        **windows(f, base, f.nullable("sliding_window", 4096), lambda layer: layer % 2 == 0),
        activation=f.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        embed_scale=math.sqrt(base["d_model"]),
        query_scale=1 / math.sqrt(f.number("query_pre_attn_scalar", 256)),
        attn_softcap=f.nullable("attn_logit_softcapping", 50.0),
        logit_softcap=f.nullable("final_logit_softcapping", 30.0),
    )
    return config, layouts.VAULTGEMMA


def _olmo3(f: Fields) -> Read:
    base = base_of(f, "olmo3", 2048)
    f.fixed("attention_bias", False)  # as in OLMo 2
    theta = f.take("rope_theta")
    config = ModelConfig(
        **base,
        **kinds_rope(f, base, whole=("rope_theta", theta, 500000.0), local=("rope_theta", theta, 500000.0)),
        **rms(f, 1e-5),
        **windows(f, base, f.nullable("sliding_window", 4096), lambda layer: (layer + 1) % 4 != 0),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, layouts.OLMO2


def _exaone4(f: Fields) -> Read:
    base = base_of(f, "exaone4", 2048)
    config = ModelConfig(
        **base,
        **take_rope(f, base),
        **rms(f, 1e-5),
        **unrotated_windows(f, base),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, layouts.EXAONE4


def unrotated_windows(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    """EXAONE's windows: where there are any, the layers without one are not rotated."""
    window, pattern = f.nullable("sliding_window", 4096), f.take("sliding_window_pattern", 4)
    every = _every(f, base, pattern) if window is not None else ()
    sight = windows(f, base, window, lambda layer: window is not None and layer not in every)
    unrotated = sight.get("global_layers", ()) if window is not None else ()
    if window is not None and not sight:
        unrotated = tuple(range(base["n_layers"]))
    return sight | {"unrotated_layers": unrotated}


def _every(f: Fields, base: Mapping[str, Any], pattern: Any) -> tuple[int, ...]:
    """Layers that see everything, of a pattern: one in so many, or the places of G in a text such as LLLG."""
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        last = base["n_layers"] - 1
        return tuple(layer for layer in range(last + 1) if pattern[layer % len(pattern)] == "G" or layer == last)
    if not isinstance(pattern, int) or isinstance(pattern, bool) or pattern < 1:
        raise InputError(f"{f.where}: sliding_window_pattern = {pattern!r}, expected a number of layers, or L and G")
    return tuple(range(pattern - 1, base["n_layers"], pattern))


def _smollm3(f: Fields) -> Read:
    base = base_of(f, "smollm3", 32768, n_kv_heads=4, tied_head=True)
    unrotated = unrotated_layers(f, base["n_layers"])
    window, used = f.integer("sliding_window", None), f.flag("use_sliding_window", False)
    f.take("max_window_layers")  # Qwen's; transformers does not read it here
    sight = windows(f, base, window if used else None, lambda layer: used and window is not None and layer in unrotated)
    config = ModelConfig(
        **base,
        **take_rope(f, base, theta=2e6),
        **rms(f),
        **bias_flags(f),
        **sight,
        unrotated_layers=unrotated,
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, LLAMA


def unrotated_layers(f: Fields, n_layers: int) -> tuple[int, ...]:
    """The layers whose queries and keys are not rotated, as ``no_rope_layers`` or else an interval says."""
    interval, given = f.integer("no_rope_layer_interval", 4), f.take("no_rope_layers")
    rotated = [int((layer + 1) % interval != 0) for layer in range(n_layers)] if given is None else given
    if not isinstance(rotated, list) or len(rotated) < n_layers or any(x not in (0, 1) for x in rotated):
        raise InputError(f"{f.where}: no_rope_layers is no list of {n_layers} zeros and ones")
    return tuple(layer for layer in range(n_layers) if not rotated[layer])


def _ministral(f: Fields) -> Read:
    return windowed(f, "ministral"), LLAMA


def _ministral3(f: Fields) -> Read:
    """Queries grow with the position from the end of the first training on; longer inputs are refused."""
    base = base_of(f, "ministral3", 262144, n_kv_heads=8, head_dim=128)
    rope = f.peek("rope_parameters") or f.peek("rope_scaling") or {}
    trained = rope.get(_TRAINED, 16384) if isinstance(rope, dict) else None
    if not isinstance(trained, int) or isinstance(trained, bool) or trained < 1:
        raise InputError(f"{f.where}: {_TRAINED} = {trained!r}, expected a number of tokens")
    positions = take_rope(f, base, theta=1e6, passed_over=("llama_4_scaling_beta",), absent=_YARN)
    window = f.integer("sliding_window", None)
    config = ModelConfig(
        **base | {"max_positions": min(trained, base["max_positions"])},
        **positions | {"bounded": True},
        **rms(f, 1e-5),
        **windows(f, base, window, lambda layer: window is not None),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, LLAMA


def _cwm(f: Fields) -> Read:
    base = base_of(f, "cwm", 131072, n_kv_heads=8, head_dim=128)
    config = ModelConfig(
        **base,
        **take_rope(f, base, theta=1e6, absent=_LLAMA3 | {"factor": 16.0}),
        **rms(f, 1e-5),
        **windows(f, base, f.nullable("sliding_window", 8192), lambda layer: layer % 4 != 0),
        mlp_bias=f.flag("mlp_bias", False),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, LLAMA


def _internlm3(f: Fields) -> Read:
    llama = plain(f, "internlm3", 32768, n_kv_heads=2, head_dim=128, norm_eps=1e-5)
    bias, qkv = f.flag("bias", False), f.flag("qkv_bias", False)
    given = f.flag("attention_bias", bias or qkv), f.flag("mlp_bias", bias)  # names of today
    return ModelConfig(**llama, qkv_bias=given[0], o_bias=bias, mlp_bias=given[1]), LLAMA


def _seed_oss(f: Fields) -> Read:
    llama = plain(f, "seed_oss", 524288, n_kv_heads=8, head_dim=128)
    qkv, out = f.flag("attention_bias", True), f.flag("attention_out_bias", False)
    return ModelConfig(**llama, qkv_bias=qkv, o_bias=out, mlp_bias=f.flag("mlp_bias", False)), LLAMA


def _apertus(f: Fields) -> Read:
    base = base_of(f, "apertus", 65536)
    bias, activation = f.flag("attention_bias", False), f.choice("hidden_act", {"xielu": "xielu"}, "xielu")
    rope = take_rope(f, base, theta=1.2e7, absent=_LLAMA3 | {"factor": 8.0})
    config = ModelConfig(**base, **rope, **rms(f, 1e-5), qkv_bias=bias, o_bias=bias, activation=activation)
    return config, layouts.APERTUS


def _arcee(f: Fields) -> Read:
    base = base_of(f, "arcee", 4096)
    activation = f.choice("hidden_act", ACTIVATIONS, "relu2")
    return ModelConfig(**base, **take_rope(f, base), **rms(f, 1e-5), **bias_flags(f), activation=activation), LLAMA


def _granite(f: Fields) -> Read:
    """Its multipliers are folded: of what joins the residual stream into the weights, of logits into the last norm."""
    llama, share = plain(f, "granite", 2048), f.number("residual_multiplier", 1.0)
    config = ModelConfig(
        **llama,
        **bias_flags(f),
        embed_scale=f.number("embedding_multiplier", 1.0),
        query_scale=f.number("attention_multiplier", 1.0),
    )
    joining = layouts.scaled(LLAMA, share, "o", "o_bias", "down", "down_bias")
    return config, layouts.scaled(joining, 1 / f.number("logits_scaling", 1.0), "final_norm")


def _helium(f: Fields) -> Read:
    llama = plain(f, "helium", 4096, theta=100000.0, head_dim=128, norm_eps=1e-8)
    config = ModelConfig(**llama, qkv_bias=f.flag("attention_bias", False), mlp_bias=f.flag("mlp_bias", False))
    return config, layouts.interleaved(LLAMA, config)


def _ernie4_5(f: Fields) -> Read:
    llama = plain(f, "ernie4_5", 131072, theta=500000.0, n_kv_heads=2, head_dim=128, tied_head=True, norm_eps=1e-5)
    bias = f.flag("use_bias", False)
    config = ModelConfig(**llama, qkv_bias=bias, o_bias=bias, mlp_bias=bias)
    return config, layouts.interleaved(LLAMA, config)


def _glm(f: Fields) -> Read:
    config = _any_glm(f, "glm")
    return config, layouts.interleaved(layouts.GLM, config)


def _glm4(f: Fields) -> Read:
    config = _any_glm(f, "glm4")
    return config, layouts.interleaved(layouts.GLM4, config)


def _any_glm(f: Fields, family: str) -> ModelConfig:
    base = base_of(f, family, 131072, n_kv_heads=2, head_dim=128)
    return ModelConfig(
        **base,
        **take_rope(f, base, share=0.5, partial=True),
        **rms(f, 1.5625e-07),
        qkv_bias=f.flag("attention_bias", True),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )


def _hunyuan(f: Fields) -> Read:
    """A type named dynamic, with an alpha, stretches the base once, whatever the length."""
    base = base_of(f, "hunyuan_v1_dense", 2048)
    rope = f.peek("rope_parameters") or f.peek("rope_scaling") or {}
    alpha = rope.get("alpha") if isinstance(rope, dict) else None
    passed_over = ("alpha", "beta_fast", "beta_slow", "mscale", "mscale_all_dim") if alpha is not None else ()
    f.take("eod_token_id")  # of generation
    rope_fields = take_rope(f, base, passed_over=passed_over)
    if alpha is not None and rope_fields.pop("bounded", False):
        stretch = Fields(rope, f"{f.where}: RoPE").number("alpha")
        rope_fields["rope_theta"] *= stretch ** (base["head_dim"] / (base["head_dim"] - 2))
    bias, activation = f.flag("attention_bias", False), f.choice("hidden_act", ACTIVATIONS, "silu")
    return ModelConfig(
        **base, **rope_fields, **rms(f, 1e-5), qkv_bias=bias, o_bias=bias, activation=activation
    ), layouts.HUNYUAN


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "qwen3_vl_text": _qwen3_vl_text,
    "qwen2_vl_text": _qwen2_vl_text,
    "qwen2_5_vl_text": _qwen2_vl_text,
    "gemma": _gemma,
    "vaultgemma": _vaultgemma,
    "olmo3": _olmo3,
    "exaone4": _exaone4,
    "smollm3": _smollm3,
    "ministral": _ministral,
    "ministral3": _ministral3,
    "cwm": _cwm,
    "internlm3": _internlm3,
    "seed_oss": _seed_oss,
    "apertus": _apertus,
    "arcee": _arcee,
    "granite": _granite,
    "helium": _helium,
    "ernie4_5": _ernie4_5,
    "glm": _glm,
    "glm4": _glm4,
    "hunyuan_v1_dense": _hunyuan,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
