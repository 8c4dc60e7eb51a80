"""What an optimised HLO program does, counted from its text: operations that TPUs are bad at, FLOPs and collectives.

XLA's own ``cost_analysis`` counts the body of a loop once, whatever its number of turns; here turns are multiplied
wherever the program says them. Needs no device, and no compiler.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2}
_OPCODE = re.compile(r"([\w-]+)\(")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = ")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "collective-broadcast",
)
COUNTED = {"scatters": "scatter", "sorts": "sort", "conditionals": "conditional", "loops": "while"}
"""What is counted, and the HLO operation that it is."""


_RUNNING = {
    "while": ("body", "condition"),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
    "fusion": ("calls",),
    "call": ("to_apply",),
    "async-start": ("calls",),
}
"""Operations that run other computations, and the attributes that name those."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a result."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def n_bytes(self) -> float:
        """Without the padding of a layout."""
        digits = re.search(r"\d+", self.dtype)
        each = _BYTES.get(self.dtype, int(digits[0]) / 8 if digits else 0)
        return each * math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    shapes: tuple[Shape, ...]
    """Of the result, one for each part of a tuple."""
    opcode: str
    operands: tuple[str, ...]
    inside: str
    """What stands between the parentheses: a constant's value."""
    rest: str
    """Attributes, from the closing parenthesis on."""

    def called(self, attribute: str) -> tuple[str, ...]:
        """Computations that an attribute names."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.-]+)", self.rest)
        return tuple(re.findall(r"[\w.-]+", found[1])) if found else ()


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a module by name."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def walk(self) -> Iterator[tuple[Instruction, str, float, int]]:
        """Every instruction with its computation, how often it runs and how many loops are around it.

        Loops of an unknown number of turns count as one turn, and so does every branch of a conditional.
        """
        yield from self._walk(self.entry, 1.0, 0)

    def _walk(self, name: str, times: float, depth: int) -> Iterator[tuple[Instruction, str, float, int]]:
        for one in self.computations.get(name, ()):
            yield one, name, times, depth
            is_loop = one.opcode == "while"
            turns = (self.turns(one) or 1) if is_loop else 1
            for inner in self.inner(one):
                yield from self._walk(inner, times * turns, depth + is_loop)

    def inner(self, one: Instruction) -> tuple[str, ...]:
        """The computations that an instruction runs, but for those on single numbers, such as a sum's."""
        if one.opcode not in _RUNNING:
            return ()
        return tuple(itertools.chain(*(one.called(each) for each in _RUNNING[one.opcode])))

    def turns(self, loop: Instruction) -> int | None:
        """How often a loop runs, if it counts from zero to a constant; else None."""
        known = re.search(r"known_trip_count[^\d]*(\d+)", loop.rest)
        if known:
            return int(known[1])
        condition = self.computations.get(loop.called("condition")[0], ())
        named = {one.name: one for one in condition}
        limits: list[int] = []
        for one in condition:
            last = named.get(one.operands[-1]) if one.opcode == "compare" and one.operands else None
            if last is not None and last.opcode == "constant" and "direction=LT" in one.rest:
                limits += _numbers(last.inside)  # a batch of loops counts in an array, such as {30}
        others = [
            one for one in condition if one.opcode not in ("compare", "constant", "parameter", "get-tuple-element")
        ]
        return limits[0] if len(limits) == 1 and not others else None


def parsed(text: str) -> Program:
    """A module from its text, as ``Compiled.as_text`` gives it."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    lines: list[Instruction] = []
    name, entry = "", ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = tuple(lines)
        else:
            start = _LINE.match(line)
            found = _instruction(start[1], line[start.end() :]) if start else None
            if found is not None:
                lines.append(found)
    return Program(computations, entry)


def _instruction(name: str, line: str) -> Instruction | None:
    end = _closing(line, 0) + 1 if line.startswith("(") else line.find(" ")
    opcode = _OPCODE.match(line[end:].lstrip()) if end > 0 else None
    if opcode is None:
        return None
    shapes = tuple(Shape(kind, _numbers(dims)) for kind, dims in _SHAPE.findall(line[:end]))
    opens = line.index("(", end)
    closes = _closing(line, opens)
    inside = line[opens + 1 : closes]
    return Instruction(
        name, shapes, opcode[1], tuple(re.findall(r"%([\w.-]+)", inside)), inside, line[closes + 1 :]
    )  # fmt: skip


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at ``start`` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"-?\d+", text))


# --- what is counted --------------------------------------------------------------------------------------------------


def counts(program: Program) -> dict[str, int]:
    """Instructions of the kinds in ``COUNTED``; ``sorts_in_loops`` and ``scatters_in_loops`` lie inside a loop.

    A loop that counts no turns that the text tells is one of ``loops_of_unknown_turns``.
    """
    found = dict.fromkeys([*COUNTED, "scatters_in_loops", "sorts_in_loops", "loops_of_unknown_turns"], 0)
    seen: set[tuple[str, str]] = set()
    for one, where, _, depth in program.walk():
        kind = next((kind for kind, opcode in COUNTED.items() if opcode == one.opcode), None)
        if kind is None or (where, one.name) in seen:
            continue
        seen.add((where, one.name))
        found[kind] += 1
        if depth and f"{kind}_in_loops" in found:
            found[f"{kind}_in_loops"] += 1
        if kind == "loops" and program.turns(one) is None:
            found["loops_of_unknown_turns"] += 1
    return found


def flops(program: Program) -> float:
    """Of matrix products and convolutions, a multiplication with its addition being two; of a conditional's branches
    the one with the most counts.
    """
    return _flops(program, program.entry)


def _flops(program: Program, name: str) -> float:
    lines = program.computations.get(name, ())
    named, total = {one.name: one for one in lines}, 0.0
    for one in lines:
        if one.opcode in ("dot", "convolution"):
            total += _product(one, named)
        elif one.opcode == "conditional":
            total += max((_flops(program, inner) for inner in program.inner(one)), default=0.0)
        else:
            turns = (program.turns(one) or 1) if one.opcode == "while" else 1
            total += turns * sum(_flops(program, inner) for inner in program.inner(one))
    return total


def _product(one: Instruction, named: Mapping[str, Instruction]) -> float:
    left, right = (named[operand].shapes[0].dims for operand in one.operands[:2])
    if one.opcode == "dot":
        contracted = _attribute(one.rest, "lhs_contracting_dims")
        return 2.0 * math.prod(one.shapes[0].dims) * math.prod(left[axis] for axis in contracted)
    return _convolution(one, left, right)


def _attribute(rest: str, name: str) -> tuple[int, ...]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", rest)
    return _numbers(found[1]) if found else ()


def _convolution(one: Instruction, left: Sequence[int], right: Sequence[int]) -> float:
    """TPUs write every product as a convolution, with batches as spatial axes of which most places are padding."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    assert labels is not None, one.rest
    of_left, of_right, of_out = labels.groups()
    out = dict(zip(of_out, one.shapes[0].dims, strict=True))
    total = 2.0 * out["b"] * out["f"] * dict(zip(of_right, right, strict=True))["i"]
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    for index, label in enumerate(sorted(label for label in of_left if label.isdigit())):
        sizes = dict(zip(of_left, left, strict=True))[label], out[label]
        total *= _places(*sizes, {name: value.split("x")[index] for name, value in options.items()})
    groups = re.search(r"batch_group_count=(\d+)", one.rest)
    return total / (int(groups[1]) if groups else 1)


def _places(n_in: int, n_out: int, window: Mapping[str, str]) -> int:
    """Pairs of an output and a kernel place, along one axis, that meet an input rather than padding or a hole."""
    size, stride, hole, apart = (int(window.get(name, "1")) for name in ("size", "stride", "lhs_dilate", "rhs_dilate"))
    before = int(window.get("pad", "0_0").split("_")[0])
    spots = (out * stride + kernel * apart - before for out in range(n_out) for kernel in range(size))
    return sum(1 for spot in spots if spot % hole == 0 and 0 <= spot // hole < n_in)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind along the same axes of a mesh."""

    kind: str
    axes: str
    """Such as ``model``, or ``data+model``."""
    number: int
    """Of instructions."""
    n_bytes: float
    """Of their results on one device in a run."""


def collectives(program: Program, mesh: Mapping[str, int]) -> tuple[Collective, ...]:
    """What crosses which axes of a mesh, whose devices are numbered row-major over its axes."""
    found: dict[tuple[str, str], tuple[set[tuple[str, str]], float]] = {}
    for one, where, times, _ in program.walk():
        kind = next((kind for kind in _COLLECTIVES if one.opcode in (kind, f"{kind}-start")), None)
        if kind is None:
            continue
        shapes = one.shapes[1:2] if one.opcode.endswith("-start") and kind in _PAIRED else one.shapes
        key = kind, "+".join(axis for axis in mesh if axis in _crossed(one.rest, mesh)) or "none"
        number, n_bytes = found.get(key, (set(), 0.0))
        found[key] = number | {(where, one.name)}, n_bytes + times * sum(shape.n_bytes for shape in shapes)
    return tuple(Collective(*key, len(number), n_bytes) for key, (number, n_bytes) in sorted(found.items()))


_PAIRED = ("all-gather", "collective-permute", "reduce-scatter")
"""Whose start gives operand and result."""


def _crossed(rest: str, mesh: Mapping[str, int]) -> set[str]:
    """The axes along which the devices of a group differ."""
    sizes = list(mesh.values())

    def place(device: int) -> tuple[int, ...]:
        left = []
        for size in reversed(sizes):
            device, at = divmod(device, size)
            left.append(at)
        return tuple(reversed(left))

    crossed: set[str] = set()
    for group in _groups(rest, math.prod(sizes)):
        places = [place(device) for device in group]
        crossed |= {axis for index, axis in enumerate(mesh) if len({at[index] for at in places}) > 1}
    return crossed


def _groups(rest: str, n_devices: int) -> list[tuple[int, ...]]:
    """Groups of devices, in the ways in which XLA writes them."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)+)\}", rest)
    if listed:
        return [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1])]
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if tiled:
        shape, order = _numbers(tiled[1]), _transposed(_numbers(tiled[2]), _numbers(tiled[3] or ""))
        width = math.prod(shape[1:])
        return [tuple(order[start : start + width]) for start in range(0, len(order), width)]
    named = re.search(r"replica_groups=mesh\['?\w+'?=", rest)
    if named:
        return _over_named(rest, n_devices)
    return [tuple(range(n_devices))]  # no groups: all of them


def _transposed(dims: Sequence[int], axes: Sequence[int]) -> list[int]:
    """``arange(prod(dims)).reshape(dims).transpose(axes).ravel()``."""
    axes = axes or tuple(range(len(dims)))
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
    ranges = [range(0, dims[axis] * strides[axis], strides[axis]) for axis in axes]
    return [sum(place) for place in itertools.product(*ranges)]


def _over_named(rest: str, n_devices: int) -> list[tuple[int, ...]]:
    """Such as ``mesh['a'=4,'b'=2] {'b'}``: groups along the axes in braces, devices in order."""
    found = re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", rest)
    if not found:
        return [tuple(range(n_devices))]
    axes = {name: int(size) for name, size in re.findall(r"'([\w.]+)'=(\d+)", found[1])}
    along = set(re.findall(r"'([\w.]+)'", found[3]))
    groups: dict[tuple[int, ...], list[int]] = {}
    for device, place in enumerate(itertools.product(*(range(size) for size in axes.values()))):
        key = tuple(at for name, at in zip(axes, place, strict=True) if name not in along)
        groups.setdefault(key, []).append(device)
    return [tuple(group) for group in groups.values()]
