"""GGUF files: dequantised, with the config from their metadata."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.convert.gguf.blocks import BLOCKS, taken_apart
from jstrace.convert.gguf.config import XIELU, described
from jstrace.convert.gguf.header import StoredTensor
from jstrace.convert.gguf.parts import read_parts
from jstrace.convert.gguf.positions import DIVISORS, LONG, SHORT
from jstrace.convert.stored import Blocks, Form
from jstrace.convert.weights import Tensor
from jstrace.models import InputError
from jstrace.models.validation import WIDEST_HEAD


class GgufFile:
    """An opened GGUF file, or all parts of one: ``metadata``, ``config``, ``layouts`` and ``tensors`` by name."""

    def __init__(self, path: Path) -> None:
        try:
            self.metadata, tensors = read_parts(path)
        except InputError:
            raise
        except (ValueError, OSError, struct.error, MemoryError, OverflowError) as error:
            raise InputError(f"{path}: not a whole GGUF file ({error})") from error
        self.path = path
        cache: dict[tuple[Any, ...], np.ndarray] = {}
        weights: dict[str, Tensor] = {tensor.name: _Dequantised(tensor, path, cache) for tensor in tensors}
        factors = {name: _factors(weights.pop(name), str(path)) for name in (DIVISORS, SHORT, LONG) if name in weights}
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        metadata, own = _without_lists(self.metadata)
        self.config, self.layouts = described(metadata, shapes, factors, str(path))
        ahead = _blocks_ahead(metadata, self.config.n_layers)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(ahead)}
        self.tensors = weights | _listed(own, self.config.n_layers, str(path))


def _blocks_ahead(metadata: Mapping[str, Any], n_layers: int) -> tuple[str, ...]:
    """What names of weights begin with that are of blocks behind the last layer, which predict further tokens."""
    count = int(metadata.get(f"{metadata['general.architecture']}.nextn_predict_layers", 0))
    return tuple(f"blk.{n_layers + place}." for place in range(count))


def _factors(tensor: Tensor, where: str) -> np.ndarray:
    """A number for each pair of a head's, of which no file has many."""
    if math.prod(tensor.shape) > WIDEST_HEAD:
        raise InputError(f"{where}: {tensor.name} has the shape {tensor.shape}, expected a number for each rotary pair")
    return tensor.read(tuple(slice(0, length) for length in tensor.shape))


def _without_lists(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata without those that are weights, and those."""
    lists = {f"xielu.{name}": name for name in XIELU}
    rest = {key: value for key, value in metadata.items() if key not in lists}
    return rest, {name: metadata[key] for key, name in lists.items() if key in metadata}


class _Number:
    """One number of the metadata as a weight of a layer."""

    dtype = "float32"

    def __init__(self, name: str, value: float, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape
        self._value = np.full(shape, value, np.float32)

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        return self._value[ranges]


def _listed(lists: Mapping[str, Any], n_layers: int, where: str) -> dict[str, Tensor]:
    """Weights of every layer of which the metadata have lists."""
    tensors: dict[str, Tensor] = {}
    for name, values in lists.items():
        if not isinstance(values, list) or len(values) != n_layers or not all(isinstance(x, float) for x in values):
            raise InputError(f"{where}: xielu.{name} is no list of {n_layers} numbers")
        shape = (1,) if name.startswith("alpha") else ()
        names = [f"blk.{layer}.xielu.{name}" for layer in range(n_layers)]
        tensors |= {full: _Number(full, value, shape) for full, value in zip(names, values, strict=True)}
    return tensors


class _Dequantised:
    """One matrix, float32; what is read of it are whole rows."""

    dtype = "float32"

    def __init__(self, tensor: StoredTensor, path: Path, cache: dict[tuple[Any, ...], np.ndarray]) -> None:
        self.name = tensor.name
        self.shape = tuple(reversed(tensor.shape))
        self._tensor, self._path = tensor, path
        self._kept = cache  # the rows read last, for the next device's part of them

    def _rows(self, rows: slice) -> np.ndarray:
        """Some rows of the matrix."""
        from gguf import dequantize

        try:
            wanted = (len(range(*rows.indices(self.shape[0]))), *self.shape[1:]) if self.shape else ()
            return np.asarray(dequantize(self._tensor.data[rows], self._tensor.tensor_type)).reshape(wanted)
        except (NotImplementedError, ValueError) as error:
            kind = self._tensor.tensor_type.name
            raise InputError(
                f"{self._path}: weight {self.name} is quantised as {kind}, which the gguf package cannot dequantise"
            ) from error

    def form(self) -> Form | None:
        """As ``stored.Blocked``."""
        kind = self._tensor.tensor_type.name
        if kind in ("F16", "F32", "F64", "BF16"):
            return None
        if kind not in BLOCKS:
            known = ", ".join(BLOCKS)
            raise InputError(
                f"{self._path}: weight {self.name} is quantised as {kind}, which weights stored cannot hold (only"
                f" {known}); use weights int8"
            )
        return BLOCKS[kind][0]

    def blocks(self) -> Blocks:
        """As ``stored.Blocked``."""
        from gguf import GGML_QUANT_SIZES

        kind = self._tensor.tensor_type
        return taken_apart(self._tensor.data, kind.name, GGML_QUANT_SIZES[kind][1])

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        rows = slice(None) if len(self.shape) < 2 else ranges[0]
        key = (self.name, rows.start, rows.stop)
        if key not in self._kept:
            self._kept.clear()
            self._kept[key] = self._rows(rows)
        return self._kept[key][ranges if rows == slice(None) else (slice(None), *ranges[1:])]
