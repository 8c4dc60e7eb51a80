"""GGUF files as llama.cpp's conversion makes them of tiny models, with names by the gguf package's own map."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests import gguf_mixed
from tests.conftest import TINY, tiny_params

_NUMBER_OF = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
PERMUTED = ("llama", "mistral3", "granite", "olmo", "smollm3", "arcee")
"""Architectures whose rotary halves the conversion interleaves; others are written as Hugging Face has them."""
_ONE_MORE = ("gemma", "gemma2", "gemma3", "nemotron")
"""Those whose norms' weights are written plus one."""
_LAYER_NORMS = (
    *("bloom", "cohere2", "command-r", "falcon", "gpt2", "gptneox", "mpt", "nemotron", "olmo", "phi2", "stablelm"),
    *("starcoder", "starcoder2"),
)
_ROTATED_PART = ("chatglm", "glm4", "gptneox", "nemotron", "phi2", "phi3", "stablelm")


def text_config(model: Any) -> Any:
    """The config of the language model."""
    config = getattr(model.config, "text_config", None) or model.config
    config.allow_global_per_layer_attribute_access = True  # of Gemma 4, whose fields are those of single layers else
    return config


def metadata_of(architecture: str, c: Any) -> dict[str, Any]:
    """What the conversion writes of a config, by the names below the architecture's."""
    n_heads, width = c.num_attention_heads, c.hidden_size
    head_dim = getattr(c, "head_dim", None) or width // n_heads
    n_kv = _first(c, ("num_key_value_heads", "num_kv_heads"), n_heads)
    found: dict[str, Any] = {
        "block_count": c.num_hidden_layers,
        "context_length": _first(c, ("max_position_embeddings", "n_positions", "max_seq_len"), 64),
        "embedding_length": width,
        "feed_forward_length": _first(c, ("intermediate_size", "n_inner", "ffn_hidden_size"), 4 * width),
        "attention.head_count": n_heads,
        "attention.head_count_kv": 1 if _one_kv_head(architecture, c) else n_kv,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }
    eps = _first(c, _EPS, 1e-5)
    kind = "layer_norm_epsilon" if architecture in _LAYER_NORMS else "layer_norm_rms_epsilon"
    return found | {f"attention.{kind}": float(eps)} | _rope(architecture, c, head_dim) | _own(architecture, c)


_EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")


def _first(c: Any, names: tuple[str, ...], absent: Any) -> Any:
    """The first of these fields that says something."""
    return next((value for value in (getattr(c, name, None) for name in names) if value), absent)


def _one_kv_head(architecture: str, c: Any) -> bool:
    return architecture == "starcoder" or (architecture == "falcon" and not c.new_decoder_architecture)


def _rope(architecture: str, c: Any, head_dim: int) -> dict[str, Any]:
    rope = dict(getattr(c, "rope_parameters", None) or {})
    local = rope.get("sliding_attention") or {}
    rope = dict(rope.get("full_attention") or rope)
    if not rope:
        return {}
    found: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if architecture == "gemma3":
        found["rope.freq_base_swa"] = float(local["rope_theta"])
    if architecture in _ROTATED_PART:
        found["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    kind = rope.get("rope_type")
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if kind == "longrope":
        found["rope.scaling.original_context_length"] = c.original_max_position_embeddings
        found["rope.scaling.attn_factor"] = 1.25
    return found


def _own(architecture: str, c: Any) -> dict[str, Any]:
    """Of single architectures."""
    window = getattr(c, "sliding_window", None)
    pattern = [kind == "sliding_attention" for kind in getattr(c, "layer_types", None) or ()]
    windows = {"attention.sliding_window": window, "attention.sliding_window_pattern": pattern}
    softcap = {"final_logit_softcapping": getattr(c, "final_logit_softcapping", None)}
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "gemma2": lambda: (
            softcap | {"attn_logit_softcapping": c.attn_logit_softcapping, "attention.sliding_window": window}
        ),
        "gemma3": lambda: softcap | {"attention.sliding_window": window},
        "olmo2": lambda: windows if window else {},
        "exaone4": lambda: windows if window else {},
        "cohere2": lambda: windows | {"logit_scale": c.logit_scale},
        "command-r": lambda: {"logit_scale": c.logit_scale, "rope.scaling.type": "none"},
        "phi3": lambda: {"attention.sliding_window": window or 0},
        "granite": lambda: {
            "attention.scale": c.attention_multiplier,
            "embedding_scale": c.embedding_multiplier,
            "residual_scale": c.residual_multiplier,
            "logit_scale": c.logits_scaling,
        },
        "gptneox": lambda: {"use_parallel_residual": c.use_parallel_residual},
        "stablelm": lambda: {"use_parallel_residual": True},
        "olmo": lambda: {"attention.clamp_kqv": c.clip_qkv} if c.clip_qkv else {},
        "mpt": lambda: {"attention.max_alibi_bias": float(c.attn_config.alibi_bias_max)},
        "falcon": lambda: {"tensor_data_layout": "jploski"},
        "mistral3": lambda: {"attention.temperature_scale": 0.1} if c.model_type == "ministral3" else {},
        "qwen2vl": lambda: {"rope.dimension_sections": [2, 1, 1, 0]},
        "qwen3moe": lambda: _counts(c) | {"expert_feed_forward_length": c.moe_intermediate_size},
        "gpt-oss": lambda: (
            _counts(c) | {"expert_feed_forward_length": c.intermediate_size, "attention.sliding_window": window}
        ),
        "qwen3vl": lambda: {"rope.dimension_sections": [2, 1, 1, 0], "n_deepstack_layers": 1},
        **{name: functools.partial(make, c) for name, make in gguf_mixed.METADATA.items()},
    }
    return {name: value for name, value in rows.get(architecture, dict)().items() if value is not None}


def _counts(c: Any) -> dict[str, Any]:
    return {"expert_count": c.num_experts, "expert_used_count": c.num_experts_per_tok}


def _permuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    return weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _side_by_side(weight: np.ndarray, n_groups: int, in_group: int) -> np.ndarray:
    """Of groups of so many queries, a key and a value: all queries, all keys, all values."""
    apart = weight.reshape(n_groups, in_group + 2, -1, *weight.shape[1:])
    parts = (apart[:, :-2], apart[:, -2:-1], apart[:, -1:])
    return np.concatenate([part.reshape(-1, *weight.shape[1:]) for part in parts])


def as_stored(architecture: str, name: str, weight: np.ndarray, c: Any) -> np.ndarray:
    """One weight as the conversion writes it."""
    n_heads, n_kv = c.num_attention_heads, getattr(c, "num_key_value_heads", None)
    if architecture in PERMUTED and re.search(r"\.[qk]_proj\.", name):
        return _permuted(weight, n_heads if ".q_proj." in name else n_kv or n_heads)
    if "query_key_value" in name:
        n_groups = n_heads
        if architecture == "falcon":
            n_groups = c.num_kv_heads if c.new_decoder_architecture else 1
        return _side_by_side(weight, n_groups, n_heads // n_groups)
    if architecture == "gpt2" and re.search(r"\.c_(attn|proj|fc)\.weight", name):
        return weight.T
    return weight + 1 if architecture in _ONE_MORE and name.endswith("norm.weight") else weight


def tensors_of(architecture: str, model: Any, odd: str = "") -> dict[str, np.ndarray]:
    """All weights of a torch model as the conversion writes and names them; ``odd`` as for ``gguf_mixed.changed``."""
    c = text_config(model)
    names = gguf.get_tensor_name_map(_NUMBER_OF[architecture], c.num_hidden_layers)
    found: dict[str, np.ndarray] = {}
    tied = c.tie_word_embeddings and model.config.tie_word_embeddings
    for full, value in model.state_dict().items():
        name = full.replace("language_model.", "")
        name = name.removeprefix("transformer.") if architecture == "bloom" else name
        if "visual." in name or "act_fn" in name or (name == "lm_head.weight" and tied):
            continue
        if ".experts." in name:
            found |= _experts(architecture, name, value.numpy().astype(np.float32), fused=odd == "gate_up")
            continue
        if architecture in gguf_mixed.METADATA:
            for own, weight in gguf_mixed.changed(architecture, name, value.numpy().astype(np.float32), c, odd):
                found[names.get_name(own, try_suffixes=(".weight", ".bias")) or own] = np.ascontiguousarray(weight)
            continue
        name = f"{name}.weight" if name.endswith("sinks") else name
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        weight = as_stored(architecture, name, value.numpy().astype(np.float32), c)
        found[theirs] = np.ascontiguousarray(weight)
    found |= gguf_mixed.further(architecture, c)
    rope = getattr(c, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        found["rope_factors_long.weight"] = np.asarray(rope["long_factor"], np.float32)
        found["rope_factors_short.weight"] = np.asarray(rope["short_factor"], np.float32)
    return found


def _experts(architecture: str, name: str, value: np.ndarray, *, fused: bool) -> dict[str, np.ndarray]:
    """Matrices of all experts of a layer, ``[X, out, in]``; some have them turned, gpt-oss gate and up by turns."""
    block, part, oss = f"blk.{name.split('.')[2]}.", name.rpartition(".")[2], architecture == "gpt-oss"
    kind = "bias" if part.endswith("_bias") else "weight"
    value = value.swapaxes(1, 2) if architecture in ("gpt-oss", "llama4") and kind == "weight" else value
    if part.startswith("down_proj"):
        return {f"{block}ffn_down_exps.{kind}": np.ascontiguousarray(value)}
    if fused:
        return {f"{block}ffn_gate_up_exps.{kind}": np.ascontiguousarray(value)}
    half = value.shape[1] // 2
    gate, up = (value[:, ::2], value[:, 1::2]) if oss else (value[:, :half], value[:, half:])
    return {
        f"{block}ffn_gate_exps.{kind}": np.ascontiguousarray(gate),
        f"{block}ffn_up_exps.{kind}": np.ascontiguousarray(up),
    }


def xielu_of(model: Any) -> dict[str, list[float]]:
    """The numbers of Apertus' activation, one for each layer."""
    found: dict[str, list[float]] = {}
    for name, value in model.state_dict().items():
        if "act_fn" in name:
            found.setdefault(f"xielu.{name.rpartition('.')[2]}", []).append(float(value.float()))
    return found


def write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: gguf.GGMLQuantizationType | None = None,
) -> None:
    """A file; matrices are quantised as ``kind``, and names of metadata with a dot in front are the architecture's."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in metadata.items():
        add_value(writer, name, value)
    for name, value in tensors.items():
        if kind is not None and value.ndim > 1 and value.shape[-1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    finish(writer)


def add_value(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """One value of the metadata, in the type that its Python type stands for."""
    add = {str: writer.add_string, list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32}
    add.get(type(value), writer.add_float32)(name, value)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write what was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_torch_model(
    path: Path, architecture: str, model: Any, kind: Any = None, *, odd: str = "", **more: Any
) -> None:
    """The file that llama.cpp's conversion makes of a torch model; ``odd`` as for ``gguf_mixed.changed``."""
    older = gguf_mixed.without_widths(text_config(model)) if odd == "kv_b" else {}
    metadata = {**metadata_of(architecture, text_config(model)), **older, **more}
    own = {f"{architecture}.{name}": value for name, value in metadata.items() if value is not None}
    write(path, architecture, own | xielu_of(model), tensors_of(architecture, model, odd), kind)


# --- the tiny model of other tests ----------------------------------------------------------------------------------

_TINY_NAMES = {
    **{"attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"},
    **{"mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"},
}


def write_gguf(path: Path, **changes: Any) -> dict[str, Any]:
    """A GGUF file of the tiny model, rotary halves interleaved as llama.cpp does; returns its parameters."""
    params = tiny_params()
    architecture = changes.pop("architecture", "llama")
    tensors = {"token_embd": params["embed"], "output_norm": params["final_norm"], "output": params["head"]}
    for name, theirs in _TINY_NAMES.items():
        for layer, value in enumerate(np.asarray(params["layers"][name])):
            tensors[f"blk.{layer}.{theirs}"] = _as_llama_cpp(name, value)
    arrays = {f"{name}.weight": np.ascontiguousarray(np.asarray(x, np.float32)) for name, x in tensors.items()}
    shape = {
        "block_count": TINY.n_layers,
        "context_length": TINY.max_positions,
        "embedding_length": TINY.d_model,
        "feed_forward_length": TINY.d_mlp,
        "attention.head_count": TINY.n_heads,
        "attention.head_count_kv": TINY.n_kv_heads,
        "attention.key_length": TINY.head_dim,
        "attention.value_length": TINY.head_dim,
        "rope.freq_base": TINY.rope_theta,
        "attention.layer_norm_rms_epsilon": TINY.norm_eps,
    }
    write(path, architecture, {f"{architecture}.{name}": value for name, value in shape.items()} | changes, arrays)
    return params


def _as_llama_cpp(name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim == 1:
        return value
    matrix = value.reshape(-1, TINY.d_model).T if name == "o" else value.reshape(value.shape[0], -1).T
    return _permuted(matrix, value.shape[1]) if name in ("q", "k") else matrix
