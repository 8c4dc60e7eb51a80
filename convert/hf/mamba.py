"""Families with layers of Mamba-2 among those of attention: their Hugging Face fields and where their weights stand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, bias_flags, rms
from jstrace.convert.hf.expert_layouts import GRANITEMOE
from jstrace.convert.hf.experts import experts_of
from jstrace.convert.hf.hybrid import joined
from jstrace.convert.layouts import Axis, Layout, at, linear
from jstrace.convert.rope import take_rope
from jstrace.models import InputError

_MAMBA, _FORWARD, _SHARED = "layers.{}.mamba.", "layers.{}.feed_forward.", "layers.{}.shared_mlp."
_ROWS = ("He", "He", "Kd", "Kd", "H")
"""Of the projection: gates, values, keys, queries, and one number of each head."""
_UNLIMITED = [[0.0, math.inf], [0.0, {"__float__": "Infinity"}], [0.0, "inf"], None]
"""Bounds of a token's step, as files have said that there are none."""
SHORT = {"v": 0, "k": 1, "q": 2}
"""Where they stand in the convolution."""

LAYER: layouts.Layouts = {
    **{x: at(_MAMBA + "in_proj.weight", Axis(_ROWS, i), "D") for i, x in enumerate(("o_gate", "v", "k", "q", "decay"))},
    **{f"{x}_conv": at(_MAMBA + "conv1d.weight", Axis(_ROWS[1:4], i), Axis(("1",)), "W") for x, i in SHORT.items()},
    **{f"{x}_conv_bias": at(_MAMBA + "conv1d.bias", Axis(_ROWS[1:4], i)) for x, i in SHORT.items()},
    "decay_bias": at(_MAMBA + "dt_bias", "H"),
    "decay_rate": at(_MAMBA + "A_log", "H"),
    "skip": at(_MAMBA + "D", "H"),
    "o_norm": at(_MAMBA + "norm.weight", "He"),
    "o": at(_MAMBA + "out_proj.weight", "D", "He"),
}
BAMBA: layouts.Layouts = {
    **layouts.LLAMA,
    **{name: layout for x in ("gate", "up") for name, layout in linear(x, f"{_FORWARD}{x}_proj", "F", "D").items()},
    **linear("down", _FORWARD + "down_proj", "D", "F"),
    **layouts.norms({"mlp_norm": "layers.{}.pre_ff_layernorm", "final_norm": "final_layernorm"}),
}


def _shared(prefix: str, letter: str) -> dict[str, Layout]:
    """Of Granite's MLP beside its experts, or without any."""
    both = Axis((letter, letter))
    into = {f"{prefix}{x}": dataclasses.replace(both, chosen=i) for i, x in enumerate(("gate", "up"))}
    layers = {name: at(_SHARED + "input_linear.weight", axis, "D") for name, axis in into.items()}
    return {**layers, f"{prefix}down": at(_SHARED + "output_linear.weight", "D", letter)}


def _mixer(f: Fields, d_model: int) -> tuple[dict[str, Any], layouts.Layouts]:
    """What layers of Mamba-2 have in the place of attention's fields, and their layouts."""
    width, n_heads = f.integer("mamba_expand", 2) * d_model, f.integer("mamba_n_heads", 128)
    if f.peek("mamba_d_head") == "auto":
        f.take("mamba_d_head")
    head = f.head_dim("mamba_d_head", max(1, width // n_heads))
    n_groups = f.integer("mamba_n_groups", 1)
    if head * n_heads != width or n_heads % n_groups:
        raise InputError(
            f"{f.where}: {n_heads} heads of width {head} in {n_groups} groups, expected mamba_expand * hidden_size ="
            f" {width} numbers, and groups of one size"
        )
    check_steps(f)
    f.take("mamba_chunk_size")  # a way of computing the same
    mixer = {
        "mixer": "mamba",
        "n_heads": n_heads,
        "n_kv_heads": n_groups,
        "head_dim": f.head_dim("mamba_d_state", 256),
        "value_dim": head,
        "conv_width": f.integer("mamba_d_conv", 4, most=64),
        **{"rotary_dim": 0, "rope_divisors": None, "qkv_bias": False, "o_bias": False},
    }
    if f.flag("mamba_conv_bias", True):
        return mixer, LAYER
    none = {f"{x}_conv_bias": dataclasses.replace(LAYER[f"{x}_conv_bias"], given=0.0) for x in SHORT}
    return mixer, {**LAYER, **none}


def check_steps(f: Fields) -> None:
    """Refuse bounds of a token's step, and a bias of the projection, which are not computed."""
    f.fixed("mamba_proj_bias", False)
    limit = f.take("time_step_limit", _UNLIMITED[0])
    if limit not in _UNLIMITED:
        raise InputError(f"{f.where}: time_step_limit = {str(limit)[:80]} is not supported; only [0, Infinity] is")


def _bamba(f: Fields) -> Read:
    base = base_of(f, "bamba", 262144, n_kv_heads=8)
    f.fixed("attn_rotary_emb", None, base["head_dim"] // 2)
    base |= {**take_rope(f, base, share=0.5, partial=True), **rms(f, 1e-5), **bias_flags(f)}
    base["activation"] = f.choice("hidden_act", ACTIVATIONS, "silu")
    for name in ("num_logits_to_keep", "z_loss_coefficient"):
        f.take(name)
    seen, layers = f.take("attn_layer_indices"), range(base["n_layers"])
    seen = [] if seen is None else seen
    if not isinstance(seen, list) or any(type(layer) is not int or layer not in layers for layer in seen):
        raise InputError(f"{f.where}: attn_layer_indices = {str(seen)[:80]}, expected a list of layers")
    attending = frozenset(seen)
    mixed = [layer not in attending for layer in layers]
    mixer, own = _mixer(f, base["d_model"])
    return joined(base, mixer, mixed, {0: ({}, {})}, [0] * len(mixed), (BAMBA, own))


_KINDS = {"linear_attention": True, "mamba": True, "full_attention": False, "attention": False}


def _granitemoehybrid(f: Fields) -> Read:
    """Multipliers are folded, as Granite's."""
    base = base_of(f, "granitemoehybrid", 2048) | rms(f)
    bias = f.flag("attention_bias", False)
    base |= {**_positions(f, base), "qkv_bias": bias, "o_bias": bias}
    base["activation"] = f.choice("hidden_act", ACTIVATIONS, "silu")
    base |= {"embed_scale": f.number("embedding_multiplier", 1.0), "query_scale": f.number("attention_multiplier", 1.0)}
    mlp, net = _mlps(f)
    types = f.take("layer_types") or ["mamba"] * base["n_layers"]
    if not isinstance(types, list) or len(types) != base["n_layers"] or any(f"{kind}" not in _KINDS for kind in types):
        raise InputError(f"{f.where}: layer_types is no list of {base['n_layers']} kinds of {', '.join(_KINDS)}")
    mixer, own = _mixer(f, base["d_model"])
    share, names = f.number("residual_multiplier", 1.0), ("o", "o_bias", "down", "shared_down")
    whole = layouts.scaled({**layouts.LLAMA, **net}, share, *names)
    whole = layouts.scaled(whole, 1 / f.number("logits_scaling", 1.0), "final_norm")
    both = whole, layouts.scaled(own, share, "o")
    return joined(base | mlp, mixer, [_KINDS[kind] for kind in types], {0: ({}, {})}, [0] * len(types), both)


def _positions(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary ones, or none."""
    if f.choice("position_embedding_type", {"rope": "rope", "nope": "nope"}, "nope") == "rope":
        return take_rope(f, base)
    for name in ("rope_parameters", "rope_theta", "rope_scaling"):
        f.take(name)
    return {"rope_theta": 10000.0, "rope_divisors": None, "rotary_dim": 0}


def _mlps(f: Fields) -> tuple[dict[str, Any], layouts.Layouts]:
    """Experts with an MLP beside them; or without any that MLP."""
    width = f.integer("shared_intermediate_size", 1024)
    if f.peek("num_local_experts") == 0:
        for name in ("num_local_experts", "num_experts_per_tok"):
            f.take(name)
        return {"d_mlp": width}, _shared("", "F")
    own = {name: GRANITEMOE[name] for name in ("router", "gate", "up", "down")}
    return {**experts_of(f, 8, 2), "d_shared": width}, {**own, **_shared("shared_", "U")}


READERS: Mapping[str, Callable[[Fields], Read]] = {"bamba": _bamba, "granitemoehybrid": _granitemoehybrid}
"""From Hugging Face's ``model_type`` to what reads the config."""
