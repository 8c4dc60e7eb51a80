"""Families with latent attention: keys and values of all heads are made of one narrow vector of their token."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.convert.hf import expert_layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read, base_of, rms
from jstrace.convert.hf.layouts import LLAMA, Layouts
from jstrace.convert.hf.mixed import first_dense, routed, with_dense
from jstrace.convert.layouts import Axis, Layout, Listed, at
from jstrace.convert.rope import take_rope
from jstrace.models import InputError, ModelConfig

_ATTENTION = "layers.{}.self_attn."


def latent_layouts(config: ModelConfig, base: Layouts, *, paired: bool) -> dict[str, Layout]:
    """Where its attention stands: of each head what is not rotated comes first, of pairs both numbers if ``paired``."""
    heads, turned, rest, value = config.n_heads, config.n_rotary, config.head_dim - config.n_rotary, config.value_width
    order = np.concatenate([np.arange(0, turned, 2), np.arange(1, turned, 2)]) if paired else np.arange(turned)

    def listed(letters: str, width: int, places: np.ndarray) -> Listed:
        return Listed(letters, functools.partial(_of_heads, heads, width, places), heads * width)

    q = listed("Hd", config.head_dim, np.concatenate([rest + order, np.arange(rest)]))
    k = listed("Kn", rest + value, np.arange(rest))
    v = listed("Ke", rest + value, rest + np.arange(value))
    through = {"q": at(_ATTENTION + "q_proj.weight", q, "D")}
    if config.q_rank:
        through = {"q": at(_ATTENTION + "q_b_proj.weight", q, "a")}
        through |= {"q_down": at(_ATTENTION + "q_a_proj.weight", "a", "D")}
        through |= {"q_down_norm": at(_ATTENTION + "q_a_layernorm.weight", "a")}
    down, up = _ATTENTION + "kv_a_proj_with_mqa.weight", _ATTENTION + "kv_b_proj.weight"
    shared = Listed("r", lambda: config.kv_rank + order, config.kv_rank + turned)
    return {
        **base,
        **through,
        "kv_down": at(down, Axis(("c", "r")), "D"),
        "k_turned": at(down, shared, "D"),
        "kv_down_norm": at(_ATTENTION + "kv_a_layernorm.weight", "c"),
        "k": at(up, k, "c"),
        "v": at(up, v, "c"),
        "o": at(_ATTENTION + "o_proj.weight", "D", "He"),
    }


def _of_heads(n_heads: int, width: int, places: np.ndarray) -> np.ndarray:
    """Places ``[heads, d]`` in rows of so many heads of this width."""
    return np.arange(n_heads)[:, None] * width + places


_MOST_MAGNITUDE = 1e6
"""Of YaRN's factor; published ones are below 2."""


def _latent(f: Fields, family: str, max_positions: int, *, q_rank: int, nope: int, value: int) -> dict[str, Any]:
    """The fields that all share; arguments hold for those that are left out."""
    for name in ("attention_bias", "mlp_bias"):
        f.fixed(name, False)
    turned = f.head_dim("qk_rope_head_dim", 64)
    given = f.take("head_dim")
    if family == "glm4_moe_lite" and given not in (None, turned):
        raise InputError(f"{f.where}: head_dim = {given!r} contradicts qk_rope_head_dim = {turned}")
    f.take("qk_head_dim")  # the sum of the two
    base = base_of(f, family, max_positions)
    if base["n_kv_heads"] != base["n_heads"]:
        raise InputError(
            f"{f.where}: num_key_value_heads = {base['n_kv_heads']}, expected the {base['n_heads']} of latent attention"
        )
    scaling = f.peek("rope_parameters") or f.peek("rope_scaling") or {}
    rope = take_rope(f, base | {"head_dim": turned}) | {"rotary_dim": turned}
    head_dim = turned + f.head_dim("qk_nope_head_dim", nope)
    fields = {
        "head_dim": head_dim,
        "value_dim": f.head_dim("v_head_dim", value),
        "kv_rank": f.integer("kv_lora_rank", 512),
        "q_rank": f.nullable("q_lora_rank", q_rank) or 0,
        "query_scale": _magnitude(scaling, base["max_positions"], f.where) ** 2 / math.sqrt(head_dim),
        "activation": f.choice("hidden_act", ACTIVATIONS, "silu"),
    }
    return base | rope | fields


def _magnitude(scaling: Mapping[str, Any], positions: int, where: str) -> float:
    """YaRN's factor on queries and keys; its numbers were checked where its frequencies were made."""
    over = scaling.get("mscale_all_dim")
    if not over or scaling.get("rope_type", scaling.get("type", "default")) == "default":
        return 1.0
    factor = scaling.get("factor") or positions / (scaling.get("original_max_position_embeddings") or positions)
    magnitude = 1.0 if factor <= 1 else 0.1 * over * math.log(factor) + 1
    if not magnitude < _MOST_MAGNITUDE:
        raise InputError(f"{where}: mscale_all_dim = {over} makes a factor of {magnitude:g} on queries and keys")
    return magnitude


def _deepseek_v2(f: Fields) -> Read:
    f.fixed("scoring_func", "softmax")
    f.fixed("norm_topk_prob", False, None)
    f.fixed("moe_layer_freq", 1)
    latent = _latent(f, "deepseek_v2", 2048, q_rank=1536, nope=128, value=128)
    groups = f.integer("n_group", None), f.integer("topk_group", None)
    limited = f.choice("topk_method", {"greedy": "", "group_limited_greedy": "groups"}, "greedy")
    if limited and None in groups:
        raise InputError(f"{f.where}: topk_method = 'group_limited_greedy' without n_group and topk_group")
    d_mlp = f.integer("moe_intermediate_size", 1407)
    experts = {
        "n_experts": f.integer("n_routed_experts", 64),
        "n_chosen": f.integer("num_experts_per_tok", 6),
        "d_mlp": d_mlp,
        "d_shared": d_mlp * f.integer("n_shared_experts", 2),
        "router_scale": f.number("routed_scaling_factor", 1.0),
        "router_groups": (*groups, 1) if limited else (),
    }
    config, dense = ModelConfig(**latent | experts, **rms(f)), first_dense(f, latent["n_layers"], 0)
    sparse = latent_layouts(config, {**LLAMA, **expert_layouts.GLM4_MOE}, paired=True)
    return with_dense(config, sparse, dense, latent["d_mlp"])


@dataclasses.dataclass(frozen=True)
class _Usual:
    """What holds for fields that are left out, of a family that chooses experts as DeepSeek-V3 does."""

    latent: tuple[int, int, int] = (1536, 128, 128)
    """Rank of queries, and widths of keys without positions and of values,"""
    positions: int = 4096
    experts: tuple[int, int, int] = (256, 8, 2048)
    """the number of experts, how many are chosen, and their width,"""
    scale: float = 2.5
    groups: tuple[int, int] = (8, 4)
    dense: int = 3
    eps: float = 1e-6


_USUAL = {
    "deepseek_v3": _Usual(),
    "deepseek_v32": _Usual(positions=163840),
    "glm_moe_dsa": _Usual((2048, 192, 256), 202752, groups=(1, 1), eps=1e-5),
    "glm4_moe_lite": _Usual((768, 192, 256), 202752, (64, 4, 1536), 1.8, (1, 1), 1, 1e-5),
}


def _as_v3(family: str, f: Fields) -> Read:
    """Of families with an indexer inputs are read up to the number of sources that it chooses: then it chooses all."""
    usual = _USUAL[family]
    for name, only in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        f.fixed(name, only)
    q_rank, nope, value = usual.latent
    latent = _latent(f, family, usual.positions, q_rank=q_rank, nope=nope, value=value)
    experts = routed(f, *usual.experts, scale=usual.scale, groups=usual.groups)
    config = ModelConfig(**latent | experts, **rms(f, usual.eps))
    if family in INDEXED:
        for name in _OF_INDEXERS:
            f.take(name)
        most = min(config.max_positions, f.integer("index_topk", 2048))
        config = dataclasses.replace(config, max_positions=most, bounded=True)
    paired = family in INDEXED or f.flag("rope_interleave", True)
    sparse = latent_layouts(config, {**LLAMA, **expert_layouts.GLM4_MOE}, paired=paired)
    return with_dense(config, sparse, first_dense(f, config.n_layers, usual.dense), latent["d_mlp"])


INDEXED = ("deepseek_v32", "glm_moe_dsa")
"""Families whose targets see only the sources that an indexer chooses."""
_OF_INDEXERS = (
    *("index_head_dim", "index_n_heads", "indexer_types", "index_topk_freq", "index_topk_pattern", "layer_types"),
    *("index_skip_topk_offset", "indexer_rope_interleave", "rope_interleave"),
)
READERS: Mapping[str, Callable[[Fields], Read]] = {
    "deepseek_v2": _deepseek_v2,
    **{family: functools.partial(_as_v3, family) for family in _USUAL},
}
"""From Hugging Face's ``model_type`` to what reads the config."""
