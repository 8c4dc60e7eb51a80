"""The one driver of batches: inputs through the stages that an ``Ask`` names, as many in a call as memory holds.

One policy on memory and NaN for all who call it. An input whose clean pass is not finite, whose graph is too large to
index, or which does not fit into memory alone, is ``Invalid``, with the reason; memory that an equally long input did
fit into was taken by somebody else, so that error is raised. A masked pass that is not finite leaves an evaluation that
is not valid.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int

from jstrace.method.conditions import scored_name, takes_passes
from jstrace.method.graph import full_graph, sizes
from jstrace.method.graph.composition import Composition, composed
from jstrace.method.graph.counting import Counts
from jstrace.method.questions import COUNTERFACTUAL, NOTHING, Question
from jstrace.method.scores.scoring import unfilled
from jstrace.models import EDGE_KINDS, AnyArray, EdgeTree, InputError, Model, Replacement
from jstrace.models.edges import ByValue
from jstrace.pipeline import masked, scorers, stages
from jstrace.pipeline.ask import Ask
from jstrace.pipeline.evaluation import Evaluation, evaluation_of
from jstrace.pipeline.footprint import call_bytes, replacement_bytes
from jstrace.pipeline.padding import cropped, widened, without_marks
from jstrace.pipeline.replacing import Replacing
from jstrace.scale import batching, memory, meshes
from jstrace.scale.programs import compile_seconds

OnBatch = Callable[[int, int], None]
"""Called with the inputs of a batch, and the tokens that they are padded to, before it is computed."""


_DRAWN = "drawn"
"""What scores that draw the states of other texts themselves are under, rather than "resample"."""


@dataclasses.dataclass(frozen=True, eq=False)
class Input(ByValue):
    """One input, checked (``inputs.tokenised``)."""

    tokens: Int[np.ndarray, "T"]
    next_token: int | None = None
    """The true next token, where known."""
    strata: tuple[EdgeTree, ...] = ()
    """Where the ask has no sources."""
    sizes: tuple[float, ...] | None = None
    """Of those strata, where they are not the ask's, but as many."""
    question: Question = dataclasses.field(default_factory=lambda: NOTHING)
    """What is asked of it beside its own prediction."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome(ByValue):
    """What came of an input: strata of each source and an evaluation of each case."""

    tokens: Int[np.ndarray, "T"]
    n_edges: int
    strata: tuple[EdgeTree, ...]
    """Empty where the ask does not keep them."""
    evaluations: tuple[Evaluation, ...]
    scores: EdgeTree | None = None
    """Of the first source, where the ask keeps them: float32; -1 in slots that are no edge."""
    compositions: tuple[Composition, ...] = ()
    """Of each source, where the ask wants them."""


@dataclasses.dataclass(frozen=True)
class Invalid:
    """An input of which there are no results."""

    reason: str
    detail: str = ""
    """More of the reason, for whom it can help."""
    error: Exception | None = dataclasses.field(default=None, repr=False)
    """What was raised."""

    def as_error(self, where: str = "") -> Exception:
        """What a call that promises a result for every input raises; ``where`` names the input."""
        if self.error is None or isinstance(self.error, InputError):
            return InputError(f"{where}{self.reason}{self.detail}")
        return self.error


@dataclasses.dataclass(frozen=True)
class Spent:
    """What scores took."""

    inputs: int
    seconds: float
    """Of all of them, without tracing and compiling programs; what else a first call takes is in it."""

    def __add__(self, other: Spent) -> Spent:
        """Of both."""
        return Spent(self.inputs + other.inputs, self.seconds + other.seconds)


class Driver:
    """Runs batches of one model for one ask, and remembers between them how long an input did fit into memory."""

    def __init__(
        self,
        model: Model,
        ask: Ask,
        on_batch: OnBatch | None = None,
        replacing: Replacing | None = None,
        *,
        ahead: Callable[[], bool] = lambda: False,
        timed: bool = False,
    ) -> None:
        """One for a model and an ask.

        Args:
          model, ask: what batches go through.
          on_batch: told of every batch before it is started.
          replacing: says what names of replacements stand for.
          ahead: asked before each batch whether to start it before the results of the one before it are fetched, so
            that the host's work on those takes none of the devices' time.
          timed: make ``spent`` known, where scores take passes of their own: each is a program of its own then, which
            is waited for, and no batch is started ahead.
        """
        self.model, self.ask, self._on_batch, self._ahead = model, ask, on_batch, ahead
        self._replacing = replacing or Replacing(model)
        self._scorings = tuple(
            (scorers.known_to(model, kind), _DRAWN if self._draws(kind, replace) else replace)
            for kind, replace in ask.scorings
        )
        names = dict.fromkeys(name for _, name in self._scorings)
        self._numbered = {name: name if name in ("zero", COUNTERFACTUAL) else str(i) for i, name in enumerate(names)}
        """Replacements have no names in programs, which would be compiled for each."""
        self._longest = 0
        self._apart = timed and any(takes_passes(kind) for kind, _ in self._scorings)
        if self._apart:
            self._ahead = lambda: False
        self.spent: dict[str, Spent] = {}
        """By the names of scores, those of one clean pass together, of all batches whose results are there."""

    def batches(self, inputs: Mapping[int, Input]) -> Iterator[dict[int, Outcome | Invalid]]:
        """Inputs in batches of alike lengths, each batch as soon as it is done: not in the order of ``inputs``.

        Raises:
          JaxRuntimeError, MemoryError: memory ran out for an input that would fit otherwise, or on several hosts.
        """
        return self.stream([inputs])

    def stream(self, parts: Iterable[Mapping[int, Input | Invalid]]) -> Iterator[dict[int, Outcome | Invalid]]:
        """Parts one after another, each in batches of its own as in ``batches``; all of a part before the next one's.

        What is no input passes through. A part is read while the last batch of the one before it is computed.
        """
        queue = _Queue(self._check)

        def start(members: list[int], n_rows: int) -> Callable[[], list[Outcome | Invalid]]:
            return self._started([queue.inputs[index] for index in members], n_rows)

        def unfit(members: list[int], error: Exception) -> list[Outcome | Invalid]:
            return [self._too_long(len(queue.inputs[members[0]].tokens), error)]

        n_devices = meshes.n_data(self.model.mesh)
        calls = batching.Calls(
            self._most, start, n_devices=n_devices, unfit=unfit, ahead=self._ahead, two=self._two_fit
        )
        for members, found in calls.of(queue.lengths(_by_question(parts))):
            yield from queue.refused()
            queue.finished(members)
            yield dict(zip(members, found, strict=True))
        yield from queue.refused(last=True)

    def prediction(self, tokens: Int[np.ndarray, "T"]) -> Float32[np.ndarray, "V"] | None:
        """What the model itself predicts of one input, in log-probabilities; None where it is not finite or no room is.

        By itself, so that no digit of it depends on what else is computed.

        Raises:
          InputError: the ask does not allow an input of this length.
          JaxRuntimeError, MemoryError: as ``batches``.
        """
        length, mesh = len(tokens), self.model.mesh
        self._check(length)
        rows = batching.padded([tokens], batching.bucket(length), batching.call_rows(1, meshes.n_data(mesh)))
        try:
            found = meshes.fetched(stages.predict_batch(self.model.decoder, *meshes.placed(rows, mesh), mesh=mesh))[0]
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not self._is_too_long(length, error):
                raise
            return None
        return np.asarray(found) if np.isfinite(found).all() else None

    def _check(self, length: int) -> None:
        """Refuse a length whose graph cannot be indexed, or that no replacement is long enough for."""
        full_graph.n_edges(self.model.config, length)
        full_graph.check_slots(self.model.config, length, batching.bucket)
        self._replacing.check(length, self.ask.carried)

    def _most(self, width: int) -> int:
        """Inputs of one call on each device."""
        each, shared = self._call_bytes(width)
        kinds = [kind for kind, _ in self._scorings]
        # Gradients are taken in one or two masks of an input at a time; extraction and evaluation have every size.
        few = bool(kinds) and all(takes_passes(kind) for kind in kinds) and not self.ask.cases
        alone, n_masks = any(getattr(kind, "alone", False) for kind in kinds), 2 if few else memory.ALL_SIZES
        return memory.batch_inputs(self.model.decoder, width, each, shared=shared, n_masks=n_masks, alone=alone)

    def _two_fit(self, width: int) -> bool:
        """Whether memory holds two calls of a width: a CPU's is the machine's, which kills what takes too much."""
        each, shared = self._call_bytes(width)
        return memory.holds(self.model.decoder, 2 * (self._most(width) * each + shared))

    def _call_bytes(self, width: int) -> tuple[int, int]:
        """Of each input of a call, and of the replacements that they share."""
        config, itemsize = self.model.config, self.model.dtype.itemsize
        shared = replacement_bytes(config, width, self.ask.carried, itemsize, self._replacing.own)
        return call_bytes(config, width, self.ask, itemsize), shared

    def _started(self, members: list[Input], n_rows: int) -> Callable[[], list[Outcome | Invalid]]:
        """A batch on its way, as what waits for its results."""
        length = max(len(one.tokens) for one in members)
        if self._on_batch is not None:
            self._on_batch(len(members), batching.bucket(length))
        wait = self._run(members, n_rows)

        def finish() -> list[Outcome | Invalid]:
            found = wait()
            self._longest = max(self._longest, length)
            return found

        return finish

    def _too_long(self, length: int, error: Exception) -> Invalid:
        """That memory does not hold an input; or the error, where it would."""
        if not self._is_too_long(length, error):
            raise error
        return Invalid(f"{length} tokens do not fit into memory", error=_without_frames(error))

    def _is_too_long(self, length: int, error: Exception) -> bool:
        """Whether memory does not hold an input alone.

        Where as long an input did fit, somebody else has taken the memory: that is no property of this one.
        """
        return jax.process_count() == 1 and length > self._longest and memory.out_of_memory(error)

    def _run(self, members: list[Input], n_rows: int) -> Callable[[], list[Outcome | Invalid]]:
        """One batch on its way through its stages, as what waits for its results and fetches them.

        Of its arrays only those that will be fetched stay on the devices.
        """
        model, ask, rows = self.model, self.ask, [one.tokens for one in members]
        width, mesh = batching.bucket(len(rows[0])), model.mesh
        edges = [full_graph.n_edges(model.config, len(row)) for row in rows]
        counts = batching.filled([sizes.counts(ask.sizes, count) for count in edges], n_rows)
        nexts = batching.filled([np.asarray(one.next_token or 0, np.int32) for one in members], n_rows)
        batch = (*batching.padded(rows, width, n_rows), counts, nexts)
        tokens, lengths, cuts, chosen = meshes.placed(batch, mesh)
        questions = meshes.placed(Question.stacked([one.question for one in members], width, n_rows), mesh)
        finite = scores = None
        took: dict[str, float] = {}
        if ask.sources:
            strata, scores, finite = self._traced(tokens, lengths, cuts, width, questions, took)
        else:
            strata = meshes.placed(_given_strata(members, width, n_rows), mesh)
        results = () if not ask.cases else masked.evaluate_batch(
            model.decoder, tokens, lengths, strata, chosen, self._named(ask.replacements, self._replacing.stack, width),
            questions, n_sizes=len(ask.sizes), cases=ask.numbered, mesh=mesh,
        )  # fmt: skip
        counts_of = () if not ask.compose else stages.compose_batch(
            strata, n_sizes=len(ask.sizes), parallel=model.config.parallel, mesh=mesh
        )  # fmt: skip
        kept = strata if ask.sources and ask.keep_strata else ()
        there = meshes.leaving(_OnHost(scores, kept, finite, results, counts_of))

        def wait() -> list[Outcome | Invalid]:
            host = meshes.fetched(there)
            for name, seconds in took.items():  # where memory runs out before, the batch is computed again
                self.spent[name] = self.spent.get(name, Spent(0, 0.0)) + Spent(len(rows), seconds)
            return [self._outcome(host, index, one, edges[index]) for index, one in enumerate(members)]

        return wait

    def _named(
        self, names: Sequence[str], of: Callable[[str, int], Replacement | None], width: int
    ) -> dict[str, Replacement]:
        """Replacements of a batch by their names; zero has none."""
        found = ((name, of(name, width)) for name in names)
        return {name: one for name, one in found if one is not None}

    def _traced(
        self,
        tokens: Int[AnyArray, "B T"],
        lengths: Int[AnyArray, "B"],
        cuts: Int[AnyArray, "B Z"],
        width: int,
        questions: Question,
        took: dict[str, float],
    ) -> tuple[tuple[EdgeTree, ...], EdgeTree | None, jax.Array]:
        """Strata of every source, the scores of the first where they are kept, and where scores are finite.

        The seconds that the scores took go into ``took``, if they are known.
        """
        ask, mesh, parallel = self.ask, self.model.mesh, self.model.config.parallel
        replaced, drawn = self._replaced(width)
        score = functools.partial(
            stages.score_batch, self.model.decoder, tokens, lengths, ask.seed, replacements=replaced, others=drawn,
            questions=questions, mesh=mesh,
        )  # fmt: skip
        by_kind: dict[tuple[Any, str], EdgeTree] = {}
        finite: list[jax.Array] = []
        for group in self._groups():
            shells, learned = zip(*(unfilled(self._scorings[at][0]) for at in group), strict=True)
            names = [self._numbered[self._scorings[at][1]] for at in group]
            with self._timed(group, took) as finished:
                scored, good = finished(score(scorings=tuple(zip(shells, names, strict=True)), learned=learned))
            by_kind |= {ask.scorings[at]: one for at, one in zip(group, scored, strict=True)}
            finite.append(good)
        extract = functools.partial(stages.extract_batch, parallel=parallel, mesh=mesh)
        strata = tuple(
            extract(by_kind[one.scoring], cuts, lengths, frozen=one.frozen, signed=one.signed, order=one.order)
            for one in ask.sources
        )
        return (
            strata,
            by_kind[ask.sources[0].scoring] if ask.keep_scores else None,
            functools.reduce(operator.and_, finite),
        )

    def _groups(self) -> list[list[int]]:
        """Which scorings are one program: all; or where they are timed those that measure the edges of one clean pass,
        and each other by itself."""
        if not self._apart:
            return [[*range(len(self._scorings))]]
        passes = [at for at, (kind, _) in enumerate(self._scorings) if takes_passes(kind)]
        measured = [at for at in range(len(self._scorings)) if at not in passes]
        return [*([measured] if measured else []), *([at] for at in passes)]

    @contextlib.contextmanager
    def _timed(self, group: Sequence[int], took: dict[str, float]) -> Iterator[Callable[[Any], Any]]:
        """What waits for the scores of a group, if it is to be known what they took."""
        if not self._apart:
            yield lambda scores: scores
            return
        with compile_seconds() as compiled:
            start = time.perf_counter()
            yield jax.block_until_ready
            seconds = max(0.0, time.perf_counter() - start - compiled())
        took[" and ".join(dict.fromkeys(scored_name(*self.ask.scorings[at]) for at in group))] = seconds

    def _replaced(self, width: int) -> tuple[dict[str, Replacement], dict[str, np.ndarray]]:
        """What ablated edges carry while scores are made, and tokens whose states scores draw instead, by number."""
        names = dict.fromkeys(replace for _, replace in self._scorings)
        found = self._named([name for name in names if name != _DRAWN], self._replacing.one, width)
        replaced = {self._numbered[name]: one for name, one in found.items()}
        if _DRAWN not in names:
            return replaced, {}
        # One other text's states make a bad start: it is found under means.
        start, drawn = self._named(["mean"], self._replacing.one, width)["mean"], self._numbered[_DRAWN]
        return replaced | {drawn: start}, {drawn: self._replacing.stream(width)}

    def _draws(self, kind: Any, replace: str) -> bool:
        """Whether a score draws the states of other texts itself."""
        drawing = kind == "fitted" or getattr(kind, "draws", False)
        return drawing and replace == "resample" and not self._replacing.is_own(replace)

    def _outcome(self, host: _OnHost, index: int, one: Input, n_edges: int) -> Outcome | Invalid:
        """One input of a batch."""
        length = len(one.tokens)
        if host.finite is not None and not host.finite[index].all():
            kind, layer = map(int, np.argwhere(~host.finite[index].T)[0][::-1])
            where = f" at {EDGE_KINDS[kind]} of layer {layer}; try dtype float32"
            passes = any(takes_passes(kind) for kind, _ in self._scorings)
            what = "scores" if passes else "the forward pass"
            return Invalid(f"{what} over {length} tokens {'are' if passes else 'is'} not finite", where)
        evaluations = tuple(
            evaluation_of(
                result,
                index,
                one.sizes or self.ask.sizes,
                case.condition,
                with_next=one.next_token is not None,
                question=one.question,
                word=None if self.model.tokenizer is None else self.model.tokenizer.token,
            )
            for case, result in zip(self.ask.cases, host.results, strict=True)
        )
        strata = tuple(cropped(tree, index, length) for tree in host.strata) or one.strata
        scores = None if host.scores is None else without_marks(cropped(host.scores, index, length))
        made = tuple(composed(jax.tree.map(lambda leaf: leaf[index], counts)) for counts in host.counts)
        return Outcome(one.tokens, n_edges, strata, evaluations, scores, made)


def _by_question(parts: Iterable[Mapping[int, Input | Invalid]]) -> Iterator[dict[int, Input | Invalid]]:
    """The same parts, but inputs of each kind of question apart: they are another program's."""
    for part in parts:
        kinds = {index: one.question.kind for index, one in part.items() if isinstance(one, Input)}
        for kind in dict.fromkeys([NOTHING.kind, *kinds.values()]):
            chosen = {index: one for index, one in part.items() if kinds.get(index, NOTHING.kind) == kind}
            if chosen:
                yield chosen


class _Queue:
    """Parts that are on their way: their inputs, and what is no input, until it is its turn."""

    def __init__(self, check: Callable[[int], None]) -> None:
        """``check`` refuses lengths."""
        self._check = check
        self.inputs: dict[int, Input] = {}
        self._parts: collections.deque[tuple[set[int], dict[int, Outcome | Invalid]]] = collections.deque()

    def lengths(self, parts: Iterable[Mapping[int, Input | Invalid]]) -> Iterator[dict[int, int]]:
        """Of each part the tokens of its inputs."""
        for part in parts:
            good: dict[int, Input] = {}
            refused: dict[int, Outcome | Invalid] = {}
            for index, one in part.items():
                try:
                    if isinstance(one, Input):
                        self._check(len(one.tokens))
                        good[index] = one
                    else:
                        refused[index] = one
                except InputError as error:
                    refused[index] = Invalid(str(error), error=error)
            self.inputs |= good
            self._parts.append((set(good), refused))
            yield {index: len(one.tokens) for index, one in good.items()}

    def finished(self, members: Iterable[int]) -> None:
        """There are results of these."""
        for index in members:
            self._parts[0][0].discard(index)
            del self.inputs[index]

    def refused(self, *, last: bool = False) -> Iterator[dict[int, Outcome | Invalid]]:
        """What is no input, of the part whose results come next and of those before it; ``last``: of all."""
        while self._parts:
            left, refused = self._parts[0]
            yield from ({index: one} for index, one in refused.items())
            refused.clear()
            if left and not last:
                return
            self._parts.popleft()


def _without_frames(error: Exception) -> Exception:
    """The error without its traceback, whose frames would keep a batch's arrays on the device."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _OnHost:
    """What is fetched of a batch."""

    scores: EdgeTree | None
    strata: tuple[EdgeTree, ...]
    finite: AnyArray | None
    results: tuple[masked.BatchResult, ...]
    counts: tuple[Counts, ...]


def _given_strata(members: list[Input], width: int, n_rows: int) -> tuple[EdgeTree, ...]:
    """The strata that the inputs came with, padded to one batch."""
    wide = [tuple(widened(tree, width, np.uint8(sizes.NO_EDGE)) for tree in one.strata) for one in members]
    return jax.tree.map(lambda *leaves: batching.filled(leaves, n_rows, sizes.NO_EDGE), *wide)
