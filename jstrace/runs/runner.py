"""Runs: every input of a dataset through a plan, in parts on disk, so that whatever stops a run, it goes on later."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jstrace
from jstrace.method.conditions import COUNTERFACTUAL, NO_TEXTS
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline.activations import geometry_of
from jstrace.pipeline.call import OnSteps
from jstrace.pipeline.driver import Driver, OnBatch
from jstrace.pipeline.records import Ask, Input, Invalid, Outcome
from jstrace.pipeline.repeats import check_repeats
from jstrace.pipeline.replacing import Replacing
from jstrace.pipeline.scorers import known_to
from jstrace.runs import folder as run_folder
from jstrace.runs import manifest, parts, remote, schema
from jstrace.runs.control import Control, Repeats, Steps
from jstrace.runs.data import Data
from jstrace.runs.inputs import Inputs, Made, written_tokens
from jstrace.runs.job import Job, Progress
from jstrace.runs.parts import Part
from jstrace.runs.row import token_counts, token_fingerprint
from jstrace.runs.rows import Entry, part_tables
from jstrace.runs.saving import Saver
from jstrace.scale import hosts, machine, meshes

_PART_CPU, _PART_ACCELERATOR = 16, 64
"""Inputs of a part for each device along ``data``: they are computed together."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run came to."""

    inputs: int
    invalid: int
    computed: int
    """In this call; the others were there."""
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False)
    """An input, of each score in this call, where any takes passes of its own: without compilation and evaluation, and
    of the own predictions alone where there is a control."""


def run(
    model: Model | Callable[[], Model],
    data: Data,
    out: str | Path,
    plan: Plan | None = None,
    *,
    name: str = "",
    limit: int | None = None,
    save_strata: bool = False,
    part_inputs: int | None = None,
    progress: Progress | None = None,
    on_save: Callable[[int], None] | None = None,
    on_batch: OnBatch | None = None,
    on_steps: OnSteps | None = None,
    reference: Sequence[str] | None = None,
    extras: schema.Extras = schema.NOTHING,
    revision: str | None = None,
    place: int = 0,
) -> Summary:
    """Evaluate every input and write the results into a folder, or go on with what is there.

    Results are written when a part is finished, when they have waited for a minute, and when an exception, such as
    KeyboardInterrupt, ends the run: only a kill costs what was computed since. Several hosts stop together, at the end
    of a batch.

    Args:
      model: from ``jstrace.load``, with a tokenizer; or what loads it, called when the folder is found to be free.
      data: from ``jstrace.runs.read_data``.
      out: the folder of the results; docs/results.md describes it. A URL (``gs://``) names one in a store, through
        fsspec: every save is copied there.
      plan: what is asked of every input.
      name, limit, save_strata, part_inputs, progress: fields of ``jstrace.runs.job.Job``, which says what they are.
      on_save, on_batch, on_steps, reference, extras, revision, place: fields of it, too.

    Raises:
      InputError: arguments that make no sense; a folder of another run, with the difference; a damaged part; a folder
        that another run is writing to; no room; or a model without a tokenizer.
    """
    job = Job(
        model, data, Plan() if plan is None else plan, name=name, limit=limit, save_strata=save_strata,
        part_inputs=part_inputs, progress=progress, on_save=on_save, on_batch=on_batch, on_steps=on_steps,
        reference=reference, extras=extras, revision=revision, place=place,
    )  # fmt: skip
    if not remote.is_remote(out):
        return _run(job, Path(out))
    with remote.staged(str(out)) as stage:
        return _run(dataclasses.replace(job, on_save=stage.after(job.on_save)), stage.folder)


def _run(job: Job, folder: Path) -> Summary:
    """What is asked, in a folder of this machine."""
    job = _continued(job, folder)
    config, facts = job.config(), job.facts()
    hosts.together(functools.partial(manifest.check_same, folder, config, facts))  # before anything is made or loaded
    with run_folder.locked(folder):
        model = job.model if isinstance(job.model, Model) else job.model()
        if model.tokenizer is None:
            raise InputError("this model came without a tokenizer; a run needs one")
        for score in job.plan.scores:  # before anything is written: the folder is not to be another run's
            known_to(model, score)
        check_repeats(model, job.extras.repeats)
        counts = token_counts(model.tokenizer, job.data.corpus)  # refused here where the tokenizer cannot be read
        config |= {"model": model.fingerprint(), "tokens": token_fingerprint(counts)}
        config = manifest.adopted(folder, config)
        facts |= {"model": {"name": job.name, "dtype": str(model.dtype), "config": dataclasses.asdict(model.config)}}
        facts["model"] |= {"weights": model.weights} if model.weights else {}
        facts["model"] |= {} if job.revision is None else {"revision": job.revision, "place": job.place}
        facts["data"] |= {"corpus_tokens": counts.total()}
        hosts.check_agreed((config, job.wanted, job.part_inputs))
        return _computed(job, model, counts, folder, config, facts)


def _continued(job: Job, folder: Path) -> Job:
    """The plan as the run in a folder means it, where what scores are under is not said; the same on every host."""
    means = hosts.either(np.asarray(hosts.together(functools.partial(manifest.scores_under_means, folder))))
    plan = job.plan
    if plan.scored_under and plan.score_replace is None and means:
        plan = dataclasses.replace(plan, score_replace="mean")
    if job.reference is not None and not plan.takes_reference:
        raise InputError(NO_TEXTS)
    return dataclasses.replace(job, plan=plan)


def _computed(
    job: Job, model: Model, counts: Counter[int], folder: Path, config: dict[str, Any], facts: dict[str, Any]
) -> Summary:
    """What is not there yet, in a folder that is this run's own."""
    assert model.tokenizer is not None
    plan, rows, extras = job.plan, job.data.rows, job.extras
    added, mark = manifest.added_columns(config, job.added), manifest.mark_of(config)
    tables = schema.schemas(plan, save_strata=job.save_strata, added=added)
    names, session = list(tables), _session(model)
    there = run_folder.opened(folder, config, facts, session, names)
    done = hosts.either(_done(there, job.wanted))
    before = n_done = int(done.sum())
    make = functools.partial(
        part_tables, plan=plan, wanted=tables, word=model.tokenizer.token, count=counts.__getitem__
    )
    saver, progress = Saver(folder, mark, names, make, job.on_save, before), job.progress or (lambda *_: None)
    progress(before, before, job.wanted)
    ask = Ask(plan.sources, plan.cases, plan.sizes, plan.seed, keep_strata=job.save_strata, compose=True)
    replacing = Replacing(model, job.reference)
    n = extras.generate
    written = written_tokens(folder, there, mark, done, model, rows, n) if n else {}
    inputs = Inputs(model, rows, extras, plan.seed, written, paired=COUNTERFACTUAL in plan.replacements)
    control = Control(model, plan, rows, replacing) if plan.selectivity else None
    chunks = _chunks(np.flatnonzero(~done).tolist(), job.part_inputs or _part_size(model))
    with hosts.interrupts_agreed() as interrupts:
        # A control, generation and geometry compute between the batches of the run, in memory that these leave.
        by_itself = control is None and not extras.columns
        driver = Driver(
            model, ask, job.on_batch, replacing, ahead=lambda: by_itself and not interrupts.asked(), timed=True
        )  # fmt: skip
        again = Repeats(driver, extras.repeats)
        steps = Steps(job.on_steps, 1 + plan.selectivity + extras.repeats)
        finished = _finished(driver, control, again, inputs, chunks.values(), steps, geometry=extras.geometry)
        with run_folder.timed(folder, session, lambda: _seconds(driver)):
            for number, chunk in chunks.items():
                with saver.part(number):
                    left = len(chunk)
                    while left:
                        entries = next(finished)
                        left -= len(entries)
                        saver.add(entries)
                        for _ in entries:
                            n_done += 1
                            progress(n_done, before, job.wanted)
                        saver.save_if_due()
                        interrupts.stop_if_asked()
    invalid = int(hosts.either(_invalid(folder, names, mark, job.wanted)).sum())
    per_input = {name: took["seconds"] / took["inputs"] for name, took in _seconds(driver).items()}
    return Summary(job.wanted, invalid, job.wanted - before, per_input)


def _seconds(driver: Driver) -> dict[str, dict[str, float]]:
    return {name: {"inputs": took.inputs, "seconds": round(took.seconds, 3)} for name, took in driver.spent.items()}


def _part_size(model: Model) -> int:
    each = _PART_CPU if jax.devices()[0].platform == "cpu" else _PART_ACCELERATOR
    return each * meshes.n_data(model.mesh)


def _chunks(indices: Iterable[int], size: int) -> dict[int, list[int]]:
    """Indices by part: wherever a run was stopped, the same are computed together, for the same numbers."""
    chunks: dict[int, list[int]] = {}
    for index in indices:
        chunks.setdefault(index // size, []).append(index)
    return chunks


def _finished(
    driver: Driver, control: Control | None, again: Repeats, inputs: Inputs, chunks: Iterable[Sequence[int]],
    steps: Steps, *, geometry: bool,
) -> Iterator[list[Entry]]:  # fmt: skip
    """The inputs of one part after another, with their control and repetitions, once these are done: in no order."""
    made: dict[int, Made] = {}

    def read() -> Iterator[dict[int, Input | Invalid]]:
        for chunk in chunks:
            part = {index: inputs.made(index) for index in chunk}
            made.update(part)
            yield {index: Invalid(item.reason) if item.given is None else item.given for index, item in part.items()}

    for batch in driver.stream(read(), steps):
        here = {index: made.pop(index) for index in batch}
        outcomes = {index: _without_gaps(outcome, driver.ask) for index, outcome in batch.items()}
        computed = {index: item.given for index, item in here.items() if isinstance(outcomes[index], Outcome)}
        valid = {index: given for index, given in computed.items() if given is not None}
        steps.done = len(valid)
        foreign, repeated = {} if control is None else control.of(valid, steps), again.of(valid, steps)
        steps.done = 0
        columns = {index: item.columns for index, item in here.items()}
        if geometry:
            columns |= {index: {**columns[index], **_shape(driver.model, given)} for index, given in valid.items()}
        yield [
            Entry(index, item.row, item.given, outcomes[index], foreign.get(index), repeated.get(index), columns[index])
            for index, item in here.items()
        ]


def _shape(model: Model, given: Input) -> dict[str, list[float | None]]:
    """The columns of geometry, null where it is not defined."""
    geometry = geometry_of(model, given.tokens)._asdict()
    return {name: [float(x) if np.isfinite(x) else None for x in values] for name, values in geometry.items()}


def _without_gaps(outcome: Outcome | Invalid, ask: Ask) -> Outcome | Invalid:
    """An input counts when every prediction of it is finite: half precision can overflow under a mask alone."""
    if isinstance(outcome, Outcome):
        for case, evaluation in zip(ask.cases, outcome.evaluations, strict=True):
            if not evaluation.valid:
                return Invalid(f"a prediction under {case.name} is not finite")
    return outcome


def _session(model: Model) -> dict[str, Any]:
    """What the manifest says of one call; the same on every host."""
    mesh = None if model.mesh is None else {axis: int(n) for axis, n in model.mesh.shape.items()}
    started = datetime.datetime.fromtimestamp(hosts.agreed(int(time.time())), datetime.UTC).isoformat()
    versions, hardware = {"jstrace": jstrace.__version__, **machine.versions()}, machine.hardware()
    mark = f"{hosts.agreed(secrets.randbits(62)):016x}"  # as two may start within a second
    return {"id": mark, "started": started, "versions": versions, "hardware": hardware, "mesh": mesh}


def _done(there: Iterable[Part], wanted: int) -> np.ndarray:
    """Which inputs there are results of: bool ``[wanted]``."""
    done = np.zeros(wanted, bool)
    for part in there:
        done[part.first : part.last + 1] = True
    return done


def _invalid(folder: Path, names: Sequence[str], mark: str, wanted: int) -> np.ndarray:
    """Which inputs in this host's folder are invalid: bool ``[wanted]``."""
    invalid = np.zeros(wanted, bool)
    for part in parts.complete_parts(folder, names):
        table = parts.read_part(folder, "inputs", part, mark, ["input", "valid"]).to_pylist()
        invalid[[row["input"] for row in table if row["input"] < wanted and not row["valid"]]] = True
    return invalid
