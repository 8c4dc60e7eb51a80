"""``jstrace.task``: one circuit for many prompts of one task (section 9 of the method)."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jstrace.method.conditions import checked_seed
from jstrace.method.graph.sizes import SIZES, checked_sizes
from jstrace.method.naming import checked_score, name_of, takes_passes
from jstrace.models import InputError, Model
from jstrace.pipeline.carrying import Under
from jstrace.pipeline.inputs import checked_model
from jstrace.pipeline.progress import Progress, Report, reported
from jstrace.pipeline.replacing import Replace
from jstrace.pipeline.tasks.alignment import LEVELS, Alignment, component_shares, pooled
from jstrace.pipeline.tasks.circuit import TaskCircuit, random_order, traces_of
from jstrace.pipeline.tasks.judging import Judged, judged_components, judged_traces, overlaps, shared_components
from jstrace.pipeline.tasks.prompts import Pair, Prompt, prompts_of
from jstrace.pipeline.trace import Trace
from jstrace.pipeline.tracing import trace

BESIDE = ("single", "random", "components", "control")
"""What is judged on held-out pairs beside the circuit."""


def task(
    model: Model,
    pairs: Sequence[Pair],
    *,
    score: Any = "rounds",
    align: str | None = None,
    held_out: float | Sequence[Pair] = 0.5,
    sizes: Sequence[float] = SIZES,
    replace: Replace = None,
    seed: int = 0,
    level: str = "edges",
    beside: Sequence[str] = BESIDE,
    progress: Progress | None = None,
) -> TaskCircuit:
    """Find one circuit in many prompts of a task, and measure what it keeps of prompts that it was not found in.

    Each training pair is traced for its scores, with the difference of the logits of answer and rival as the metric.
    Edges of different prompts that are of one kind, layer and head, between tokens of the same classes, share an
    image, whose score is their mean. In any prompt of the task edges have their images' scores.

    Args:
      model: from ``jstrace.load``.
      pairs: prompts with their counterfactuals, made by hand or by ``jstrace.pairs_of``.
      score: the edge score, as in ``jstrace.trace``. "gradient" costs a sixteenth of "rounds".
      align: the class of a token is its "position", or its role ("roles"), which is its place from the end where it has
        none; "components" puts all tokens into one class. By default position where all training prompts are of one
        length and have no roles, else roles.
      held_out: the share of pairs, chosen at random, that the circuit is judged on, or a list of other pairs; 0 or an
        empty list for none.
      sizes: shares of all edges, or of all heads and MLPs.
      replace: what ablated edges carry, as in ``jstrace.trace``; by default the states of the pairs' counterfactuals.
      seed: of the choice of held-out pairs, of the random order and of scores that draw.
      level: "edges", or "components": heads and MLPs are kept at all positions, and all residual edges.
      beside: what else is judged on held-out pairs: "single", each pair's own trace; "random", random scores of images;
        "components", at the same shares; "control", the circuit of the training pairs with clean and counterfactual
        prompt, answer and rival exchanged. Where counterfactual prompts are prompts of the task, too, that control is
        the task's circuit again.
      progress: True for a bar on standard error, or what is called with the number of passes over prompts that are
        done, and in all.

    Examples:
      >>> circuit = jstrace.task(model, pairs, score="gradient", beside=())
      >>> circuit.n_pairs, circuit.align
      (1, 'position')

    Raises:
      InputError: fewer than one pair to find a circuit in, or pairs or arguments that make no sense.
    """
    checked_model(model)
    _check_one("level", level, LEVELS)
    if isinstance(beside, str) or not isinstance(beside, Iterable):
        raise InputError(f"beside = {beside!r:.60}, expected a list of any of {', '.join(BESIDE)}")
    for name in beside:
        _check_one("beside", name, BESIDE)
    found_in, held = _divided(model, pairs, held_out, checked_seed(seed))
    orders = [name for name in BESIDE if name in beside and (level == "edges" or name != "components")]
    tracings = len(found_in) * (1 + (bool(held) and "control" in orders)) + len(held) * ("single" in orders)
    kind = "components" if align is None and level == "components" else align
    alignment = Alignment.of(found_in, kind)
    for prompt in held:
        alignment.numbers(prompt.roles)  # before the work, which is for nothing where one is of another length
    with reported(progress, "passes over prompts") as report:
        steps = _Steps(report, tracings + len(held) * (1 + len(orders)))
        study = Study(model, checked_score(score), checked_sizes(sizes), replace, seed, level, steps)
        circuit = study.circuit(found_in, alignment)
        if not held:
            return circuit
        judged, overlap = study.judged(circuit, found_in, held, orders)
    return dataclasses.replace(circuit, judged=judged, overlap=overlap)


def _check_one(what: str, name: Any, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"{what} = {name!r:.60}, expected one of {', '.join(known)}")


def _divided(model: Model, pairs: Any, held_out: Any, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to find a circuit in, and prompts to judge it on, each in the order that they were given in.

    A warning says how many are both.

    Raises:
      InputError: no pairs, a share that leaves none, or a pair that makes no sense.
    """
    if not isinstance(pairs, Sequence) or not pairs:
        raise InputError("pairs: expected a list of jstrace.Pair, one at least")
    if isinstance(held_out, Sequence) and not isinstance(held_out, str):
        return _told_apart(prompts_of(model, pairs), prompts_of(model, held_out, "held-out pair"))
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        raise InputError(f"held_out = {held_out!r:.60}, expected a share below 1, or a list of pairs")
    chosen = {*np.random.default_rng(seed).permutation(len(pairs))[: int(held_out * len(pairs) + 1e-9)].tolist()}
    prompts = prompts_of(model, pairs)
    return _told_apart(
        [prompt for index, prompt in enumerate(prompts) if index not in chosen],
        [prompt for index, prompt in enumerate(prompts) if index in chosen],
    )


def _told_apart(found_in: list[Prompt], held: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Both, and a warning where a circuit would be judged on what it was found in."""
    known = {(prompt.tokens.tobytes(), prompt.counterfactual.tobytes()) for prompt in found_in}
    n_both = sum((prompt.tokens.tobytes(), prompt.counterfactual.tobytes()) in known for prompt in held)
    if n_both:
        warnings.warn(f"{n_both} of {len(held)} held-out pairs are among those of the circuit, too", stacklevel=4)
    return found_in, held


class _Steps:
    """What is done of all passes over prompts."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def part(self, count: int) -> Callable[[float, int], None]:
        """What to call within the next part, with how much of its ``count`` is done."""
        before, self._done = self._done, self._done + count

        def report(done: float, _: int) -> None:
            if self._report is not None:
                self._report(before + done, self._total)

        return report


@dataclasses.dataclass(frozen=True)
class Study:
    """How a task is asked of a model."""

    model: Model
    score: Any
    sizes: tuple[float, ...]
    replace: Replace
    seed: int
    level: str
    steps: _Steps

    @functools.cached_property
    def names(self) -> tuple[str, str, str]:
        """What ablated edges carry by name, what they do while gradients are taken, and a mark of what is one's own."""
        passes = takes_passes(self.score)
        name, scored, _, mark = Under(self.replace, None, None, paired=self.replace is None).named(
            self.model, passes=passes
        )
        return name, scored if passes else "", mark

    def traced(self, prompts: Sequence[Prompt]) -> list[Trace]:
        """Each prompt's own traces."""
        pairs = [prompt.counterfactual for prompt in prompts] if self.replace is None else None
        return trace(
            self.model, [prompt.tokens for prompt in prompts], score=self.score, sizes=self.sizes, replace=self.replace,
            counterfactual=pairs, metric=[prompt.metric for prompt in prompts], seed=self.seed,
            progress=self.steps.part(len(prompts)),
        )  # fmt: skip

    def circuit(self, prompts: Sequence[Prompt], alignment: Alignment) -> TaskCircuit:
        """Found in prompts, and judged on none."""
        scores = [prompt_trace.scores for prompt_trace in self.traced(prompts)]
        classes, config = [alignment.numbers(prompt.roles) for prompt in prompts], self.model.config
        name, scored, mark = self.names
        return TaskCircuit(
            images=pooled(scores, classes, len(alignment.classes), config),
            components=component_shares(scores, config).astype(np.float32),
            classes=alignment.classes,
            align=alignment.kind,
            level=self.level,
            sizes=self.sizes,
            score=name_of(self.score),
            score_replace=scored,
            replace=name,
            reference=mark,
            seed=self.seed,
            config=config,
            model_fingerprint=self.model.fingerprint(),
            n_pairs=len(prompts),
            weights=self.model.weights,
        )

    def judged(
        self, circuit: TaskCircuit, found_in: Sequence[Prompt], held: Sequence[Prompt], orders: Sequence[str]
    ) -> tuple[dict[str, Judged], np.ndarray | None]:
        """What each order keeps of held-out pairs, and how much of single traces is in the circuit's."""
        by_task = traces_of(circuit, self.model, held)
        by_order, overlap = {"task": self._of(circuit, held, by_task)}, None
        for name in orders:
            if name == "single":
                by_order[name], overlap = self._single(circuit, by_task, self.traced(held))
            elif name == "random":
                by_order[name] = self._of(random_order(circuit, self.seed), held)
            elif name == "components":
                by_order[name] = self._of_components(by_task, np.stack([circuit.kept_components()] * len(held)))
            else:
                exchanged = [prompt.exchanged() for prompt in found_in]
                by_order[name] = self._of(self.circuit(exchanged, circuit.alignment), held)
        return by_order, overlap

    def _of(self, circuit: TaskCircuit, held: Sequence[Prompt], traces: Sequence[Trace] | None = None) -> Judged:
        """By a circuit, at its level."""
        traces = traces or traces_of(circuit, self.model, held)
        if self.level == "components":
            return self._of_components(traces, np.stack([circuit.kept_components()] * len(held)))
        return judged_traces(self.model, traces, self.replace, self.steps.part(len(held)))

    def _single(
        self, circuit: TaskCircuit, by_task: Sequence[Trace], own: Sequence[Trace]
    ) -> tuple[Judged, np.ndarray]:
        """By each held-out pair's own scores."""
        if self.level == "edges":
            judged = judged_traces(self.model, own, self.replace, self.steps.part(len(own)))
            return judged, overlaps(own, by_task)
        shares = (component_shares([own_trace.scores], self.model.config).astype(np.float32) for own_trace in own)
        components = np.stack([dataclasses.replace(circuit, components=each).kept_components() for each in shares])
        return self._of_components(own, components), shared_components(components, circuit.kept_components())

    def _of_components(self, traces: Sequence[Trace], components: np.ndarray) -> Judged:
        return judged_components(self.model, traces, components, self.replace, self.steps.part(len(traces)))
