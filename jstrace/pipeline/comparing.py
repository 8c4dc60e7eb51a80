"""Predictions under masks against the full graph's, reduced to measures on the device (section 5 of the method)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from jstrace.method.measure.measures import Measures, measure, measure_outputs
from jstrace.method.questions import NOTHING, Question
from jstrace.models import AnyArray, form
from jstrace.models.edges import ByValue
from jstrace.scale import meshes

N_TOP = 10
"""Tokens of the full graph's prediction that are kept."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class BatchResult(ByValue):
    """Measures ``[B, Z + 1]`` of every row, and the full graph's most probable tokens ``[B, N]``."""

    measures: Measures
    full_tokens: Int[AnyArray, "*B N"]
    full_probs: Float32[AnyArray, "*B N"]
    metric: Float32[AnyArray, "*B Z2"] | None = None
    """Where one is asked for: of every row and of the empty mask,"""
    full_metric: Float32[AnyArray, "*B"] | None = None
    """and of the full graph."""


def compared(
    logits: Float32[Array, "B N *A V"],
    full: Float32[Array, "B *A V"],
    next_tokens: Array,
    platform: str | None = None,
    questions: Question = NOTHING,
) -> BatchResult:
    """Every row against the full graph's logits, or targets; the full graph's tokens are those of the first output."""
    # Stages of a sort on a divided vocabulary would each cross the mesh.
    together: Callable[[Any], Any] = form(platform, cpu=_as_it_is, gpu=_as_it_is, tpu=meshes.whole_along_model)
    logits, full = together((logits, full))
    first = full if questions.answer is None else full[:, 0]
    probs, top = jax.lax.top_k(jax.nn.softmax(first), min(N_TOP, full.shape[-1]))
    if questions.answer is None:
        wanted = full if questions.target is None else questions.target
        measures = jax.vmap(functools.partial(measure, platform=platform))(logits, wanted, next_tokens)
    else:
        measures = jax.vmap(functools.partial(measure_outputs, platform=platform))(logits, full, questions.answer)
    if questions.metric is None:
        return BatchResult(measures, top, probs)
    each = jax.vmap(lambda metric, rows, whole: (jax.vmap(metric)(rows), metric(whole)))
    return BatchResult(measures, top, probs, *each(questions.metric, logits, full))


def _as_it_is(tree: Any) -> Any:
    return tree


def averaged(several: BatchResult) -> BatchResult:
    """What ``compared`` gave under several replacements, on a leading axis, as one.

    TV, KL, entropy, surprisal and the metric are means; a nucleus counts as recovered where it is under all of them;
    the top token and the rank are those under the first. The full graph is the same under all.
    """
    measures = several.measures
    means = {name: jnp.mean(getattr(measures, name), axis=0) for name in ("tv", "kl", "entropy", "surprisal")}
    every = {name: jnp.all(getattr(measures, name), axis=0) for name in ("nucleus", "nucleus_unordered")}
    first = {name: getattr(measures, name)[0] for name in ("top_token", "rank")}
    first |= {} if measures.agreement is None else {"agreement": measures.agreement[0]}
    asked = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), (several.metric, several.full_metric))
    return BatchResult(Measures(**means, **every, **first), several.full_tokens[0], several.full_probs[0], *asked)
