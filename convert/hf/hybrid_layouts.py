"""Where the weights of Qwen3-Next, Qwen3.5 and OLMo Hybrid stand: layers of Gated DeltaNet among those of attention."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jstrace.convert.hf.expert_layouts import DENSE, QWEN2_MOE
from jstrace.convert.hf.layouts import QWEN3, Layouts
from jstrace.convert.layouts import Axis, Layout, Listed, at, norms

_ATTENTION, _DELTA = "layers.{}.self_attn.", "layers.{}.linear_attn."
_QKV, _HEADS = ("Kd", "Kd", "He"), ("K", "K", "H")

GATED: Layouts = {
    **QWEN3,
    "q": at(_ATTENTION + "q_proj.weight", Axis(("H2d",), pick=0), "D"),
    "o_gate": at(_ATTENTION + "q_proj.weight", Axis(("H2d",), pick=1), "D"),
}
"""Each head's query, and then its gate."""

_DELTA_NET: Layouts = {
    **{f"{x}_conv": at(_DELTA + "conv1d.weight", Axis(_QKV, i), Axis(("1",)), "W") for i, x in enumerate("qkv")},
    "decay_bias": at(_DELTA + "dt_bias", "H"),
    "decay_rate": at(_DELTA + "A_log", "H"),
    "o_norm": at(_DELTA + "norm.weight", "e"),
    "o": at(_DELTA + "out_proj.weight", "D", "He"),
}
DELTA: Layouts = {
    **_DELTA_NET,
    **{x: at(_DELTA + "in_proj_qkv.weight", Axis(_QKV, i), "D") for i, x in enumerate("qkv")},
    "o_gate": at(_DELTA + "in_proj_z.weight", "He", "D"),
    "decay": at(_DELTA + "in_proj_a.weight", "H", "D"),
    "strength": at(_DELTA + "in_proj_b.weight", "H", "D"),
}
_PROJECTED = {"q": ("q", "Kd"), "k": ("k", "Kd"), "v": ("v", "He"), "o_gate": ("g", "He")} | {
    "decay": ("a", "H"),
    "strength": ("b", "H"),
}
OLMO_DELTA: Layouts = {
    **{ours: at(f"{_DELTA}{theirs}_proj.weight", axis, "D") for ours, (theirs, axis) in _PROJECTED.items()},
    **{f"{x}_conv": at(f"{_DELTA}{x}_conv1d.weight", _PROJECTED[x][1], Axis(("1",)), "W") for x in "qkv"},
    "decay_bias": at(_DELTA + "dt_bias", "H"),
    "decay_rate": at(_DELTA + "A_log", "H"),
    "o_norm": at(_DELTA + "o_norm.weight", "e"),
    "o": at(_DELTA + "o_proj.weight", "D", "He"),
    **norms({"attn_norm": "layers.{}.input_layernorm", "mlp_norm": "layers.{}.post_attention_layernorm"}),
}
MLP: Layouts = DENSE
EXPERTS: Layouts = {
    name: QWEN2_MOE[name]
    for name in ("gate", "up", "down", "router", "shared_gate", "shared_up", "shared_down", "shared_scale")
}


def by_key_heads(shape: Mapping[str, Any]) -> dict[str, Layout]:
    """Of Qwen3-Next: of each key head its query, key, values and gates; and, apart, its strengths and decays."""
    n_heads, key = shape["n_kv_heads"], shape["head_dim"]
    groups = shape["n_heads"] // n_heads
    values = groups * shape["value_dim"]
    parts = {"q": ("Kd", key), "k": ("Kd", key), "v": ("He", values), "o_gate": ("He", values)}
    wide = _side_by_side(n_heads, parts, {"d": key, "e": shape["value_dim"]})
    narrow = _side_by_side(n_heads, dict.fromkeys(("strength", "decay"), ("H", groups)), {})
    layouts = {name: at(_DELTA + "in_proj_qkvz.weight", axis, "D") for name, axis in wide.items()}
    layouts |= {name: at(_DELTA + "in_proj_ba.weight", axis, "D") for name, axis in narrow.items()}
    return {**_DELTA_NET, **layouts}


def _side_by_side(n_heads: int, parts: Mapping[str, tuple[str, int]], widths: Mapping[str, int]) -> dict[str, Listed]:
    """Parts of so many rows for each key head; ``widths`` are those of the last letters that are no heads."""
    axes, start, size = dict[str, Listed](), 0, sum(rows for _, rows in parts.values())
    for name, (letters, rows) in parts.items():
        inner = (widths[letters[1]],) if len(letters) > 1 else ()
        made = functools.partial(_rows, n_heads, size, slice(start, start + rows), inner)
        axes[name] = Listed(letters, made, n_heads * size)
        start += rows
    return axes


def _rows(n_heads: int, size: int, part: slice, inner: tuple[int, ...]) -> np.ndarray:
    return np.arange(n_heads * size).reshape(n_heads, size)[:, part].reshape(-1, *inner)
