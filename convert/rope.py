"""Rotary positions as Hugging Face configs describe them, old spelling and new, to the fields of ``ModelConfig``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jstrace.convert.fields import Fields
from jstrace.models import InputError
from jstrace.models.families import llama3_divisors

_TRAINED = "original_max_position_embeddings"
_BESIDE = ("rope_theta", "partial_rotary_factor", _TRAINED)
"""Fields that may stand beside the object, and then hold where it has none of its own."""
_LONGROPE = "longrope"
_WITH_TRAINED = ("llama3", "yarn", _LONGROPE)
"""Types that read the length of the first training."""
_PASSED_OVER = {
    _TRAINED: "of types that do not read it",
    "finetuned": "a note on how it was trained",
    "attn_factor": "transformers does not read it",
    "max_position_embeddings": "stands beside the object, too",
}


def take_rope(
    fields: Fields,
    base: Mapping[str, Any],
    *,
    theta: float = 10000.0,
    share: float = 1.0,
    partial: bool = False,
    trained: int | None = None,
    passed_over: Sequence[str] = (),
    absent: Mapping[str, Any] = MappingProxyType({}),
    names: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Consume ``rope_parameters`` (transformers 5) or ``rope_scaling``, and what stands beside them.

    Args:
      fields: of the config.
      base: what was read of it before, ``head_dim`` and ``max_positions`` among it.
      theta, share: the base and the share of a head that is rotated, where the config has none.
      partial: whether the family knows a share at all.
      trained: the length of the first training where no field beside the object says it, whatever the object says;
        None for families in which the object counts.
      passed_over: fields of the object that change nothing for text.
      absent: the object where the config has none.
      names: of fields beside the object, where they have other names: the first is read, the others may only agree.

    Raises:
      InputError: fields that contradict each other, or positions that are not implemented.
    """
    objects = {
        name: {field: value for field, value in fields.object(name).items() if field not in passed_over}
        for name in ("rope_scaling", "rope_parameters")
    }
    if not any(objects.values()):
        objects["rope_parameters"] = dict(absent)
    beside = {field: [(name, fields.take(name)) for name in names.get(field, (field,))] for field in _BESIDE}
    default = {"rope_theta": theta, "partial_rotary_factor": share}
    said = {name: joined(rope, name, beside, default, fields.where) for name, rope in objects.items() if rope}
    agreeing(said.items(), fields.where)
    rope = next(iter(said.values()), None) or joined({}, "", beside, default, fields.where)
    if trained is not None and beside[_TRAINED][0][1] is None:
        rope[_TRAINED] = trained
    return read_rope(rope, fields.where, base, partial=partial)


def joined(
    rope: Mapping[str, Any],
    name: str,
    beside: Mapping[str, Sequence[tuple[str, Any]]],
    default: Mapping[str, float],
    where: str,
) -> dict[str, Any]:
    """An object of this name, with its type as ``rope_type``, and with what stands beside it or is the default.

    Raises:
      InputError: two of these contradict each other.
    """
    merged = {field: value for field, value in rope.items() if value is not None}
    kinds = [(f"{field} in {name}", _kind(merged.pop(field, None))) for field in ("rope_type", "type")]
    agreeing(kinds, where)
    merged["rope_type"] = next((kind for _, kind in kinds if kind is not None), "default")
    for field, claims in beside.items():
        if field != _TRAINED or merged["rope_type"] in _WITH_TRAINED:
            agreeing([(f"{field} in {name}", merged.get(field)), *claims], where)
        said = claims[0][1]
        merged.setdefault(field, default.get(field) if said is None else said)
    return merged


def _kind(given: Any) -> Any:
    return {"su": _LONGROPE, "mrope": "default"}.get(given, given) if isinstance(given, str) else given


def agreeing(claims: Iterable[tuple[str, Any]], where: str) -> None:
    """Refuse a file whose fields contradict each other; those that are None say nothing."""
    said = [(name, value) for name, value in claims if value is not None]
    for name, value in said[1:]:
        if value != said[0][1]:
            first, other = f"{said[0][0]} = {str(said[0][1])[:80]}", f"{name} = {str(value)[:80]}"
            raise InputError(f"{where}: {first} contradicts {other}; remove the one that is wrong")


def read_rope(rope: Mapping[str, Any], where: str, base: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """The fields of ``ModelConfig`` of an object as ``joined`` returns it."""
    fields, head_dim, positions = Fields(rope, f"{where}: RoPE"), base["head_dim"], base["max_positions"]
    kind, theta = fields.take("rope_type"), fields.number("rope_theta")
    share = fields.number("partial_rotary_factor", 1.0)
    turned = head_dim * share
    if not partial and share != 1:
        raise InputError(f"{where}: partial_rotary_factor is not supported in this family; its heads turn whole")
    if turned > head_dim:
        raise InputError(f"{where}: partial_rotary_factor turns {turned:g} dimensions of {head_dim}")
    rotary_dim = int(turned)
    rotary: dict[str, Any] = {"rope_theta": theta, "rope_divisors": None}
    rotary["rotary_dim"] = None if rotary_dim == head_dim else rotary_dim
    if kind == "linear":
        rotary["rope_divisors"] = (fields.number("factor"),) * (rotary_dim // 2)
    elif kind == "llama3":
        factor, low, high = (fields.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
        if not high > low:
            raise InputError(f"{where}: RoPE high_freq_factor = {high}, expected more than low_freq_factor = {low}")
        trained = fields.number(_TRAINED, positions)
        rotary["rope_divisors"] = llama3_divisors(theta, rotary_dim, factor, low, high, trained)
    elif kind == _LONGROPE:
        rotary |= _longrope(fields, positions)
    elif kind == "yarn":
        rotary |= _yarn(fields, theta, rotary_dim, positions)
    elif kind == "dynamic":
        fields.number("factor", None)  # of inputs longer than the first training's, which are refused
        rotary["bounded"] = True
    elif kind != "default":
        known = "default, dynamic, linear, llama3, longrope, yarn"
        raise InputError(f"{where}: RoPE type {kind!r} is not supported; supported: {known}")
    fields.refuse_unread(_PASSED_OVER, "RoPE field")
    return rotary


def kinds_rope(
    fields: Fields, base: Mapping[str, Any], *, whole: tuple[str, Any, float], local: tuple[str, Any, float]
) -> dict[str, Any]:
    """Positions of layers that see everything and of those with a window, as one object per kind of layer.

    ``whole`` and ``local`` are the name of the field beside it that has the base, what it says, and the default.

    Raises:
      InputError: fields that contradict each other, or scaled positions of the layers with a window.
    """
    per_kind, scaling = fields.object("rope_parameters"), fields.object("rope_scaling")
    kinds = Fields(per_kind, fields.where)
    windowed, everywhere = kinds.object("sliding_attention"), kinds.object("full_attention")
    kinds.refuse_unread((), "RoPE field")
    for field, value in scaling.items():
        claims = [(f"{field} in rope_scaling", value), (f"{field} in full_attention", everywhere.get(field))]
        agreeing(claims, fields.where)
    # beside which "type" says nothing new
    everywhere = ({} if per_kind else {"rope_type": "default"}) | everywhere | scaling

    def read(rope: Mapping[str, Any], kind: str, beside: tuple[str, Any, float]) -> dict[str, Any]:
        name, said, default = beside
        claims = {"rope_theta": [(name, said)]}
        return read_rope(joined(rope, kind, claims, {"rope_theta": default}, fields.where), fields.where, base)

    local_theta = unscaled_theta(read(windowed, "sliding_attention", local), fields.where)
    return read(everywhere, "full_attention", whole) | {"local_rope_theta": local_theta}


def unscaled_theta(rope: Mapping[str, Any], where: str) -> float:
    """The base of the layers with a window, from what ``read_rope`` gives of them.

    Raises:
      InputError: scaled positions.
    """
    if rope["rope_divisors"] is not None or rope.get("bounded"):
        raise InputError(f"{where}: rope_parameters of sliding_attention, only the default type is supported")
    theta: float = rope["rope_theta"]
    return theta


def _yarn(rope: Fields, theta: float, rotary_dim: int, positions: int) -> dict[str, Any]:
    """YaRN (arXiv 2309.00071): long waves are slowed by ``factor``, short ones kept, with a factor on both tables."""
    trained = rope.number(_TRAINED, None)
    factor = rope.number("factor") if trained is None else rope.number("factor", positions / trained)
    trained = positions if trained is None else trained
    fast, slow = rope.number("beta_fast", 32.0), rope.number("beta_slow", 1.0)
    per_turn = rotary_dim / (2 * math.log(theta)) if theta > 1 else math.inf
    low, high = (per_turn * (math.log(trained) - math.log(turns * 2 * math.pi)) for turns in (fast, slow))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{rope.where}: yarn of rope_theta = {theta:g} and {trained:g} positions has no frequencies")
    if rope.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    slowed = np.clip((np.arange(rotary_dim // 2) - low) / ((high - low) or 0.001), 0, 1)

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1

    scale, over = rope.number("mscale", None), rope.number("mscale_all_dim", None)
    usual = magnitude(1.0) if scale is None or over is None else magnitude(scale) / magnitude(over)
    return {
        "rope_divisors": tuple(float(d) for d in 1 / (1 - slowed + slowed / factor)),
        "rope_magnitude": rope.number("attention_factor", usual),
    }


def _longrope(rope: Fields, positions: int) -> dict[str, Any]:
    """Two sets of divisors, chosen by the length of the input, and a factor on cosines and sines."""
    trained = rope.integer(_TRAINED, positions)
    if trained < 2:
        raise InputError(f"{rope.where}: original_max_position_embeddings = {trained}, expected more than 1")
    factor = rope.number("factor", None)
    factor = positions / trained if factor is None else factor
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    return {
        "rope_divisors": rope.numbers("short_factor"),
        "rope_long_divisors": rope.numbers("long_factor"),
        "rope_switch": trained,
        "rope_magnitude": rope.number("attention_factor", magnitude),
    }
