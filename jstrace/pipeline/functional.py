"""The method as pure functions of arrays and pytrees, for programs of one's own.

None is jitted, and all compose under ``jax.jit``, ``jax.vmap``, ``jax.grad`` and a mesh, with ``jstrace.extract``
between scores and masks: ``strata <= k`` is the mask of trace k. ``jstrace.trace`` and ``jstrace.evaluate`` give the
same of batches of texts, with memory planned.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int

from jstrace.method.conditions import NO_GRADIENTS
from jstrace.method.graph import full_graph
from jstrace.method.measure.measures import Measures, measure
from jstrace.method.naming import checked_score, takes_passes
from jstrace.method.scores import scoring
from jstrace.method.scores.gradients import GradientScore
from jstrace.models import AnyArray, EdgeTree, InputError, Model, Replacement, Score
from jstrace.models.replacement import check_fits, checked_arrays
from jstrace.models.slots import checked_tokens
from jstrace.pipeline.inputs import checked_model
from jstrace.pipeline.scorers import known_to


def edge_scores(
    model: Model,
    tokens: Int[AnyArray, "T"],
    score: str | Score | GradientScore = "l1",
    *,
    replace: Replacement | None = None,
    length: Int[AnyArray, ""] | int | None = None,
    seed: Int[AnyArray, ""] | int = 0,
) -> EdgeTree:
    """Scores of every edge of one input (sections 2 and 8 of the method).

    Args:
      model: from ``jstrace.load``; an argument of whatever jits this, as closing over it would bake the weights in.
      tokens: token ids; those from ``length`` on are padding.
      score: as in ``jstrace.trace``; static. "learned" needs the weights, so under ``jax.jit`` give a
        ``jstrace.Scorer`` in its place.
      replace: what ablated edges carry while gradients are taken; nothing by default.
      length: number of true tokens; all by default.
      seed: of random scores, and of what fits draw.

    Returns:
      float32 ``[L,T]``, ``[L,H,T,T]``, ``[L,T]``, ``[L,T]``; NaN in slots that are no edge.

    Examples:
      >>> scores = jax.jit(jstrace.edge_scores, static_argnames="score")(model, tokens, score="l2")
      >>> scores.attn.shape
      (3, 4, 7, 7)

    Raises:
      InputError: tokens of another shape or kind, a score that is none, or another model's, a length beyond them, or a
        replacement that the score does not read, or that is of other tokens.
    """
    checked_model(model)
    ids, kind = checked_tokens(model.config, tokens), checked_score(score)
    if replace is not None:
        if not takes_passes(kind):
            raise InputError(NO_GRADIENTS.replace("score_replace", "replace"))
        if not isinstance(replace, Replacement):
            raise InputError(f"replace is {replace!r:.60}, expected a jstrace.Replacement (jstrace.mean_replacement)")
        check_fits(checked_arrays(replace), model.config, ids.size)
    length = ids.size if length is None else length
    full_graph.check_length(length, ids.size)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(model))
    if traced and kind == "learned":
        raise InputError("score learned is of one model, which is not known inside a transformation: give a Scorer")
    known = kind if traced else known_to(model, kind)
    return scoring.edge_scores(model.decoder, ids, length, score=known, seed=seed, replace=replace)


def masked_logits(
    model: Model,
    tokens: Int[AnyArray, "T"],
    mask: EdgeTree,
    replace: Replacement | None = None,
    *,
    pre_softmax: bool = False,
) -> Float32[AnyArray, "V"]:
    """Next-token logits under an edge mask (section 4 of the method): ``model(tokens, mask)`` as a function.

    Args:
      model: from ``jstrace.load``, as in ``edge_scores``.
      tokens: token ids.
      mask: bool, or float in [0, 1]; for several masks use ``jax.vmap``.
      replace: what ablated edges carry; nothing by default.
      pre_softmax: let attention masks enter the softmax instead of following it.

    Examples:
      >>> mask = trace.mask(size=0.1)
      >>> jax.jit(jstrace.masked_logits)(model, tokens, mask).shape
      (97,)

    Raises:
      InputError: as ``jstrace.Model``'s call.
    """
    checked_model(model)
    return model(tokens, mask, replace=replace, pre_softmax=pre_softmax)


def measures(
    full_logits: Float32[AnyArray, "V"],
    logits: Float32[AnyArray, "*N V"],
    next_token: Int[AnyArray, ""] | int | None = None,
) -> Measures:
    """How close predictions are to the full graph's (section 5 of the method).

    Args:
      full_logits: of the full graph, or the logarithm of any other prediction.
      logits: with any leading axes, which the measures have, too.
      next_token: the true next token, for surprisal and rank, which are NaN and 0 without one.

    Examples:
      >>> full = model(tokens)
      >>> float(jax.jit(jstrace.measures)(full, full).tv)
      0.0

    Raises:
      InputError: logits over other vocabularies, or a token outside of theirs.
    """
    full, rows = jnp.asarray(full_logits), jnp.asarray(logits)
    if full.ndim != 1 or rows.ndim < 1 or rows.shape[-1:] != full.shape:
        raise InputError(f"logits of shapes {full.shape} and {rows.shape}, expected [V] and [..., V]")
    if isinstance(next_token, int) and not 0 <= next_token < full.size:
        raise InputError(f"next_token {next_token} is outside the vocabulary of {full.size}")
    wide: Any = functools.partial(jnp.asarray, dtype=jnp.float32)
    measured = measure(wide(rows).reshape(-1, full.size), wide(full), 0 if next_token is None else next_token)
    if next_token is None:
        none = jnp.full_like(measured.surprisal, jnp.nan), jnp.zeros_like(measured.rank)
        measured = dataclasses.replace(measured, surprisal=none[0], rank=none[1])
    return jax.tree.map(lambda leaf: leaf.reshape(*rows.shape[:-1], *leaf.shape[1:]), measured)
