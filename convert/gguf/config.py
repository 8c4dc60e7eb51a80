"""A GGUF file's metadata to ``ModelConfig``, by way of the fields that the same model's ``config.json`` would have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.convert.gguf.architectures import ARCHITECTURES
from jstrace.convert.gguf.layouts import BIASES, layouts_of
from jstrace.convert.gguf.positions import DIVISORS, number_unless_zero, rope_of
from jstrace.convert.gguf.rows import Architecture, Shape
from jstrace.convert.hf.layouts import Layouts
from jstrace.convert.hf.registry import FAMILIES
from jstrace.errors import UnsupportedError
from jstrace.models import InputError, ModelConfig
from jstrace.models.families import FLAGS
from jstrace.models.validation import validated

EMBEDDING = "token_embd.weight"
XIELU = ("alpha_p", "alpha_n", "beta", "eps")
"""Numbers of the activation xIELU, of which the metadata have a list, one for each layer."""
_PARTS_OF_OTHERS = ("expert_count", "expert_used_count", "expert_shared_count", "nextn_predict_layers")
"""What some files count although they have none of it."""
_NORM_EPS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


def described(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: Mapping[str, np.ndarray], where: str
) -> tuple[ModelConfig, Layouts]:
    """The config and where the weights stand.

    Args:
      metadata: of the file.
      shapes: of the weights by name, slowest axis first.
      factors: the weights that divide rotary frequencies.
      where: names the file in errors.

    Raises:
      InputError: an architecture that is not supported, or a field that is wrong, unknown or not implemented.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedError(f"{where}: architecture {name!r} is not supported; supported: {known}")
    if EMBEDDING not in shapes:
        raise InputError(f"{where}: weight {EMBEDDING} is missing")
    if len(shapes[EMBEDDING]) != 2:
        raise InputError(f"{where}: weight {EMBEDDING} is no matrix")
    prefix, own = f"{name}.", ARCHITECTURES[name]
    named = {key.removeprefix(prefix): _plain(value) for key, value in metadata.items() if key.startswith(prefix)}
    f = Fields(named, f"{where}: {name}")
    numbers = _numbers(f, own, shapes)
    shape = _shape(f, own, numbers, shapes, factors)
    fields = _fields(f, own, numbers, shape)
    config, theirs = FAMILIES[fields.pop("model_type")](Fields(fields, f.where))
    config = dataclasses.replace(config, **_as_in_file(f, own, config, numbers, shapes, factors))
    for part in _PARTS_OF_OTHERS:
        f.fixed(part, 0)
    for eps in _NORM_EPS.values():
        f.take(eps)  # of the other kind of norms
    f.fixed("attention.causal", True)
    f.refuse_unread(())
    layouts = layouts_of(config, theirs, shapes, paired=own.paired)
    return validated(config, where), layouts


def _plain(value: Any) -> Any:
    """Numbers of the metadata as Python's, whole ones as integers: files hold counts in types of every kind."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value.item() if isinstance(value, np.generic) else value


def _numbers(f: Fields, own: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes by their names in the metadata, checked."""
    n_heads, d_model = f.integer("attention.head_count"), f.integer("embedding_length")
    if n_heads > d_model:
        raise InputError(f"{f.where}: attention.head_count = {n_heads}, expected at most embedding_length = {d_model}")
    head_dim = f.head_dim("attention.key_length", d_model // n_heads)
    if own.latent:
        head_dim = f.head_dim("attention.key_length_mla", head_dim)
    elif f.integer("attention.value_length", head_dim) != head_dim:
        raise InputError(f"{f.where}: attention.value_length differs from the head width {head_dim}")
    blocks, ahead = f.layers("block_count"), number_unless_zero(f, "nextn_predict_layers") if own.ahead else None
    if ahead is not None and (not ahead.is_integer() or ahead >= blocks):
        raise InputError(f"{f.where}: nextn_predict_layers = {ahead:g}, expected fewer than the {blocks} blocks")
    return {
        "attention.head_count": n_heads,
        "embedding_length": d_model,
        "attention.key_length": head_dim,
        "attention.head_count_kv": _first(f, own, "attention.head_count_kv", n_heads),
        "block_count": blocks - int(ahead or 0),
        "feed_forward_length": _first(f, own, "feed_forward_length", *_width_of_experts(f)),
        "context_length": f.integer("context_length", 2048),
        "vocab_size": f.integer("vocab_size", shapes[EMBEDDING][0]),
    }


def _first(f: Fields, own: Architecture, name: str, *default: int) -> Any:
    """A number of all layers; of a list by layer, which stays for the architecture's own fields, the first."""
    given = f.peek(name)
    if name in own.listed and isinstance(given, list) and given:
        return Fields({name: given[0]}, f.where).integer(name)
    return f.integer(name, *default)


def _width_of_experts(f: Fields) -> tuple[int, ...]:
    """What stands for the width of MLPs where there are none but experts."""
    name = "expert_feed_forward_length"
    return () if f.peek(name) is None else (f.peeked_integer(name),)


def _shape(
    f: Fields,
    own: Architecture,
    numbers: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    factors: Mapping[str, np.ndarray],
) -> Shape:
    head_dim = numbers["attention.key_length"]
    return Shape(
        n_layers=numbers["block_count"],
        d_model=numbers["embedding_length"],
        n_heads=numbers["attention.head_count"],
        n_kv_heads=numbers["attention.head_count_kv"],
        head_dim=head_dim,
        rope=rope_of(f, head_dim, factors, partial=own.partial) if own.rope else {},
        names=frozenset(shapes),
        divisors=tuple(map(float, factors[DIVISORS].ravel())) if DIVISORS in factors and not own.divided else (),
    )


def _fields(f: Fields, own: Architecture, numbers: Mapping[str, int], shape: Shape) -> dict[str, Any]:
    """What the ``config.json`` of the same model says."""
    fields: dict[str, Any] = {theirs: numbers[ours] for ours, theirs in own.names.items()}
    fields |= {"model_type": own.model_type, "vocab_size": numbers["vocab_size"]}
    fields |= {"rope_parameters": dict(shape.rope)} if own.rope else {}
    return fields | own.extra(f, shape)


_SIZES = {
    "attention.head_count_kv": "n_kv_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "d_mlp",
    "context_length": "max_positions",
}
"""Fields of the config that some types' ``config.json`` leaves out."""


def _as_in_file(
    f: Fields,
    own: Architecture,
    config: ModelConfig,
    numbers: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    factors: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """What the file itself says best: sizes that the type's fields leave out, biases and a head by the weights."""
    given: dict[str, Any] = {field: numbers[name] for name, field in _SIZES.items() if name not in own.names}
    given["norm_eps"] = f.number(_NORM_EPS[config.norm])
    if config.family != "bloom":  # whose embedding has a norm that the head has not
        given["tied_head"] = "output.weight" not in shapes
    for flag, parts in BIASES.items():
        held = any(f"blk.0.{part}.bias" in shapes for part in parts)
        given[flag] = held or bool(FLAGS[config.family].get(flag, False))
    if DIVISORS in factors and own.divided:
        given["rope_divisors"] = tuple(float(divisor) for divisor in factors[DIVISORS].ravel())
    return given
