"""Features and predictions of texts: what does not change while a learned edge score is fitted to them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from jstrace.method.graph import full_graph
from jstrace.method.scores import linear
from jstrace.method.scores.gradients import Pass
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError, Model, Replacement
from jstrace.models.memory import free_memory
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.footprint import gradient_bytes, wide_bytes
from jstrace.pipeline.progress import FitReport
from jstrace.scale import batching, memory


class Known(NamedTuple):
    """A text with what does not change while coefficients are fitted; padded."""

    tokens: Int[AnyArray, "*B T"]
    length: Int[AnyArray, "*B"]
    features: tuple[EdgeTree, ...]
    """In float16."""
    target: Float32[AnyArray, "*B V"]
    """Log-probabilities of the full pass."""


def known_of(
    model: Model,
    rows: Sequence[np.ndarray],
    features: str,
    replace: Replacement | None,
    report: FitReport | None = None,
) -> list[Known]:
    """Features and predictions of texts, all padded to one length, on the host; edges carry ``replace`` meanwhile.

    Raises:
      InputError: memory does not hold them, or they are not finite.
    """
    width, texts = batching.bucket(max(map(len, rows))), list[Known]()
    _check_room(model, rows, width, features)
    each, shared = gradient_bytes(model.config, width, model.dtype.itemsize), wide_bytes(model)
    size = memory.batch_inputs(model.decoder, width, each, shared=shared, n_masks=2, alone=True)
    for start in range(0, len(rows), size):
        members = rows[start : start + size]
        tokens, lengths = batching.padded(members, width, size)
        program = _known_program(model.decoder, tokens, lengths, replace, features=features)
        batch = jax.tree.map(np.asarray, Known(tokens, lengths, *program))
        texts += [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(len(members))]
        for index, text in enumerate(texts[start:], start):
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(text)):
                what = f"text {index}: its forward pass or its features are not finite"
                raise InputError(f"{what}; try dtype float32")
        if report is not None:
            report(len(texts), len(rows), None)
    return texts


def _check_room(model: Model, rows: Sequence[np.ndarray], width: int, features: str) -> None:
    """Refuse texts whose features memory cannot hold.

    Raises:
      InputError: with the longest of them, which all are padded to.
    """
    full_graph.check_slots(model.config, width, batching.bucket)
    needed = 2 * len(rows) * linear.n_features(features) * full_graph.edge_slot_count(model.config, width)
    room = free_memory()
    if room is not None and needed > room:
        longest = int(np.argmax([len(row) for row in rows]))
        raise InputError(
            f"features of {len(rows)} texts need {needed / 1e9:.1f} GB, {room / 1e9:.1f} GB are there; all are"
            f" padded to the longest, text {longest} of {len(rows[longest])} tokens"
        )


@functools.partial(jax.jit, static_argnames="features")
@usual_promotion()
def _known_program(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    replace: Replacement | None,
    *,
    features: str,
) -> tuple[tuple[EdgeTree, ...], Float32[Array, "B V"]]:
    def text(tokens: Array, length: Array) -> tuple[tuple[EdgeTree, ...], Array]:
        trees, target = linear.features_of(Pass(decoder, tokens, length, replace), features)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float16), trees), target

    return jax.vmap(text)(tokens, lengths)
