"""What the ten families of the paper are in terms of ``ModelConfig``: their Hugging Face fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, bias_flags, plain, rms, windowed, windows
from jstrace.convert.hf.layouts import GEMMA, GPT2, GPT_NEOX, LLAMA, OLMO2, PHI3, QWEN3
from jstrace.convert.rope import kinds_rope, take_rope
from jstrace.models import InputError, ModelConfig
from jstrace.models.families import FLAGS


def _llama(f: Fields) -> Read:
    f.fixed("rope_interleaved", False)
    return ModelConfig(**plain(f, "llama", 2048), **bias_flags(f)), LLAMA


def _mistral(f: Fields) -> Read:
    return windowed(f, "mistral"), LLAMA


def _qwen_windows(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    used, window = f.flag("use_sliding_window", False), f.nullable("sliding_window", 4096)
    first = f.take("max_window_layers", 28)  # the first layers see everything
    if not isinstance(first, int) or first < 0:
        raise InputError(f"{f.where}: max_window_layers = {first!r}, expected a number of layers")
    return windows(f, base, window if used else None, lambda layer: used and window is not None and layer >= first)


def _qwen2(f: Fields) -> Read:
    f.fixed("use_mrope", False, None)
    llama = plain(f, "qwen2", 32768)
    return ModelConfig(**llama, **_qwen_windows(f, llama)), LLAMA


def _qwen3(f: Fields) -> Read:
    llama, bias = plain(f, "qwen3", 32768, head_dim=128), f.flag("attention_bias", False)
    return ModelConfig(**llama, **_qwen_windows(f, llama), qkv_bias=bias, o_bias=bias), QWEN3


def _olmo2(f: Fields) -> Read:
    f.fixed("attention_bias", False)  # a bias before a post-norm is neither an edge nor a constant of the node
    return ModelConfig(**plain(f, "olmo2", 2048, norm_eps=1e-5)), OLMO2


def _phi3(f: Fields) -> Read:
    base = base_of(f, "phi3", 4096)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        f.fixed(name, False)
    f.fixed("full_attn_mod", 1)
    f.fixed("interpolate_factor", 1)
    window = f.integer("sliding_window", None)
    for name in ("rope_scaling", "rope_parameters"):
        rope = f.peek(name)
        if isinstance(rope, dict) and "yarn" in (rope.get("type"), rope.get("rope_type")):
            raise InputError(
                f"{f.where}: {name} is of type 'yarn', an older name of longrope in this family: say longrope"
            )
    config = ModelConfig(
        **base,
        **take_rope(f, base, partial=True, trained=4096),
        **rms(f, 1e-5),
        **windows(f, base, window, lambda layer: window is not None),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return config, PHI3


def _gemma(f: Fields, base: Mapping[str, Any], *, softcap: float | None) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common; ``softcap`` of the output where the config is silent."""
    f.fixed("attention_bias", False)
    f.fixed("use_bidirectional_attention", False, None)
    f.take("hidden_act")  # transformers reads hidden_activation alone
    return {
        **rms(f),
        "activation": f.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        "embed_scale": math.sqrt(base["d_model"]),
        "query_scale": 1 / math.sqrt(f.number("query_pre_attn_scalar", 256)),
        "logit_softcap": f.nullable("final_logit_softcapping", softcap),
    }


def _gemma2(f: Fields) -> Read:
    base = base_of(f, "gemma2", 8192, n_kv_heads=4, head_dim=256, tied_head=True)
    window = f.nullable("sliding_window", 4096)
    f.fixed("sliding_window_size", window)  # an older name of the same
    config = ModelConfig(
        **base,
        **take_rope(f, base),
        **_gemma(f, base, softcap=30.0),
        attn_softcap=f.nullable("attn_logit_softcapping", 50.0),
        **windows(f, base, window, lambda layer: layer % 2 == 0),
    )
    return config, GEMMA


def _gemma3(f: Fields) -> Read:
    base = base_of(f, "gemma3", 131072, n_heads=8, n_kv_heads=4, head_dim=256, vocab_size=262208, tied_head=True)
    f.fixed("attn_logit_softcapping", None)  # transformers' module does not read it
    pattern = f.integer("sliding_window_pattern", 6)
    f.take("_sliding_window_pattern")  # transformers writes it beside layer_types and does not read it
    config = ModelConfig(
        **base,
        **kinds_rope(
            f,
            base,
            whole=("rope_theta", f.take("rope_theta"), 1e6),
            local=("rope_local_base_freq", f.take("rope_local_base_freq"), 10000.0),
        ),
        **_gemma(f, base, softcap=None),
        **windows(f, base, f.nullable("sliding_window", 4096), lambda layer: (layer + 1) % pattern != 0),
    )
    return config, GEMMA


def _gpt2(f: Fields) -> Read:
    f.fixed("scale_attn_weights", True)
    f.fixed("scale_attn_by_inverse_layer_idx", False)
    n_heads, d_model = f.integer("n_head"), f.integer("n_embd")
    if d_model % n_heads:
        raise InputError(f"{f.where}: n_embd = {d_model} does not divide into {n_heads} heads")
    config = ModelConfig(
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
        activation=f.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )
    return config, GPT2


_NEOX_NAMES = {
    "rope_theta": ("rotary_emb_base", "rope_theta"),
    "partial_rotary_factor": ("rotary_pct", "partial_rotary_factor"),
}


def _gpt_neox(f: Fields) -> Read:
    base = base_of(f, "gpt_neox", 2048)
    if base["n_kv_heads"] != base["n_heads"]:
        raise InputError(f"{f.where}: num_key_value_heads = {base['n_kv_heads']}, expected {base['n_heads']} or none")
    bias = f.flag("attention_bias", True)
    config = ModelConfig(
        **base,
        **take_rope(f, base, share=0.25, partial=True, names=_NEOX_NAMES),
        norm_eps=f.number("layer_norm_eps", 1e-5),
        parallel=f.flag("use_parallel_residual", True),
        qkv_bias=bias,
        o_bias=bias,
        activation=f.choice("hidden_act", ACTIVATIONS, "gelu"),
    )
    return config, GPT_NEOX


READERS: Mapping[str, Callable[[Fields], Read]] = {
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
