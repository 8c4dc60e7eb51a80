"""Nemotron-H, layers of one block each: Mamba-2, attention, an MLP or experts; its Hugging Face fields and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of
from jstrace.convert.hf.mamba import LAYER, SHORT, check_steps
from jstrace.convert.hf.mixed import routed
from jstrace.convert.layouts import at, linear, norms, of_form
from jstrace.models import InputError, ModelConfig
from jstrace.models.config import unlike

_MAMBA, _ATTENTION, _MLP, _EXPERTS = "linear_attention", "full_attention", "mlp", "moe"
_KINDS = {kind: kind for kind in (_MAMBA, _ATTENTION, _MLP, _EXPERTS)} | {"mamba": _MAMBA, "attention": _ATTENTION}
_LETTERS = {"M": _MAMBA, "*": _ATTENTION, "-": _MLP, "E": _EXPERTS}
_PASSED_OVER = (
    *("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"),  # nothing is rotated
    *("expand", "chunk_size", "mamba_ssm_cache_dtype", "use_mamba_kernels", "num_logits_to_keep", "time_step_rank"),
    *("time_step_max", "time_step_floor", "rescale_prenorm_residual", "residual_in_fp32"),
    *("mtp_layers_block_type", "mtp_hybrid_override_pattern", "moe_shared_expert_overlap"),
)
"""Fields of initialisation, of other ways of computing the same, and of layers that predict further tokens."""
_OF_EXPERTS = (
    *("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
    *("num_experts_per_tok", "routed_scaling_factor", "n_group", "topk_group", "norm_topk_prob", "moe_latent_size"),
)
_BLOCK = "layers.{}.mixer."
_TOP = {
    "embed": at("embeddings.weight", "V", "D"),
    "head": at("lm_head.weight", "V", "D"),
    **norms({"final_norm": "norm_f"}),
}
_BEFORE_ATTENTION, _BEFORE_MLP = (norms({f"{block}_norm": "layers.{}.norm"}) for block in ("attn", "mlp"))
_SHARED = _BLOCK + "shared_experts."
_LAYOUTS: Mapping[str, layouts.Layouts] = {
    _MAMBA: _BEFORE_ATTENTION
    | {
        name: dataclasses.replace(layout, name=layout.name.replace("layers.{}.mamba.", _BLOCK))
        for name, layout in LAYER.items()
    },
    _ATTENTION: {
        **_BEFORE_ATTENTION,
        **{x: at(f"{_BLOCK}{x}_proj.weight", f"{heads}d", "D") for x, heads in (("q", "H"), ("k", "K"), ("v", "K"))},
        "o": at(_BLOCK + "o_proj.weight", "D", "Hd"),
    },
    _MLP: {
        **_BEFORE_MLP,
        **linear("up", _BLOCK + "up_proj", "F", "D"),
        **linear("down", _BLOCK + "down_proj", "D", "F"),
    },
    _EXPERTS: {
        **_BEFORE_MLP,
        "router": at(_BLOCK + "gate.weight", "X", "D"),
        "router_bias": at(_BLOCK + "gate.e_score_correction_bias", "X"),
        "up": at(_BLOCK + "experts.{x}.up_proj.weight", "F", "D"),
        "down": at(_BLOCK + "experts.{x}.down_proj.weight", "D", "F"),
        "shared_up": at(_SHARED + "up_proj.weight", "U", "D"),
        "shared_down": at(_SHARED + "down_proj.weight", "D", "U"),
    },
}


def _kinds(f: Fields) -> list[str]:
    """Of each layer its block, from a list of names or a text of letters."""
    listed = [kinds for kinds in map(f.take, ("layers_block_type", "layer_types")) if kinds is not None]
    pattern = f.take("hybrid_override_pattern")
    kinds = listed[0] if listed else list(pattern) if isinstance(pattern, str) else None
    known = _KINDS if listed else _LETTERS
    if not isinstance(kinds, list) or not kinds or any(f"{kind}" not in known for kind in kinds):
        raise InputError(f"{f.where}: expected layers_block_type, a list of {', '.join(_KINDS)}")
    named = [known[kind] for kind in kinds]
    if any(not isinstance(other, list) or [known.get(f"{kind}") for kind in other] != named for other in listed):
        raise InputError(f"{f.where}: layer_types contradicts layers_block_type")
    return named


def _mamba(f: Fields) -> dict[str, Any]:
    f.fixed("mamba_hidden_act", "silu")
    n_heads, n_groups = f.integer("mamba_num_heads", 128), f.integer("n_groups", 8)
    if n_heads % n_groups:
        raise InputError(f"{f.where}: {n_heads} mamba_num_heads do not divide into {n_groups} n_groups")
    check_steps(f)
    return {
        "mixer": "mamba",
        "n_heads": n_heads,
        "n_kv_heads": n_groups,
        "head_dim": f.head_dim("ssm_state_size", 128),
        "value_dim": f.head_dim("mamba_head_dim", 64),
        "conv_width": f.integer("conv_kernel", 4, most=64),
        "step_floor": f.number("time_step_min", 0.001),  # the bound that transformers computes with
    }


def _experts(f: Fields) -> dict[str, Any]:
    f.fixed("moe_latent_size", None)
    f.fixed("n_shared_experts", 1)
    return routed(f, 8, 2, 7688, scale=1.0) | {"d_shared": f.integer("moe_shared_expert_intermediate_size", 7688)}


def _blocks(f: Fields, kinds: list[str], d_mlp: int) -> dict[str, dict[str, Any]]:
    """What layers of each kind have in the place of attention's fields."""
    mamba, biased = _mamba(f), f.flag("mlp_bias", False)
    if _EXPERTS in kinds and biased:
        raise InputError(f"{f.where}: mlp_bias = True is not supported beside experts")
    alone = {"mixer": "none", "n_heads": 1, "n_kv_heads": 1}
    blocks = {_MAMBA: mamba, _ATTENTION: {}, _MLP: alone | {"d_mlp": d_mlp, "mlp_bias": biased}}
    if _EXPERTS in kinds:
        return blocks | {_EXPERTS: alone | _experts(f)}
    for name in _OF_EXPERTS:
        f.take(name)
    return blocks


def _nemotron_h(f: Fields) -> Read:
    kinds = _kinds(f)
    base = base_of(f, "nemotron_h", 4096, n_layers=len(kinds), n_heads=32, n_kv_heads=8, head_dim=128, d_mlp=21504)
    if base["n_layers"] != len(kinds):
        raise InputError(
            f"{f.where}: num_hidden_layers = {base['n_layers']}, but the blocks of {len(kinds)} are listed"
        )
    for name, only in (("attention_bias", False), ("use_bias", False), ("sliding_window", None)):
        f.fixed(name, only)
    f.fixed("attention_head_dim", base["head_dim"])
    for name in _PASSED_OVER:
        f.take(name)
    base |= {"rope_theta": 10000.0, "rope_divisors": None, "rotary_dim": 0}
    f.take("rms_norm_eps")  # transformers reads the other
    base["norm_eps"] = f.number("layer_norm_epsilon", 1e-5)
    base["activation"] = f.choice("mlp_hidden_act", ACTIVATIONS, "relu2")
    convolved, used = f.flag("use_conv_bias", True), sorted(set(kinds))
    own = _blocks(f, kinds, base["d_mlp"])
    full = ModelConfig(**{**base, "d_mlp": 0})
    named = {name for fields in own.values() for name in fields}
    forms = [{name: getattr(full, name) for name in named} | own[kind] for kind in used]
    most = max(forms, key=lambda form: form["n_heads"])
    config = unlike(dataclasses.replace(full, **most), forms, list(map(used.index, kinds)))
    places = dict(_TOP)
    for number, kind in enumerate(used):
        part = dict(_LAYOUTS[kind])
        if kind == _MAMBA and not convolved:
            part |= {name: dataclasses.replace(part[name], given=0.0) for name in (f"{x}_conv_bias" for x in SHORT)}
        places |= of_form(number, part) if len(used) > 1 else part
    return config, places


READERS: Mapping[str, Callable[[Fields], Read]] = {"nemotron_h": _nemotron_h}
"""From Hugging Face's ``model_type`` to what reads the config."""
