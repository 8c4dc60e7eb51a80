"""Where each weight of a decoder stands in a family's files: names, axes, and which part of a fused matrix it is.

Letters are those of ``models.edges``. A file's axis is a run of letters flattened together, such as ``Hd`` for heads
times head dimension, or several such parts side by side, of which one is meant. The digit 3 is NeoX's interleaving of
queries, keys and values within each head, the digit 2 gpt-oss's of gate and up, and 1 an axis of one number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Container, Mapping

import numpy as np

from jstrace.models import ModelConfig
from jstrace.models.declared import axis_sizes

_PICKED = "123"


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a matrix in a file."""

    parts: tuple[str, ...]
    chosen: int = 0
    """Which of the parts is meant."""
    pick: int = 0
    """Which index of the axis ``3`` or ``2``, where a part has it."""

    @property
    def letters(self) -> str:
        """Of the part that is meant."""
        return self.parts[self.chosen].translate({ord(digit): None for digit in _PICKED})

    def length(self, sizes: Mapping[str, int]) -> int:
        """Of the whole axis."""
        return sum(math.prod(sizes[letter] for letter in part) for part in self.parts)

    def places(self, sizes: Mapping[str, int], wanted: Mapping[str, range]) -> np.ndarray:
        """Indices along the axis of the wanted ranges of its letters, in the order of the letters."""
        before = sum(math.prod(sizes[letter] for letter in part) for part in self.parts[: self.chosen])
        places = np.zeros(1, np.int64)
        for letter in self.parts[self.chosen]:
            chosen = range(self.pick, self.pick + 1) if letter in _PICKED else wanted[letter]
            places = (places[:, None] * sizes[letter] + np.asarray(chosen)).ravel()
        return before + places


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """One axis of a matrix in a file, with the place of every index: heads in groups, rotary pairs side by side."""

    letters: str
    made: Callable[[], np.ndarray]
    """Makes the places, with an axis for each letter, once the file's shape is known to be the config's."""
    size: int
    """Length of the whole axis."""

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The places."""
        return self.made()

    def length(self, sizes: Mapping[str, int]) -> int:
        """Of the whole axis."""
        return self.size

    def places(self, sizes: Mapping[str, int], wanted: Mapping[str, range]) -> np.ndarray:
        """As ``Axis.places``."""
        return self.table[np.ix_(*(np.asarray(wanted[letter]) for letter in self.letters))].ravel()


@dataclasses.dataclass(frozen=True)
class RowNorm:
    """A LayerNorm over each row of a matrix, applied while it is read."""

    weight: str
    shift: str
    eps: float


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A weight's name in the files, ``{}`` standing for the layer, and the axes that it has there.

    With ``{x}`` in the name every expert has a matrix of its own.
    """

    name: str
    axes: tuple[Axis | Listed, ...]
    scale: float = 1.0
    """Factor on what the file has."""
    plus: float = 0.0
    """Added to what the file has, after the factor."""
    minus_exp: bool = False
    """Whether what the file has is minus the exponential of the weight."""
    given: Callable[[], np.ndarray] | float | None = None
    """What the weight is, where the file has none: makes an array of its shape, or is one number for all of it."""
    row_norm: RowNorm | None = None

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the part that is meant, in the file's order; first X where experts are apart."""
        own = tuple(letter for axis in self.axes for letter in axis.letters)
        return ("X", *own) if self.apart else own

    @property
    def apart(self) -> bool:
        """Whether every expert has a matrix of its own."""
        return "{x}" in self.name

    @property
    def is_plain(self) -> bool:
        """Whether its numbers are those of the file."""
        return self.row_norm is None and not self.minus_exp and (self.scale, self.plus) == (1, 0)

    def names(self, layer: int, n_experts: int) -> list[str]:
        """Its matrices in a layer: one, or one for each expert."""
        return [self.name.format(layer, x=expert) for expert in range(n_experts if self.apart else 1)]

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Of the whole matrix in the file."""
        return tuple(axis.length(file_sizes(config)) for axis in self.axes)


def layout_of(layouts: Mapping[str, Layout], name: str) -> Layout:
    """Of a weight, by a name such as ``layers.up``; where layers are unlike, ``1.up`` is that of one form alone."""
    own = name.removeprefix("layers.")
    return layouts[own] if own in layouts else layouts[own.split(".")[-1]]


def of_form(number: int, layouts: Mapping[str, Layout]) -> dict[str, Layout]:
    """Layouts of one form of layers alone."""
    return {f"{number}.{name}": layout for name, layout in layouts.items()}


def as_stored(layouts: Mapping[str, Layout], names: Container[str], n_layers: int) -> dict[str, Layout]:
    """Layouts of experts that are apart as of one matrix for all, gate and up side by side, where files have that."""

    def joint(name: str, layout: Layout) -> Layout:
        folder, apart, _ = layout.name.partition("{x}.")
        place = ("gate", "up", "down").index(name.split(".")[-1]) if apart else 2
        whole = folder + ("down_proj" if place == 2 else "gate_up_proj")
        if not apart or all(whole.format(layer) not in names for layer in range(n_layers)):
            return layout
        return at(whole, "X", "D", "F") if place == 2 else at(whole, "X", Axis(("F", "F"), place), "D")

    return {name: joint(name, layout) for name, layout in layouts.items()}


def file_sizes(config: ModelConfig) -> dict[str, int]:
    """Length of every letter and of the digits."""
    return axis_sizes(config) | {digit: int(digit) for digit in _PICKED}


def at(name: str, *axes: str | Axis | Listed) -> Layout:
    """A matrix of these axes."""
    return Layout(name, tuple(Axis((axis,)) if isinstance(axis, str) else axis for axis in axes))


def norms(names: Mapping[str, str], *, shift: bool = False) -> dict[str, Layout]:
    """Norms by our names, with their shifts if asked for."""
    scales = {ours: at(f"{theirs}.weight", "D") for ours, theirs in names.items()}
    return scales | ({f"{ours}_shift": at(f"{theirs}.bias", "D") for ours, theirs in names.items()} if shift else {})


def linear(ours: str, theirs: str, out: str | Axis | Listed, into: str) -> dict[str, Layout]:
    """A matrix (out, in) and its bias."""
    return {ours: at(f"{theirs}.weight", out, into), f"{ours}_bias": at(f"{theirs}.bias", out)}
