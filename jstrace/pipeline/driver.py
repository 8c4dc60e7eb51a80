"""The one driver of batches: inputs through the stages that an ``Ask`` names, as many in a call as memory holds.

One policy on memory and NaN for all who call it. An input whose clean pass is not finite, whose graph is too large to
index, or which does not fit into memory alone, is ``Invalid``, with the reason; memory that an equally long input did
fit into was taken by somebody else, so that error is raised. A masked pass that is not finite leaves an evaluation that
is not valid.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float32, Int

from jstrace.method.questions import NOTHING
from jstrace.models import InputError, Model
from jstrace.pipeline import call, stages
from jstrace.pipeline.records import Ask, Input, Invalid, Outcome, Spent
from jstrace.pipeline.replacing import Replacing
from jstrace.pipeline.resolved import Resolved
from jstrace.scale import batching, memory, meshes

OnBatch = Callable[[int, int], None]
"""Called with the inputs of a batch, and the tokens that they are padded to, before it is computed."""


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
        self.model, self.ask = model, ask
        self._resolved = Resolved.of(model, ask, replacing or Replacing(model), timed=timed)
        self._on_batch = on_batch
        self._ahead = (lambda: False) if self._resolved.timed else ahead
        self._longest = 0
        self.spent: dict[str, Spent] = {}
        """By the names of scores, those of one clean pass together, of all batches whose results are there."""

    def on(self, model: Model) -> Driver:
        """The same for other weights of this model: what names stand for stays what it is."""
        other = copy.copy(self)
        other.model, other._resolved, other.spent = model, dataclasses.replace(self._resolved, model=model), {}
        return other

    def batches(
        self, inputs: Mapping[int, Input], on_steps: call.OnSteps | None = None
    ) -> Iterator[dict[int, Outcome | Invalid]]:
        """Inputs in batches of alike lengths, each batch as soon as it is done: not in the order of ``inputs``.

        ``on_steps`` is called while fits run, with the inputs of their batch times the share of the steps that is done.

        Raises:
          JaxRuntimeError, MemoryError: memory ran out for an input that would fit otherwise, or on several hosts.
        """
        return self.stream([inputs], on_steps)

    def stream(
        self, parts: Iterable[Mapping[int, Input | Invalid]], on_steps: call.OnSteps | None = None
    ) -> Iterator[dict[int, Outcome | Invalid]]:
        """Parts one after another, each in batches of its own as in ``batches``; all of a part before the next one's.

        What is no input passes through. A part is read while the last batch of the one before it is computed.
        """
        resolved, queue = self._resolved, _Queue(self._resolved.check)
        calls = batching.Calls[Outcome | Invalid](
            lambda width: resolved.most_inputs(width, queue.n_outputs),
            lambda members, n_rows: self._started([queue.inputs[index] for index in members], n_rows, on_steps),
            n_devices=meshes.n_data(self.model.mesh),
            unfit=lambda members, error: [self._unfit(len(queue.inputs[members[0]].tokens), error)],
            ahead=self._ahead,
            two=lambda width: resolved.two_fit(width, queue.n_outputs),
        )
        for members, outcomes in calls.of(queue.lengths(parts)):
            yield from queue.refused()
            for index in members:
                del queue.inputs[index]
            yield dict(zip(members, outcomes, strict=True))
        yield from queue.refused()

    def prediction(self, tokens: Int[np.ndarray, "T"]) -> Float32[np.ndarray, "V"] | None:
        """What the model itself predicts of one input, in log-probabilities; None where it is not finite or no room is.

        By itself, so that no digit of it depends on what else is computed.

        Raises:
          InputError: the ask does not allow an input of this length.
          JaxRuntimeError, MemoryError: as ``batches``.
        """
        length, mesh = len(tokens), self.model.mesh
        self._resolved.check(length)
        rows = batching.padded([tokens], batching.bucket(length), batching.call_rows(1, meshes.n_data(mesh)))
        try:
            batch = stages.predict_batch(self.model.decoder, *meshes.placed(rows, mesh), mesh=mesh)
            log_probs = meshes.fetched(batch)[0]
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not self._is_too_long(length, error):
                raise
            return None
        return np.asarray(log_probs) if np.isfinite(log_probs).all() else None

    def _started(
        self, members: Sequence[Input], n_rows: int, on_steps: call.OnSteps | None
    ) -> Callable[[], list[Outcome | Invalid]]:
        """A batch on its way, as what waits for its results and notes what it took."""
        length = max(len(member.tokens) for member in members)
        if self._on_batch is not None:
            self._on_batch(len(members), batching.bucket(length))
        told = None if on_steps is None else lambda share: on_steps(len(members) * share)
        wait = call.start(self._resolved, members, n_rows, told)

        def finish() -> list[Outcome | Invalid]:
            outcomes, seconds = wait()
            for name, each in seconds.items():  # where memory runs out before, the batch is computed again
                self.spent[name] = self.spent.get(name, Spent(0, 0.0)) + Spent(len(members), each)
            self._longest = max(self._longest, length)
            return outcomes

        return finish

    def _unfit(self, length: int, error: Exception) -> Invalid:
        """That memory does not hold an input; or the error, where it would."""
        if not self._is_too_long(length, error):
            raise error
        # Frames of a traceback would keep a batch's arrays on the device.
        error.__context__ = error.__cause__ = None
        return Invalid(f"{length} tokens do not fit into memory", error=error.with_traceback(None))

    def _is_too_long(self, length: int, error: Exception) -> bool:
        """Whether memory does not hold an input alone.

        Where as long an input did fit, somebody else has taken the memory: that is no property of this one.
        """
        return jax.process_count() == 1 and length > self._longest and memory.out_of_memory(error)


@dataclasses.dataclass
class _Queue:
    """Parts that are on their way: their inputs, and what is no input, until it is its turn."""

    check: Callable[[int, int], None]
    """Refuses lengths with so many outputs."""
    inputs: dict[int, Input] = dataclasses.field(default_factory=dict)
    """Those that there are no results of yet."""
    n_outputs: int = 1
    """The most of any input so far, which calls are planned for."""
    _parts: collections.deque[tuple[set[int], dict[int, Outcome | Invalid]]] = dataclasses.field(
        default_factory=collections.deque
    )

    def lengths(self, parts: Iterable[Mapping[int, Input | Invalid]]) -> Iterator[dict[int, int]]:
        """Tokens of each part's inputs; each kind of question apart, as it is another program's."""
        for part in parts:
            checked = {index: self._checked(given) for index, given in part.items()}
            inputs = {index: given for index, given in checked.items() if isinstance(given, Input)}
            self._parts.append((set(inputs), {i: given for i, given in checked.items() if isinstance(given, Invalid)}))
            self.inputs |= inputs
            self.n_outputs = max([self.n_outputs, *(given.question.n_outputs for given in inputs.values())])
            for kind in dict.fromkeys([NOTHING.kind, *(given.question.kind for given in inputs.values())]):
                yield {i: len(given.tokens) for i, given in inputs.items() if given.question.kind == kind}

    def _checked(self, given: Input | Invalid) -> Input | Invalid:
        try:
            if isinstance(given, Input):
                self.check(len(given.tokens), given.question.n_outputs)
        except InputError as error:
            return Invalid(str(error), error=error)
        return given

    def refused(self) -> Iterator[dict[int, Outcome | Invalid]]:
        """What is no input, of the part whose results come next and of those before it."""
        while self._parts:
            members, refused = self._parts[0]
            yield from ({index: given} for index, given in refused.items())
            refused.clear()
            if not members.isdisjoint(self.inputs):
                return
            self._parts.popleft()
