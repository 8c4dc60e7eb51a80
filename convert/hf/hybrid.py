"""Families with layers of Gated DeltaNet among those of attention: their Hugging Face fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import hybrid_layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, rms
from jstrace.convert.hf.experts import experts_of, normed, without_experts
from jstrace.convert.hf.layouts import OLMO2, Layouts
from jstrace.convert.layouts import of_form
from jstrace.convert.rope import take_rope
from jstrace.models import InputError, ModelConfig
from jstrace.models.config import unlike

_LINEAR, _FULL = "linear_attention", "full_attention"
_MTP = ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")
"""Of further layers, that predict tokens after the next; they are no part of the language model."""


def _shared(f: Fields, family: str, n_kv_heads: int, **defaults: Any) -> dict[str, Any]:
    """What layers of all kinds have, and attention's fields."""
    base = base_of(f, family, 32768, n_heads=16, n_kv_heads=n_kv_heads, head_dim=256, **defaults)
    rope = take_rope(f, base, share=0.25, partial=True, passed_over=("mrope_section", "mrope_interleaved"))
    f.fixed("attention_bias", False)
    f.fixed("attn_output_gate", True)
    for name in (*_MTP, "mamba_ssm_dtype", "use_sliding_window"):
        f.take(name)
    return {**base, **rope, **rms(f), "activation": f.choice("hidden_act", ACTIVATIONS, "silu")}


def _delta(f: Fields, *, n_heads: int = 32, n_kv_heads: int = 16, key: int = 128, value: int = 128) -> dict[str, Any]:
    """What layers of Gated DeltaNet have in the place of attention's; the other arguments hold for fields left out."""
    n_heads = f.integer("linear_num_value_heads", n_heads)
    n_kv_heads = f.integer("linear_num_key_heads", n_kv_heads)
    if n_heads % n_kv_heads:
        raise InputError(f"{f.where}: {n_heads} linear_num_value_heads do not divide into {n_kv_heads} groups")
    return {
        "mixer": "delta",
        "gated_attention": False,
        "qk_norm": "none",
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": f.head_dim("linear_key_head_dim", key),
        "value_dim": f.head_dim("linear_value_head_dim", value),
        "conv_width": f.integer("linear_conv_kernel_dim", 4, most=64),
        "rotary_dim": 0,
        "rope_divisors": None,
    }


def _kinds(f: Fields, n_layers: int, interval: int) -> list[bool]:
    """Of each layer whether its attention is linear: as ``layer_types`` says, else all but those at the interval."""
    types = f.take("layer_types")
    if types is None:
        types = [_FULL if (layer + 1) % interval == 0 else _LINEAR for layer in range(n_layers)]
    if not isinstance(types, list) or len(types) != n_layers or any(kind not in (_LINEAR, _FULL) for kind in types):
        raise InputError(f"{f.where}: layer_types is no list of {n_layers} kinds, {_LINEAR} or {_FULL}")
    return [kind == _LINEAR for kind in types]


def joined(
    base: Mapping[str, Any],
    delta: Mapping[str, Any],
    linear: list[bool],
    mlps: Mapping[int, tuple[Mapping[str, Any], Layouts]],
    sparse: list[int],
    net: tuple[Layouts, Layouts],
) -> Read:
    """The config and layouts of layers that differ in their attention and in their MLPs.

    Args:
      base: the fields of a model all of whose layers have attention.
      delta: what layers of Gated DeltaNet have in the place of those.
      linear: which layers these are.
      mlps: fields and layouts of MLPs by what ``sparse`` says of each layer.
      sparse: of each layer its MLP.
      net: layouts of layers with attention, and what those of Gated DeltaNet have beside them.
    """
    full = ModelConfig(**base)
    kinds = list(zip(linear, sparse, strict=True))
    used = sorted(set(kinds))
    own = {name: getattr(full, name) for name in delta}
    forms = [{**(delta if is_linear else own), **mlps[mlp][0]} for is_linear, mlp in used]
    most = max(forms, key=lambda form: form["n_heads"])
    config = unlike(ModelConfig(**{**base, **most}), forms, [used.index(kind) for kind in kinds])
    layouts = dict(net[0])
    for number, (is_linear, mlp) in enumerate(used):
        part = {**(net[1] if is_linear else {}), **mlps[mlp][1]}
        layouts |= of_form(number, part) if len(used) > 1 else part
    return config, layouts


def _gated(
    f: Fields, base: Mapping[str, Any], mlps: Mapping[int, tuple[Mapping[str, Any], Layouts]], sparse: list[int]
) -> Read:
    """Layers of Gated DeltaNet among those of gated attention."""
    delta = _delta(f)
    by_heads = base["family"] == "qwen3_next"
    net = hybrid_layouts.by_key_heads(delta) if by_heads else hybrid_layouts.DELTA
    linear = _kinds(f, base["n_layers"], f.integer("full_attention_interval", 4))
    return joined(base, delta, linear, mlps, sparse, (hybrid_layouts.GATED, net))


def _qwen3_next(f: Fields) -> Read:
    base = _shared(f, "qwen3_next", 2)
    alone = {"d_mlp": base["d_mlp"], "n_experts": 0, "d_shared": 0, "shared_gate": False}
    dense = without_experts(f, base["n_layers"])
    experts = _experts(f, 512, 10) | normed(f, default=True)
    return _gated(
        f, base, {0: (alone, hybrid_layouts.MLP), 1: (experts, hybrid_layouts.EXPERTS)}, [int(not mlp) for mlp in dense]
    )


def _experts(f: Fields, total: int, chosen: int) -> dict[str, Any]:
    shared = {"d_shared": f.integer("shared_expert_intermediate_size", 512), "shared_gate": True}
    return experts_of(f, total, chosen, own_width=512) | shared


def _qwen3_5(f: Fields) -> Read:
    base = _shared(f, "qwen3_5", 4)
    f.fixed("mlp_only_layers", [], None)
    return _gated(f, base, {0: ({}, hybrid_layouts.MLP)}, [0] * base["n_layers"])


def _qwen3_5_moe(f: Fields) -> Read:
    base = _shared(f, "qwen3_5_moe", 2, d_mlp=512)
    f.fixed("mlp_only_layers", [], None)
    experts = _experts(f, 256, 8) | {"router": "chosen"}
    return _gated(f, base, {1: (experts, hybrid_layouts.EXPERTS)}, [1] * base["n_layers"])


_OF_INITIALISATION = ("a_log_min", "a_log_max", "dt_min", "dt_max", "dt_init_floor")


def _olmo_hybrid(f: Fields) -> Read:
    """Layers of Gated DeltaNet behind norms, among OLMo 2's of attention, whose norms come after them."""
    base = base_of(f, "olmo_hybrid", 65536)
    f.fixed("attention_bias", False)  # a bias before a post-norm is neither an edge nor a constant of the node
    f.fixed("hidden_act", "silu")  # which is that of short convolutions, too
    for name in _OF_INITIALISATION:
        f.take(f"linear_{name}")
    base |= {**_positions(f, base), **rms(f)}
    key = int(0.75 * base["d_model"] / f.peeked_integer("linear_num_key_heads", base["n_heads"]))
    value = 2 * f.peeked_integer("linear_key_head_dim", key)
    delta = _delta(f, n_heads=base["n_heads"], n_kv_heads=base["n_heads"], key=key, value=value) | {
        "pre_norm": True,
        "post_norm": False,
        "delta_strength": 2.0 if f.flag("linear_allow_neg_eigval", True) else 1.0,
        "delta_eps": 1e-5,
    }
    linear = _kinds(f, base["n_layers"], 4 if base["n_layers"] > 3 else base["n_layers"])
    net = (OLMO2, hybrid_layouts.OLMO_DELTA)
    return joined(base, delta, linear, {0: ({}, hybrid_layouts.MLP)}, [0] * len(linear), net)


def _positions(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    """No rotary ones where the file says that there is no base, as those of released models do."""
    rope = f.peek("rope_parameters")
    if isinstance(rope, dict) and rope.get("rope_theta", 0) is None:
        f.take("rope_parameters")
        return {"rope_theta": 10000.0, "rope_divisors": None, "rotary_dim": 0}
    return take_rope(f, base)


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "olmo_hybrid": _olmo_hybrid,
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": _qwen3_5,
    "qwen3_5_moe_text": _qwen3_5_moe,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
