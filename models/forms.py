"""Layers of unlike forms: a stack of weights for each form, and a pass over the layers in their order.

Layers that are alike make one ``jax.lax.scan``, as all of a plain model do. A pattern that is repeated (three layers of
one form, then one of another, twelve times) is one scan over its repeats, so that programs do not grow with depth.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jstrace.models import layers as fn
from jstrace.models.config import ModelConfig
from jstrace.models.platforms import again, entry, over_layers


class Form(NamedTuple):
    """One form of layer in a pass."""

    config: ModelConfig
    sights: fn.Sight
    """Of every kind of layer, for its rotary positions."""


Step = Callable[[Form, Any, tuple[Any, ...]], tuple[Any, Any]]
"""``step(form, carry, (layer, *others of the layer))``: what goes to the next layer, and what is kept of this one.

What is kept has one shape in all forms."""


def forms_of(config: ModelConfig, n_tokens: int, length: Int[Array, ""] | int | None) -> tuple[Form, ...]:
    """The forms of a model's layers for an input of ``length`` true tokens among ``n_tokens``."""
    return tuple(Form(form, fn.sights(form, n_tokens, length)) for form in config.layer_forms)


class Segment(NamedTuple):
    """Layers on end: a pattern of forms, and how often it comes."""

    pattern: tuple[int, ...]
    repeats: int


def segments(form_of: Sequence[int]) -> tuple[Segment, ...]:
    """The layers as few patterns: at each place the one whose repeats cover most layers, the shortest of equals."""
    pieces, rest = list[Segment](), tuple(form_of)
    while rest:
        options = [Segment(rest[:period], _repeats(rest, period)) for period in range(1, len(rest) // 2 + 1)]
        repeated = [option for option in options if option.repeats > 1]
        best = max(repeated, key=lambda segment: len(segment.pattern) * segment.repeats, default=Segment(rest[:1], 1))
        pieces.append(best)
        rest = rest[len(best.pattern) * best.repeats :]
    return tuple(pieces)


def _repeats(forms: tuple[int, ...], period: int) -> int:
    """How often the first ``period`` layers come, on end."""
    turns = itertools.takewhile(
        lambda turn: forms[turn * period : (turn + 1) * period] == forms[:period], itertools.count()
    )
    return len(list(itertools.islice(turns, len(forms) // period)))


def over_forms(
    step: Step,
    start: Any,
    forms: tuple[Form, ...],
    form_of: Sequence[int],
    stacks: Sequence[Any],
    *others: Any,
    remat: bool = False,
) -> tuple[Any, Any]:
    """``platforms.over_layers`` of layers of several forms; of one form, that itself.

    Args:
      step: what is done with a layer.
      start: what the first layer takes.
      forms: of layers.
      form_of: of each layer its form.
      stacks: weights of each form, on a leading axis of its layers.
      *others: whatever else has an axis of all layers.
      remat: as for ``over_layers``.
    """
    if len(forms) == 1:
        return over_layers(functools.partial(step, forms[0]), start, stacks[0], *others, remat=remat)
    done, carry, parts = [0] * len(forms), start, list[Any]()
    for pattern, repeats in segments(form_of):
        at, n_layers = sum(done), len(pattern) * repeats
        own = _sliced(others, at, at + n_layers)
        turns = jax.tree.map(lambda x: x.reshape(repeats, len(pattern), *x.shape[1:]), own)  # noqa: B023
        body = functools.partial(_turn, step, forms, stacks, pattern, tuple(done), remat)
        carry, outputs = jax.lax.scan(body, carry, (jnp.arange(repeats), turns))
        parts.append(jax.tree.map(lambda x: x.reshape(n_layers, *x.shape[2:]), outputs))  # noqa: B023
        done = [number + repeats * pattern.count(form) for form, number in enumerate(done)]
    return carry, _joined(parts)


def _turn(
    step: Step,
    forms: tuple[Form, ...],
    stacks: Sequence[Any],
    pattern: tuple[int, ...],
    done: tuple[int, ...],
    remat: bool,
    carry: Any,
    inputs: tuple[Array, Any],
) -> tuple[Any, Any]:
    """The layers of a pattern once: a scan for each run of alike ones; ``done`` layers of each form came before it."""
    turn, others = inputs
    at, parts = 0, list[Any]()
    for form, run in itertools.groupby(pattern):
        length = len(list(run))

        def run_layer(carry: Any, inputs: tuple[Array, Any], form: int = form) -> tuple[Any, Any]:
            place, rest = inputs
            return step(forms[form], carry, (entry(stacks[form], place), *rest))

        first = done[form] + turn * pattern.count(form) + pattern[:at].count(form)
        places = first + jnp.arange(length)
        carry, outputs = jax.lax.scan(
            again(run_layer, stacks[form], remat=remat), carry, (places, _sliced(others, at, at + length))
        )
        parts.append(outputs)
        at += length
    return carry, _joined(parts)


def _sliced(tree: Any, start: int, stop: int) -> Any:
    return jax.tree.map(lambda x: x[start:stop], tree)


def _joined(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *each: jnp.concatenate(each), *parts)


def of_heads(edges: Any, config: ModelConfig) -> Any:
    """A layer's edges without the heads that its form does not have."""
    if edges.attn.shape[0] == config.n_heads:
        return edges
    return type(edges)(edges.residual_attn, edges.attn[: config.n_heads], edges.residual_mlp, edges.mlp)


def wide(x: Array, *sizes: int) -> Array:
    """Zeros added at the end of the last axes, up to these sizes: what layers of all forms keep has one shape."""
    lacking = [(0, 0)] * (x.ndim - len(sizes)) + [
        (0, size - own) for size, own in zip(sizes, x.shape[-len(sizes) :], strict=True)
    ]
    return jnp.pad(x, lacking) if any(map(any, lacking)) else x
