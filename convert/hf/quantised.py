"""``quantization_config``: how the weights of a folder are quantised, and the same weights as matrices of float32.

Weights alone are dequantised, each as it is placed. What some methods do to activations, such as rounding them to fp8,
is not done here. Of the fields those count that the formula needs; others say how it was quantised, and what is stored
tells whether it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.convert.hf.bitsandbytes import bitsandbytes
from jstrace.convert.hf.packed import Grouped, Mxfp4, check_shape, whole
from jstrace.convert.hf.schemes import MOST_SHAPE, Group, Scheme, Weights, part, scaled
from jstrace.convert.weights import Tensor
from jstrace.models import InputError

_EIGHT = ("float8_e4m3fn", "float8_e5m2")
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""At which place of a word its eight numbers lie."""
_BITS = (2, 4, 8)


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


def _size(f: Fields, name: str) -> int | None:
    """The size of a group; None where -1 or nothing says that there is one group alone."""
    if f.peek(name) == -1:
        f.take(name)
        return None
    return f.integer(name, None)


# --- eight bits -----------------------------------------------------------------------------------------------------


def _block(f: Fields, name: str, absent: list[int] | None = None) -> tuple[int, int] | None:
    given = f.take(name, absent)
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or not all(type(n) is int and n > 0 for n in given):
        raise InputError(f"{f.where}: {name} = {str(given)[:80]}, expected two numbers such as [128, 128]")
    return given[0], given[1]


def _fp8(f: Fields) -> Scheme:
    block = _block(f, "weight_block_size", [128, 128])  # null says that one scale is for the whole matrix
    return Scheme("fp8", ".weight_scale_inv", scaled(".weight_scale_inv", block, _EIGHT))


def _fbgemm(f: Fields) -> Scheme:
    return Scheme("fbgemm_fp8", ".weight_scale", scaled(".weight_scale", None, _EIGHT))


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
    weights.fixed("symmetric", True, None)
    block, group = _block(weights, "block_structure"), _size(weights, "group_size")
    block = (1, group) if group is not None else block
    return Scheme(f"compressed-tensors {way}", ".weight_scale", scaled(".weight_scale", block, (*_EIGHT, "I8")))


def _one_group(f: Fields) -> Fields:
    """How the weights of all groups are quantised, which must be one way."""
    for name in ("sparsity_config", "transform_config"):
        given = f.object(name)
        if given and given.get("format") != "dense":
            raise InputError(f"{f.where}: {name} is not read; take a checkpoint without it")
    groups = [group for group in f.object("config_groups").values() if isinstance(group, dict)]
    ways = [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]
    counted = ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "actorder")
    if not ways or any([way.get(name) for name in counted] != [ways[0].get(name) for name in counted] for way in ways):
        raise InputError(f"{f.where}: config_groups quantise weights in {len(ways)} ways, expected one")
    return Fields(ways[0], f"{f.where}: weights")


def _packed(weights: Fields) -> Group:
    bits, group = _known_bits(weights, "num_bits"), _size(weights, "group_size")
    ordered = weights.take("actorder") not in (None, False, "weight", "static")

    def made(name: str, left: Weights, where: str) -> Tensor:
        words, scale = (part(f"{name}.{kind}", left, where) for kind in ("weight_packed", "weight_scale"))
        shape = _whole_shape(part(f"{name}.weight_shape", left, where), where)
        check_shape(words, (shape[0], -(-shape[1] // (32 // bits))), where)
        zero, order = left.pop(f"{name}.weight_zero_point", None), left.pop(f"{name}.weight_g_idx", None)
        groups = _groups(order, shape[1], group, where, needed=f"{name}.weight_g_idx" if ordered else None)
        middle = 2 ** (bits - 1) if zero is None else 0
        return Grouped(
            f"{name}.weight", shape, (words, zero, scale), where, bits=bits, groups=groups, axis=1, turned=False,
            middle=middle,
        )  # fmt: skip

    return made


def _whole_shape(tensor: Tensor, where: str) -> tuple[int, int]:
    sizes = whole(tensor).ravel().tolist() if tensor.shape == (2,) else []
    if len(sizes) != 2 or not all(isinstance(n, int) and 0 < n < MOST_SHAPE for n in sizes):
        raise InputError(f"{where}: weight {tensor.name} is no shape of a matrix")
    return sizes[0], sizes[1]


# --- GPTQ and AWQ ---------------------------------------------------------------------------------------------------


def _known_bits(f: Fields, name: str) -> int:
    bits = f.integer(name)
    if bits not in _BITS:
        raise InputError(f"{f.where}: {name} = {bits} is not read; read are {', '.join(map(str, _BITS))}")
    return int(bits)


def _groups(
    listed: Tensor | None, n_columns: int, size: int | None, where: str, *, needed: str | None = None
) -> np.ndarray:
    """The group of every column; ``needed`` names the list where columns are not in the order of their groups."""
    if listed is None:
        if needed is not None and size is not None:
            raise InputError(f"{where}: weight {needed} is missing, without which the groups of columns are not known")
        return np.arange(n_columns) // (size or max(n_columns, 1))
    if listed.dtype not in ("I32", "I64"):
        raise InputError(f"{where}: weight {listed.name} has dtype {listed.dtype}, expected I32")
    return whole(listed).astype(np.int32)


def _gptq(f: Fields) -> Scheme:
    """Zeros are one less in the file, but in the second version of it."""
    bits, group, ordered = _known_bits(f, "bits"), _size(f, "group_size"), f.flag("desc_act", False)
    version = f.choice(_named(f, "checkpoint_format"), {"gptq": "1", "gptq_v2": "0"}, "gptq")
    return Scheme("gptq", ".qweight", _grouped(bits, group, axis=0, less=int(version), ordered=ordered))


def _named(f: Fields, name: str) -> str:
    """The field that says how it is stored: ``format`` where it stands alone, as in transformers."""
    return "format" if f.peek(name) is None else name


def _awq(f: Fields) -> Scheme:
    f.fixed("bits", 4)
    f.fixed("zero_point", True)
    f.choice(_named(f, "version"), {"gemm": "gemm", "GEMM": "gemm"}, "gemm")
    return Scheme("awq", ".qweight", _grouped(4, _size(f, "group_size"), order=_AWQ_ORDER, axis=1))


def _grouped(
    bits: int,
    group: int | None,
    *,
    axis: int,
    order: tuple[int, ...] | None = None,
    less: int = 0,
    ordered: bool = False,
) -> Group:
    def made(name: str, left: Weights, where: str) -> Tensor:
        words, zeros, scale = (part(f"{name}.{kind}", left, where) for kind in ("qweight", "qzeros", "scales"))
        if len(words.shape) != 2 or len(scale.shape) != 2 or 0 in (*words.shape, *scale.shape):
            raise InputError(f"{where}: weight {words.name} has shape {words.shape}, expected a matrix")
        shape = scale.shape[1], words.shape[0] * (32 // bits if axis == 0 else 1)
        listed = f"{name}.g_idx"
        groups = _groups(left.pop(listed, None), shape[1], group, where, needed=listed if ordered else None)
        return Grouped(
            f"{name}.weight", shape, (words, zeros, scale), where, bits=bits, groups=groups, axis=axis,
            order=order, middle=less,
        )  # fmt: skip

    return made


def _mxfp4(f: Fields) -> Scheme:
    def made(name: str, left: Weights, where: str) -> Tensor:
        blocks, scales = part(f"{name}_blocks", left, where), part(f"{name}_scales", left, where)
        return Mxfp4(name, blocks, scales, where)

    return Scheme("mxfp4", "_blocks", made)


_METHODS: Mapping[str, Callable[[Fields], Scheme]] = {
    "awq": _awq,
    "bitsandbytes": bitsandbytes,
    "compressed-tensors": _compressed,
    "fbgemm_fp8": _fbgemm,
    "fp8": _fp8,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
}
METHODS = tuple(sorted(_METHODS))
"""Values of ``quant_method`` that are read."""
