"""Inputs through everything that a run asks of them: one clean pass, all traces, one call for all evaluations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from jstrace import batching, devices, evaluation, graph, memory, scores, tracing
from jstrace.evaluation import ABLATIONS, BatchResult, Condition, Evaluation
from jstrace.graph import SIZES
from jstrace.model import Model
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError

BASELINES = ("random", "inverse", "pre-softmax")
"""What a run can evaluate beside the traces (section 6 of the method)."""
_RANDOM_FROZEN = ("residual", "mlp")


@dataclasses.dataclass(frozen=True)
class Source:
    """How strata are made; static."""

    importance: str
    frozen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the component table calls it."""
        return "random baseline" if self.frozen else self.importance


@dataclasses.dataclass(frozen=True)
class Case:
    """One curve of an input: where its strata come from and how masks are made of them; static."""

    source: Source
    condition: Condition

    @property
    def name(self) -> str:
        """What the tables call it, such as ``l1/all`` or ``l1/residual+mlp/inverse``."""
        suffix = "/inverse" if self.condition.inverse else "/pre-softmax" if self.condition.pre_softmax else ""
        return f"{self.source.name}/{self.condition.ablate}{suffix}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked of every input.

    Baselines belong to the first importance; random scores take residual and MLP edges first; masks before the softmax
    are those of attention, so they come with ``all`` alone.

    Raises:
      InputError: an unknown or repeated name, none at all, or sizes that make no sense.
    """

    importances: tuple[str, ...] = ("l1",)
    ablations: tuple[str, ...] = ("all",)
    baselines: tuple[str, ...] = ()
    sizes: tuple[float, ...] = SIZES
    seed: int = 0

    def __post_init__(self) -> None:
        for what, given, known in (
            ("importance", self.importances, scores.IMPORTANCES),
            ("ablate", self.ablations, ABLATIONS),
            ("baselines", self.baselines, BASELINES),
        ):
            unknown = [name for name in given if name not in known]
            if unknown or len(set(given)) != len(given) or (not given and what != "baselines"):
                raise InputError(f"{what} {','.join(given)!r}: expected some of {', '.join(known)}, each once")
        if "pre-softmax" in self.baselines and "all" not in self.ablations:
            raise InputError("pre-softmax masks attention: ablate all, too")
        graph.checked_sizes(self.sizes)
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed = {self.seed}, expected 0 to {2**31 - 1}")

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every curve: each importance and baseline under each ablation."""
        found, first = [], Source(self.importances[0])
        for ablate in self.ablations:
            found += [Case(Source(kind), Condition(ablate)) for kind in self.importances]
            beside = {
                "random": Case(Source("random", _RANDOM_FROZEN), Condition(ablate)),
                "inverse": Case(first, Condition(ablate, inverse=True)),
                "pre-softmax": Case(first, Condition(ablate, pre_softmax=True)),
            }
            asked = [name for name in self.baselines if name != "pre-softmax" or ablate == "all"]
            found += [case for name, case in beside.items() if name in asked]
        return tuple(found)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The different ways to make strata, in the order in which cases first ask for them."""
        return tuple(dict.fromkeys(case.source for case in self.cases))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run keeps of one input: strata of each source and an evaluation of each case."""

    tokens: Int[np.ndarray, "T"]
    n_edges: int
    strata: tuple[EdgeTree, ...]
    evaluations: tuple[Evaluation, ...]


@dataclasses.dataclass(frozen=True)
class Invalid:
    """An input that is recorded, and left out of means."""

    reason: str


def process(
    model: Model, plan: Plan, rows: Mapping[int, np.ndarray], next_tokens: Mapping[int, int | None]
) -> Iterator[tuple[int, Outcome | Invalid]]:
    """Inputs in batches of alike lengths, each of them as soon as it is done.

    Args:
      model: the model.
      plan: what is asked.
      rows: token ids by the input's index, as ``tracing.tokenised`` checks them.
      next_tokens: the true next token of each, where known.

    Yields:
      An input's index with what came of it: not in the order of ``rows``.
    """
    fitting: dict[int, int] = {}
    longest = 0  # of the inputs that did fit into memory
    for index, row in rows.items():
        try:
            graph.n_edges(model.config, len(row))
            graph.check_slots(model.config, batching.bucket(len(row)))
            fitting[index] = len(row)
        except InputError as error:
            yield index, Invalid(str(error))

    def run(members: list[int], n_rows: int) -> list[Outcome | Invalid]:
        nonlocal longest
        length = max(fitting[index] for index in members)
        try:
            found = _run_batch(model, plan, [rows[i] for i in members], [next_tokens[i] for i in members], n_rows)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            # Where as long an input did fit, somebody else has taken the memory: that is no property of this one.
            alone = len(members) == 1 and jax.process_count() == 1 and length > longest
            if not alone or not batching.out_of_memory(error):
                raise
            return [Invalid(f"{length} tokens do not fit into memory")]
        longest = max(longest, length)
        return found

    most, n_devices = functools.partial(_most, model, plan), devices.n_data(model.mesh)
    for members, found in batching.in_batches(fitting, most, run, n_devices=n_devices):
        yield from zip(members, found, strict=True)


def _most(model: Model, plan: Plan, width: int) -> int:
    """Inputs of one call on each device: the strata of all sources stay beside the larger of the stages."""
    config, n_sizes, itemsize = model.config, len(plan.sizes), model.dtype.itemsize
    whole = any(source.importance == "random" for source in plan.sources)
    traced = memory.trace_bytes(config, width, n_sizes, itemsize, whole=whole)
    evaluated = memory.evaluate_bytes(config, width, n_sizes, itemsize)
    held = 5 * len(plan.sources) * graph.edge_slot_count(config, width)
    return memory.batch_inputs(model.decoder, width, max(traced, evaluated) + held)


def _run_batch(
    model: Model, plan: Plan, rows: list[np.ndarray], next_tokens: list[int | None], n_rows: int
) -> list[Outcome | Invalid]:
    width, mesh, sources, cases = batching.bucket(len(rows[0])), model.mesh, plan.sources, plan.cases
    edges = [graph.n_edges(model.config, len(row)) for row in rows]
    counts = batching.filled([graph.counts(plan.sizes, count) for count in edges], n_rows)
    nexts = batching.filled([np.asarray(token or 0, np.int32) for token in next_tokens], n_rows)
    batch = (*batching.padded(rows, width, n_rows), counts, nexts)
    tokens, lengths, cuts, chosen = devices.placed(batch, mesh)
    kinds = tuple(dict.fromkeys(source.importance for source in sources))
    scored, finite = score_all(model.decoder, tokens, lengths, plan.seed, importances=kinds, mesh=mesh)
    by_kind, parallel = dict(zip(kinds, scored, strict=True)), model.config.parallel
    strata = tuple(
        tracing.extract_batch(
            by_kind[source.importance], cuts, lengths, parallel=parallel, frozen=source.frozen, mesh=mesh
        )
        for source in sources
    )
    del scored, by_kind
    asked = tuple((sources.index(case.source), case.condition) for case in cases)
    results = evaluation.evaluate_cases(
        model.decoder, tokens, lengths, strata, chosen, n_sizes=len(plan.sizes), cases=asked, mesh=mesh
    )
    host: tuple[tuple[EdgeTree, ...], tuple[BatchResult, ...], np.ndarray] = devices.fetched((strata, results, finite))
    return [
        _outcome(plan, host, i, row, edges[i], next_tokens[i] is not None) if host[2][i] else _not_finite(len(row))
        for i, row in enumerate(rows)
    ]


def _not_finite(n_tokens: int) -> Invalid:
    return Invalid(f"the forward pass over {n_tokens} tokens is not finite")


def _outcome(
    plan: Plan,
    host: tuple[tuple[EdgeTree, ...], tuple[BatchResult, ...], np.ndarray],
    index: int,
    row: np.ndarray,
    n_edges: int,
    with_next: bool,
) -> Outcome | Invalid:
    """One input of a batch, unless some prediction of it is not finite."""
    strata, results, _ = host
    evaluations = []
    for case, result in zip(plan.cases, results, strict=True):
        found = evaluation.one_of(result, index, plan.sizes, case.condition, with_next=with_next)
        if not found.valid:
            return Invalid(f"a prediction under {case.name} is not finite")
        evaluations.append(found)
    own = tuple(tracing.cropped(tree, index, len(row)) for tree in strata)
    return Outcome(row, n_edges, own, tuple(evaluations))


@functools.partial(jax.jit, static_argnames=("importances", "mesh"))
def score_all(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    seed: Int[Array, ""] | int,
    *,
    importances: Sequence[str],
    mesh: Mesh | None = None,
) -> tuple[tuple[EdgeTree, ...], Bool[Array, "B"]]:
    """Scores of several kinds from one clean pass of a padded batch, and whether all of an input's are finite."""

    def score(decoder: Decoder, tokens: Array, lengths: Array) -> tuple[tuple[EdgeTree, ...], Array]:
        one = functools.partial(scores.several_scores, importances=tuple(importances), seed=seed)
        found = jax.vmap(one, in_axes=(None, 0, 0))(decoder, tokens, lengths)
        finite = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(found)]
        return found, functools.reduce(jnp.logical_and, finite)

    return devices.over_inputs(score, mesh, tokens.shape[0])(decoder, tokens, lengths)
