"""Where the weights of each family stand in Hugging Face's files; names are without the prefix of the whole model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

from jstrace.convert.layouts import Axis, Layout, Listed, RowNorm, at, file_sizes, linear, norms
from jstrace.models import ModelConfig

Layouts = Mapping[str, Layout]
"""From our name of a weight to its place in the files."""


def interleaved(layouts: Layouts, config: ModelConfig) -> dict[str, Layout]:
    """The same, with the two numbers of every rotary pair beside one another in queries and keys."""
    paired = dict(layouts)
    for ours, letters in (("q", "Hd"), ("q_bias", "Hd"), ("k", "Kd"), ("k_bias", "Kd")):
        first, *rest = paired[ours].axes
        axis = Listed(letters, functools.partial(_paired, first, config), first.length(file_sizes(config)))
        paired[ours] = dataclasses.replace(paired[ours], axes=(axis, *rest))
    return paired


def _paired(axis: Axis | Listed, config: ModelConfig) -> np.ndarray:
    """Places of all rows of queries or keys, ``[heads, d]``: of each head the first numbers of all pairs come first."""
    sizes, turned = file_sizes(config), config.n_rotary
    rows = axis.places(sizes, {letter: range(sizes[letter]) for letter in axis.letters}).reshape(-1, config.head_dim)
    return np.concatenate([rows[:, 0:turned:2], rows[:, 1:turned:2], rows[:, turned:]], axis=1)


def scaled(layouts: Layouts, factor: float, *names: str) -> dict[str, Layout]:
    """The same, with some weights multiplied by a factor while they are read."""
    return {**layouts, **{name: dataclasses.replace(layouts[name], scale=factor) for name in names if name in layouts}}


def filled(value: float, names: Iterable[str]) -> dict[str, Layout]:
    """Norms' weights or shifts that no file has."""
    return {name: dataclasses.replace(at("", "D"), given=value) for name in names}


def one_norm(layouts: Layouts) -> dict[str, Layout]:
    """The same, with one norm before both attention and MLP."""
    shift = {"mlp_norm_shift": layouts["attn_norm_shift"]} if "attn_norm_shift" in layouts else {}
    return {**layouts, "mlp_norm": layouts["attn_norm"], **shift}


def _conv1d(ours: str, theirs: str, into: str, out: str | Axis) -> dict[str, Layout]:
    """GPT-2's matrices are (in, out)."""
    return {ours: at(f"{theirs}.weight", into, out), f"{ours}_bias": at(f"{theirs}.bias", out)}


_LAYER = "layers.{}."
_ATTENTION, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."
_PRE = {"attn_norm": _LAYER + "input_layernorm", "mlp_norm": _LAYER + "post_attention_layernorm"}
_TOP = {
    "embed": at("embed_tokens.weight", "V", "D"),
    "head": at("lm_head.weight", "V", "D"),
    **norms({"final_norm": "norm"}),
}
_SEPARATE = {
    **linear("q", _ATTENTION + "q_proj", "Hd", "D"),
    **linear("k", _ATTENTION + "k_proj", "Kd", "D"),
    **linear("v", _ATTENTION + "v_proj", "Kd", "D"),
    **linear("gate", _MLP + "gate_proj", "F", "D"),
    **linear("up", _MLP + "up_proj", "F", "D"),
}
_OUT = {**linear("o", _ATTENTION + "o_proj", "D", "Hd"), **linear("down", _MLP + "down_proj", "D", "F")}
LLAMA = {**_TOP, **_SEPARATE, **_OUT, **norms(_PRE)}
PER_HEAD = {f"{x}_norm": at(f"{_ATTENTION}{x}_norm.weight", "d") for x in ("q", "k")}
QWEN3 = {**LLAMA, **PER_HEAD}
OLMO2 = {
    **_TOP,
    **_SEPARATE,
    **_OUT,
    "q_norm": at(_ATTENTION + "q_norm.weight", "Hd"),
    "k_norm": at(_ATTENTION + "k_norm.weight", "Kd"),
    **norms({"attn_post_norm": _LAYER + "post_attention_layernorm"}),
    **norms({"mlp_post_norm": _LAYER + "post_feedforward_layernorm"}),
}
PHI3 = {
    **_TOP,
    **_OUT,
    **norms(_PRE),
    **{x: at(_ATTENTION + "qkv_proj.weight", Axis(("Hd", "Kd", "Kd"), i), "D") for i, x in enumerate("qkv")},
    **{x: at(_MLP + "gate_up_proj.weight", Axis(("F", "F"), i), "D") for i, x in enumerate(("gate", "up"))},
}
GEMMA = {
    **_TOP,
    **_SEPARATE,
    **_OUT,
    **PER_HEAD,
    **norms({"attn_norm": _LAYER + "input_layernorm", "attn_post_norm": _LAYER + "post_attention_layernorm"}),
    **norms({"mlp_norm": _LAYER + "pre_feedforward_layernorm"}),
    **norms({"mlp_post_norm": _LAYER + "post_feedforward_layernorm"}),
}
GPT2 = {
    "embed": at("wte.weight", "V", "D"),
    "positions": at("wpe.weight", "P", "D"),
    "head": at("lm_head.weight", "V", "D"),
    **norms({"final_norm": "ln_f", "attn_norm": "h.{}.ln_1", "mlp_norm": "h.{}.ln_2"}, shift=True),
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
GPT_NEOX = {
    "embed": at("embed_in.weight", "V", "D"),
    "head": at("embed_out.weight", "V", "D"),
    **norms(_NEOX_NORMS, shift=True),
    **linear("q", _LAYER + "attention.query_key_value", Axis(("H3d",), pick=0), "D"),
    **linear("k", _LAYER + "attention.query_key_value", Axis(("K3d",), pick=1), "D"),
    **linear("v", _LAYER + "attention.query_key_value", Axis(("K3d",), pick=2), "D"),
    **linear("o", _LAYER + "attention.dense", "D", "Hd"),
    **linear("up", _MLP + "dense_h_to_4h", "F", "D"),
    **linear("down", _MLP + "dense_4h_to_h", "D", "F"),
}
_TURNED = {"q": "query", "k": "key"}
HUNYUAN = {**LLAMA, **{f"{x}_norm": at(f"{_ATTENTION}{name}_layernorm.weight", "d") for x, name in _TURNED.items()}}
VAULTGEMMA = {**LLAMA, **norms({"mlp_norm": _LAYER + "pre_feedforward_layernorm"})}
EXAONE4 = {**OLMO2, **PER_HEAD}
APERTUS = {
    **QWEN3,
    **norms({"attn_norm": _LAYER + "attention_layernorm", "mlp_norm": _LAYER + "feedforward_layernorm"}),
    **{name: at(f"{_MLP}act_fn.{name}", "") for name in ("alpha_p", "alpha_n")},
    **{name: at(f"{_MLP}act_fn.{name}") for name in ("beta", "eps")},
}
GLM = {**LLAMA, **{x: at(_MLP + "gate_up_proj.weight", Axis(("F", "F"), i), "D") for i, x in enumerate(("gate", "up"))}}
_GLM4_POST = {"attn_post_norm": _LAYER + "post_self_attn_layernorm", "mlp_post_norm": _LAYER + "post_mlp_layernorm"}
GLM4 = {**GLM, **norms(_GLM4_POST)}

# --- LayerNorms -----------------------------------------------------------------------------------------------------

_NORMS = ("attn_norm", "mlp_norm", "final_norm")
_NO_SHIFTS = filled(0.0, (f"{name}_shift" for name in _NORMS))
LAYER_NORM = {**LLAMA, **norms({**_PRE, "final_norm": "norm"}, shift=True)}
COHERE = one_norm({**LLAMA, **_NO_SHIFTS})
OLMO = {**LLAMA, **filled(1.0, _NORMS), **_NO_SHIFTS}
STARCODER2 = {**LAYER_NORM, **linear("up", _MLP + "c_fc", "F", "D"), **linear("down", _MLP + "c_proj", "D", "F")}
PHI = one_norm(
    {
        **LAYER_NORM,
        **norms({"final_norm": "final_layernorm"}, shift=True),
        **linear("o", _ATTENTION + "dense", "D", "Hd"),
        **linear("up", _MLP + "fc1", "F", "D"),
        **linear("down", _MLP + "fc2", "D", "F"),
        "head_bias": at("lm_head.bias", "V"),
    }
)
_FAIRSEQ_NORMS = {"attn_norm": _LAYER + "self_attn_layer_norm", "mlp_norm": _LAYER + "final_layer_norm"}
XGLM = {
    **_TOP,
    **_SEPARATE,
    **norms({**_FAIRSEQ_NORMS, "final_norm": "layer_norm"}, shift=True),
    **linear("o", _ATTENTION + "out_proj", "D", "Hd"),
    **linear("up", _LAYER + "fc1", "F", "D"),
    **linear("down", _LAYER + "fc2", "D", "F"),
}
OPT = {**XGLM, **norms({"final_norm": "final_layer_norm"}, shift=True)}

_H, _ATTN = "h.{}.", "h.{}.attn."
_GPT = {
    "embed": at("wte.weight", "V", "D"),
    "positions": at("wpe.weight", "P", "D"),
    "head": at("lm_head.weight", "V", "D"),
}
_GPT_NORMS = {"final_norm": "ln_f", "attn_norm": _H + "ln_1", "mlp_norm": _H + "ln_2"}
_GPT_MLP = {**linear("up", _H + "mlp.c_fc", "F", "D"), **linear("down", _H + "mlp.c_proj", "D", "F")}
GPT_NEO = {
    **_GPT,
    **_GPT_MLP,
    **norms(_GPT_NORMS, shift=True),
    **linear("q", _ATTN + "attention.q_proj", "Hd", "D"),
    **linear("k", _ATTN + "attention.k_proj", "Kd", "D"),
    **linear("v", _ATTN + "attention.v_proj", "Kd", "D"),
    **linear("o", _ATTN + "attention.out_proj", "D", "Hd"),
}
GPTJ = one_norm(
    {
        **_GPT,
        **norms(_GPT_NORMS, shift=True),
        **linear("q", _ATTN + "q_proj", "Hd", "D"),
        **linear("k", _ATTN + "k_proj", "Kd", "D"),
        **linear("v", _ATTN + "v_proj", "Kd", "D"),
        **linear("o", _ATTN + "out_proj", "D", "Hd"),
        **linear("up", _H + "mlp.fc_in", "F", "D"),
        **linear("down", _H + "mlp.fc_out", "D", "F"),
        "head_bias": at("lm_head.bias", "V"),
    }
)
MPT = {
    **_GPT,
    **_NO_SHIFTS,
    **norms({"final_norm": "norm_f", "attn_norm": "blocks.{}.norm_1", "mlp_norm": "blocks.{}.norm_2"}),
    **{x: at("blocks.{}.attn.Wqkv.weight", Axis(("Hd", "Kd", "Kd"), i), "D") for i, x in enumerate("qkv")},
    **linear("o", "blocks.{}.attn.out_proj", "D", "Hd"),
    **linear("up", "blocks.{}.ffn.up_proj", "F", "D"),
    **linear("down", "blocks.{}.ffn.down_proj", "D", "F"),
}


def gpt_bigcode(*, one_head: bool) -> dict[str, Layout]:
    """Queries, keys and values fused: side by side with one key/value head, else head by head."""
    return {
        **_GPT,
        **_GPT_MLP,
        **norms(_GPT_NORMS, shift=True),
        **_fused(_ATTN + "c_attn", side_by_side=one_head),
        **linear("o", _ATTN + "c_proj", "D", "Hd"),
    }


def _fused(name: str, *, side_by_side: bool) -> dict[str, Layout]:
    layouts: dict[str, Layout] = {}
    for i, (ours, heads) in enumerate(zip("qkv", "HKK", strict=True)):
        axis = Axis(("Hd", "Kd", "Kd"), i) if side_by_side else Axis((f"{heads}3d",), pick=i)
        layouts |= linear(ours, name, axis, "D")
    return layouts


_FALCON = {
    "embed": at("word_embeddings.weight", "V", "D"),
    "head": at("lm_head.weight", "V", "D"),
    **norms({"final_norm": "ln_f", "attn_norm": _H + "input_layernorm"}, shift=True),
    **norms({"mlp_norm": _H + "post_attention_layernorm"}, shift=True),
    **linear("o", _H + "self_attention.dense", "D", "Hd"),
    **linear("up", _H + "mlp.dense_h_to_4h", "F", "D"),
    **linear("down", _H + "mlp.dense_4h_to_h", "D", "F"),
}
_FALCON_QKV = _H + "self_attention.query_key_value"


def bloom(eps: float) -> dict[str, Layout]:
    """The norm of the embeddings is theirs alone: the head is the matrix without it."""
    norm = RowNorm("word_embeddings_layernorm.weight", "word_embeddings_layernorm.bias", eps)
    embed = dataclasses.replace(_FALCON["embed"], row_norm=norm)
    return {**_FALCON, **_fused(_FALCON_QKV, side_by_side=False), "embed": embed, "head": _FALCON["embed"]}


def falcon(config: ModelConfig, *, n_norms: int, head_by_head: bool) -> dict[str, Layout]:
    """Queries of each key/value head, then its key and its value; or query, key and value of each head."""
    layouts: dict[str, Layout] = {**_FALCON, **_fused(_FALCON_QKV, side_by_side=False)}
    if not head_by_head:
        shape = (config.n_kv_heads, config.n_groups + 2, config.head_dim)
        for ours, letters, part in (("q", "Hd", slice(-2)), ("k", "Kd", slice(-2, -1)), ("v", "Kd", slice(-1, None))):
            layouts |= linear(ours, _FALCON_QKV, _grouped(letters, shape, part), "D")
    if not config.parallel:
        return layouts
    if n_norms == 1:
        return one_norm(layouts)
    return {**layouts, **norms({"attn_norm": _H + "ln_attn", "mlp_norm": _H + "ln_mlp"}, shift=True)}


def codegen(config: ModelConfig) -> dict[str, Layout]:
    """Queries, values and keys of four groups of heads, in this order within each group."""
    layouts, shape = dict(GPTJ), (4, 3, config.n_heads // 4, config.head_dim)
    for ours, letters, place in (("q", "Hd", 0), ("v", "Kd", 1), ("k", "Kd", 2)):
        layouts |= linear(ours, _ATTN + "qkv_proj", _grouped(letters, shape, place), "D")
    return layouts


def _grouped(letters: str, shape: tuple[int, ...], part: slice | int) -> Listed:
    """Rows that begin with groups of heads, of each of which ``part`` is meant."""
    size = math.prod(shape)
    return Listed(letters, lambda: np.arange(size).reshape(shape)[:, part].reshape(-1, shape[-1]), size)


def opt(layouts: Layouts, n_positions: int) -> dict[str, Layout]:
    """Positions begin in the third row."""
    rows = Listed("P", lambda: np.arange(n_positions) + 2, n_positions + 2)
    return {**layouts, "positions": at("embed_positions.weight", rows, "D")}


def xglm(n_positions: int, width: int) -> dict[str, Layout]:
    """Sinusoidal positions, which begin with the third and are in no file."""
    return {**XGLM, "positions": dataclasses.replace(at("", "P", "D"), given=lambda: _sinusoidal(n_positions, width))}


def _sinusoidal(n_positions: int, width: int) -> np.ndarray:
    half = width // 2
    waves = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    angles = (np.arange(n_positions, dtype=np.float32) + 2)[:, None] * waves
    return np.concatenate([np.sin(angles), np.cos(angles), np.zeros((n_positions, width % 2))], 1, dtype=np.float32)
