"""What the architectures of GGUF files are: each as a ``model_type`` of Hugging Face, whose reader then reads it.

A row of ``ARCHITECTURES`` says which fields of a ``config.json`` the metadata stand for, and what llama.cpp's
conversion changed in the weights. The facts are those of llama.cpp's ``conversion`` and ``src/models``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.gguf import mixed
from jstrace.convert.gguf.positions import number_unless_zero
from jstrace.convert.gguf.rows import GPT2, SHAPE, Architecture, Shape, kinds, passed_over, windows
from jstrace.models import InputError

_GEMMA2_27B, _GEMMA3_27B = 46, 62
"""Layers of the two Gemmas whose query scale is the model's width per head; no field says so."""


# --- the rows' own fields -------------------------------------------------------------------------------------------


def _any_gemma(f: Fields, shape: Shape, *, every: int, wide_layers: int) -> dict[str, Any]:
    """``wide_layers`` tells the model with the other query scale."""
    wide = shape.n_layers == wide_layers
    scalar = {"query_pre_attn_scalar": shape.d_model / shape.n_heads if wide else shape.head_dim}
    return scalar | windows(f, shape, f.integer("attention.sliding_window", 4096), every)


def _gemma2(f: Fields, shape: Shape) -> dict[str, Any]:
    softcaps = {
        "attn_logit_softcapping": f.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": f.number("final_logit_softcapping", 30.0),
    }
    return _any_gemma(f, shape, every=2, wide_layers=_GEMMA2_27B) | softcaps


def _gemma3(f: Fields, shape: Shape) -> dict[str, Any]:
    rope = kinds(shape.rope, f.number("rope.freq_base_swa", 10000.0))
    softcap = {"final_logit_softcapping": number_unless_zero(f, "final_logit_softcapping")}
    return _any_gemma(f, shape, every=6, wide_layers=_GEMMA3_27B) | softcap | rope


def _olmo2(f: Fields, shape: Shape) -> dict[str, Any]:
    """Olmo 3 is OLMo 2 with a window, in whose layers positions are not scaled."""
    if f.peek("attention.sliding_window") is None:
        return {}
    rope = kinds(shape.rope, shape.rope["rope_theta"])
    return {"model_type": "olmo3"} | rope | windows(f, shape, f.integer("attention.sliding_window"), 4)


def _olmo(f: Fields, shape: Shape) -> dict[str, Any]:
    return {"clip_qkv": number_unless_zero(f, "attention.clamp_kqv")}


def _exaone4(f: Fields, shape: Shape) -> dict[str, Any]:
    window = f.integer("attention.sliding_window", None)
    if window is None:
        return {"sliding_window": None}
    return windows(f, shape, window, 4)


def _phi3(f: Fields, shape: Shape) -> dict[str, Any]:
    """A window of 0 says that there is none; the length of the first training stands beside the object of positions."""
    trained = {name: value for name, value in shape.rope.items() if name.startswith("original")}
    return {"sliding_window": _integer_unless_zero(f, "attention.sliding_window"), **trained}


def _integer_unless_zero(f: Fields, name: str) -> int | None:
    number = number_unless_zero(f, name)
    if number is not None and not number.is_integer():
        raise InputError(f"{f.where}: {name} = {number}, expected a positive integer")
    return None if number is None else int(number)


def _mistral3(f: Fields, shape: Shape) -> dict[str, Any]:
    """With a temperature that grows with the position it is Ministral 3, else Mistral; no file has a window."""
    growth = number_unless_zero(f, "attention.temperature_scale")
    f.take("attention.temperature_length")
    if growth is None:
        return {"sliding_window": None}
    return {"model_type": "ministral3", "rope_parameters": {"llama_4_scaling_beta": growth, **shape.rope}}


def _granite(f: Fields, shape: Shape) -> dict[str, Any]:
    names = {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    given = {theirs: number_unless_zero(f, ours) for ours, theirs in names.items()}
    usual = {"attention_multiplier": 1 / math.sqrt(shape.head_dim)}
    return usual | {name: value for name, value in given.items() if value is not None}


def _command_r(f: Fields, shape: Shape) -> dict[str, Any]:
    return {"logit_scale": f.number("logit_scale", 1.0)}


def _cohere2(f: Fields, shape: Shape) -> dict[str, Any]:
    return _command_r(f, shape) | windows(f, shape, f.integer("attention.sliding_window", 4096), 4)


def _falcon(f: Fields, shape: Shape) -> dict[str, Any]:
    """One key/value head and one norm in the 7B, several of each in the 40B."""
    f.take("tensor_data_layout")
    two = "blk.0.attn_norm_2.weight" in shape.names
    return {
        "num_kv_heads": shape.n_kv_heads,
        "new_decoder_architecture": two or shape.n_kv_heads > 1,
        "num_ln_in_parallel_attn": 2 if two else 1,
    }


def _gptneox(f: Fields, shape: Shape) -> dict[str, Any]:
    return {"use_parallel_residual": f.flag("use_parallel_residual", True)}


def _stablelm(f: Fields, shape: Shape) -> dict[str, Any]:
    """Files say that it is parallel where their config says nothing; llama.cpp looks whether there is a second norm."""
    f.take("use_parallel_residual")
    return {"use_parallel_residual": "blk.0.ffn_norm.weight" not in shape.names}


def _starcoder(f: Fields, shape: Shape) -> dict[str, Any]:
    return {"multi_query": shape.n_kv_heads == 1}


def _mpt(f: Fields, shape: Shape) -> dict[str, Any]:
    clip, most = number_unless_zero(f, "attention.clamp_kqv"), number_unless_zero(f, "attention.max_alibi_bias")
    if most is None:
        raise InputError(f"{f.where}: attention.max_alibi_bias = 0 is not supported; expected that of ALiBi, such as 8")
    return {"attn_config": {"alibi": True, "alibi_bias_max": most, "clip_qkv": clip}}


def _glm(f: Fields, shape: Shape) -> dict[str, Any]:
    return {"attention_bias": bool({"blk.0.attn_qkv.bias", "blk.0.attn_q.bias"} & shape.names)}


def _seed_oss(f: Fields, shape: Shape) -> dict[str, Any]:
    return {"attention_bias": False, "attention_out_bias": False}  # as far as the file has none


def _experts(f: Fields) -> dict[str, Any]:
    return {"num_experts": f.integer("expert_count"), "num_experts_per_tok": f.integer("expert_used_count")}


def _qwen3moe(f: Fields, shape: Shape) -> dict[str, Any]:
    width = {"moe_intermediate_size": f.integer("expert_feed_forward_length")}
    return _experts(f) | width | {"norm_topk_prob": True}


def _gpt_oss(f: Fields, shape: Shape) -> dict[str, Any]:
    """No field says that the ends of YaRN's blend are not rounded."""
    rope = dict(shape.rope) | ({"truncate": False} if shape.rope.get("rope_type") == "yarn" else {})
    width = {"intermediate_size": f.integer("expert_feed_forward_length")}
    own = {"rope_parameters": rope} | windows(f, shape, f.integer("attention.sliding_window", 128), 2)
    return _experts(f) | width | own


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", passed_over("tensor_data_layout"), paired=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", _gemma2),
    "gemma3": Architecture("gemma3_text", _gemma3),
    "apertus": Architecture("apertus"),
    "arcee": Architecture("arcee", paired=True),
    "bloom": Architecture("bloom", names=GPT2 | {"embedding_length": "hidden_size"}, rope=False),
    "chatglm": Architecture("glm", _glm, paired=True, partial=True),
    "cohere2": Architecture("cohere2", _cohere2, paired=True),
    "command-r": Architecture("cohere", _command_r, paired=True),
    "ernie4_5": Architecture("ernie4_5", paired=True),
    "exaone4": Architecture("exaone4", _exaone4),
    "falcon": Architecture("falcon", _falcon, names=SHAPE | {"context_length": "max_position_embeddings"}),
    "gemma": Architecture("gemma"),
    "glm4": Architecture("glm4", _glm, paired=True, partial=True),
    "gpt-oss": Architecture("gpt_oss", _gpt_oss),
    "gpt2": Architecture("gpt2", names=GPT2 | {"context_length": "n_positions"}, rope=False),
    "gptneox": Architecture("gpt_neox", _gptneox, partial=True),
    "granite": Architecture("granite", _granite, paired=True),
    "mistral3": Architecture("mistral", _mistral3, paired=True),
    "mpt": Architecture(
        "mpt",
        _mpt,
        names={"embedding_length": "d_model", "block_count": "n_layers", "attention.head_count": "n_heads"},
        rope=False,
    ),
    "nemotron": Architecture("nemotron", partial=True),
    "olmo": Architecture("olmo", _olmo, paired=True),
    "olmo2": Architecture("olmo2", _olmo2),
    "phi2": Architecture("phi", partial=True),
    "phi3": Architecture("phi3", _phi3, partial=True),
    "qwen2vl": Architecture("qwen2_vl_text", passed_over("rope.dimension_sections")),
    "qwen3moe": Architecture("qwen3_moe", _qwen3moe),
    "qwen3vl": Architecture("qwen3_vl_text", passed_over("rope.dimension_sections", "n_deepstack_layers")),
    "seed_oss": Architecture("seed_oss", _seed_oss),
    "smollm3": Architecture("smollm3", paired=True),
    "stablelm": Architecture("stablelm", _stablelm, partial=True),
    "starcoder": Architecture("gpt_bigcode", _starcoder, names=GPT2, rope=False),
    "starcoder2": Architecture("starcoder2"),
    **mixed.ROWS,
}
"""By ``general.architecture``."""
