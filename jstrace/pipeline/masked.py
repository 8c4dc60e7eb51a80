"""The stage after the strata, compiled once a shape: all masked forwards of a batch, reduced to measures on the device.

Sections 4 to 6 of the method. Cases differ in numbers only, the ranges of strata that their rows keep, so all of them
run through one program; masks before the softmax need another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int, UInt8

from jstrace.method.conditions import COUNTERFACTUAL, Condition
from jstrace.method.graph.masks import kept
from jstrace.method.questions import NOTHING, Question
from jstrace.models import AnyArray, Decoder, EdgeTree, Replacement, form, hidden_states, live_rows, masked_forward
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.comparing import BatchResult, averaged, compared
from jstrace.scale import meshes
from jstrace.scale.batching import collected, dealt

_NONE: Mapping[str, Replacement] = {}
N_QUERIES = 128
"""Queries whose attention a TPU computes at once, under all masks."""


class Rows(NamedTuple):
    """Masked forwards of the cases that differ in numbers only, dealt out to the devices that share them."""

    sources: Int[AnyArray, "C"]
    """Of each case, the index of its strata."""
    ranges: UInt8[AnyArray, "C N 3 2"]
    """The strata that each row keeps (``Condition.ranges``)."""
    full: Bool[AnyArray, "C N"]
    """Whether a row is the full graph."""
    others: Replacement | None
    """What ablated edges carry, on a leading axis of those whose measures are averaged."""


def evaluate_batch(*batch: Any, **asked: Any) -> tuple[BatchResult, ...]:
    """All Z + 1 masked forwards of a batch under every case, in one compiled call (arguments: ``program_arguments``).

    What cases ablate, which way round, and under which name are numbers, so other ones compile nothing: only another
    count of cases, masks before the softmax, and whether and how ablated edges are replaced do.
    """
    arguments, options, order = program_arguments(*batch, **asked)
    results = _evaluate(*arguments, **options)
    return tuple(results[place] for place in order)


def lowered(*batch: Any, **asked: Any) -> jax.stages.Lowered:
    """The program that ``evaluate_batch`` runs with the same arguments, before it is compiled."""
    arguments, options, _ = program_arguments(*batch, **asked)
    return _evaluate.lower(*arguments, **options)


def program_arguments(
    decoder: Decoder,
    tokens: Any,
    lengths: Any,
    strata: tuple[EdgeTree, ...],
    next_tokens: Any,
    replacements: Mapping[str, Replacement] = _NONE,
    questions: Question = NOTHING,
    *,
    n_sizes: int,
    cases: tuple[tuple[int, Condition], ...],
    mesh: Mesh | None = None,
    platform: str | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any], list[int]]:
    """What ``_evaluate`` is given, and for each case the place of its result.

    On a mesh inputs are divided over its ``data`` axis, and sizes where there are fewer inputs than devices.

    Args:
      decoder: the decoder.
      tokens, lengths: int ``[B, T]`` and ``[B]``, of a padded batch; ``lowered`` takes shapes in the place of arrays.
      strata: the different strata of the batch.
      next_tokens: int ``[B]``, the true next tokens, any token where none is known.
      replacements: by the names in the cases, on a leading axis of those whose measures are averaged; "zero" is none.
      questions: what is asked of each input beside its own prediction. With a metric there is one row more, of the
        empty mask.
      n_sizes: Z.
      cases: for each result the index of its strata, and its condition.
      mesh: that the batch lies on.
      platform: that the program is compiled for, if not JAX's default one (``models.form``).
    """
    sharing = meshes.n_sharing(mesh, lengths.shape[0])
    kinds = [(condition.pre_softmax, condition.replace) for _, condition in cases]  # what needs programs of their own
    groups = {kind: [index for index, own in enumerate(kinds) if own == kind] for kind in kinds}
    rows = []
    for (_, replace), chosen in groups.items():
        asked = [_with_empty(cases[index][1], n_sizes, questions) for index in chosen]
        ranges, full = dealt(asked, sharing, [_full_row(cases[index][1], n_sizes, questions) for index in chosen])
        sources = np.asarray([cases[index][0] for index in chosen], np.int32)
        rows.append(Rows(sources, ranges, full, replacements.get(replace)))
    order = [index for chosen in groups.values() for index in chosen]
    batch = (decoder, tokens, lengths, strata, next_tokens, questions, tuple(rows))
    paired = tuple(replace == COUNTERFACTUAL for _, replace in groups)
    options = {"pre_softmax": tuple(pre for pre, _ in groups), "paired": paired, "n_sizes": n_sizes}
    options |= {"mesh": mesh, "platform": platform}
    return batch, options, sorted(range(len(order)), key=order.__getitem__)


def _full_row(condition: Condition, n_sizes: int, questions: Question) -> int:
    """Which row is the full graph: the one after all that are asked for, where these are inverse."""
    return n_sizes + (1 + (questions.metric is not None) if condition.inverse else 0)


def _with_empty(condition: Condition, n_sizes: int, questions: Question) -> UInt8[np.ndarray, "N 3 2"]:
    """The rows of a condition; with a metric that of the empty mask behind the Z + 1 that are measured."""
    ranges = condition.ranges(n_sizes)
    if questions.metric is None:
        return ranges
    empty = np.zeros_like(ranges[:1])
    if condition.ablate != "all":
        empty[:, 1] = ranges[0, 1]
    return np.concatenate([ranges[: n_sizes + 1], empty, ranges[n_sizes + 1 :]])


@functools.partial(jax.jit, static_argnames=("pre_softmax", "paired", "n_sizes", "mesh", "platform"))
@usual_promotion()
def _evaluate(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    strata: tuple[EdgeTree, ...],
    next_tokens: Int[AnyArray, "B"],
    questions: Question,
    groups: tuple[Rows, ...],
    *,
    pre_softmax: tuple[bool, ...],
    paired: tuple[bool, ...],
    n_sizes: int,
    mesh: Mesh | None,
    platform: str | None,
) -> tuple[BatchResult, ...]:
    """The cases of every group, one group after the other: rows measured by their devices, and collected."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *strata)
    n_inputs, results = lengths.shape[0], list[BatchResult]()
    sharing = meshes.n_sharing(mesh, n_inputs)
    for pre, own, rows in zip(pre_softmax, paired, groups, strict=True):
        run = functools.partial(_measured, pre_softmax=pre, paired=own, sharing=sharing, platform=platform)
        batch = (decoder, tokens, lengths, stacked, next_tokens, questions, rows.others)
        measured, asked, *once = _over_rows(run, mesh, n_inputs)(*batch, rows.sources, rows.ranges, rows.full)
        measures = jax.tree.map(lambda leaf: collected(leaf, sharing, n_sizes + 1), measured)
        metric = jax.tree.map(lambda leaf: collected(leaf, sharing, n_sizes + 2), asked)
        whole = BatchResult(measures, once[0], once[1], metric, once[2])
        results += [_at(whole, place) for place in range(len(rows.sources))]
    return tuple(results)


def _at(tree: Any, index: Array | int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _over_rows(run: Callable[..., Any], mesh: Mesh | None, n_inputs: int) -> Callable[..., Any]:
    """``_measured`` run by every device on its own inputs and its own rows of all cases."""
    if mesh is None:
        return run
    replicated, each, whose = PartitionSpec(), PartitionSpec(meshes.INPUTS), PartitionSpec(None, meshes.INPUTS)
    rows, both = PartitionSpec(None, meshes.SIZES), PartitionSpec(None, meshes.INPUTS, meshes.SIZES)
    specs = (replicated, each, each, whose, each, each, replicated, replicated, rows, rows)
    return meshes.manual(run, meshes.divided(mesh, n_inputs), specs, (both, both, whose, whose, whose))


def _measured(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    strata: EdgeTree,
    next_tokens: Int[Array, "B"],
    questions: Question,
    others: Replacement | None,
    sources: Int[Array, "C"],
    ranges: UInt8[Array, "C N 3 2"],
    full: Bool[Array, "C N"],
    *,
    pre_softmax: bool,
    paired: bool,
    sharing: int,
    platform: str | None,
) -> tuple[Any, ...]:
    """On one device the fields of a ``BatchResult`` of every case's rows, ``[C, B, ...]`` each."""

    def of_case(case: tuple[Any, Array, Array]) -> BatchResult:
        source, ranges, full = case

        def under(other: Replacement | None) -> BatchResult:
            rows = _at(strata, source), ranges
            how: dict[str, Any] = {"replace": other, "pre_softmax": pre_softmax, "platform": platform}
            how["counterfactuals"] = questions.counterfactual if paired else None
            how["n_outputs"] = None if questions.answer is None else questions.n_outputs
            logits = predicted(decoder, tokens, lengths, *rows, **how)
            of_full = jnp.reshape(full, (-1,) + (1,) * (logits.ndim - 2))
            own = jnp.sum(jnp.where(of_full, logits, 0.0), axis=1)
            if sharing > 1:
                own = jax.lax.psum(own, meshes.SIZES)  # all but one device bring zeros
            return compared(logits, own, next_tokens, platform, questions)

        return under(None) if others is None else averaged(jax.lax.map(under, others))

    several = strata.mlp.shape[0] > 1
    if len(sources) > 1:
        results = jax.lax.map(lambda case: of_case((case[0] if several else 0, *case[1:])), (sources, ranges, full))
    else:
        results = jax.tree.map(lambda leaf: leaf[None], of_case((sources[0] if several else 0, ranges[0], full[0])))
    return results.measures, results.metric, results.full_tokens, results.full_probs, results.full_metric


def predicted(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    strata: EdgeTree,
    ranges: UInt8[Array, "N 3 2"],
    *,
    replace: Replacement | None = None,
    counterfactuals: Int[Array, "B T"] | None = None,
    pre_softmax: bool = False,
    platform: str | None = None,
    n_outputs: int | None = None,
) -> Float32[Array, "B N *A V"]:
    """Next-token logits with the strata of each row's ranges kept, as ``Condition.ranges`` gives them.

    Every input under every row's ranges, their tokens' rows together. Ablated edges carry the replacement, or the
    states of the input's own counterfactual.
    """

    def of_input(tokens: Array, length: Array, strata: EdgeTree, pair: Array | None) -> Array:
        carried = replace if pair is None else hidden_states(decoder, pair, length=length)

        def under(ranges: Array) -> Array:
            return masked_forward(
                decoder,
                tokens,
                strata,
                keep=functools.partial(kept, ranges=ranges),
                replace=carried,
                length=length,
                pre_softmax=pre_softmax,
                row_map=functools.partial(live_rows, platform=platform),
                n_queries=form(platform, cpu=None, gpu=None, tpu=N_QUERIES),
                n_outputs=n_outputs,
            )

        return jax.vmap(under)(ranges)

    return jax.vmap(of_input)(tokens, lengths, strata, counterfactuals)
