"""Texts through the model, a chunk at a time, with a progress bar."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from jstrace.cli.texts import Line
    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Invalid, Trace
    from jstrace.pipeline.effects import Effects
    from jstrace.pipeline.smallest import Smallest

Found = TypeVar("Found")
_Report = Callable[[float, int], None]
"""Called with the texts done, and all."""

CLOSE = 0.1
"""The TV within which a prediction is as good as kept."""
_CHUNK = 64
"""Texts for each device that are traced before their results are shown and dropped, at most."""
_BYTES = 2**31
"""Of the traces of these; no measure of this machine, as all hosts have to take the same texts."""
_SLOT_BYTES = 5
"""Of a trace's strata and scores."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What ``jstrace trace`` computes of every text."""

    score: Any
    """The name of an edge score, or a scorer."""
    seed: int
    ablate: str
    pre_softmax: bool
    sizes: tuple[float, ...]
    """Of traces, shares of all edges."""
    order: str = "best-first"
    replace: str = "zero"
    score_replace: str | None = None
    """What ablated edges carry while scores are made, where that is not ``replace``."""
    reference: list[str] | None = None
    """Texts that replacements are made of; what comes with jstrace by default."""
    counterfactual: str | None = None
    """Of one text: the prompt whose states ablated edges carry."""
    metric: Any = None
    """What is asked of its prediction."""
    components: bool = False
    """Whether the effect of each head and MLP on that is wanted, too."""
    answer: str | None = None
    """What every text goes on with, where that is several tokens."""
    repeats: int = 0
    """How often again, with weights that differ by rounding."""


class Result(NamedTuple):
    """One text with what came of it."""

    text: str
    trace: Trace
    evaluation: Evaluation
    seconds: float
    """That tracing took, for each of the texts that were traced together."""
    smallest: tuple[Smallest, Smallest] | None
    """The smallest traces with the top token, and within TV 0.1; of a text by itself."""
    effects: Effects | None = None
    """Of each head and MLP on the metric."""


def chunks(
    model: Model, lines: Sequence[Line], rows: Sequence[np.ndarray], asked: Asked, *, shown: bool = True
) -> Generator[list[Result]]:
    """Results in the order of the texts; close it to end the bar. Token ids are ``rows`` (int32 ``[T]`` each).

    Progress is on standard error, where it is to be ``shown``: texts traced, and texts evaluated.
    """
    from jstrace.pipeline.progress import bar

    step, total = _texts_at_once(model, max(map(len, rows))), 2 * len(lines)
    with bar("tracing (the first of a length compiles)", shown=shown) as report:
        for start in range(0, len(lines), step):
            some = slice(start, start + step)
            begun = (2 * start, 2 * start + len(lines[some]))
            reports = [lambda done, _, before=before: report(before + done, total) for before in begun]
            # Nothing here holds the last results while the next are computed.
            yield _computed(model, lines[some], list(rows[some]), asked, *reports)


def _texts_at_once(model: Model, longest: int) -> int:
    """As many as ``_BYTES`` hold the traces of, one at least for each device that inputs are divided over."""
    from jstrace.method.graph.full_graph import edge_slot_count
    from jstrace.scale.meshes import n_data

    fitting = _BYTES // (_SLOT_BYTES * edge_slot_count(model.config, longest))
    return max(1, min(_CHUNK, fitting // n_data(model.mesh))) * n_data(model.mesh)


def _computed(
    model: Model, lines: Sequence[Line], rows: list[np.ndarray], asked: Asked, traced: _Report, evaluated: _Report
) -> list[Result]:
    import jstrace

    pair: Any = None if asked.counterfactual is None else [asked.counterfactual]
    reference, start = asked.reference, time.perf_counter()
    traces = jstrace.trace(
        model, rows, score=asked.score, order=asked.order, sizes=asked.sizes, replace=None if pair else asked.replace,
        score_replace=asked.score_replace, reference=reference, seed=asked.seed, on_invalid="keep", progress=traced,
        counterfactual=pair, metric=asked.metric, repeats=asked.repeats,
        answer=None if asked.answer is None else [asked.answer] * len(rows),
    )  # fmt: skip
    valid, seconds = _valid(lines, traces), (time.perf_counter() - start) / len(rows)
    evaluations = jstrace.evaluate(
        model, valid, ablate=asked.ablate, pre_softmax=asked.pre_softmax, reference=reference, on_invalid="keep",
        progress=evaluated,
    )  # fmt: skip
    judged = _valid(lines, evaluations)
    first = two_smallest(model, valid[0], judged[0], reference) if len(lines) == 1 else None
    if first is not None and asked.components:
        under = {"counterfactual": asked.counterfactual} if pair else {"replace": asked.replace, "reference": reference}
        found_effects = jstrace.effects(model, rows[0], by="node", metric=asked.metric, **under)
        return [Result(lines[0].text, valid[0], judged[0], seconds, first, found_effects)]
    triples = zip(lines, valid, judged, strict=True)
    return [Result(line.text, trace, evaluation, seconds, first) for line, trace, evaluation in triples]


def two_smallest(
    model: Model, trace: Trace, evaluation: Evaluation, reference: Any
) -> tuple[Smallest, Smallest] | None:
    """The smallest traces with the top token and within TV 0.1, to a hundredth of their sizes; of few sizes exactly."""
    from jstrace.method.graph.sizes import SIZES
    from jstrace.pipeline.smallest import Goal, all_smallest

    if not evaluation.valid:
        return None
    goals, turns = [Goal(None, top_token=True), Goal(CLOSE)], 2 if len(trace.sizes) >= len(SIZES) else None
    back, close = all_smallest(model, trace, evaluation, goals, turns=turns, reference=reference)
    return back, close


def _valid(lines: Sequence[Line], results: Sequence[Found | Invalid]) -> list[Found]:
    """All of them, or the first error, with its line."""
    from jstrace.pipeline import Invalid

    for line, result in zip(lines, results, strict=True):
        if isinstance(result, Invalid):
            raise result.as_error(line.where)
    return [result for result in results if not isinstance(result, Invalid)]
