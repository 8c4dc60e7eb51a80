"""Weights that bitsandbytes quantised, as transformers saves them: int8 with a scale for each row, and four bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.convert.hf.packed import Codebook, check_floats, check_shape, whole
from jstrace.convert.hf.schemes import MOST_SHAPE, Group, Scheme, Weights, part, scaled
from jstrace.convert.weights import Tensor
from jstrace.models import InputError


def bitsandbytes(f: Fields) -> Scheme:
    """The scheme of a config, by its flags."""
    if f.flag("load_in_8bit", False) or f.flag("_load_in_8bit", False):
        made = scaled(".SCB", None, ("I8",), 1 / 127)
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
    packed, stored = part(f"{name}.weight", left, where), part(f"{name}.weight.absmax", left, where)
    states = [key for key in left if key.startswith(f"{name}.weight.quant_state.bitsandbytes__")]
    if len(states) != 1:
        raise InputError(f"{where}: weight {packed.name} has {len(states)} quant_states, expected one")
    state = _state(left.pop(states[0]), where)
    shape, block = state.take("shape"), state.integer("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < MOST_SHAPE for n in shape):
        raise InputError(f"{state.where}: shape = {str(shape)[:80]}, expected that of a matrix")
    check_shape(stored, (-(-math.prod(shape) // block),), where)
    nested = state.integer("nested_blocksize", None)
    if nested is None:
        check_floats(stored, where)

    def scales(blocks: slice) -> np.ndarray:
        return stored.read((blocks,)).astype(np.float32)

    given = scales if nested is None else _nested(name, stored, nested, left, state, where)
    table = whole(part(f"{name}.weight.quant_map", left, where)).astype(np.float32)
    return Codebook(packed, (shape[0], shape[1]), table, given, block, where)


def _nested(
    name: str, stored: Tensor, block: int, left: Weights, state: Fields, where: str
) -> Callable[[slice], np.ndarray]:
    """Scales that are quantised themselves: places in a table, times a scale for each block of them, and an offset."""
    again, values = (part(f"{name}.weight.nested_{kind}", left, where) for kind in ("absmax", "quant_map"))
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
        state = json.loads(whole(tensor).tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: weight {tensor.name} is not readable as JSON ({str(error)[:80]})") from error
    if not isinstance(state, dict):
        raise InputError(f"{where}: weight {tensor.name} is no JSON object")
    return Fields(state, f"{where}: {tensor.name}")
