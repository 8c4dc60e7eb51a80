"""Families some of whose layers have one MLP, and the others a mixture of experts: their Hugging Face fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import expert_layouts, layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, plain, rms
from jstrace.convert.hf.layouts import Layouts
from jstrace.convert.hf.llama_like import unrotated_layers, unrotated_windows
from jstrace.convert.layouts import of_form
from jstrace.convert.rope import take_rope
from jstrace.models import InputError, ModelConfig
from jstrace.models.config import unlike


def count(f: Fields, name: str, default: int) -> int:
    """An integer that may be zero."""
    return 0 if f.peek(name) == 0 and f.take(name) == 0 else int(f.integer(name, default))


def with_dense(config: ModelConfig, sparse: Layouts, dense: Sequence[bool], width: int) -> Read:
    """A mixture of experts of which some layers (``dense``, of each layer) have one MLP of this width."""
    alone = {"n_experts": 0, "d_mlp": width, "d_shared": 0}
    mixed = unlike(config, (alone, {}), [int(not is_dense) for is_dense in dense])
    return mixed, {**sparse, **(expert_layouts.DENSE if all(dense) else of_form(0, expert_layouts.DENSE))}


def routed(
    f: Fields, total: int, chosen: int, width: int, *, scale: float, groups: tuple[int, int] = (1, 1), name: str = "n_"
) -> dict[str, Any]:
    """Experts that sigmoids with a correction choose, in groups; the other arguments hold for fields left out.

    ``name`` is what the names of the numbers of experts begin with.
    """
    n_groups, n_kept = f.integer("n_group", groups[0]), f.integer("topk_group", groups[1])
    d_mlp = f.integer("moe_intermediate_size", width)
    return {
        "n_experts": f.integer("n_routed_experts" if name == "n_" else f"{name}experts", total),
        "n_chosen": f.integer("num_experts_per_tok", chosen),
        "d_mlp": d_mlp,
        "d_shared": d_mlp * f.integer(f"{name}shared_experts", 1),
        "router": "sigmoid" if f.flag("norm_topk_prob", True) else "sigmoids",
        "router_scale": f.number("routed_scaling_factor", scale),
        "router_groups": (n_groups, n_kept, 2) if n_kept != n_groups else (),
    }


def first_dense(f: Fields, n_layers: int, default: int) -> list[bool]:
    """Whether each layer has one MLP, as ``mlp_layer_types`` or else ``first_k_dense_replace`` says."""
    first, types = count(f, "first_k_dense_replace", default), f.take("mlp_layer_types")
    if types is None:
        return [layer < first for layer in range(n_layers)]
    if not isinstance(types, list) or len(types) != n_layers or any(kind not in ("dense", "sparse") for kind in types):
        raise InputError(f"{f.where}: mlp_layer_types is no list of {n_layers} times dense or sparse")
    return [kind == "dense" for kind in types]


def _glm4_moe(f: Fields) -> Read:
    base = base_of(f, "glm4_moe", 131072, n_kv_heads=8)
    config = ModelConfig(
        **base | routed(f, 128, 8, 1408, scale=1.0) | take_rope(f, base, share=0.5, partial=True),
        **rms(f, 1e-5),
        qkv_bias=f.flag("attention_bias", False),
        qk_norm="head" if f.flag("use_qk_norm", False) else "none",
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return with_dense(config, expert_layouts.GLM4_MOE, first_dense(f, base["n_layers"], 1), base["d_mlp"])


def _exaone_moe(f: Fields) -> Read:
    f.fixed("scoring_func", "sigmoid")
    f.fixed("topk_method", "noaux_tc")
    base = base_of(f, "exaone_moe", 2048, n_kv_heads=32)
    config = ModelConfig(
        **base | routed(f, 64, 8, 1024, scale=2.5, name="num_"),
        **take_rope(f, base),
        **rms(f, 1e-5),
        **unrotated_windows(f, base),
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    return with_dense(config, expert_layouts.EXAONE_MOE, _exaone_dense(f, base["n_layers"]), base["d_mlp"])


def _exaone_dense(f: Fields, n_layers: int) -> list[bool]:
    """As ``first_dense`` says, or else ``is_moe_layer`` of the first release."""
    f.take("first_last_k_dense_replace")  # which no release reads
    named = any(f.peek(name) is not None for name in ("mlp_layer_types", "first_k_dense_replace"))
    dense, experts = first_dense(f, n_layers, 1), f.take("is_moe_layer")
    if experts is None:
        return dense
    if not isinstance(experts, list) or len(experts) != n_layers or any(has not in (0, 1) for has in experts):
        raise InputError(f"{f.where}: is_moe_layer is no list of {n_layers} times true or false")
    listed = [not has for has in experts]
    if named and listed != dense:
        raise InputError(f"{f.where}: is_moe_layer contradicts mlp_layer_types or first_k_dense_replace; remove one")
    return listed


def _ernie4_5_moe(f: Fields) -> Read:
    f.fixed("use_bias", False, None)
    f.fixed("moe_norm_min", 1e-12)
    llama = plain(f, "ernie4_5_moe", 131072, theta=500000.0, n_kv_heads=4, tied_head=True, norm_eps=1e-5)
    n_layers, width, d_mlp = llama["n_layers"], llama["d_mlp"], f.integer("moe_intermediate_size", 1536)
    first, every = count(f, "moe_layer_start_index", 1), f.integer("moe_layer_interval", 1)
    last = f.take("moe_layer_end_index", -1)
    if not isinstance(last, int) or isinstance(last, bool):
        raise InputError(f"{f.where}: moe_layer_end_index = {str(last)[:80]}, expected the number of a layer, or -1")
    last = n_layers - 1 if last == -1 else last
    config = ModelConfig(
        **llama | {"d_mlp": d_mlp},
        n_experts=f.integer("moe_num_experts", 64),
        n_chosen=f.integer("moe_k", 6),
        d_shared=d_mlp * count(f, "moe_num_shared_experts", 2),
    )
    dense = [not (first <= layer <= last and (layer + 1) % every == 0) for layer in range(n_layers)]
    return with_dense(config, layouts.interleaved(expert_layouts.ERNIE4_5_MOE, config), dense, width)


def _llama4_text(f: Fields) -> Read:
    """Inputs are read up to a length at which chunks, and the temperature of queries, change nothing."""
    base = base_of(f, "llama4_text", 131072, n_kv_heads=8, head_dim=128)
    experts, layers = f.integer("num_local_experts", 16), range(base["n_layers"])
    every, listed = f.integer("interleave_moe_layer_step", 1), f.take("moe_layers")
    mixed = list(range(every - 1, len(layers), every)) if listed is None else listed
    if not isinstance(mixed, list) or any(type(layer) is not int or layer not in layers for layer in mixed):
        raise InputError(f"{f.where}: moe_layers = {str(mixed)[:80]}, expected a list of layers from 0 to {layers[-1]}")
    if f.peek("no_rope_layers") == []:
        f.take("no_rope_layers")  # as published, for those of the interval
    unrotated, chunk = unrotated_layers(f, base["n_layers"]), f.nullable("attention_chunk_size", 8192)
    lengths = [base["max_positions"]] + ([] if chunk is None else [chunk])
    tuned, floor = f.take("attn_temperature_tuning", True), f.integer("floor_scale", 8192)
    if not isinstance(tuned, int):  # 4, as published, is true
        raise InputError(f"{f.where}: attn_temperature_tuning = {str(tuned)[:80]}, expected true or false")
    f.number("attn_scale", 0.1)
    f.take("layer_types")  # all alike within a chunk
    f.take("router_jitter_noise")
    f.take("for_llm_compressor")  # the form of experts while they are quantised
    bias, normed = f.flag("attention_bias", False), f.flag("use_qk_norm", True)
    config = ModelConfig(
        **base | {"max_positions": min([*lengths, floor - 1] if tuned and unrotated else lengths), "bounded": True},
        **take_rope(f, base, theta=500000.0),
        **rms(f, 1e-5),
        n_experts=experts,
        n_chosen=f.integer("num_experts_per_tok", 1),
        d_shared=base["d_mlp"],
        unrotated_layers=unrotated,
        qkv_bias=bias,
        o_bias=bias,
        activation=f.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    alone = {"n_experts": 0, "d_mlp": f.integer("intermediate_size_mlp", 16384), "d_shared": 0}
    turned = {"qk_norm": "head", "qk_norm_last": True} if normed else {}
    forms = [alone, alone | turned, {}, turned]
    form_of = [2 * (layer in mixed) + (layer not in unrotated) for layer in layers]
    own = [form for form in range(4) if form in form_of]
    by_name = layouts.interleaved(expert_layouts.LLAMA4, config)
    for place, form in enumerate(own):
        dense = expert_layouts.LLAMA4_DENSE if form < 2 else {}
        by_name |= dense if len(own) == 1 else of_form(place, dense)
    return unlike(config, forms, form_of), by_name


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "glm4_moe": _glm4_moe,
    "exaone_moe": _exaone_moe,
    "ernie4_5_moe": _ernie4_5_moe,
    "llama4_text": _llama4_text,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
