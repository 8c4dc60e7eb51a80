"""The memory of an input's programs as the compiler says it, from shapes alone: no weights are read or made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.method.conditions import Condition
from jstrace.method.graph.full_graph import edge_slot_count
from jstrace.method.graph.sizes import SIZES
from jstrace.models import Decoder, EdgeTree, ModelConfig, shapes
from jstrace.pipeline import masked, stages
from jstrace.scale.batching import bucket

Lowered = Callable[[], jax.stages.Lowered]


def programs(config: ModelConfig, width: int, dtype: jnp.dtype, narrow: str, n_sizes: int) -> dict[str, Lowered]:
    """Of one input padded to ``width`` tokens: what lowers each program when it is called.

    ``score`` is of l1, ``gradient`` of one gradient, ``extract`` of strata, ``evaluate`` of all masked passes.
    """
    decoder = jax.eval_shape(lambda params: Decoder(config, params), shapes(config, dtype, narrow=narrow))
    tokens, row, cuts = _blank(1, width), _blank(1), _blank(1, n_sizes)

    def score(name: str) -> jax.stages.Lowered:
        lowered = stages.score_batch.lower(decoder, tokens, row, _blank(), scorings=((name, "zero"),), replacements={})
        return lowered

    def extract() -> jax.stages.Lowered:
        scores = edges_like(config, 1, width, jnp.float32)
        return stages.extract_program.lower(scores, cuts, row, parallel=config.parallel, frozen=())

    def evaluate() -> jax.stages.Lowered:
        strata, cases = (edges_like(config, 1, width, jnp.uint8),), ((0, Condition()),)
        return masked.lowered(decoder, tokens, row, strata, row, n_sizes=n_sizes, cases=cases)

    scores: dict[str, Lowered] = {"score": lambda: score("l1"), "gradient": lambda: score("gradient")}
    return scores | {"extract": extract, "evaluate": evaluate}


def compiled_bytes(
    config: ModelConfig, n_tokens: int, dtype: jnp.dtype, narrow: str = "", n_sizes: int = len(SIZES)
) -> dict[str, int]:
    """Bytes on this device, beside the weights, of a trace by l1, of its evaluation, and of the score ``gradient``."""
    width = bucket(n_tokens)
    held = {name: taken(lowered()) for name, lowered in programs(config, width, dtype, narrow, n_sizes).items()}
    n_slots = edge_slot_count(config, width)
    return {
        "one_trace": max(held["score"], held["extract"] + 4 * n_slots),  # extraction reads the scores
        "evaluation": held["evaluate"] + n_slots,
        "gradient_score": held["gradient"],
    }


def taken(lowered: jax.stages.Lowered) -> int:
    """Bytes of a program's results and of what it holds meanwhile."""
    memory: Any = lowered.compile().memory_analysis()
    return int(memory.temp_size_in_bytes + memory.output_size_in_bytes)


def _blank(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def edges_like(config: ModelConfig, n_rows: int, width: int, dtype: Any) -> EdgeTree:
    """The shapes of an ``EdgeTree`` of a batch."""
    rows = _blank(n_rows, config.n_layers, width, dtype=dtype)
    return EdgeTree(rows, _blank(n_rows, config.n_layers, config.n_heads, width, width, dtype=dtype), rows, rows)
