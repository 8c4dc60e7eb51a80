"""What the readers of several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf.layouts import Layouts
from jstrace.convert.rope import take_rope
from jstrace.models import InputError, ModelConfig
from jstrace.models.families import FLAGS

Read = tuple[ModelConfig, Layouts]
"""What a reader makes of a config: the model, and where its weights stand."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def check_decoder(f: Fields) -> None:
    """Refuse what is more than a decoder or less."""
    f.fixed("is_encoder_decoder", False)
    f.fixed("add_cross_attention", False)
    f.fixed("pruned_heads", {}, None)


def base_of(f: Fields, family: str, max_positions: int, **defaults: Any) -> dict[str, Any]:
    """The fields that all families but GPT-2 share; the other arguments hold for those that are left out."""
    n_heads, d_model = f.integer("num_attention_heads", **_default(defaults, "n_heads")), f.integer("hidden_size")
    head_dim = f.head_dim("head_dim", defaults.get("head_dim"))
    n_kv_heads = f.nullable("num_key_value_heads", defaults.get("n_kv_heads", n_heads))
    return {
        "family": family,
        **FLAGS[family],
        "vocab_size": f.integer("vocab_size", **_default(defaults, "vocab_size")),
        "n_layers": f.layers("num_hidden_layers", **_default(defaults, "n_layers")),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads if n_kv_heads is None else n_kv_heads,
        "head_dim": head_dim or d_model // max(n_heads, 1),
        "d_mlp": f.integer("intermediate_size", **_default(defaults, "d_mlp")),
        "max_positions": f.integer("max_position_embeddings", max_positions),
        "tied_head": f.flag("tie_word_embeddings", defaults.get("tied_head", False)),
    }


def _default(defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"default": defaults[name]} if name in defaults else {}


def rms(f: Fields, default: float = 1e-6) -> dict[str, Any]:
    """The epsilon of RMSNorms."""
    return {"norm_eps": f.number("rms_norm_eps", default)}


def bias_flags(f: Fields) -> dict[str, Any]:
    """Biases of attention and of the MLP, by their two usual fields."""
    attention = f.flag("attention_bias", False)
    return {"qkv_bias": attention, "o_bias": attention, "mlp_bias": f.flag("mlp_bias", False)}


_ONE_SIGHT = ("ministral3", "mistral", "mixtral", "phi3", "phimoe", "qwen3_moe", "starcoder2")
"""Families of which transformers makes one mask for all layers, whatever ``layer_types`` says."""


def windows(f: Fields, base: Mapping[str, Any], window: int | None, is_local: Callable[[int], bool]) -> dict[str, Any]:
    """Which layers have the window: as ``layer_types`` says, else as the family's rule.

    The modules of some families know the rule alone.
    """
    n_layers = base["n_layers"]
    given = f.take("layer_types")
    rule = ["sliding_attention" if is_local(layer) else "full_attention" for layer in range(n_layers)]
    types = rule if given is None else given
    if types != rule and base["family"] in _ONE_SIGHT:
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


def plain(f: Fields, family: str, max_positions: int, *, theta: float = 10000.0, **defaults: Any) -> dict[str, Any]:
    """What Llama's nearest relatives share: their fields are Llama's."""
    eps = defaults.pop("norm_eps", 1e-6)
    base = base_of(f, family, max_positions, **defaults)
    return {
        **base,
        **take_rope(f, base, theta=theta),
        **rms(f, eps),
        "activation": f.choice("hidden_act", ACTIVATIONS, "silu"),
    }


def windowed(f: Fields, family: str) -> ModelConfig:
    """Mistral's shape: Llama with a window in every layer, unless there is none."""
    llama, window = plain(f, family, 131072, n_kv_heads=8), f.nullable("sliding_window", 4096)
    return ModelConfig(**llama, **windows(f, llama, window, lambda layer: window is not None))
