"""GGUF files of Llama, Qwen 2 and 3 and Gemma 2 and 3: dequantised, with the config from their metadata."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.convert.gguf.header import StoredTensor, read_header
from jstrace.convert.validation import validated
from jstrace.convert.weights import Tensor
from jstrace.errors import UnsupportedError
from jstrace.models import InputError, ModelConfig
from jstrace.models.config import FLAGS

_ROPE_DIVISORS = "rope_freqs.weight"
_PARTS_OF_OTHERS = ("expert_count", "expert_used_count", "expert_shared_count", "nextn_predict_layers")
"""What some files count although they have none of it."""
_GEMMA2_27B, _GEMMA3_27B = 46, 62
"""Layers of the two Gemmas whose query scale is the model's width per head; no field says so."""


class GgufFile:
    """An opened GGUF file: ``metadata``, ``config`` and its ``tensors`` by name."""

    def __init__(self, path: Path) -> None:
        try:
            self.metadata, tensors = read_header(path)
        except (ValueError, OSError, struct.error, MemoryError, OverflowError) as error:
            raise InputError(f"{path}: not a whole GGUF file ({error})") from error
        self.path = path
        found = {tensor.name: tensor for tensor in tensors}
        divisors = _Dequantised(found.pop(_ROPE_DIVISORS), path).whole() if _ROPE_DIVISORS in found else None
        self.config = _config(self.metadata, found, divisors, str(path))
        kept: dict[tuple[Any, ...], np.ndarray] = {}
        self.tensors: dict[str, Tensor] = {
            name: _Dequantised(tensor, path, *_as_stored(self.config, name), kept) for name, tensor in found.items()
        }


class _Dequantised:
    """One matrix in Hugging Face's layout, float32; what is read of it are whole rows."""

    dtype = "float32"

    def __init__(
        self,
        tensor: StoredTensor,
        path: Path,
        n_interleaved: int = 0,
        offset: float = 0.0,
        kept: dict[tuple[Any, ...], np.ndarray] | None = None,
    ) -> None:
        self.name = tensor.name
        self.shape = tuple(reversed(tensor.shape))
        self._tensor, self._path, self._heads, self._offset = tensor, path, n_interleaved, offset
        self._kept = {} if kept is None else kept  # the rows read last, for the next device's part of them

    def whole(self) -> np.ndarray:
        """The matrix."""
        return self._rows(slice(None))

    def _rows(self, rows: slice) -> np.ndarray:
        """Some rows of the matrix, all of one whose heads are interleaved."""
        from gguf import dequantize

        try:
            wanted = len(range(*rows.indices(self.shape[0]))), *self.shape[1:]
            value = dequantize(self._tensor.data[rows], self._tensor.tensor_type).reshape(wanted)
        except (NotImplementedError, ValueError) as error:
            kind = self._tensor.tensor_type.name
            raise InputError(
                f"{self._path}: weight {self.name} is quantised as {kind}, which the gguf package cannot dequantise"
            ) from error
        return (_unpermuted(value, self._heads) if self._heads else value) - np.float32(self._offset)

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        rows = slice(None) if self._heads or len(self.shape) < 2 else ranges[0]
        key = (self.name, rows.start, rows.stop)
        if key not in self._kept:
            self._kept.clear()
            self._kept[key] = self._rows(rows)
        return self._kept[key][ranges if rows == slice(None) else (slice(None), *ranges[1:])]


def _as_stored(config: ModelConfig, name: str) -> tuple[int, float]:
    """Of a weight: in how many heads llama.cpp interleaved rotary halves, and what it added to it."""
    if config.family == "llama" and ".attn_q." in name:
        return config.n_heads, 0.0
    if config.family == "llama" and ".attn_k." in name:
        return config.n_kv_heads, 0.0
    return 0, config.norm_offset if "norm" in name else 0.0


def _unpermuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of the two rotary halves of each head; matrices and biases."""
    halves = weight.reshape(n_heads, weight.shape[0] // n_heads // 2, 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


# --- the config -----------------------------------------------------------------------------------------------------


def _config(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], divisors: np.ndarray | None, where: str
) -> ModelConfig:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise UnsupportedError(f"{where}: architecture {architecture!r} is not supported; supported: {known}")
    if "token_embd.weight" not in tensors:
        raise InputError(f"{where}: weight token_embd.weight is missing")
    if len(tensors["token_embd.weight"].shape) != 2:
        raise InputError(f"{where}: weight token_embd.weight is no matrix")
    prefix = f"{architecture}."
    named = {key.removeprefix(prefix): _plain(value) for key, value in metadata.items() if key.startswith(prefix)}
    f = Fields(named, f"{where}: {architecture}")
    given = _base(f, architecture, tensors, None if divisors is None else tuple(float(d) for d in divisors.ravel()))
    given |= _FAMILIES[architecture](f, given) | _biases(tensors)
    for name in _PARTS_OF_OTHERS:
        f.fixed(name, 0)
    f.refuse_unread(())
    return validated(ModelConfig(**given), where)


def _plain(value: Any) -> Any:
    """Numbers of the metadata as Python's, whole ones as integers: files hold counts in types of every kind."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def _base(
    f: Fields, architecture: str, tensors: Mapping[str, Any], divisors: tuple[float, ...] | None
) -> dict[str, Any]:
    """What all families share."""
    n_heads, d_model = f.integer("attention.head_count"), f.integer("embedding_length")
    head_dim = f.head_dim("attention.key_length", d_model // max(n_heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if f.integer(name, head_dim) != head_dim:
            raise InputError(f"{f.where}: {name} differs from the head width {head_dim}")
    return {
        "family": architecture,
        **FLAGS[architecture],
        "vocab_size": f.integer("vocab_size", int(tensors["token_embd.weight"].shape[-1])),
        "n_layers": f.layers("block_count"),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": f.integer("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "d_mlp": f.integer("feed_forward_length"),
        "norm_eps": f.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": f.number("rope.freq_base", 10000.0),
        "rope_divisors": _divisors(f, head_dim, divisors),
        "tied_head": "output.weight" not in tensors,
        "max_positions": f.integer("context_length", 2048),
    }


def _divisors(f: Fields, head_dim: int, stored: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The rotary divisors that the file stores, or those of ``rope.scaling``; of its types only linear is known."""
    factor = _number_unless_zero(f, "rope.scaling.factor")
    kind = f.take("rope.scaling.type", "linear")  # llama.cpp's default
    if kind not in ("none", "linear"):
        raise InputError(f"{f.where}: rope.scaling.type = {kind!r} is not supported; supported: none, linear")
    f.take("rope.scaling.original_context_length"), f.take("rope.scaling.finetuned")  # notes on how it was trained
    if stored is not None and not all(0 < divisor < math.inf for divisor in stored):
        raise InputError(f"{f.where}: {_ROPE_DIVISORS} holds numbers that are not positive")
    if kind == "none" or factor is None:
        return stored
    if stored is not None:
        raise InputError(f"{f.where}: rope.scaling.type = {kind!r} beside {_ROPE_DIVISORS}, expected one of them")
    return (factor,) * (head_dim // 2)


def _number_unless_zero(f: Fields, name: str) -> float | None:
    """A number of which 0 says that there is none."""
    if f.peek(name) == 0:
        f.fixed(name, 0)
        return None
    return f.number(name, None)


def _biases(tensors: Mapping[str, Any]) -> dict[str, bool]:
    """The biases that the file holds: no field of its metadata tells."""
    parts = {"qkv_bias": ("attn_q", "attn_k", "attn_v"), "o_bias": ("attn_output",)}
    parts["mlp_bias"] = ("ffn_gate", "ffn_up", "ffn_down")
    return {flag: True for flag, names in parts.items() if any(f"blk.0.{name}.bias" in tensors for name in names)}


def _plain_family(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _gemma(f: Fields, base: Mapping[str, Any], *, every: int, wide_layers: int) -> dict[str, Any]:
    """Each ``every``-th layer sees all tokens; ``wide_layers`` tells the model with the other query scale."""
    n_layers, d_model, n_heads = base["n_layers"], base["d_model"], base["n_heads"]
    pattern = f.take("attention.sliding_window_pattern", every)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        pattern = [bool((layer + 1) % pattern) for layer in range(n_layers)]
    if not isinstance(pattern, list) or len(pattern) != n_layers or not all(isinstance(x, bool) for x in pattern):
        raise InputError(f"{f.where}: attention.sliding_window_pattern is no list of {n_layers} layers, true or false")
    return {
        "activation": "gelu_tanh",
        "embed_scale": math.sqrt(d_model),
        "query_scale": 1 / math.sqrt(d_model / n_heads if n_layers == wide_layers else base["head_dim"]),
        "window": f.integer("attention.sliding_window", 4096),
        "global_layers": tuple(layer for layer, windowed in enumerate(pattern) if not windowed),
    }


def _gemma2(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    attention, output = f.number("attn_logit_softcapping", 50.0), f.number("final_logit_softcapping", 30.0)
    softcaps = {"attn_softcap": attention, "logit_softcap": output}
    return _gemma(f, base, every=2, wide_layers=_GEMMA2_27B) | softcaps


def _gemma3(f: Fields, base: Mapping[str, Any]) -> dict[str, Any]:
    local = f.number("rope.freq_base_swa", 10000.0)
    softcap = _number_unless_zero(f, "final_logit_softcapping")
    return _gemma(f, base, every=6, wide_layers=_GEMMA3_27B) | {"local_rope_theta": local, "logit_softcap": softcap}


_FAMILIES: Mapping[str, Callable[[Fields, Mapping[str, Any]], dict[str, Any]]] = {
    "llama": _plain_family,
    "qwen2": _plain_family,
    "qwen3": _plain_family,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
}
