"""``quantization_config``: how the weights of a folder are quantised, and the same weights as matrices of float32.

Weights alone are dequantised, each as it is placed. What some methods do to activations, such as rounding them to fp8,
is not done here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.convert.hf.packed import Codebook, Grouped, Mxfp4, Scaled, check_shape, whole
from jstrace.convert.weights import FLOATS, Tensor
from jstrace.models import InputError

_EIGHT = ("float8_e4m3fn", "float8_e5m2")
_NOT_OF_WEIGHTS = (".activation_scale", ".input_scale", ".k_scale", ".v_scale", ".q_scale", ".output_scale")
"""Scales of activations and of their cache."""
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""At which place of a word its eight numbers lie."""
_BITS = (2, 4, 8)
_MOST_SHAPE = 2**31

Weights = dict[str, Tensor]
Group = Callable[[str, Weights, str], Tensor]
"""Makes the matrix of a name of what stands under it, which it takes out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scheme:
    """A method, by what it stores for each weight."""

    method: str
    key: str
    """What the name of a quantised weight ends with in the file, and no other's does."""
    made: Group
    """Of the name without it."""

    def dequantised(self, tensors: Mapping[str, Tensor], where: str) -> Weights:
        """The weights with each quantised one as a matrix of float32.

        Raises:
          InputError: parts of a weight that are missing or do not fit each other.
        """
        left = {name: tensor for name, tensor in tensors.items() if not name.endswith(_NOT_OF_WEIGHTS)}
        found: Weights = {}
        for name in [name for name in left if name.endswith(self.key)]:
            bare = name.removesuffix(self.key)
            matrix = self.made(bare, left, where)
            found[bare if self.method == "mxfp4" else f"{bare}.weight"] = matrix
        return left | found


def read_scheme(source: Fields) -> Scheme | None:
    """The scheme of a config; None of one whose weights are not quantised.

    Raises:
      InputError: a method, or a way of it, that is not read.
    """
    given = source.object("quantization_config")
    if not given:
        return None
    f = Fields(given, f"{source.where}: quantization_config")
    method = f.take("quant_method", "bitsandbytes" if f.peek("load_in_8bit") or f.peek("load_in_4bit") else None)
    if not isinstance(method, str) or method not in _METHODS:
        raise InputError(
            f"{f.where}: quant_method = {str(method)[:80]!r} is not read; read are {', '.join(sorted(_METHODS))}: take"
            " the unquantised checkpoint or a GGUF file, or save what transformers' model.dequantize() gives"
        )
    return _METHODS[method](f)


def _part(name: str, left: Weights, where: str) -> Tensor:
    if name not in left:
        raise InputError(f"{where}: weight {name} is missing")
    return left.pop(name)


def _size(f: Fields, name: str) -> int | None:
    """The size of a group; None where -1 or nothing says that there is one group alone."""
    if f.peek(name) == -1:
        f.take(name)
        return None
    return f.integer(name, None)


# --- eight bits -----------------------------------------------------------------------------------------------------


def _scaled(key: str, block: tuple[int, int] | None, dtypes: tuple[str, ...], factor: float = 1.0) -> Group:
    def made(name: str, left: Weights, where: str) -> Tensor:
        scale, weight = _part(name + key, left, where), _part(f"{name}.weight", left, where)
        if weight.dtype not in dtypes:
            raise InputError(f"{where}: weight {weight.name} has dtype {weight.dtype}, expected {' or '.join(dtypes)}")
        if scale.dtype not in (*FLOATS, "float8_e8m0fnu"):
            raise InputError(f"{where}: weight {scale.name} has dtype {scale.dtype}, expected float32")
        return Scaled(weight, scale, block, where, factor)

    return made


def _block(f: Fields, name: str) -> tuple[int, int] | None:
    given = f.take(name)
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or not all(type(n) is int and n > 0 for n in given):
        raise InputError(f"{f.where}: {name} = {str(given)[:80]}, expected two numbers such as [128, 128]")
    return given[0], given[1]


def _fp8(f: Fields) -> Scheme:
    block = _block(f, "weight_block_size")
    return Scheme("fp8", ".weight_scale_inv", _scaled(".weight_scale_inv", block, _EIGHT))


def _fbgemm(f: Fields) -> Scheme:
    return Scheme("fbgemm_fp8", ".weight_scale", _scaled(".weight_scale", None, _EIGHT))


def _compressed(f: Fields) -> Scheme:
    """Of compressed-tensors the formats whose weights are fp8, int8, or whole numbers packed into words."""
    weights = _one_group(f)
    way = f.take("format")
    if way == "pack-quantized":
        return Scheme(f"compressed-tensors {way}", ".weight_packed", _packed(weights))
    if way not in ("float-quantized", "int-quantized", "naive-quantized"):
        known = "float-quantized, int-quantized, naive-quantized, pack-quantized"
        raise InputError(f"{f.where}: format = {str(way)[:80]!r} is not read; read are {known}")
    weights.fixed("num_bits", 8)
    block, group = _block(weights, "block_structure"), _size(weights, "group_size")
    block = (1, group) if group is not None else block
    return Scheme(f"compressed-tensors {way}", ".weight_scale", _scaled(".weight_scale", block, (*_EIGHT, "I8")))


def _one_group(f: Fields) -> Fields:
    """How the weights of all groups are quantised, which must be one way."""
    for name in ("sparsity_config", "transform_config"):
        if f.object(name):
            raise InputError(f"{f.where}: {name} is not read; take a checkpoint without it")
    groups = [group for group in f.object("config_groups").values() if isinstance(group, dict)]
    ways = [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]
    counted = ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure")
    if not ways or any([way.get(name) for name in counted] != [ways[0].get(name) for name in counted] for way in ways):
        raise InputError(f"{f.where}: config_groups quantise weights in {len(ways)} ways, expected one")
    return Fields(ways[0], f"{f.where}: weights")


def _packed(weights: Fields) -> Group:
    bits, group = _known_bits(weights, "num_bits"), _size(weights, "group_size")

    def made(name: str, left: Weights, where: str) -> Tensor:
        words, scale = (_part(f"{name}.{part}", left, where) for part in ("weight_packed", "weight_scale"))
        shape = _whole_shape(_part(f"{name}.weight_shape", left, where), where)
        check_shape(words, (shape[0], -(-shape[1] // (32 // bits))), where)
        zero, order = left.pop(f"{name}.weight_zero_point", None), left.pop(f"{name}.weight_g_idx", None)
        groups = _groups(order, shape[1], group, where)
        middle = 2 ** (bits - 1) if zero is None else 0
        return Grouped(
            f"{name}.weight", shape, (words, zero, scale), where, bits=bits, groups=groups, axis=1, turned=False,
            middle=middle,
        )  # fmt: skip

    return made


def _whole_shape(tensor: Tensor, where: str) -> tuple[int, int]:
    found = whole(tensor).ravel().tolist() if tensor.shape == (2,) else []
    if len(found) != 2 or not all(isinstance(n, int) and 0 < n < _MOST_SHAPE for n in found):
        raise InputError(f"{where}: weight {tensor.name} is no shape of a matrix")
    return found[0], found[1]


# --- GPTQ and AWQ ---------------------------------------------------------------------------------------------------


def _known_bits(f: Fields, name: str) -> int:
    bits = f.integer(name)
    if bits not in _BITS:
        raise InputError(f"{f.where}: {name} = {bits} is not read; read are {', '.join(map(str, _BITS))}")
    return int(bits)


def _groups(listed: Tensor | None, n_columns: int, size: int | None, where: str) -> np.ndarray:
    """The group of every column."""
    if listed is None:
        return np.arange(n_columns) // (size or max(n_columns, 1))
    if listed.dtype not in ("I32", "I64"):
        raise InputError(f"{where}: weight {listed.name} has dtype {listed.dtype}, expected I32")
    return whole(listed).astype(np.int32)


def _gptq(f: Fields) -> Scheme:
    """Zeros are one less in the file, but in the second version of it."""
    bits, group = _known_bits(f, "bits"), _size(f, "group_size")
    version = f.choice("checkpoint_format", {"gptq": "1", "gptq_v2": "0"}, "gptq")
    return Scheme("gptq", ".qweight", _grouped(bits, group, order=None, axis=0, less=int(version)))


def _awq(f: Fields) -> Scheme:
    f.fixed("bits", 4)
    f.fixed("zero_point", True)
    f.choice("version", {"gemm": "gemm", "GEMM": "gemm"}, "gemm")
    return Scheme("awq", ".qweight", _grouped(4, _size(f, "group_size"), order=_AWQ_ORDER, axis=1, less=0))


def _grouped(bits: int, group: int | None, *, order: tuple[int, ...] | None, axis: int, less: int) -> Group:
    def made(name: str, left: Weights, where: str) -> Tensor:
        words, zeros, scale = (_part(f"{name}.{part}", left, where) for part in ("qweight", "qzeros", "scales"))
        if len(words.shape) != 2 or len(scale.shape) != 2 or 0 in (*words.shape, *scale.shape):
            raise InputError(f"{where}: weight {words.name} has shape {words.shape}, expected a matrix")
        shape = scale.shape[1], words.shape[0] * (32 // bits if axis == 0 else 1)
        groups = _groups(left.pop(f"{name}.g_idx", None), shape[1], group, where)
        return Grouped(
            f"{name}.weight", shape, (words, zeros, scale), where, bits=bits, groups=groups, axis=axis,
            order=order, middle=less,
        )  # fmt: skip

    return made


# --- bitsandbytes, MXFP4 --------------------------------------------------------------------------------------------


def _bitsandbytes(f: Fields) -> Scheme:
    if f.flag("load_in_8bit", False) or f.flag("_load_in_8bit", False):
        made = _scaled(".SCB", None, ("I8",), 1 / 127)
        return Scheme("bitsandbytes int8", ".SCB", _without_format(made))
    return Scheme("bitsandbytes", ".weight.absmax", _four_bits)


def _without_format(made: Group) -> Group:
    """Of the ways in which rows can lie, files have the plain one."""

    def checked(name: str, left: Weights, where: str) -> Tensor:
        kind = left.pop(f"{name}.weight_format", None)
        if kind is not None and whole(kind).any():
            raise InputError(f"{where}: weight {kind.name} is not 0, of which alone the rows are read")
        return made(name, left, where)

    return checked


def _four_bits(name: str, left: Weights, where: str) -> Tensor:
    packed, stored = _part(f"{name}.weight", left, where), _part(f"{name}.weight.absmax", left, where)
    states = [key for key in left if key.startswith(f"{name}.weight.quant_state.bitsandbytes__")]
    if len(states) != 1:
        raise InputError(f"{where}: weight {packed.name} has {len(states)} quant_states, expected one")
    state = _state(left.pop(states[0]), where)
    shape, block = state.take("shape"), state.integer("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < _MOST_SHAPE for n in shape):
        raise InputError(f"{state.where}: shape = {str(shape)[:80]}, expected that of a matrix")
    check_shape(stored, (-(-math.prod(shape) // block),), where)
    nested = state.integer("nested_blocksize", None)

    def scales(blocks: slice) -> np.ndarray:
        return stored.read((blocks,)).astype(np.float32)

    given = scales if nested is None else _nested(name, stored, nested, left, state, where)
    table = whole(_part(f"{name}.weight.quant_map", left, where)).astype(np.float32)
    return Codebook(packed, (shape[0], shape[1]), table, given, block, where)


def _nested(
    name: str, stored: Tensor, block: int, left: Weights, state: Fields, where: str
) -> Callable[[slice], np.ndarray]:
    """Scales that are quantised themselves: places in a table, times a scale for each block of them, and an offset."""
    again, values = (_part(f"{name}.weight.nested_{part}", left, where) for part in ("absmax", "quant_map"))
    offset = state.take("nested_offset")
    if stored.dtype != "U8" or not isinstance(offset, int | float) or not math.isfinite(offset):
        raise InputError(
            f"{state.where}: scales of dtype {stored.dtype}, offset {str(offset)[:20]}, expected U8, a number"
        )
    check_shape(again, (-(-stored.shape[0] // block),), where)
    check_shape(values, (256,), where)

    def scales(blocks: slice) -> np.ndarray:
        first = blocks.start // block
        over = again.read((slice(first, -(-blocks.stop // block)),))[
            np.arange(blocks.start, blocks.stop) // block - first
        ]
        return whole(values)[stored.read((blocks,))].astype(np.float32) * over + np.float32(offset)

    return scales


def _state(tensor: Tensor, where: str) -> Fields:
    """The JSON that a tensor of bytes holds."""
    try:
        found = json.loads(whole(tensor).tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: weight {tensor.name} is not readable as JSON ({str(error)[:80]})") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: weight {tensor.name} is no JSON object")
    return Fields(found, f"{where}: {tensor.name}")


def _mxfp4(f: Fields) -> Scheme:
    def made(name: str, left: Weights, where: str) -> Tensor:
        blocks, scales = _part(f"{name}_blocks", left, where), _part(f"{name}_scales", left, where)
        return Mxfp4(name, blocks, scales, where)

    return Scheme("mxfp4", "_blocks", made)


_METHODS: Mapping[str, Callable[[Fields], Scheme]] = {
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "fbgemm_fp8": _fbgemm,
    "fp8": _fp8,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
}
METHODS = tuple(sorted(_METHODS))
"""Values of ``quant_method`` that are read."""
