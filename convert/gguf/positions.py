"""Rotary positions as GGUF files describe them, as the object that Hugging Face's configs have for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.models import InputError

DIVISORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
"""Weights that divide frequencies: of all inputs, and of those within and beyond the first training's length."""
_KINDS = ("none", "linear", "yarn", "longrope")
_TRAINED = "original_max_position_embeddings"


def rope_of(f: Fields, head_dim: int, factors: Mapping[str, np.ndarray], *, partial: bool) -> dict[str, Any]:
    """What ``rope_parameters`` of the same model would hold.

    Args:
      f: the metadata of the architecture.
      head_dim: width of a head.
      factors: the weights that are divisors, by name.
      partial: whether the architecture may rotate a part of each head.

    Raises:
      InputError: a type that is not known, or fields and weights that contradict each other.
    """
    for name, values in factors.items():
        if not (np.isfinite(values) & (values > 0)).all():
            raise InputError(f"{f.where}: {name} holds numbers that are not positive")
    rope = {"rope_theta": f.number("rope.freq_base", 10000.0), **_share(f, head_dim, partial)}
    factor, kind = number_unless_zero(f, "rope.scaling.factor"), f.take("rope.scaling.type", "linear")
    if kind not in _KINDS:
        raise InputError(f"{f.where}: rope.scaling.type = {kind!r} is not supported; supported: {', '.join(_KINDS)}")
    f.take("rope.scaling.finetuned")  # a note on how it was trained
    trained = f.integer("rope.scaling.original_context_length", None)
    magnitude = f.number("rope.scaling.attn_factor", None)
    if DIVISORS in factors and (SHORT in factors or LONG in factors):
        raise InputError(f"{f.where}: {DIVISORS} beside {SHORT} or {LONG}, expected one kind of them")
    if SHORT in factors or LONG in factors or kind == "longrope":
        return rope | _longrope(f, factors, trained, magnitude)
    if magnitude not in (None, 1.0):
        raise InputError(
            f"{f.where}: rope.scaling.attn_factor = {magnitude} without {LONG} is not supported; only 1 is"
        )
    scaled = _scaled(f, kind, factor, trained)
    if scaled and DIVISORS in factors:
        raise InputError(f"{f.where}: rope.scaling.type = {kind!r} beside {DIVISORS}, expected one of them")
    return rope | scaled


def _share(f: Fields, head_dim: int, partial: bool) -> dict[str, float]:
    """Of a head that is rotated, rounded up, as readers round down what it gives."""
    turned = f.integer("rope.dimension_count", head_dim)
    if turned > head_dim or (turned != head_dim and not partial):
        raise InputError(f"{f.where}: rope.dimension_count = {turned} differs from the head width {head_dim}")
    if not partial:
        return {}
    return {"partial_rotary_factor": 1.0 if turned == head_dim else math.nextafter(turned / head_dim, 1.0)}


def _scaled(f: Fields, kind: str, factor: float | None, trained: int | None) -> dict[str, Any]:
    if kind == "yarn":
        if factor is None:
            raise InputError(f"{f.where}: rope.scaling.factor is missing, which yarn needs")
        return {"rope_type": "yarn", "factor": factor, **_yarn(f, trained)}
    if kind == "linear" and factor is not None:
        return {"rope_type": "linear", "factor": factor}
    return {}


def _yarn(f: Fields, trained: int | None) -> dict[str, Any]:
    """``yarn_log_multiplier`` is ``mscale_all_dim`` beside an ``mscale`` of one."""
    f.fixed("rope.scaling.yarn_ext_factor", 1)
    log = number_unless_zero(f, "rope.scaling.yarn_log_multiplier")
    rope: dict[str, Any] = {} if trained is None else {_TRAINED: trained}
    rope |= {} if log is None else {"mscale": 1.0, "mscale_all_dim": log}
    names = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    given = {theirs: f.number(f"rope.scaling.{ours}", None) for ours, theirs in names.items()}
    return rope | {name: value for name, value in given.items() if value is not None}


def _longrope(
    f: Fields, factors: Mapping[str, np.ndarray], trained: int | None, magnitude: float | None
) -> dict[str, Any]:
    missing = [name for name in (SHORT, LONG) if name not in factors]
    if missing:
        raise InputError(f"{f.where}: weight {missing[0]} is missing")
    if trained is None:
        raise InputError(f"{f.where}: rope.scaling.original_context_length is missing, which {LONG} needs")
    factor_lists = {"short_factor": factors[SHORT].ravel().tolist(), "long_factor": factors[LONG].ravel().tolist()}
    attention = {} if magnitude is None else {"attention_factor": magnitude}
    return {"rope_type": "longrope", _TRAINED: trained, **factor_lists, **attention}


def number_unless_zero(f: Fields, name: str) -> float | None:
    """A number of which 0 says that there is none."""
    if f.peek(name) == 0:
        f.fixed(name, 0)
        return None
    number = f.number(name, None)
    return None if number is None else float(number)
