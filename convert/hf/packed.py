"""Quantised matrices of safetensors files as matrices of float32: only what is asked for is dequantised.

Each class is one formula. ``tensors`` are matrices as the file has them; a result has the shape that the unquantised
matrix would have, ``(out, in)`` for those of linear layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from jstrace.convert.weights import FLOATS, Tensor
from jstrace.models import InputError

FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Values of OCP's four-bit floats (E2M1) by their bits."""
_MX_BLOCK, _MX_BIAS = 32, 127


def whole(tensor: Tensor) -> np.ndarray:
    """All of a tensor."""
    return tensor.read(tuple(slice(0, length) for length in tensor.shape))


def check_shape(tensor: Tensor, expected: tuple[int, ...], where: str) -> None:
    """Refuse a tensor of another shape.

    Raises:
      InputError: with both shapes.
    """
    if tensor.shape != expected:
        raise InputError(f"{where}: weight {tensor.name} has shape {tensor.shape}, expected {expected}")


def check_floats(tensor: Tensor, where: str) -> None:
    """Refuse scales that are no floats.

    Raises:
      InputError: with the dtype.
    """
    if tensor.dtype not in FLOATS:
        raise InputError(f"{where}: weight {tensor.name} has dtype {tensor.dtype}, expected float16 or float32")


class Matrix:
    """What all of them share: name, shape and dtype."""

    dtype = "float32"

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class Scaled(Matrix):
    """Numbers times a scale for each block of rows and columns: of fp8, and of int8 with a scale for each row."""

    def __init__(
        self, weight: Tensor, scale: Tensor, block: tuple[int, int] | None, where: str, factor: float = 1.0
    ) -> None:
        """``block`` is rows and columns that share a scale; None for all of them or a row, as ``scale`` tells."""
        super().__init__(weight.name, weight.shape)
        if len(weight.shape) != 2:
            raise InputError(f"{where}: weight {weight.name} has shape {weight.shape}, expected a matrix")
        rows, columns = weight.shape
        if block is None:
            each = math.prod(scale.shape) == rows > 1
            block = (1 if each else rows, columns)
            expected = [(rows,), (rows, 1)] if each else [(), (1,), (1, 1)]
        else:
            expected = [(-(-rows // block[0]), -(-columns // block[1]))]
        if scale.shape not in expected:
            shapes = " or ".join(map(str, expected))
            raise InputError(f"{where}: weight {scale.name} has shape {scale.shape}, expected {shapes}")
        self._weight, self._scale, self._block, self._factor = weight, scale, block, np.float32(factor)

    @functools.cached_property
    def _scales(self) -> np.ndarray:
        rows = -(-self.shape[0] // self._block[0])
        return whole(self._scale).astype(np.float32).reshape(rows, -1) * self._factor

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        rows, columns = (np.arange(part.start, part.stop) for part in ranges)
        scales = self._scales[np.ix_(rows // self._block[0], columns // self._block[1])]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            return self._weight.read(ranges).astype(np.float32) * scales


def unpacked(packed: np.ndarray, bits: int, axis: int, order: Sequence[int] | None = None) -> np.ndarray:
    """Whole numbers of so many bits that lie in words of 32, the first in the lowest bits, one after another.

    ``order`` says at which place of a word its numbers lie, where that is not the order of the numbers.
    """
    places = np.arange(32 // bits) if order is None else np.asarray(order)
    words = np.expand_dims(packed.view(np.uint32), axis + 1)
    shifts = (bits * places).astype(np.uint32).reshape(-1, *[1] * (packed.ndim - axis - 1))
    numbers = (words >> shifts) & np.uint32(2**bits - 1)
    shape = list(packed.shape)
    shape[axis] *= len(places)
    return numbers.astype(np.int32).reshape(shape)


class Grouped(Matrix):
    """(q - zero) times scale, for each row and each group of columns, of numbers of 2, 4 or 8 bits: of GPTQ and AWQ."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        parts: tuple[Tensor, Tensor | None, Tensor],
        where: str,
        *,
        bits: int,
        groups: np.ndarray,
        axis: int = 0,
        order: Sequence[int] | None = None,
        turned: bool = True,
        middle: int = 0,
    ) -> None:
        """How the numbers lie.

        Args:
          name, shape: of the matrix, ``(out, in)``.
          parts: the words of numbers, those of zeros if there are any, and the scales.
          where: names the folder in errors.
          bits: of each number.
          groups: the group of every column.
          axis: along which the numbers are packed; zeros are along the rows of the matrix.
          order: as of ``unpacked``.
          turned: whether the file's axes are ``(in, out)`` and ``(group, out)``.
          middle: added to the zeros, or the zero where there are none.
        """
        super().__init__(name, shape)
        self._words, self._zero_words, self._scale = parts
        self._where = where
        self._bits, self._axis, self._order, self._turned, self._middle = bits, axis, order, turned, middle
        self._groups, self._rows_axis, per_word = groups, int(turned), 32 // bits
        self._n_groups = int(groups.max(initial=-1)) + 1
        if groups.shape != (shape[1],) or groups.min(initial=0) < 0:
            raise InputError(f"{where}: weight {name} has groups of {groups.shape} columns, expected {shape[1]}")

        def stored(columns: int, packed_axis: int | None) -> tuple[int, ...]:
            sizes = [columns, shape[0]] if turned else [shape[0], columns]
            if packed_axis is not None:
                sizes[packed_axis] = -(-sizes[packed_axis] // per_word)
            return tuple(sizes)

        check_shape(self._words, stored(shape[1], axis), where)
        check_shape(self._scale, stored(self._n_groups, None), where)
        check_floats(self._scale, where)
        if self._zero_words is not None:
            check_shape(self._zero_words, stored(self._n_groups, self._rows_axis), where)
        for part in (self._words, self._zero_words):
            if part is not None and part.dtype not in ("I32", "U32"):
                raise InputError(f"{where}: weight {part.name} has dtype {part.dtype}, expected I32")

    def _numbers(self, words: Tensor, ranges: Sequence[slice], axis: int) -> np.ndarray:
        """Numbers within ranges of the file's axes, of words along ``axis``."""
        per_word, inside = 32 // self._bits, ranges[axis]
        first, asked, cut = inside.start // per_word, list(ranges), [slice(None)] * 2
        asked[axis] = slice(first, -(-inside.stop // per_word))
        cut[axis] = slice(inside.start - first * per_word, inside.stop - first * per_word)
        return unpacked(words.read(tuple(asked)), self._bits, axis, self._order)[tuple(cut)]

    def _in_file(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        return (columns, rows) if self._turned else (rows, columns)

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        rows, columns = ranges
        of_groups = self._in_file(rows, slice(0, self._n_groups))
        numbers, scale = (
            self._numbers(self._words, self._in_file(rows, columns), self._axis),
            self._scale.read(of_groups),
        )
        zero = np.full(scale.shape, self._middle, np.float32)
        if self._zero_words is not None:
            zero += self._numbers(self._zero_words, of_groups, self._rows_axis)
            if zero.max(initial=0) >= 2**self._bits:  # one less than 0, which some programs read as 0, others not
                raise InputError(
                    f"{self._where}: weight {self._zero_words.name} holds {2**self._bits - 1}, of which programs make 0"
                    f" or {2**self._bits} in GPTQ's first format; take a checkpoint of format gptq_v2"
                )
        if self._turned:
            numbers, scale, zero = numbers.T, scale.T, zero.T
        place = self._groups[columns]
        with np.errstate(over="ignore", invalid="ignore"):
            return (numbers.astype(np.float32) - zero[:, place]) * scale.astype(np.float32)[:, place]


class Mxfp4(Matrix):
    """Blocks of 32 four-bit floats, low bits first, and a power of two for each: of GPT-OSS's experts.

    The last two axes change places, as transformers' modules have them: of blocks ``[E, out, in / 32, 16]`` the result
    is ``[E, in, out]``.
    """

    def __init__(self, name: str, blocks: Tensor, scales: Tensor, where: str) -> None:
        if len(blocks.shape) != 4 or blocks.shape[3] != _MX_BLOCK // 2:
            raise InputError(
                f"{where}: weight {blocks.name} has shape {blocks.shape}, expected (experts, out, in / 32, 16)"
            )
        check_shape(scales, blocks.shape[:3], where)
        for part in (blocks, scales):
            if part.dtype != "U8":
                raise InputError(f"{where}: weight {part.name} has dtype {part.dtype}, expected U8")
        experts, out, groups, _ = blocks.shape
        super().__init__(name, (experts, groups * _MX_BLOCK, out))
        self._blocks, self._scales = blocks, scales

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        experts, inside, out = ranges
        first, last = inside.start // _MX_BLOCK, -(-inside.stop // _MX_BLOCK)
        packed = self._blocks.read((experts, out, slice(first, last), slice(0, _MX_BLOCK // 2)))
        powers = self._scales.read((experts, out, slice(first, last))).astype(np.int32) - _MX_BIAS
        numbers = np.stack([FP4[packed & 15], FP4[packed >> 4]], -1).reshape(*packed.shape[:3], _MX_BLOCK)
        with np.errstate(over="ignore"):
            value = np.ldexp(numbers, powers[..., None]).reshape(*packed.shape[:2], -1).astype(np.float32)
        cut = value[:, :, inside.start - first * _MX_BLOCK : inside.stop - first * _MX_BLOCK]
        return cut.swapaxes(1, 2)


class Codebook(Matrix):
    """Four-bit places in a table of values, high bits first, times a scale for each block: of bitsandbytes."""

    def __init__(
        self,
        packed: Tensor,
        shape: tuple[int, int],
        table: np.ndarray,
        scales: Callable[[slice], np.ndarray],
        block: int,
        where: str,
    ) -> None:
        """``scales`` gives those of a range of blocks, of which each has ``block`` numbers."""
        super().__init__(packed.name, shape)
        check_shape(packed, (-(-math.prod(shape) // 2), 1), where)
        if packed.dtype != "U8" or table.shape != (16,):
            raise InputError(
                f"{where}: weight {packed.name} has dtype {packed.dtype} and {table.size} values, expected U8 and 16"
            )
        self._packed, self._table, self._scales, self._block = packed, table, scales, block

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``."""
        width = self.shape[1]
        start, stop = ranges[0].start * width, ranges[0].stop * width
        packed = self._packed.read((slice(start // 2, -(-stop // 2)), slice(0, 1))).ravel()
        places = np.stack([packed >> 4, packed & 15], -1).ravel()[start % 2 :][: stop - start]
        first = start // self._block
        scales = self._scales(slice(first, -(-stop // self._block)))[np.arange(start, stop) // self._block - first]
        with np.errstate(over="ignore", invalid="ignore"):
            return (self._table[places] * scales).reshape(-1, width)[:, ranges[1]]
