"""Where the weights of experts, of latent attention and of Gated DeltaNet stand in GGUF files.

The facts are those of llama.cpp's conversion scripts and of ``gguf.constants``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from jstrace.convert.hf import hybrid_layouts
from jstrace.convert.hf.layouts import Layouts
from jstrace.convert.layouts import Axis, Layout, Listed, at, linear, of_form
from jstrace.models import ModelConfig

_BLOCK = "blk.{}."
Shapes = Mapping[str, tuple[int, ...]]
"""Of the weights of a file by name, slowest axis first."""
_EXPERTS: Mapping[str, Layout] = {
    **linear("router", _BLOCK + "ffn_gate_inp", "X", "D"),
    "gate": at(_BLOCK + "ffn_gate_exps.weight", "X", "F", "D"),
    "gate_bias": at(_BLOCK + "ffn_gate_exps.bias", "X", "F"),
    "up": at(_BLOCK + "ffn_up_exps.weight", "X", "F", "D"),
    "up_bias": at(_BLOCK + "ffn_up_exps.bias", "X", "F"),
    "down": at(_BLOCK + "ffn_down_exps.weight", "X", "D", "F"),
    "down_bias": at(_BLOCK + "ffn_down_exps.bias", "X", "D"),
    "sink": at(_BLOCK + "attn_sinks.weight", "H"),
    **linear("shared_gate", _BLOCK + "ffn_gate_shexp", "U", "D"),
    **linear("shared_up", _BLOCK + "ffn_up_shexp", "U", "D"),
    **linear("shared_down", _BLOCK + "ffn_down_shexp", "D", "U"),
}
"""Of mixtures of experts, and gpt-oss's sinks."""
_CORRECTION, _SHARED_SCALE, _FUSED = "exp_probs_b.bias", "ffn_gate_inp_shexp.weight", "ffn_gate_up_exps.weight"
_LATENT = {
    "q": "attn_q",
    "q_down": "attn_q_a",
    "q_down_norm": "attn_q_a_norm",
    "kv_down": "attn_kv_a_mqa",
    "k_turned": "attn_kv_a_mqa",
    "kv_down_norm": "attn_kv_a_norm",
    "k": "attn_kv_b",
    "v": "attn_kv_b",
    "o": "attn_output",
}


def expert_layouts(config: ModelConfig, shapes: Shapes) -> dict[str, Layout]:
    """Of mixtures of experts; empty where no layer has any."""
    if not any(form.n_experts for form in config.layer_forms):
        return {}
    layouts = dict(_EXPERTS)
    if _holds(shapes, _FUSED):
        layouts |= {x: at(_BLOCK + _FUSED, "X", Axis(("F", "F"), i), "D") for i, x in enumerate(("gate", "up"))}
    layouts |= _GEMMA4 if config.layer_forms[0].own_norms else {}
    if _holds(shapes, _CORRECTION):
        layouts["router_bias"] = _thin(shapes, _CORRECTION, "X")
    if _holds(shapes, _SHARED_SCALE):
        layouts["shared_scale"] = _thin(shapes, _SHARED_SCALE, "D")
    return layouts


_GEMMA4 = {
    "router_norm": at(_BLOCK + "ffn_gate_inp.scale", "D"),
    "router_factors": at(_BLOCK + "ffn_down_exps.scale", "X"),
    "shared_post_norm": at(_BLOCK + "post_ffw_norm_1.weight", "D"),
    "experts_norm": at(_BLOCK + "pre_ffw_norm_2.weight", "D"),
    "experts_post_norm": at(_BLOCK + "post_ffw_norm_2.weight", "D"),
    **{f"shared_{x}": at(f"{_BLOCK}ffn_{x}.weight", "U", "D") for x in ("gate", "up")},
    "shared_down": at(_BLOCK + "ffn_down.weight", "D", "U"),
}
"""Of experts beside an MLP, with norms of their own."""


def _holds(shapes: Shapes, part: str) -> bool:
    return any(name.endswith(f".{part}") for name in shapes)


def _thin(shapes: Shapes, part: str, letter: str) -> Layout:
    """A vector, which some files have as a matrix of one row."""
    flat = all(len(shape) == 1 for name, shape in shapes.items() if name.endswith(f".{part}"))
    return at(_BLOCK + part, letter) if flat else at(_BLOCK + part, Axis(("1",)), letter)


def attention_layouts(config: ModelConfig, theirs: Layouts, shapes: Shapes) -> dict[str, Layout]:
    """Of latent attention, and of gated attention, which stands beside Gated DeltaNet."""
    if any(form.gated_attention for form in config.layer_forms):
        return {
            name: dataclasses.replace(theirs[name], name=_BLOCK + "attn_q.weight")
            for name in ("q", "o_gate")
            if name in theirs
        }
    if not config.kv_rank:
        return {}
    names = _LATENT | ({"q": "attn_q_b"} if config.q_rank else {})
    layouts = {
        ours: dataclasses.replace(theirs[ours], name=f"{_BLOCK}{name}.weight")
        for ours, name in names.items()
        if ours in theirs
    }
    if _holds(shapes, "attn_k_b.weight"):
        layouts["k"] = at(_BLOCK + "attn_k_b.weight", "K", "c", "n")
        layouts["v"] = at(_BLOCK + "attn_v_b.weight", "K", "e", "c")
    return layouts


def form_layouts(config: ModelConfig, plain: Layouts, shapes: Shapes) -> dict[str, Layout]:
    """What single forms of layers have where it is not what others have: one MLP, or Gated DeltaNet."""
    layouts: dict[str, Layout] = {}
    some_sparse = any(form.n_experts for form in config.layer_forms)
    for number, form in enumerate(config.layer_forms):
        own: Layouts = {}
        if some_sparse and not form.n_experts:
            own = {name: plain[name] for name in ("gate", "up", "down")}
        if form.mixer == "delta":
            own = {**own, **_delta(form, tiled=config.family != "qwen3_next", shapes=shapes)}
        layouts |= of_form(number, own) if config.forms else own
    return layouts


def _delta(form: ModelConfig, *, tiled: bool, shapes: Shapes) -> dict[str, Layout]:
    """Gated DeltaNet: heads of values by their key's head, or if ``tiled`` the first of every key's head, and so on."""
    n_heads, n_keys, key, value = form.n_heads, form.n_kv_heads, form.head_dim, form.value_width

    def order() -> np.ndarray:  # made when the file's shape is known
        by_key = np.arange(n_heads).reshape(n_heads // n_keys, n_keys)
        return by_key.T.ravel() if tiled else by_key.ravel()

    def heads(letters: str, start: int = 0, width: int = value) -> Listed:
        rows = functools.partial(_rows, order, start, width)
        return Listed(letters, rows if letters[-1] == "e" else order, start + n_heads * width)

    parts: dict[str, Axis | Listed] = {x: Axis(("Kd", "Kd", "He"), i) for i, x in enumerate("qk")}
    parts["v"] = heads("He", 2 * n_keys * key)
    layouts = {x: at(_BLOCK + "attn_qkv.weight", part, "D") for x, part in parts.items()}
    layouts |= {f"{x}_conv": at(_BLOCK + "ssm_conv1d.weight", part, "W") for x, part in parts.items()}
    layouts |= {"o_gate": at(_BLOCK + "attn_gate.weight", heads("He"), "D")}
    layouts |= {"o": at(_BLOCK + "ssm_out.weight", "D", heads("He")), "o_norm": at(_BLOCK + "ssm_norm.weight", "e")}
    names = {"decay": "ssm_alpha.weight", "strength": "ssm_beta.weight"}
    layouts |= {ours: at(_BLOCK + name, heads("H", width=1), "D") for ours, name in names.items()}
    layouts["decay_bias"] = at(_BLOCK + "ssm_dt.bias", heads("H", width=1))
    layouts["decay_rate"] = dataclasses.replace(at(_BLOCK + "ssm_a", heads("H", width=1)), minus_exp=True)
    if tiled:
        return layouts
    shape = {"n_heads": n_heads, "n_kv_heads": n_keys, "head_dim": key, "value_dim": value}
    side_by_side = hybrid_layouts.by_key_heads(shape)
    old = {"q", "k", "v", "o_gate"} if _holds(shapes, "ssm_in.weight") else set()
    layouts |= {x: dataclasses.replace(side_by_side[x], name=_BLOCK + "ssm_in.weight") for x in sorted(old)}
    return layouts | {x: dataclasses.replace(side_by_side[x], name=_BLOCK + "ssm_ba.weight") for x in names}


def _rows(order: Callable[[], np.ndarray], start: int, width: int) -> np.ndarray:
    """Places ``[heads, width]`` of heads that stand in this order after ``start`` rows."""
    return start + order()[:, None] * width + np.arange(width)
