"""Where the weights of mixtures of experts stand in Hugging Face's files."""

from __future__ import annotations

import dataclasses

from jstrace.convert.hf.layouts import LAYER_NORM, LLAMA, OLMO2, PER_HEAD, Layouts
from jstrace.convert.layouts import Axis, Layout, at, linear

_LAYER = "layers.{}."
_MLP, _SPARSE = _LAYER + "mlp.", _LAYER + "block_sparse_moe."
_W123 = ("w1", "w3", "w2")


def _apart(folder: str, names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")) -> dict[str, Layout]:
    """Every expert with matrices of its own, and the router."""
    gate, up, down = (f"{folder}experts.{{x}}.{name}.weight" for name in names)
    router = {"router": at(f"{folder}gate.weight", "X", "D")}
    return {"gate": at(gate, "F", "D"), "up": at(up, "F", "D"), "down": at(down, "D", "F"), **router}


def _shared(folder: str) -> dict[str, Layout]:
    into = linear("shared_gate", f"{folder}gate_proj", "U", "D") | linear("shared_up", f"{folder}up_proj", "U", "D")
    return into | linear("shared_down", f"{folder}down_proj", "D", "U")


DENSE = {name: LLAMA[name] for name in ("gate", "up", "down")}
"""Of a layer without experts, beside layers that have them."""
_SHARED = _shared(_MLP + "shared_experts.")
_CORRECTION = {"router_bias": at(_MLP + "gate.e_score_correction_bias", "X")}
_FULL = {name: OLMO2[name] for name in ("q_norm", "k_norm")}
QWEN3_MOE: Layouts = {**LLAMA, **PER_HEAD, **_apart(_MLP)}
QWEN2_MOE: Layouts = {
    **LLAMA,
    **_apart(_MLP),
    **_shared(_MLP + "shared_expert."),
    "shared_scale": at(_MLP + "shared_expert_gate.weight", Axis(("1",)), "D"),
}
MIXTRAL: Layouts = {**LLAMA, **_apart(_SPARSE, _W123)}
OLMOE: Layouts = {**LLAMA, **_FULL, **_apart(_MLP)}
FLEX_OLMO: Layouts = {**OLMO2, **_apart(_MLP)}
MINIMAX_M2: Layouts = {**MIXTRAL, **_FULL, "router_bias": at(_SPARSE + "e_score_correction_bias", "X")}
PHIMOE: Layouts = {**LAYER_NORM, **_apart(_SPARSE, _W123), "head_bias": at("lm_head.bias", "V")}
GRANITEMOE: Layouts = {
    **LLAMA,
    "router": at(_SPARSE + "router.layer.weight", "X", "D"),
    **{x: at(_SPARSE + "input_linear.weight", "X", Axis(("F", "F"), i), "D") for i, x in enumerate(("gate", "up"))},
    "down": at(_SPARSE + "output_linear.weight", "X", "D", "F"),
}
_OSS = _MLP + "experts."
GPT_OSS: Layouts = {
    **LLAMA,
    **linear("router", _MLP + "router", "X", "D"),
    **{x: at(_OSS + "gate_up_proj", "X", "D", Axis(("F2",), pick=i)) for i, x in enumerate(("gate", "up"))},
    **{f"{x}_bias": at(_OSS + "gate_up_proj_bias", "X", Axis(("F2",), pick=i)) for i, x in enumerate(("gate", "up"))},
    "down": at(_OSS + "down_proj", "X", "F", "D"),
    "down_bias": at(_OSS + "down_proj_bias", "X", "D"),
    "sink": at(_LAYER + "self_attn.sinks", "H"),
}
"""As bfloat16 files have it; of the official ones, in mxfp4, ``quantised`` makes tensors of these names and shapes."""
GLM4_MOE: Layouts = {**LLAMA, **PER_HEAD, **_apart(_MLP), **_SHARED, **_CORRECTION}
EXAONE_MOE: Layouts = {**GLM4_MOE, "router_bias": at(_MLP + "e_score_correction_bias", "X")}
_EXPERTS = _LAYER + "experts."
GEMMA4: Layouts = {
    **_shared(_MLP),
    "router": at(_LAYER + "router.proj.weight", "X", "D"),
    "router_norm": at(_LAYER + "router.scale", "D"),
    "router_factors": at(_LAYER + "router.per_expert_scale", "X"),
    **{x: at(_EXPERTS + "gate_up_proj", "X", Axis(("F", "F"), i), "D") for i, x in enumerate(("gate", "up"))},
    "down": at(_EXPERTS + "down_proj", "X", "D", "F"),
    "shared_post_norm": at(_LAYER + "post_feedforward_layernorm_1.weight", "D"),
    "experts_norm": at(_LAYER + "pre_feedforward_layernorm_2.weight", "D"),
    "experts_post_norm": at(_LAYER + "post_feedforward_layernorm_2.weight", "D"),
}
"""Of the experts and the MLP beside them."""
_FORWARD = _LAYER + "feed_forward."
_SHARED_4 = _shared(_FORWARD + "shared_expert.")
LLAMA4: Layouts = {
    **LLAMA,
    **_SHARED_4,
    "router": at(_FORWARD + "router.weight", "X", "D"),
    "router_bias": dataclasses.replace(at("", "X"), given=0.0),
    **{x: at(_FORWARD + "experts.gate_up_proj", "X", "D", Axis(("F", "F"), i)) for i, x in enumerate(("gate", "up"))},
    "down": at(_FORWARD + "experts.down_proj", "X", "F", "D"),
    **{f"{x}_norm": dataclasses.replace(at("", "d"), given=1.0) for x in ("q", "k")},
}
LLAMA4_DENSE: Layouts = {x: at(f"{_FORWARD}{x}_proj.weight", "F", "D") for x in ("gate", "up")} | {
    "down": at(_FORWARD + "down_proj.weight", "D", "F")
}
_STATICS = at(_MLP + "moe_statics.e_score_correction_bias", Axis(("1",)), "X")
ERNIE4_5_MOE: Layouts = {**GLM4_MOE, "router_bias": _STATICS}
