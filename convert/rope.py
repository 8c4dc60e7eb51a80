"""Rotary positions as Hugging Face configs describe them, old spelling and new, to the fields of ``ModelConfig``."""

from __future__ import annotations

import math
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.models import InputError
from jstrace.models.config import llama3_divisors

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def take_rope(
    fields: Fields,
    head_dim: int,
    *,
    theta: float = 10000.0,
    share: float = 1.0,
    partial: bool = False,
    trained: int | None = None,
) -> dict[str, Any]:
    """Consume ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling``.

    ``theta`` and ``share`` (of the head that is rotated) hold where the config has none; only ``partial`` families know
    a share at all. ``trained`` is the length of the first training, where it has a field of its own.
    """
    given = {
        "rope_theta": fields.take("rope_theta"),
        "partial_rotary_factor": fields.take("partial_rotary_factor"),
        "original_max_position_embeddings": fields.take("original_max_position_embeddings"),
    }
    for name in ("rope_scaling", "rope_parameters"):
        given.update(fields.object(name))
    if trained is not None:
        given["original_max_position_embeddings"] = trained
    if not partial and given["partial_rotary_factor"] not in (None, 1):
        raise InputError(f"{fields.where}: partial_rotary_factor is not supported in this family; its heads turn whole")
    positions = fields.peek("max_position_embeddings")
    positions = positions if isinstance(positions, int) and positions > 0 else None
    return read_rope(given, fields.where, head_dim, theta=theta, share=share, positions=positions)


def read_rope(
    given: dict[str, Any], where: str, head_dim: int, *, theta: float, share: float, positions: int | None
) -> dict[str, Any]:
    """The same from one flat object."""
    rope = Fields(given, f"{where}: RoPE")
    kind = rope.take("rope_type") or rope.take("type") or "default"
    rope.take("type")
    theta = rope.number("rope_theta", theta)
    turned = head_dim * rope.number("partial_rotary_factor", share)
    if turned > head_dim:
        raise InputError(f"{where}: partial_rotary_factor turns {turned:g} dimensions of {head_dim}")
    rotary_dim = int(turned)
    found: dict[str, Any] = {"rope_theta": theta, "rope_divisors": None}
    found["rotary_dim"] = None if rotary_dim == head_dim else rotary_dim
    if kind == "linear":
        found["rope_divisors"] = (rope.number("factor"),) * (rotary_dim // 2)
    elif kind == "llama3":
        factor, low, high, trained = (rope.number(name) for name in _LLAMA3)
        if not high > low:
            raise InputError(f"{where}: RoPE high_freq_factor = {high}, expected more than low_freq_factor = {low}")
        found["rope_divisors"] = llama3_divisors(theta, rotary_dim, factor, low, high, trained)
    elif kind in ("longrope", "su"):
        found |= _longrope(rope, positions)
    elif kind != "default":
        known = "default, linear, llama3, longrope"
        raise InputError(f"{where}: RoPE type {kind!r} is not supported; supported: {known}")
    rope.refuse_unread({"original_max_position_embeddings"}, "RoPE field")
    return found


def _longrope(rope: Fields, positions: int | None) -> dict[str, Any]:
    """Two sets of divisors, chosen by the length of the input, and a factor on cosines and sines."""
    trained = rope.integer("original_max_position_embeddings")
    if trained < 2:
        raise InputError(f"{rope.where}: original_max_position_embeddings = {trained}, expected more than 1")
    factor = rope.number("factor", None)
    factor = (positions or trained) / trained if factor is None else factor
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    return {
        "rope_divisors": rope.numbers("short_factor"),
        "rope_long_divisors": rope.numbers("long_factor"),
        "rope_switch": trained,
        "rope_magnitude": rope.number("attention_factor", magnitude),
    }
