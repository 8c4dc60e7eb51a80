"""Weights as a file stores them, in blocks of integers with scales: stacked narrow, without rounding them anew.

A stack has one form. Where layers have several it is one that holds them all: the smallest group, a byte where one of
them needs it, and offsets where one of them has them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.convert.layouts import Layout, file_sizes
from jstrace.models import InputError, ModelConfig
from jstrace.models.declared import Weight, axis_sizes
from jstrace.models.narrow import STORED, Narrow, in_range, narrow_place


class Form(NamedTuple):
    """What the groups of a weight are."""

    size: int
    """Inputs that share a scale."""
    packed: bool
    """Whether the integers are from -8 to 7."""
    offset: bool
    """Whether something is added to integers times scale."""

    def and_(self, other: Form) -> Form:
        """The form that holds both."""
        return Form(math.gcd(self.size, other.size), self.packed and other.packed, self.offset or other.offset)


class Blocks(NamedTuple):
    """Numbers as ``values * scale + least``."""

    values: np.ndarray
    """int8 ``[*rows, groups, size]``"""
    scale: np.ndarray
    """float32 ``[*rows, groups, 1]``"""
    least: np.ndarray | None
    """float32, the same"""

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> Blocks:
        """A function of each array that there is."""
        return Blocks(*(None if array is None else function(array) for array in self))  # type: ignore[arg-type]

    def reshaped(self, *lead: int) -> Blocks:
        """With other axes before the groups and those within them."""
        return self.each(lambda array: array.reshape(*lead, *array.shape[-2:]))


@runtime_checkable
class Blocked(Protocol):
    """A matrix of a file that can be read in blocks."""

    name: str

    def form(self) -> Form | None:
        """Of its blocks; None where it has single numbers.

        Raises:
          InputError: blocks of a kind that has no narrow form.
        """
        ...

    def blocks(self) -> Blocks:
        """All of them."""
        ...


def stored_leaf(
    config: ModelConfig,
    layout: Layout,
    weight: Weight,
    layers: Sequence[int],
    tensors: Mapping[str, Any],
    place: Any,
    dtype: jnp.dtype,
    where: str,
) -> Narrow | None:
    """One parameter, of these layers, as the file has it; None where some layer has single numbers, which stay wide.

    Raises:
      InputError: blocks that have no narrow form, or scales that are damaged or too large for ``dtype``.
    """
    own = [tensors[name] for index in layers for name in layout.names(index, config.n_experts) if layout.given is None]
    forms = [blocked.form() for blocked in own if isinstance(blocked, Blocked)]
    if layout.row_norm is not None or not forms or len(forms) < len(own) or None in forms:
        return None
    if layout.axes[-1].letters != weight.sums:  # blocks of outputs
        return None
    inner = axis_sizes(config)[weight.sums[-1]]
    known = [Form(math.gcd(form.size, inner), form.packed, form.offset) for form in forms if form is not None]
    form = functools.reduce(Form.and_, known)
    form = form._replace(packed=form.packed and form.size % 2 == 0)  # halves of a group share bytes
    stack: Any = None
    for index, tensor in enumerate(own):
        layer = _layer(config, layout, weight, tensor.blocks(), form, dtype, f"{where}: weight {tensor.name}")
        if stack is None:
            blank = jax.tree.map(functools.partial(_of_all, len(own)), layer)
            places = narrow_place(place, blank)
            stack = jax.tree.map(lambda leaf, place: jnp.zeros(leaf.shape, leaf.dtype, device=place), blank, places)
        part = jax.tree.map(
            lambda leaf, place: jax.make_array_from_callback(leaf.shape, place, leaf.__getitem__), layer, places
        )
        stack = _with_layer(stack, part, index)
        jax.block_until_ready(stack)  # the host's copy goes before the next one comes
    if not bool(in_range(stack)):
        raise InputError(f"{where}: weight {own[0].name} holds numbers beyond the range of {dtype}; use bfloat16")
    return cast(Narrow, stack)


def _of_all(number: int, leaf: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((number * len(leaf), *leaf.shape[1:]), leaf.dtype)


def _layer(
    config: ModelConfig, layout: Layout, weight: Weight, blocks: Blocks, form: Form, dtype: jnp.dtype, where: str
) -> Narrow:
    """A layer's blocks as arrays of numpy in the order of the parameter's axes, the last one summed over as two."""
    sizes, letters = file_sizes(config), layout.letters
    if not all(array is None or np.isfinite(array).all() for array in blocks[1:]):
        raise InputError(f"{where} has a scale that is not finite; the file is damaged")
    everything = {letter: range(sizes[letter]) for letter in letters}
    for number, axis in enumerate(layout.axes[:-1]):
        along = axis.places(sizes, everything)
        if len(along) < blocks.scale.shape[number] or np.any(np.diff(along) < 0):
            blocks = blocks.each(functools.partial(np.take, indices=along, axis=number))
    order = [letters.index(axis) for axis in weight.axes if axis != "L"]
    at, lead = order.index(len(letters) - 1), [sizes[letter] for letter in letters[:-1]]
    order.insert(at + 1, len(letters))
    groups = _order_of_groups(config, layout, form)
    blocks = _in_groups(blocks, form).each(functools.partial(np.take, indices=groups, axis=-2))
    grouped = blocks.each(lambda array: array.reshape(*lead, -1, array.shape[-1]).transpose(order))
    values, factor = grouped.values, np.float32(layout.scale)
    if form.packed:
        first, second = np.split((values + 8).astype(np.uint8), 2, axis=at + 1)
        values = first | second << 4
    scale: Any = grouped.scale * factor
    least: Any = None if grouped.least is None else grouped.least * factor
    layer = Narrow(cast(Any, values), scale, least, dtype, STORED, at - len(letters))
    return cast(Narrow, jax.tree.map(lambda array: array[None], layer) if weight.axes[0] == "L" else layer)


def _order_of_groups(config: ModelConfig, layout: Layout, form: Form) -> np.ndarray:
    """The place of each group of inputs: files may have heads in another order, and every group is of one head."""
    sizes, axis = file_sizes(config), layout.axes[-1]
    places = axis.places(sizes, {letter: range(sizes[letter]) for letter in axis.letters}).reshape(-1, form.size)
    assert (np.diff(places, axis=1) == 1).all()
    return places[:, 0] // form.size


def _in_groups(blocks: Blocks, form: Form) -> Blocks:
    """In groups that may be smaller, and with offsets if another layer has them."""
    times, lead = blocks.values.shape[-1] // form.size, blocks.values.shape[:-2]
    scale, least = (None if array is None else np.repeat(array, times, axis=-2) for array in blocks[1:])
    assert scale is not None
    least = np.zeros_like(scale) if least is None and form.offset else least
    return Blocks(blocks.values.reshape(*lead, -1, form.size), scale, least)


@functools.partial(jax.jit, donate_argnums=0)
def _with_layer(stack: Narrow, part: Narrow, index: int) -> Narrow:
    return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, index, 0), stack, part)
