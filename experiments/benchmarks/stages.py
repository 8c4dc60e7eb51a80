"""The three compiled stages of a batch, kept on the device: what the benchmarks time and analyse."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.method.conditions import Condition
from jstrace.method.graph.full_graph import n_edges
from jstrace.method.graph.sizes import SIZES, counts
from jstrace.models import Decoder, EdgeTree, ModelConfig, platforms, shapes
from jstrace.pipeline import masked, stages
from jstrace.pipeline.compiled import edges_like
from jstrace.scale import batching

_L1 = (("l1", "zero"),)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs of one bucket with everything that the stages take."""

    decoder: Decoder
    tokens: Any
    lengths: Any
    cuts: Any
    nexts: Any
    sizes: tuple[float, ...]

    def score(self) -> EdgeTree:
        """Clean pass and edge scores."""
        (scores,), _ = stages.score_batch(
            self.decoder, self.tokens, self.lengths, 0, scorings=(("l1", "zero"),), replacements={}
        )
        return scores

    def extract(self, scores: EdgeTree) -> EdgeTree:
        """Strata."""
        parallel = self.decoder.config.parallel
        return stages.extract_batch(scores, self.cuts, self.lengths, parallel=parallel, frozen=())

    def evaluate(self, strata: EdgeTree) -> masked.BatchResult:
        """All masked forwards and their measures."""
        (result,) = masked.evaluate_batch(
            self.decoder, self.tokens, self.lengths, (strata,), self.nexts, **self._evaluation()
        )
        return result

    def whole(self) -> masked.BatchResult:
        """The three of them, one after another."""
        return self.evaluate(self.extract(self.score()))

    def _evaluation(self) -> dict[str, Any]:
        return {"n_sizes": len(self.sizes), "cases": ((0, Condition()),)}

    def compiled(self, platform: str | None = None) -> dict[str, jax.stages.Compiled]:
        """The programs, compiled but not run, in the forms of a platform; arrays may be shapes."""
        with platforms.assumed(platform):
            return self._compiled(platform)

    def _compiled(self, platform: str | None) -> dict[str, jax.stages.Compiled]:
        c, (n_rows, width) = self.decoder.config, self.tokens.shape
        extract = stages.extract_program.lower(
            edges_like(c, n_rows, width, jnp.float32), self.cuts, self.lengths, parallel=c.parallel, frozen=(),
            platform=platform,
        )  # fmt: skip
        strata = (edges_like(c, n_rows, width, jnp.uint8),)
        evaluate = masked.lowered(
            self.decoder, self.tokens, self.lengths, strata, self.nexts, **self._evaluation(), platform=platform
        )
        score = stages.score_batch.lower(
            self.decoder, self.tokens, self.lengths, 0, scorings=(("l1", "zero"),), replacements={}
        )
        return {"score": score.compile(), "extract": extract.compile(), "evaluate": evaluate.compile()}


def batch_of(decoder: Decoder, rows: Sequence[Sequence[int]], sizes: Sequence[float] = SIZES) -> Batch:
    """A batch of token ids, all of one bucket."""
    width = batching.bucket(len(rows[0]))
    tokens, lengths = batching.padded([np.asarray(row, np.int32) for row in rows], width, len(rows))
    cuts = np.stack([counts(sizes, n_edges(decoder.config, len(row))) for row in rows])
    return Batch(decoder, tokens, lengths, cuts, np.zeros(len(rows), np.int32), tuple(sizes))


def blank_batch(config: ModelConfig, n_rows: int, n_tokens: int, dtype: Any) -> Batch:
    """The shapes of a batch on a model of some config, without arrays."""

    def blank(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    decoder = jax.eval_shape(
        lambda: Decoder(config, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes(config, dtype)))
    )
    n_sizes, width = len(SIZES), batching.bucket(n_tokens)
    return Batch(decoder, blank(n_rows, width), blank(n_rows), blank(n_rows, n_sizes), blank(n_rows), tuple(SIZES))
