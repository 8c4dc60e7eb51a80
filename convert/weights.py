"""A checkpoint's matrices to stacked device arrays: each used once, each shape checked, one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.convert.layouts import Layout, as_stored, file_sizes, layout_of
from jstrace.convert.stacks import by_rows, stacked
from jstrace.convert.stored import stored_leaf
from jstrace.convert.streaming import streamed_leaf
from jstrace.models import InputError, ModelConfig
from jstrace.models.declared import Weight
from jstrace.models.narrow import STORED, Narrow, in_range
from jstrace.models.params import map_weights, narrow_places, on_one_device, place_of, shapes
from jstrace.models.streamed import Streamed

FLOATS = ("float32", "bfloat16", "float16", "float64")


@runtime_checkable
class Tensor(Protocol):
    """One matrix of a file, read in part."""

    @property
    def name(self) -> str:
        """As the file spells it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the file."""
        ...

    @property
    def dtype(self) -> str:
        """The name of its type."""
        ...

    def read(self, ranges: tuple[slice, ...]) -> np.ndarray:
        """The part within ``ranges``, one for each axis."""
        ...


def build_params(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    layouts: Mapping[str, Layout],
    *,
    dtype: jnp.dtype,
    shardings: Any = None,
    narrow: str = "",
    where: str,
) -> dict[str, Any]:
    """Stacked parameters of ``config``.

    Args:
      config: the model's config.
      tensors: the matrices of the file by their names there.
      layouts: where each weight stands.
      dtype: of the parameters.
      shardings: a tree like ``models.params.declare``'s of where each parameter goes, or None for the default device.
      narrow: how matrices are stored, if not in the dtype; ``Narrow`` are made of float32 numbers whatever that is.
      where: the file or folder, for errors.

    Raises:
      InputError: a weight is missing, left over, of the wrong shape or type, or not finite.
    """
    tensors, layouts = _with_embedding(config, tensors, layouts), as_stored(layouts, tensors, config.n_layers)
    wanted = _wanted(config, layouts)
    _check_shapes(wanted, tensors, where)
    _check_left_over(config, set(tensors) - set(wanted), tensors, layouts, where)
    places = on_one_device(config) if shardings is None else shardings
    rounded = "" if narrow == STORED else narrow
    own = narrow_places(config, places, dtype, rounded) if rounded else places

    def leaf(name: str, weight: Weight, blank: Any, place: jax.sharding.Sharding, own: Any) -> Any:
        layout, read = layout_of(layouts, name), np.float32 if isinstance(blank, Narrow) else blank.dtype
        form, layers = place_of(config, name)
        if narrow == STORED and weight.sums:
            stored = stored_leaf(form, layout, weight, layers, tensors, place, dtype, where)
            if stored is not None:
                return stored

        def part(index: int = 0, read: Any = read, checked: bool = True) -> _Part:
            return _Part(form, layout, layers[index], tensors, read, where, checked=checked)

        if isinstance(blank, Streamed):
            assert layout.given is None, "matrices of layers are in the file"
            own = [[tensors[each] for each in layout.names(layer, form.n_experts)] for layer in layers]
            return streamed_leaf(part, layout.letters, weight, blank, own, place, exact=layout.is_plain)
        if len(blank.shape) == 1 and weight.axes[0] != "L":
            return jax.make_array_from_callback(blank.shape, place, part())
        stack = jax.tree.map(lambda kind, place: jnp.zeros(kind.shape, kind.dtype, device=place), blank, own)
        if weight.axes[0] == "L":
            stack = stacked(part, layout.letters, weight, stack, place)
        else:
            stack = by_rows(part(), stack, place)
        if isinstance(stack, Narrow) and not bool(in_range(stack)):
            raise InputError(
                f"{where}: weight {name} holds numbers beyond the range of {dtype}; use bfloat16 or float32"
            )
        return stack

    return map_weights(leaf, config, shapes(config, dtype, narrow=rounded), places, own, named=True)


class _Part:
    """Reads what a device holds of one weight; replicas are read once."""

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        index: int,
        tensors: Mapping[str, Tensor],
        dtype: Any,
        where: str,
        *,
        checked: bool,
    ) -> None:
        self._checked = checked
        self._sizes, self._layout, self._letters, self._dtype = file_sizes(config), layout, layout.letters, dtype
        self._own = [tensors[name] for name in layout.names(index, config.n_experts) if layout.given is None]
        self._where = f"{where}: weight {self._own[0].name if self._own else layout.name}"
        norm = layout.row_norm
        self._norm = None if norm is None else (_whole(tensors[norm.weight]), _whole(tensors[norm.shift]), norm.eps)
        self._read: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def __call__(self, index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        ranges = [range(*part.indices(self._sizes[axis])) for part, axis in zip(index, self._letters, strict=True)]
        key = tuple((r.start, r.stop) for r in ranges)
        if key not in self._read:
            self._read[key] = self._piece(dict(zip(self._letters, ranges, strict=True)))
        return self._read[key]

    def _piece(self, wanted: Mapping[str, range]) -> np.ndarray:
        if not self._own:
            shape = tuple(self._sizes[letter] for letter in self._letters)
            inside = tuple(slice(wanted[letter].start, wanted[letter].stop) for letter in self._letters)
            given = self._layout.given() if callable(self._layout.given) else self._layout.given
            value = np.broadcast_to(np.asarray(given, np.float32), shape)[inside]
        elif self._layout.apart:
            value = np.stack([self._stored(self._own[expert], wanted) for expert in wanted["X"]])
        else:
            value = self._stored(self._own[0], wanted)
        with np.errstate(over="ignore"):
            cast = np.asarray(value, self._dtype, order="C")
        if jnp.finfo(cast.dtype).max < jnp.finfo(value.dtype).max and not np.isfinite(cast).all():
            raise InputError(f"{self._where} holds numbers beyond the range of {self._dtype}; use bfloat16 or float32")
        return cast

    def _stored(self, tensor: Tensor, wanted: Mapping[str, range]) -> np.ndarray:
        places = [axis.places(self._sizes, wanted) for axis in self._layout.axes]
        value = tensor.read(tuple(slice(int(p.min()), int(p.max()) + 1) for p in places))
        if self._checked:
            _check_finite(value, [int(p.min()) for p in places], self._where.replace(self._own[0].name, tensor.name))
        for number, along in enumerate(places):
            if len(along) < value.shape[number] or np.any(np.diff(along) < 0):  # interleaved with others, or turned
                value = np.take(value, along - along.min(), axis=number)
        value = value.reshape([len(wanted[letter]) for letter in self._letters[self._layout.apart :]])
        value = value if self._norm is None else _normed(value.astype(np.float32), *self._norm)
        if self._layout.minus_exp:
            if not (value < 0).all():
                raise InputError(f"{self._where} holds numbers that are not negative; the file is damaged")
            return np.log(-value.astype(np.float64)).astype(np.float32)
        scale, plus = np.float32(self._layout.scale), np.float32(self._layout.plus)
        return value if (scale, plus) == (1, 0) else value.astype(np.float32) * scale + plus


def _whole(tensor: Tensor) -> np.ndarray:
    return tensor.read(tuple(slice(0, length) for length in tensor.shape)).astype(np.float32)


def _normed(rows: np.ndarray, weight: np.ndarray, shift: np.ndarray, eps: float) -> np.ndarray:
    """LayerNorm of each row."""
    centred = rows - rows.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(eps)) * weight + shift


def _check_finite(value: np.ndarray, start: list[int], where: str) -> None:
    # Of bfloat16 the bits are compared, which numpy does twice as fast.
    finite = value.view(np.uint16) & 0x7F80 != 0x7F80 if value.dtype == jnp.bfloat16 else np.isfinite(value)
    if not finite.all():
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        position = tuple(index + offset for index, offset in zip(place, start, strict=True))
        raise InputError(f"{where} is {value[place]} at {position}; the file is damaged")


def _with_embedding(
    config: ModelConfig, tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]
) -> Mapping[str, Tensor]:
    """The tensors with the embedding under its own name: of two tied names some savers store only the head's."""
    embed, head = layouts["embed"].name, layouts["head"].name
    if not config.tied_head or embed in tensors or head not in tensors:
        return tensors
    return {embed if name == head else name: tensor for name, tensor in tensors.items()}


def _wanted(config: ModelConfig, layouts: Mapping[str, Layout]) -> dict[str, tuple[int, ...]]:
    """The names of all matrices that the model uses, with their shapes in the file."""
    wanted: dict[str, tuple[int, ...]] = {}

    def add(name: str, _: Weight) -> None:
        layout, (form, layers) = layout_of(layouts, name), place_of(config, name)
        if layout.given is None:
            shape = layout.shape(form)
            wanted.update({each: shape for layer in layers for each in layout.names(layer, form.n_experts)})
            if layout.row_norm is not None:
                wanted.update(dict.fromkeys((layout.row_norm.weight, layout.row_norm.shift), shape[-1:]))

    map_weights(add, config, named=True)
    return wanted


def _check_shapes(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], where: str) -> None:
    """All of them before the first is read."""
    for name, expected in wanted.items():
        if name not in tensors:
            raise InputError(f"{where}: weight {_prefix(tensors)}{name} is missing")
        tensor = tensors[name]
        if tensor.shape != expected:
            raise InputError(f"{where}: weight {tensor.name} has shape {tensor.shape}, expected {expected}")
        if tensor.dtype not in FLOATS:
            known = ", ".join(FLOATS)
            raise InputError(f"{where}: weight {tensor.name} has dtype {tensor.dtype}, expected one of {known}")


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    """What the file puts before names, such as ``model.``, by the example of its longest name."""
    bare, tensor = max(tensors.items(), key=lambda item: len(item[1].name), default=("", None))
    return "" if tensor is None else tensor.name.removesuffix(bare)


def _check_left_over(
    config: ModelConfig, left: set[str], tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout], where: str
) -> None:
    """Refuse weights that nothing uses; a tied head may be stored twice if it is the embedding."""
    head = layouts["head"].name
    if config.tied_head and head in left:
        embed = tensors[layouts["embed"].name]
        if embed.shape != tensors[head].shape or not _equal(embed, tensors[head]):
            raise InputError(f"{where}: {tensors[head].name} differs from the embedding although the config ties them")
        left.remove(head)
    if left:
        example = min(tensors[name].name for name in left)
        raise InputError(f"{where}: {len(left)} weights are not part of this architecture, such as {example}")


def _equal(tensor: Tensor, other: Tensor, rows: int = 4096) -> bool:
    """Whether two matrices are equal, some rows at a time."""
    n_rows, n_columns = tensor.shape
    parts = [(slice(start, min(start + rows, n_rows)), slice(0, n_columns)) for start in range(0, n_rows, rows)]
    return all(np.array_equal(tensor.read(part), other.read(part)) for part in parts)
