"""Texts through the model, a chunk at a time, with a progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Trace

_CHUNK = 64
"""Texts for each device that are traced before their results are shown and dropped."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What ``jstrace trace`` computes of every text."""

    importance: Any
    """The name of an edge score, or a scorer."""
    seed: int
    ablate: str
    pre_softmax: bool
    order: str = "best-first"
    replace: str = "zero"
    reference: tuple[str, ...] | None = None
    """Texts that replacements are made of; what comes with jstrace by default."""


class Result(NamedTuple):
    """One text with what came of it."""

    text: str
    trace: Trace
    evaluation: Evaluation
    seconds: float
    """That tracing took, for each of the texts that were traced together."""


def chunks(model: Model, texts: Sequence[str], rows: Sequence[np.ndarray], asked: Asked) -> Generator[list[Result]]:
    """Results in the order of the texts; close it to end the bar. Token ids are ``rows`` (int32 ``[T]`` each)."""
    from jstrace.scale.meshes import n_data

    step = _CHUNK * n_data(model.mesh)
    with _progress(len(texts)) as advance:
        for start in range(0, len(texts), step):
            computed = _computed(model, list(rows[start : start + step]), asked, advance)
            yield [Result(*one) for one in zip(texts[start : start + step], *computed, strict=True)]


@contextlib.contextmanager
def _progress(n_texts: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, which shows where that is a terminal; counts texts traced and evaluated."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("tracing (the first of a length compiles)", total=2 * n_texts)
        yield lambda done: bar.advance(task, done)


def _computed(
    model: Model, rows: list[np.ndarray], asked: Asked, advance: Callable[[int], None]
) -> tuple[list[Trace], list[Evaluation], list[float]]:
    import jstrace

    def report() -> Callable[[int, int], None]:
        seen = 0

        def step(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        return step

    reference = None if asked.reference is None else list(asked.reference)
    start = time.perf_counter()
    traces = jstrace.trace(
        model, rows, importance=asked.importance, order=asked.order, reference=reference, seed=asked.seed,
        progress=report(),
    )  # fmt: skip
    seconds = [(time.perf_counter() - start) / len(rows)] * len(rows)
    evaluations = jstrace.evaluate(
        model, traces, ablate=asked.ablate, pre_softmax=asked.pre_softmax, replace=asked.replace, reference=reference,
        progress=report(),
    )  # fmt: skip
    return traces, evaluations, seconds
