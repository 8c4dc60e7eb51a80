"""Where each weight stands in GGUF files: names of llama.cpp, the rows that its conversion reorders, what it adds.

The facts are those of llama.cpp's conversion scripts and of ``gguf.constants``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from jstrace.convert.gguf import mixed_layouts
from jstrace.convert.gguf.mixed_layouts import Shapes
from jstrace.convert.hf import layouts as hf
from jstrace.convert.layouts import Axis, Layout, RowNorm, at, linear, norms
from jstrace.models import ModelConfig

_BLOCK = "blk.{}."
_NORMS = {
    "final_norm": "output_norm",
    "attn_norm": _BLOCK + "attn_norm",
    "mlp_norm": _BLOCK + "ffn_norm",
    "attn_post_norm": _BLOCK + "post_attention_norm",
    "mlp_post_norm": _BLOCK + "post_ffw_norm",
    "q_norm": _BLOCK + "attn_q_norm",
    "k_norm": _BLOCK + "attn_k_norm",
}
GGUF: Mapping[str, Layout] = {
    "embed": at("token_embd.weight", "V", "D"),
    "positions": at("position_embd.weight", "P", "D"),
    "head": at("output.weight", "V", "D"),
    "head_bias": at("output.bias", "V"),
    **norms(_NORMS, shift=True),
    **linear("q", _BLOCK + "attn_q", "Hd", "D"),
    **linear("k", _BLOCK + "attn_k", "Kd", "D"),
    **linear("v", _BLOCK + "attn_v", "Kd", "D"),
    **linear("o", _BLOCK + "attn_output", "D", "Hd"),
    **linear("gate", _BLOCK + "ffn_gate", "F", "D"),
    **linear("up", _BLOCK + "ffn_up", "F", "D"),
    **linear("down", _BLOCK + "ffn_down", "D", "F"),
    "layer_scale": at(_BLOCK + "layer_output_scale.weight", ""),
    **{name: at(f"{_BLOCK}xielu.{name}", "") for name in ("alpha_p", "alpha_n")},
    **{name: at(f"{_BLOCK}xielu.{name}") for name in ("beta", "eps")},
}
"""Names that are the same in most architectures; those of xIELU are this reader's, as its numbers are metadata."""
BIASES: Mapping[str, tuple[str, ...]] = {
    "qkv_bias": ("attn_q", "attn_k", "attn_v", "attn_qkv"),
    "o_bias": ("attn_output",),
    "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down"),
}
"""From flags of the config to the matrices of a block whose biases they are of."""


def layouts_of(config: ModelConfig, theirs: hf.Layouts, shapes: Shapes, *, paired: bool) -> dict[str, Layout]:
    """The layouts of a file.

    Args:
      config: the model's config.
      theirs: those of Hugging Face's files of the same type, of which factors and what no file has are taken.
      shapes: of the weights that the file holds; fused matrices are known by their names.
      paired: whether the two numbers of a rotary pair are rows beside one another.
    """
    names, plain = shapes.keys(), dict(GGUF) | _fused(config, shapes.keys()) | _norms_of(config, shapes.keys())
    layouts = plain | mixed_layouts.expert_layouts(config, shapes)
    for ours, layout in theirs.items():
        if layout.given is not None:
            layouts[ours] = layout
        elif ours in layouts:
            layouts[ours] = dataclasses.replace(layouts[ours], scale=layout.scale)
    for ours in ("q_norm", "k_norm"):
        if ours in theirs:
            layouts[ours] = dataclasses.replace(layouts[ours], axes=theirs[ours].axes)
    if _has_one_norm(theirs):
        layouts = hf.one_norm(layouts)
    if (norm := theirs["embed"].row_norm) is not None:
        layouts["embed"] = dataclasses.replace(
            layouts["embed"], row_norm=RowNorm("token_embd_norm.weight", "token_embd_norm.bias", norm.eps)
        )
    if "output.weight" not in names:
        layouts["head"] = dataclasses.replace(GGUF["embed"], scale=layouts["head"].scale)
    layouts |= mixed_layouts.form_layouts(config, plain, shapes)
    layouts |= {ours: GGUF["k"] for ours in ("v", "1.v") if theirs.get(ours) is theirs["k"]}
    if config.norm_offset:  # which is in the files' weights
        for ours in {*_NORMS} & {*theirs}:
            layouts[ours] = dataclasses.replace(layouts[ours], plus=-config.norm_offset)
    own = mixed_layouts.attention_layouts(config, theirs, shapes)
    return layouts | own if own or not paired else hf.interleaved(layouts, config)


def _has_one_norm(theirs: hf.Layouts) -> bool:
    """Whether one norm stands before both attention and MLP."""
    before = [theirs[name] for name in ("attn_norm", "mlp_norm") if name in theirs]
    return len(before) == 2 and before[0].name == before[1].name != ""


def _fused(config: ModelConfig, names: Collection[str]) -> dict[str, Layout]:
    """Queries, keys and values one after another, and so gate and up."""
    layouts: dict[str, Layout] = {}
    if "blk.0.attn_qkv.weight" in names and not any(name.endswith(".attn_k.weight") for name in names):
        for place, ours in enumerate("qkv"):
            layouts |= linear(ours, _BLOCK + "attn_qkv", Axis(("Hd", "Kd", "Kd"), place), "D")
    if config.gated_mlp and not any(name.endswith(".ffn_gate.weight") for name in names):
        for place, ours in enumerate(("gate", "up")):
            layouts |= linear(ours, _BLOCK + "ffn_up", Axis(("F", "F"), place), "D")
    return layouts


def _norms_of(config: ModelConfig, names: Collection[str]) -> dict[str, Layout]:
    """Norms that have other names in some architectures."""
    if config.family in ("seed_oss", "gpt_oss", "glm4_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe"):
        return norms({"mlp_norm": _BLOCK + "post_attention_norm"})
    if "blk.0.attn_norm_2.weight" in names:  # Falcon 40B, where the MLP's is the first
        return norms({"attn_norm": _BLOCK + "attn_norm_2", "mlp_norm": _BLOCK + "attn_norm"}, shift=True)
    return {}
