"""Gemma 4 without an embedding for each layer: layers that see everything have heads of other numbers and widths."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import expert_layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, rms, windows
from jstrace.convert.hf.layouts import GEMMA
from jstrace.convert.layouts import at, of_form
from jstrace.convert.rope import joined, read_rope, unscaled_theta
from jstrace.models import InputError, ModelConfig
from jstrace.models.config import unlike

_STILL = 1e30
"""Divides the frequencies of pairs that are not rotated."""
_THETA: Mapping[str, Any] = {"rope_theta": [("rope_theta", None)]}
_WHOLE = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}


def _gemma4(family: str, positions: int, window: int, f: Fields) -> Read:
    base = base_of(f, family, positions, n_heads=8, n_kv_heads=4, head_dim=256, vocab_size=262144, tied_head=True)
    _check(f, family)
    n_layers, same = base["n_layers"], f.flag("attention_k_eq_v", False)
    sight = _sight(f, base, f.integer("sliding_window", window))
    everywhere = sight.get("global_layers", tuple(range(n_layers)))
    head_dim, n_kv_heads = _of_whole(f, base, everywhere, same=same)
    rope = _positions(f, base, head_dim)
    experts = _experts(f, base["d_mlp"])
    config = ModelConfig(
        **base
        | experts
        | {"head_dim": head_dim, "n_kv_heads": n_kv_heads}
        | rope
        | ({} if sight else {"local_rope_theta": None}),
        **rms(f),
        **sight,
        activation=f.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        embed_scale=math.sqrt(base["d_model"]),
        logit_softcap=f.number("final_logit_softcapping", None),
    )
    local = {"head_dim": base["head_dim"], "n_kv_heads": base["n_kv_heads"], "rope_divisors": None}
    form_of = [int(layer in everywhere) for layer in range(n_layers)]
    layouts = {**GEMMA, "layer_scale": at("layers.{}.layer_scalar", ""), **(expert_layouts.GEMMA4 if experts else {})}
    values = {"v": GEMMA["k"]} if same else {}
    layouts |= values if all(form_of) else of_form(1, values)
    return unlike(config, (local, {}), form_of), layouts


def _check(f: Fields, family: str) -> None:
    """Refuse what is not computed, and pass over what then changes nothing."""
    if family == "gemma4_text" and f.take("hidden_size_per_layer_input", 256) != 0:
        raise InputError(f"{f.where}: an embedding for each layer (hidden_size_per_layer_input) is not supported")
    f.fixed("num_kv_shared_layers", 0)
    f.fixed("attention_bias", False)
    f.fixed("use_bidirectional_attention", None, "vision")  # of images
    f.take("vocab_size_per_layer_input")
    f.take("use_double_wide_mlp")  # of layers that share keys and values


def _experts(f: Fields, width: int) -> dict[str, Any]:
    """Of experts beside the MLP, which is as wide as where there are none."""
    names = ("num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size")  # the last is old
    if not f.flag("enable_moe_block", False):
        for name in names:
            f.take(name)
        return {}
    older = f.integer("expert_intermediate_size", None)
    counts = {"n_experts": f.integer("num_experts"), "n_chosen": f.integer("top_k_experts")}
    return counts | {
        "d_mlp": f.integer("moe_intermediate_size", *([] if older is None else [older])),
        "d_shared": width,
        "router": "chosen",
        "own_norms": True,
    }


def _sight(f: Fields, base: Mapping[str, Any], window: int) -> dict[str, Any]:
    last, types = base["n_layers"] - 1, f.peek("layer_types")
    if isinstance(types, list) and types and types[-1] != "full_attention":
        raise InputError(f"{f.where}: layer_types ends with {str(types[-1])[:80]!r}, expected full_attention")
    return windows(f, base, window, lambda layer: (layer + 1) % 6 != 0 and layer != last)


def _of_whole(f: Fields, base: Mapping[str, Any], layers: tuple[int, ...], *, same: bool) -> tuple[int, int]:
    """Width and number of key/value heads of the layers that see everything."""
    width, number = f.head_dim("global_head_dim", 512), f.integer("num_global_key_value_heads", None)
    own = {"head_dim": width} | ({"num_key_value_heads": number} if same and number is not None else {})
    named = f.object("per_layer_config").items()  # "05" of thirty layers
    given = {str(layer).lstrip("0") or "0": heads for layer, heads in named} or dict.fromkeys(map(str, layers), own)
    first = next(iter(given.values()))
    if given.keys() != set(map(str, layers)) or not isinstance(first, dict) or any(x != first for x in given.values()):
        raise InputError(f"{f.where}: per_layer_config is not one for all layers with full_attention and no others")
    fields = Fields(first, f"{f.where}: per_layer_config")
    shape = fields.head_dim("head_dim", base["head_dim"]), fields.integer("num_key_value_heads", base["n_kv_heads"])
    fields.refuse_unread(())
    return shape


def _positions(f: Fields, base: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    kinds = Fields(f.object("rope_parameters"), f.where)
    local, whole = kinds.object("sliding_attention"), kinds.object("full_attention") or _WHOLE
    kinds.refuse_unread((), "RoPE field")
    windowed = joined(local, "sliding_attention", _THETA, {"rope_theta": 10000.0}, f.where)
    local_theta = unscaled_theta(read_rope(windowed, f.where, base), f.where)
    rope = joined(whole, "full_attention", _THETA, {"rope_theta": 1e6}, f.where)
    if rope["rope_type"] != "proportional":
        return read_rope(rope, f.where, {**base, "head_dim": head_dim}) | {"local_rope_theta": local_theta}
    own = Fields(rope, f"{f.where}: RoPE")
    own.take("rope_type")
    share, factor = own.number("partial_rotary_factor", 1.0), own.number("factor", 1.0)
    if share > 1 or head_dim % 2:
        raise InputError(f"{f.where}: partial_rotary_factor turns {share * head_dim:g} dimensions of {head_dim}")
    turned = int(share * head_dim // 2)
    divisors = (factor,) * turned + (_STILL,) * (head_dim // 2 - turned)
    turning = {"rope_theta": own.number("rope_theta"), "rope_divisors": divisors}
    own.refuse_unread((), "RoPE field")
    return turning | {"local_rope_theta": local_theta}


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "gemma4_text": functools.partial(_gemma4, "gemma4_text", 131072, 512),
    "gemma4_unified_text": functools.partial(_gemma4, "gemma4_unified_text", 262144, 1024),
}
"""From Hugging Face's ``model_type`` to what reads the config."""
