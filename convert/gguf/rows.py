"""What a row of the table of architectures says, and what several of them read of the metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.models import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """What the rows of the table may ask for beside the metadata."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope: Mapping[str, Any]
    names: frozenset[str]
    """Of the weights that the file holds."""
    divisors: tuple[float, ...] = ()
    """Of rotary frequencies, where the file holds a weight of them."""


Extra = Callable[[Fields, Shape], dict[str, Any]]
"""Further fields of a ``config.json``, of metadata and shape."""

SHAPE = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
}
LLAMA = SHAPE | {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
}
GPT2 = {"embedding_length": "n_embd", "block_count": "n_layer", "attention.head_count": "n_head"}


def passed_over(*names: str) -> Extra:
    """Fields that change nothing for texts."""

    def extra(f: Fields, shape: Shape) -> dict[str, Any]:
        for name in names:
            f.take(name)
        return {}

    return extra


_NOTHING = passed_over()


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """One row: a value of ``general.architecture``."""

    model_type: str
    """Whose reader reads it, unless ``extra`` names another one."""
    extra: Extra = _NOTHING
    names: Mapping[str, str] = dataclasses.field(default_factory=lambda: LLAMA)
    """Which fields of a ``config.json`` stand for the shape, as far as the type's reader reads them."""
    paired: bool = False
    """Whether the two numbers of a rotary pair are rows beside one another, of llama.cpp's rope type NORM."""
    partial: bool = False
    """Whether a part of each head may be rotated."""
    rope: bool = True
    """Whether queries and keys are rotated at all."""
    divided: bool = True
    """Whether the weight that divides rotary frequencies is of all layers; else ``extra`` reads it."""
    ahead: bool = False
    """Whether blocks behind the last layer, which predict further tokens, are counted among the blocks."""
    latent: bool = False
    """Whether widths of keys and values may be those of latent attention."""
    listed: tuple[str, ...] = ()
    """Numbers of which there may be a list, one for each layer, which ``extra`` reads."""


def flags(f: Fields, name: str, given: Any, n_layers: int, *, ahead: bool = False) -> list[bool]:
    """What a list says of each layer; ``ahead``: it may count blocks behind the last one, too."""
    whole = isinstance(given, list) and (len(given) == n_layers or (ahead and len(given) > n_layers))
    if not whole or not all(isinstance(x, bool) for x in given):
        raise InputError(f"{f.where}: {name} is no list of {n_layers} layers, true or false")
    return list(given[:n_layers])


def windows(f: Fields, shape: Shape, window: int | None, every: int) -> dict[str, Any]:
    """Which layers have the window; each ``every``-th sees all tokens where the file says nothing."""
    pattern = f.take("attention.sliding_window_pattern", every)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        pattern = [bool((layer + 1) % pattern) for layer in range(shape.n_layers)]
    pattern = flags(f, "attention.sliding_window_pattern", pattern, shape.n_layers)
    kinds = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
    return {"sliding_window": window, "layer_types": kinds}


def kinds(rope: Mapping[str, Any], local: float) -> dict[str, Any]:
    """Positions of layers that see everything, and of those with a window."""
    windowed = {"rope_type": "default", "rope_theta": local}
    everywhere = {"rope_type": "default", **rope}
    return {"rope_parameters": {"full_attention": everywhere, "sliding_attention": windowed}}
