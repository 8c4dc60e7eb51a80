"""Inside programs that have JAX's own debugging on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jstrace
from jstrace.method.graph import full_graph
from jstrace.method.scores.scoring import edge_scores
from jstrace.method.search.ordering import NO_SCORE
from jstrace.models import EdgeTree, Model
from jstrace.pipeline import stages

REFERENCE = [np.arange(9), np.arange(40, 52), np.arange(60, 75)]
HOW: dict[str, Any] = {"sizes": (0.1, 0.4), "score_replace": "mean", "reference": REFERENCE}


@contextlib.contextmanager
def strict() -> Iterator[None]:
    rank, dtype = jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict")
    with jax.debug_nans(True), jax.debug_infs(True), rank, dtype:
        yield


def found_of(model: Model, tokens: np.ndarray) -> list[Any]:
    """What users ask for, on arrays of the same numbers."""
    rounds = jstrace.trace(model, [tokens, tokens[:4]], score=jstrace.Rounds(cuts=2), **HOW)
    plain = jstrace.trace(model, tokens, sizes=HOW["sizes"])
    fitted = jstrace.fit_trace(model, tokens[:4], steps=2, polish=1, start="gradient", **HOW)
    evaluated = [jstrace.evaluate(model, one) for one in (rounds[0], plain, fitted)]
    under = jstrace.evaluate(model, plain, replace="mean", reference=REFERENCE)
    mask, ids = jax.tree.map(lambda leaf: leaf.astype(np.float32), model.full_mask(4)), jnp.asarray(tokens[:4])
    logits = model(ids, mask)
    slope = jax.jit(jax.grad(lambda mask: model(ids, mask)[3]))(mask)
    strata = jstrace.extract(plain.scores, (0.2,), config=model.config, frozen=("mlp",))
    evaluated.append(jstrace.evaluate(model, plain, masks=plain.masks()))
    return [*rounds, plain, fitted, *evaluated, under, *map(np.asarray, jax.tree.leaves((logits, slope, strata)))]


def test_all_flags_at_once(tiny: Model, tokens: np.ndarray) -> None:
    """No NaN, infinity or mixed operand of jstrace's own is in the way of who looks for those of a fault."""
    expected = found_of(tiny, tokens)
    with strict():
        found = found_of(tiny, tokens)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_scores_between_programs_are_finite(tiny: Model, tokens: np.ndarray) -> None:
    """Slots that are no edge have the mark there, -1 in a trace, and NaN where a function promises it."""
    wide, lengths = np.concatenate([tokens, [0]])[None].astype(np.int32), np.asarray([len(tokens)], np.int32)
    options: dict[str, Any] = {"scorings": (("l1", "zero"), ("gradient", "zero")), "replacements": {}}
    found, _ = stages.score_batch(tiny.decoder, wide, lengths, 0, **options)
    slots = full_graph.edge_slots(tiny.config, wide.shape[1], len(tokens))
    with jax.debug_nans(True):
        named = [edge_scores(tiny.decoder, jnp.asarray(wide[0]), 7, score=name, seed=0) for name in ("l1",)]
    for scores in found:
        for kind, leaf in scores.items():
            slot = np.asarray(getattr(slots, kind))
            assert np.isfinite(leaf).all()
            np.testing.assert_array_equal(np.asarray(leaf[0]) == NO_SCORE, ~slot)
            np.testing.assert_array_equal(np.isnan(getattr(named[0], kind)), ~slot)
    trace = jstrace.trace(tiny, tokens, sizes=(0.1,))
    full = tiny.full_mask(len(tokens))
    for kind, leaf in trace.scores.items():
        np.testing.assert_array_equal(leaf == -1, ~getattr(full, kind))


def test_a_score_like_the_mark_is_a_score(tiny: Model, tokens: np.ndarray) -> None:
    """The least float of all: its edges come last, and are edges."""
    full = tiny.full_mask(len(tokens))
    scores = EdgeTree(**{kind: np.full(leaf.shape, 0.5, np.float32) for kind, leaf in full.items()})
    scores.attn[0, :, 3, 1] = NO_SCORE
    for order in ("best-first", "score"):
        for frozen in ((), ("mlp",)):
            trace = jstrace.Trace.from_scores(tiny, tokens, scores, sizes=(0.5, 1.0), order=order, frozen=frozen)
            assert (trace.strata.attn[0, :, 3, 1] == 1).all()
    strata = jstrace.extract(scores, (0.5, 1.0), config=tiny.config)
    assert (np.asarray(strata.attn)[0, :, 3, 1] == 1).all()
