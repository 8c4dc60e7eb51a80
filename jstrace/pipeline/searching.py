"""Traces of scores on the host, one input alone."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jstrace.method.graph import full_graph
from jstrace.method.search.ordering import NO_SCORE, marked
from jstrace.models import EdgeTree, InputError, ModelConfig
from jstrace.pipeline import stages
from jstrace.scale import batching
from jstrace.scale.batching import cropped, widened


def checked_scores(scores: Any, config: ModelConfig, n_tokens: int) -> EdgeTree:
    """Scores of one input as float32 on the host, -1 in slots that are no edge.

    Raises:
      InputError: no ``EdgeTree``, other shapes, integers (such as strata), or an edge without a finite score.
    """
    if not isinstance(scores, EdgeTree):
        raise InputError(f"scores are {type(scores).__name__}, expected an EdgeTree")
    scores, leaves = EdgeTree(**{kind: np.asarray(leaf) for kind, leaf in scores.items()}), {}
    scores.check("scores", config, n_tokens, "floats")
    slots = full_graph.edge_slots(config, n_tokens, n_tokens, np)
    for kind, leaf in scores.items():
        with np.errstate(over="ignore"):
            array = np.where(getattr(slots, kind), leaf.astype(np.float32), np.float32(-1))
        if not np.isfinite(array).all():
            raise InputError(f"scores {kind} hold NaN or infinities at edges; every edge needs a finite float32")
        leaves[kind] = array
    return EdgeTree(**leaves)


def searched(
    scores: EdgeTree,
    cuts: Int[np.ndarray, "Z"],
    config: ModelConfig,
    frozen: tuple[str, ...],
    order: str,
    n_outputs: int = 1,
) -> EdgeTree:
    """Strata on the host, of scores from ``checked_scores`` and the edges of each trace."""
    n_tokens = scores.mlp.shape[-1]
    slots = full_graph.edge_slots(config, n_tokens, n_tokens, np, n_outputs=n_outputs)
    wide = widened(marked(scores, slots, np), batching.bucket(n_tokens), NO_SCORE)
    batch = jax.tree.map(lambda leaf: leaf[None], wide)
    lengths = np.asarray([n_tokens], np.int32)
    options: dict[str, Any] = {"parallel": config.parallel, "frozen": frozen, "signed": True, "order": order}
    options["n_outputs"] = n_outputs
    strata = stages.extract_batch(batch, cuts[None], lengths, **options)
    return cropped(jax.device_get(strata), 0, n_tokens)
