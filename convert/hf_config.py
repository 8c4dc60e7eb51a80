"""Hugging Face ``config.json`` to ``ModelConfig``: every field is used, irrelevant for a stated reason, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.models import InputError, ModelConfig

_TRAINING = "only training reads it"
_GENERATION = "only sampling and its caches read it"
_BOOKKEEPING = "describes the file, not the computation"

IRRELEVANT: Mapping[str, str] = {
    "attention_dropout": _TRAINING,
    "initializer_range": _TRAINING,
    "use_cache": _GENERATION,
    "bos_token_id": "the tokenizer says which special tokens it adds",
    "eos_token_id": _GENERATION,
    "pad_token_id": "padding is masked by length",
    "architectures": _BOOKKEEPING,
    "torch_dtype": "the caller chooses the dtype",
    "dtype": "the caller chooses the dtype",
    "transformers_version": _BOOKKEEPING,
    "_name_or_path": _BOOKKEEPING,
    "transformers.js_config": _BOOKKEEPING,
    "is_llama_config": _BOOKKEEPING,
    "_attn_implementation_autoset": _BOOKKEEPING,
}
"""Fields that no forward pass depends on, each with the reason."""

_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1, None),
    "rope_interleaved": (False,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, 1.0),
}
"""Fields that change the computation and of which only these values are supported."""

_ROPE_FIELDS = {
    "default": {"rope_type", "type", "rope_theta"},
    "llama3": {
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
}


def read_hf_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a Hugging Face folder.

    Raises:
      InputError: no readable file, an unsupported architecture, or a field whose effect is not implemented.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json; a Hugging Face model folder holds config.json and *.safetensors")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(fields).__name__}")
    return from_hf_fields(fields, where=str(path))


def from_hf_fields(fields: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Map the fields of a Hugging Face config; ``where`` names the file in errors."""
    rest = dict(fields)
    model_type = rest.pop("model_type", None)
    if model_type != "llama":
        raise InputError(f"{where}: architecture {model_type!r} is not supported; supported: llama")
    try:
        config = _llama(rest, where)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{where}: {error}") from error
    unread = sorted(set(rest) - set(IRRELEVANT))
    if unread:
        raise InputError(
            f"{where}: field {unread[0]!r} = {rest[unread[0]]!r} is not known and may change the computation;"
            " remove it if it does not"
        )
    return validated(config, where)


def _llama(rest: dict[str, Any], where: str) -> ModelConfig:
    """Pop what Llama models use from ``rest``."""

    def integer(name: str, default: int | None = None) -> int:
        return _number(name, rest.pop(name, None), default, where, whole=True)

    for name, allowed in _FIXED.items():
        value = rest.pop(name, allowed[0])
        if not any(type(value) is type(known) and value == known for known in allowed):
            raise InputError(f"{where}: {name} = {value!r} is not supported; only {allowed[0]!r} is")
    n_heads, d_model = integer("num_attention_heads"), integer("hidden_size")
    head_dim = integer("head_dim", d_model // max(n_heads, 1))
    theta, divisors = _rope(rest, head_dim, where)
    return ModelConfig(
        family="llama",
        vocab_size=integer("vocab_size"),
        n_layers=integer("num_hidden_layers"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=integer("num_key_value_heads", n_heads),
        head_dim=head_dim,
        d_mlp=integer("intermediate_size"),
        norm_eps=_number("rms_norm_eps", rest.pop("rms_norm_eps", None), 1e-6, where),
        rope_theta=theta,
        rope_divisors=divisors,
        tied_head=_flag("tie_word_embeddings", rest.pop("tie_word_embeddings", False), where),
        max_positions=integer("max_position_embeddings", 2048),
    )


def _rope(rest: dict[str, Any], head_dim: int, where: str) -> tuple[float, tuple[float, ...] | None]:
    """Rotary base and divisors, from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling``."""
    theta = rest.pop("rope_theta", None)
    merged: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = rest.pop(name, None) or {}
        if not isinstance(given, dict):
            raise InputError(f"{where}: {name} = {given!r}, expected an object")
        merged.update(given)
    theta = _number("rope_theta", merged.get("rope_theta", theta), 10000.0, where)
    kind = merged.get("rope_type", merged.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_FIELDS:
        raise InputError(f"{where}: RoPE type {kind!r} is not supported; supported: {', '.join(_ROPE_FIELDS)}")
    unread = sorted(set(merged) - _ROPE_FIELDS[kind])
    if unread:
        raise InputError(f"{where}: RoPE field {unread[0]!r} is not known and may change the computation")
    if kind == "default":
        return theta, None
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    missing = [name for name in names if name not in merged]
    if missing:
        raise InputError(f"{where}: RoPE field {missing[0]!r} is missing")
    factor, low, high, positions = (_number(name, merged[name], None, where) for name in names)
    if not high > low:
        raise InputError(f"{where}: RoPE high_freq_factor = {high}, expected more than low_freq_factor = {low}")
    return theta, llama3_divisors(theta, head_dim, factor, low, high, positions)


def _number(name: str, value: Any, default: float | None, where: str, *, whole: bool = False) -> Any:
    """A positive finite number (an integer if ``whole``), or the default where there is none."""
    value = default if value is None else value
    if value is None:
        raise InputError(f"{where}: field {name!r} is missing")
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        raise InputError(f"{where}: {name} = {value!r}, expected a positive {'integer' if whole else 'number'}")
    return value if whole else float(value)


def _flag(name: str, value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where}: {name} = {value!r}, expected true or false")
    return value


def llama3_divisors(
    theta: float, head_dim: int, factor: float, low: float, high: float, positions: float
) -> tuple[float, ...]:
    """Llama-3.1's rotary scaling: long waves are slowed by ``factor``, short ones kept, linearly blended in between.

    ``low`` and ``high`` bound the blend, in turns that a wave makes over the ``positions`` of the first training.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = positions * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return tuple(float(d) for d in 1 / (kept + (1 - kept) / factor))


def validated(config: ModelConfig, where: str) -> ModelConfig:
    """Refuse shapes that no model has."""
    positive = ("vocab_size", "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_mlp", "norm_eps")
    for name in positive:
        if not getattr(config, name) > 0:
            raise InputError(f"{where}: {name} = {getattr(config, name)!r}, expected a positive number")
    if config.n_heads % config.n_kv_heads:
        raise InputError(f"{where}: {config.n_heads} query heads do not divide into {config.n_kv_heads} groups")
    if config.head_dim % 2:
        raise InputError(f"{where}: head_dim = {config.head_dim}, expected an even number for rotary positions")
    return config
