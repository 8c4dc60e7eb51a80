"""GGUF files of Llama models: dequantised, rotary permutation undone, config and tokenizer from the metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.convert.hf_config import validated
from jstrace.convert.weights import Read
from jstrace.models import InputError, ModelConfig

_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_NAMES |= {"output.weight": "lm_head.weight"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_DIVISORS = "rope_freqs.weight"
_FRACTIONS = ("rope.freq_base", "attention.layer_norm_rms_epsilon")
_USED_KEYS = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "vocab_size",
}


class GgufFile:
    """An opened GGUF file: ``metadata``, ``config``, the ``names`` of its weights and ``read``."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        try:
            reader = GGUFReader(path)
            self.metadata = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError, OverflowError) as error:
            raise InputError(f"{path}: not a whole GGUF file ({error})") from error
        self.path = path
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.config = _config(self.metadata, self._tensors, self._rope_divisors(), str(path))
        self._sources = {_hf_name(name): name for name in self._tensors if name != _ROPE_DIVISORS}
        if len(self._sources) < len(self._tensors) - (_ROPE_DIVISORS in self._tensors):
            raise InputError(f"{path}: two weights stand for the same matrix")

    @property
    def names(self) -> list[str]:
        """Weight names in Hugging Face's spelling."""
        return list(self._sources)

    def _rope_divisors(self) -> tuple[float, ...] | None:
        if _ROPE_DIVISORS not in self._tensors:
            return None
        return tuple(float(d) for d in self._dequantised(_ROPE_DIVISORS))

    def _dequantised(self, name: str) -> np.ndarray:
        from gguf import dequantize

        tensor = self._tensors[name]
        try:
            return dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            kind = tensor.tensor_type.name
            raise InputError(f"{self.path}: weight {name} is quantised as {kind}, which cannot be read") from error

    def reader(self) -> Read:
        """Reads one weight, float32, in Hugging Face's layout."""
        n_heads = {"self_attn.q_proj": self.config.n_heads, "self_attn.k_proj": self.config.n_kv_heads}

        def read(name: str) -> np.ndarray:
            value = self._dequantised(self._sources[name])
            for part, heads in n_heads.items():
                if part in name:
                    return _unpermuted(value, heads)
            return value

        return read


def _unpermuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of the two rotary halves of each head."""
    if weight.ndim != 2 or weight.shape[0] % (2 * n_heads):
        return weight  # refused by its shape
    halves = weight.reshape(n_heads, weight.shape[0] // n_heads // 2, 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _hf_name(name: str) -> str:
    """Hugging Face's name of a tensor; an unknown one keeps its own, and is refused as left over."""
    if name in _NAMES:
        return _NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES and parts[3] == "weight":
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight"
    return name


def _config(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], divisors: tuple[float, ...] | None, where: str
) -> ModelConfig:
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise InputError(f"{where}: architecture {architecture!r} is not supported; supported: llama")
    prefix = f"{architecture}."
    unread = sorted(k for k in metadata if k.startswith(prefix) and k.removeprefix(prefix) not in _USED_KEYS)
    if unread:
        raise InputError(f"{where}: field {unread[0]!r} is not known and may change the computation")

    def field(name: str, default: Any = None) -> Any:
        value = metadata.get(prefix + name, default)
        if value is None:
            raise InputError(f"{where}: field {prefix + name!r} is missing")
        if isinstance(value, (bool, str, list)) or not 0 < value < math.inf or (name not in _FRACTIONS and value % 1):
            raise InputError(f"{where}: field {prefix + name!r} = {value!r}, expected a positive number")
        return value

    n_heads, d_model = int(field("attention.head_count")), int(field("embedding_length"))
    head_dim = int(field("attention.key_length", d_model // max(n_heads, 1)))
    for name in ("attention.value_length", "rope.dimension_count"):
        if int(field(name, head_dim)) != head_dim:
            raise InputError(f"{where}: {name} = {field(name)} differs from the head width {head_dim}")
    if divisors is not None and len(divisors) != head_dim // 2:
        raise InputError(f"{where}: {_ROPE_DIVISORS} holds {len(divisors)} numbers, expected {head_dim // 2}")
    if "token_embd.weight" not in tensors:
        raise InputError(f"{where}: weight token_embd.weight is missing")
    config = ModelConfig(
        family="llama",
        vocab_size=int(field("vocab_size", int(tensors["token_embd.weight"].shape[1]))),
        n_layers=int(field("block_count")),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=int(field("attention.head_count_kv", n_heads)),
        head_dim=head_dim,
        d_mlp=int(field("feed_forward_length")),
        norm_eps=float(field("attention.layer_norm_rms_epsilon")),
        rope_theta=float(field("rope.freq_base", 10000.0)),
        rope_divisors=divisors,
        tied_head="output.weight" not in tensors,
        max_positions=int(field("context_length", 2048)),
    )
    return validated(config, where)
