"""Where each weight of a decoder stands in a family's files: names, axes, and which part of a fused matrix it is.

Letters are those of ``models.edges``. A file's axis is a run of letters flattened together, such as ``Hd`` for heads
times head dimension, or several such parts side by side, of which one is meant. The digit 3 is NeoX's interleaving of
queries, keys and values within each head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from jstrace.models import ModelConfig
from jstrace.models.params import axis_sizes


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a matrix in a file."""

    parts: tuple[str, ...]
    chosen: int = 0
    """Which of the parts is meant."""
    pick: int = 0
    """Which index of the axis ``3``, where a part has it."""

    def length(self, sizes: Mapping[str, int]) -> int:
        """Of the whole axis."""
        return sum(math.prod(sizes[letter] for letter in part) for part in self.parts)

    def places(self, sizes: Mapping[str, int], wanted: Mapping[str, range]) -> np.ndarray:
        """Indices along the axis of the wanted ranges of its letters, in the order of the letters."""
        before = sum(math.prod(sizes[letter] for letter in part) for part in self.parts[: self.chosen])
        places = np.zeros(1, np.int64)
        for letter in self.parts[self.chosen]:
            chosen = range(self.pick, self.pick + 1) if letter == "3" else wanted[letter]
            places = (places[:, None] * sizes[letter] + np.asarray(chosen)).ravel()
        return before + places


@dataclasses.dataclass(frozen=True)
class Layout:
    """A weight's name in the files, ``{}`` standing for the layer, and the axes that it has there."""

    name: str
    axes: tuple[Axis, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the part that is meant, in the file's order."""
        return tuple(letter for axis in self.axes for letter in axis.parts[axis.chosen] if letter != "3")

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Of the whole matrix in the file."""
        return tuple(axis.length(file_sizes(config)) for axis in self.axes)


def file_sizes(config: ModelConfig) -> dict[str, int]:
    """Length of every letter and of the digit 3."""
    return axis_sizes(config) | {"3": 3}


def _at(name: str, *axes: str | Axis) -> Layout:
    return Layout(name, tuple(Axis((axis,)) if isinstance(axis, str) else axis for axis in axes))


def _norms(names: Mapping[str, str], *, shift: bool = False) -> dict[str, Layout]:
    found = {ours: _at(f"{theirs}.weight", "D") for ours, theirs in names.items()}
    return found | ({f"{ours}_shift": _at(f"{theirs}.bias", "D") for ours, theirs in names.items()} if shift else {})


def _linear(ours: str, theirs: str, out: str | Axis, into: str) -> dict[str, Layout]:
    """A matrix (out, in) and its bias."""
    return {ours: _at(f"{theirs}.weight", out, into), f"{ours}_bias": _at(f"{theirs}.bias", out)}


def _conv1d(ours: str, theirs: str, into: str, out: str | Axis) -> dict[str, Layout]:
    """GPT-2's matrices are (in, out)."""
    return {ours: _at(f"{theirs}.weight", into, out), f"{ours}_bias": _at(f"{theirs}.bias", out)}


_LAYER = "layers.{}."
_ATTENTION, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."
_PRE = {"attn_norm": _LAYER + "input_layernorm", "mlp_norm": _LAYER + "post_attention_layernorm"}
_TOP = {
    "embed": _at("embed_tokens.weight", "V", "D"),
    "head": _at("lm_head.weight", "V", "D"),
    **_norms({"final_norm": "norm"}),
}
_SEPARATE = {
    **_linear("q", _ATTENTION + "q_proj", "Hd", "D"),
    **_linear("k", _ATTENTION + "k_proj", "Kd", "D"),
    **_linear("v", _ATTENTION + "v_proj", "Kd", "D"),
    **_linear("gate", _MLP + "gate_proj", "F", "D"),
    **_linear("up", _MLP + "up_proj", "F", "D"),
}
_OUT = {**_linear("o", _ATTENTION + "o_proj", "D", "Hd"), **_linear("down", _MLP + "down_proj", "D", "F")}
_LLAMA = {**_TOP, **_SEPARATE, **_OUT, **_norms(_PRE)}
_PER_HEAD = {f"{x}_norm": _at(f"{_ATTENTION}{x}_norm.weight", "d") for x in ("q", "k")}
_OLMO2 = {
    **_TOP,
    **_SEPARATE,
    **_OUT,
    "q_norm": _at(_ATTENTION + "q_norm.weight", "Hd"),
    "k_norm": _at(_ATTENTION + "k_norm.weight", "Kd"),
    **_norms({"attn_post_norm": _LAYER + "post_attention_layernorm"}),
    **_norms({"mlp_post_norm": _LAYER + "post_feedforward_layernorm"}),
}
_PHI3 = {
    **_TOP,
    **_OUT,
    **_norms(_PRE),
    **{x: _at(_ATTENTION + "qkv_proj.weight", Axis(("Hd", "Kd", "Kd"), i), "D") for i, x in enumerate("qkv")},
    **{x: _at(_MLP + "gate_up_proj.weight", Axis(("F", "F"), i), "D") for i, x in enumerate(("gate", "up"))},
}
_GEMMA = {
    **_TOP,
    **_SEPARATE,
    **_OUT,
    **_PER_HEAD,
    **_norms({"attn_norm": _LAYER + "input_layernorm", "attn_post_norm": _LAYER + "post_attention_layernorm"}),
    **_norms({"mlp_norm": _LAYER + "pre_feedforward_layernorm"}),
    **_norms({"mlp_post_norm": _LAYER + "post_feedforward_layernorm"}),
}
_GPT2 = {
    "embed": _at("wte.weight", "V", "D"),
    "positions": _at("wpe.weight", "P", "D"),
    "head": _at("lm_head.weight", "V", "D"),
    **_norms({"final_norm": "ln_f", "attn_norm": "h.{}.ln_1", "mlp_norm": "h.{}.ln_2"}, shift=True),
    **_conv1d("q", "h.{}.attn.c_attn", "D", Axis(("Hd", "Kd", "Kd"), 0)),
    **_conv1d("k", "h.{}.attn.c_attn", "D", Axis(("Hd", "Kd", "Kd"), 1)),
    **_conv1d("v", "h.{}.attn.c_attn", "D", Axis(("Hd", "Kd", "Kd"), 2)),
    **_conv1d("o", "h.{}.attn.c_proj", "Hd", "D"),
    **_conv1d("up", "h.{}.mlp.c_fc", "D", "F"),
    **_conv1d("down", "h.{}.mlp.c_proj", "F", "D"),
}
_NEOX_NORMS = {
    "final_norm": "final_layer_norm",
    "attn_norm": _LAYER + "input_layernorm",
    "mlp_norm": _LAYER + "post_attention_layernorm",
}
_GPT_NEOX = {
    "embed": _at("embed_in.weight", "V", "D"),
    "head": _at("embed_out.weight", "V", "D"),
    **_norms(_NEOX_NORMS, shift=True),
    **_linear("q", _LAYER + "attention.query_key_value", Axis(("H3d",), pick=0), "D"),
    **_linear("k", _LAYER + "attention.query_key_value", Axis(("K3d",), pick=1), "D"),
    **_linear("v", _LAYER + "attention.query_key_value", Axis(("K3d",), pick=2), "D"),
    **_linear("o", _LAYER + "attention.dense", "D", "Hd"),
    **_linear("up", _MLP + "dense_h_to_4h", "F", "D"),
    **_linear("down", _MLP + "dense_4h_to_h", "D", "F"),
}
HF: Mapping[str, Mapping[str, Layout]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, **_PER_HEAD},
    "olmo2": _OLMO2,
    "phi3": _PHI3,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
}
"""Per family, from our name of a weight to its place in Hugging Face's files; names without their prefix."""

_BLOCK = "blk.{}."
GGUF: Mapping[str, Layout] = {
    "embed": _at("token_embd.weight", "V", "D"),
    "head": _at("output.weight", "V", "D"),
    **_norms({"final_norm": "output_norm", "attn_norm": _BLOCK + "attn_norm", "mlp_norm": _BLOCK + "ffn_norm"}),
    **_norms({"attn_post_norm": _BLOCK + "post_attention_norm", "mlp_post_norm": _BLOCK + "post_ffw_norm"}),
    "q_norm": _at(_BLOCK + "attn_q_norm.weight", "d"),
    "k_norm": _at(_BLOCK + "attn_k_norm.weight", "d"),
    **_linear("q", _BLOCK + "attn_q", "Hd", "D"),
    **_linear("k", _BLOCK + "attn_k", "Kd", "D"),
    **_linear("v", _BLOCK + "attn_v", "Kd", "D"),
    **_linear("o", _BLOCK + "attn_output", "D", "Hd"),
    **_linear("gate", _BLOCK + "ffn_gate", "F", "D"),
    **_linear("up", _BLOCK + "ffn_up", "F", "D"),
    **_linear("down", _BLOCK + "ffn_down", "D", "F"),
}
"""The same for GGUF files, whose names are those of llama.cpp in every family."""
