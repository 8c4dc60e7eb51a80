"""Runs: every input of a dataset through a plan, in parts on disk, so that whatever stops a run, it goes on later."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import operator
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

import jstrace
from jstrace.method.conditions import Plan
from jstrace.method.sizes import NUCLEUS_LEVELS
from jstrace.models import InputError, Model
from jstrace.pipeline.ask import Ask
from jstrace.pipeline.driver import Driver, Input, Invalid, OnBatch, Outcome
from jstrace.pipeline.geometry import geometry_of
from jstrace.pipeline.replacing import Replacing, reference_mark
from jstrace.pipeline.scorers import built_in, known_to, settings_of
from jstrace.runs import folder as run_folder
from jstrace.runs import manifest, parts, remote, rows, schema, stores
from jstrace.runs.control import Control
from jstrace.runs.data import Data
from jstrace.runs.extras import NOTHING, Extras, checked_extras
from jstrace.runs.inputs import Inputs, Made
from jstrace.runs.parts import Part
from jstrace.runs.rows import Entry
from jstrace.runs.saving import Saver
from jstrace.runs.vocabulary import token_counts, token_fingerprint
from jstrace.runs.written import written_tokens
from jstrace.scale import hosts, machine, meshes

_PART_CPU, _PART_ACCELERATOR = 16, 64
"""Inputs of a part for each device along ``data``: they are computed together."""

Progress = Callable[[int, int, int], None]
"""Called with the inputs done, those of them done before this call, and all: once before the first, then after each."""


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
    reference: Sequence[str] | None = None,
    extras: Extras = NOTHING,
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
      name: what the model is called in the manifest and in reports.
      limit: the number of inputs at most; a later call may ask for more.
      save_strata: keep the strata of every input, too.
      part_inputs: inputs of a part, which are computed together.
      progress: see ``Progress``.
      on_save: called with the number of inputs whose results are in the folder: once before the first, then each time
        that there are more.
      on_batch: called before a batch is computed, with its inputs and the tokens that they are padded to: the first of
        a length compiles.
      reference: texts that "mean" and "resample" are made of, for the plan's replacements and for scores that take
        gradients; by default those that come with jstrace.
      extras: tokens to generate after each row, whose predictions are the inputs then, N of a row; and whether the
        geometry of hidden states is measured.
      revision, place: what the manifest calls this checkpoint of the model, and where it stands among others, which
        reports show beside each other in that order.

    Raises:
      InputError: arguments that make no sense; a folder of another run, with the difference; a damaged part; a folder
        that another run is writing to; no room; or a model without a tokenizer.
    """
    if stores.is_remote(out):
        with remote.staged(str(out)) as stage:
            return run(
                model, data, stage.folder, plan, name=name, limit=limit, save_strata=save_strata,
                part_inputs=part_inputs, progress=progress, on_save=stage.after(on_save), on_batch=on_batch,
                reference=reference, extras=extras, revision=revision, place=place,
            )  # fmt: skip
    _check_types(data, plan, name)
    _check_reference(reference)
    _check_others(plan, data)
    limit, part_inputs = _count("limit", limit), _count("part_inputs", part_inputs)
    plan, folder = _continued(plan or Plan(), Path(out)), Path(out)
    if reference is not None and plan.scored_under and not plan.takes_reference:
        raise InputError("reference has texts for replace mean and resample; ablated edges carry nothing here (zero)")
    extras = checked_extras(extras, selectivity=plan.selectivity)
    n_inputs = len(data.rows) * max(1, extras.generate)
    wanted = min(n_inputs, limit or n_inputs)
    added = (*extras.columns, *(["pairs"] if data.paired else []))
    mark = reference_mark(reference) if plan.takes_reference else None
    learned = built_in().coefficients.digest if "learned" in plan.scores else None
    scores = {name: settings_of(name) for name in plan.built_in_names}
    config = manifest.configuration(
        plan, data, save_strata=save_strata, reference=mark, learned=learned, scores=scores, extras=extras
    )
    facts = _facts(data, plan)
    same = functools.partial(manifest.check_same, folder, config, facts)
    hosts.together(same)  # before anything is made or loaded
    with run_folder.locked(folder):
        loaded = model if isinstance(model, Model) else model()
        if loaded.tokenizer is None:
            raise InputError("this model came without a tokenizer; a run needs one")
        for score in plan.scores:  # before anything is written: the folder is not to be another run's
            known_to(loaded, score)
        counts = token_counts(loaded.tokenizer, data.corpus)  # refused here where the tokenizer cannot be read
        config |= {"model": manifest.known_as(folder, loaded.fingerprints().every), "tokens": token_fingerprint(counts)}
        config = manifest.adopted(folder, config)
        facts |= {"model": {"name": name, "dtype": str(loaded.dtype), "config": dataclasses.asdict(loaded.config)}}
        facts["model"] |= {} if revision is None else {"revision": revision, "place": place}
        facts["data"] |= {"corpus_tokens": counts.total()}
        hosts.check_agreed((config, wanted, part_inputs))
        tables, run_mark = schema.schemas(plan, save_strata=save_strata, added=added), manifest.mark_of(config)
        names = list(tables)
        session = _session(loaded)
        there = run_folder.opened(folder, config, facts, session, names)
        done = hosts.either(_done(there, wanted))
        before = int(done.sum())
        tell = _Told(progress, on_save, before, wanted)
        make = functools.partial(_tables, loaded, plan, tables, counts.__getitem__)
        saver = Saver(folder, run_mark, names, make, tell.saved)
        ask = Ask(plan.sources, plan.cases, plan.sizes, plan.seed, keep_strata=save_strata, compose=True)
        replacing = Replacing(loaded, reference)
        written = {} if not extras.generate else written_tokens(
            folder, there, run_mark, done, loaded, data.rows, extras.generate
        )  # fmt: skip
        inputs = Inputs(loaded, data.rows, extras, plan.seed, written)
        control = Control(loaded, plan, data.rows, replacing) if plan.selectivity else None
        chunks = _chunks(np.flatnonzero(~done).tolist(), part_inputs or _part_size(loaded))
        with hosts.interrupts_agreed() as interrupts:
            # A control, generation and geometry compute between the batches of the run, in memory that these leave.
            by_itself = control is None and not extras.generate and not extras.geometry
            driver = Driver(
                loaded, ask, on_batch, replacing, ahead=lambda: by_itself and not interrupts.asked(), timed=True
            )  # fmt: skip
            finished = _computed(driver, control, inputs, extras, chunks.values())
            with run_folder.timed(folder, session, lambda: _seconds(driver)):
                for number, chunk in chunks.items():
                    with saver.part(number):
                        left = len(chunk)
                        while left:
                            entries = next(finished)
                            left -= len(entries)
                            saver.add(entries)
                            tell.finished(len(entries))
                            saver.save_if_due()
                            interrupts.stop_if_asked()
        invalid = int(hosts.either(_invalid(folder, names, run_mark, wanted)).sum())
        per_input = {name: one["seconds"] / one["inputs"] for name, one in _seconds(driver).items()}
        return Summary(wanted, invalid, wanted - before, per_input)


def _continued(plan: Plan, folder: Path) -> Plan:
    """The plan as the run in a folder means it, where what scores are under is not said; the same on every host."""
    means = hosts.either(np.asarray(hosts.together(functools.partial(manifest.scores_under_means, folder))))
    follows = plan.scored_under and plan.score_replace is None
    return dataclasses.replace(plan, score_replace="mean") if follows and means else plan


def _seconds(driver: Driver) -> dict[str, dict[str, float]]:
    """What scores took, as the manifest says it."""
    return {name: {"inputs": one.inputs, "seconds": round(one.seconds, 3)} for name, one in driver.spent.items()}


def _check_types(data: Any, plan: Any, name: Any) -> None:
    """Refuse what would fail later, with a worse message, or stand in the manifest."""
    for what, given, kind, expected in (
        ("data", data, Data, "what jstrace.runs.read_data gives"),
        ("plan", plan, Plan | None, "a jstrace.method.conditions.Plan"),
        ("name", name, str, "a text"),
    ):
        if not isinstance(given, kind):
            raise InputError(f"{what} = {given!r}, expected {expected}")


def _check_reference(reference: Any) -> None:
    """Refuse other than a list of texts, before anything is loaded."""
    listed = isinstance(reference, Sequence) and not isinstance(reference, str)
    if reference is not None and not (listed and all(isinstance(text, str) for text in reference)):
        raise InputError(f"reference = {reference!r:.80}, expected a list of texts")
    if listed and not reference:
        raise InputError("reference is empty; means and resampled states need at least one text")


def _check_others(plan: Plan | None, data: Data) -> None:
    """Refuse more foreign predictions than there are other inputs."""
    if plan is not None and plan.selectivity and plan.selectivity >= len(data.rows):
        others = max(0, len(data.rows) - 1)
        raise InputError(f"selectivity = {plan.selectivity}: beside an input the data has {others} others to be told")


def _count(what: str, given: Any) -> int | None:
    """A number of inputs, where there is one."""
    if given is None:
        return None
    if isinstance(given, bool) or not hasattr(given, "__index__") or operator.index(given) < 1:
        raise InputError(f"{what} = {given!r}, expected an integer, at least one input")
    return operator.index(given)


def _part_size(model: Model) -> int:
    each = _PART_CPU if jax.devices()[0].platform == "cpu" else _PART_ACCELERATOR
    return each * meshes.n_data(model.mesh)


def _chunks(indices: Iterable[int], size: int) -> dict[int, list[int]]:
    """Indices by part: wherever a run was stopped, the same are computed together, for the same numbers."""
    found: dict[int, list[int]] = {}
    for index in indices:
        found.setdefault(index // size, []).append(index)
    return found


class _Told:
    """Whom a run tells how far it is."""

    def __init__(
        self, progress: Progress | None, on_save: Callable[[int], None] | None, before: int, wanted: int
    ) -> None:
        self._progress, self._on_save, self._before, self._wanted = progress, on_save, before, wanted
        self._n_finished = self._n_saved = before
        self.saved(0)
        if progress is not None:
            progress(before, before, wanted)

    def finished(self, n_inputs: int) -> None:
        for _ in range(n_inputs):
            self._n_finished += 1
            if self._progress is not None:
                self._progress(self._n_finished, self._before, self._wanted)

    def saved(self, n_inputs: int) -> None:
        self._n_saved += n_inputs
        if self._on_save is not None:
            self._on_save(self._n_saved)


# --- one part -------------------------------------------------------------------------------------------------------


def _computed(
    driver: Driver, control: Control | None, inputs: Inputs, extras: Extras, chunks: Iterable[Sequence[int]]
) -> Iterator[list[Entry]]:
    """The inputs of one part after another, as soon as they and their control are finished: not in their order."""
    made: dict[int, Made] = {}

    def read() -> Iterator[dict[int, Input | Invalid]]:
        for chunk in chunks:
            part = {index: inputs.made(index) for index in chunk}
            made.update(part)
            yield {index: Invalid(one.reason) if one.given is None else one.given for index, one in part.items()}

    for batch in driver.stream(read()):
        here = {index: made.pop(index) for index in batch}
        found = {index: _without_gaps(outcome, driver.ask) for index, outcome in batch.items()}
        valid: dict[int, Input] = {}
        for index, one in here.items():
            if one.given is not None and isinstance(found[index], Outcome):
                valid[index] = one.given
        foreign = {} if control is None else control.of(valid)
        columns = {index: one.columns for index, one in here.items()}
        if extras.geometry:
            columns |= {index: {**columns[index], **_shape(driver.model, one)} for index, one in valid.items()}
        yield [
            Entry(index, one.row, one.given, found[index], foreign.get(index), columns[index])
            for index, one in here.items()
        ]


def _shape(model: Model, one: Input) -> dict[str, list[float | None]]:
    """The columns of geometry, null where it is not defined."""
    found = geometry_of(model, one.tokens)._asdict()
    return {name: [float(x) if np.isfinite(x) else None for x in values] for name, values in found.items()}


def _without_gaps(found: Outcome | Invalid, ask: Ask) -> Outcome | Invalid:
    """An input counts when every prediction of it is finite: half precision can overflow under a mask alone."""
    if isinstance(found, Outcome):
        for case, evaluation in zip(ask.cases, found.evaluations, strict=True):
            if not evaluation.valid:
                return Invalid(f"a prediction under {case.name} is not finite")
    return found


def _tables(
    model: Model, plan: Plan, wanted: dict[str, pa.Schema], count: Callable[[int], int], entries: list[Entry]
) -> dict[str, pa.Table]:
    assert model.tokenizer is not None
    return rows.part_tables(entries, plan, wanted, word=model.tokenizer.token, count=count)


def _facts(data: Data, plan: Plan) -> dict[str, Any]:
    """What the manifest says beside the configuration, as far as it is known without the model."""
    return {
        "data": {"name": data.name, "rows": len(data.rows)},
        "conditions": [case.name for case in plan.cases],
        "sources": [source.name for source in plan.sources],
        "nucleus_levels": list(NUCLEUS_LEVELS),
    }


def _session(model: Model) -> dict[str, Any]:
    """What the manifest says of one call; the same on every host."""
    mesh = None if model.mesh is None else {axis: int(n) for axis, n in model.mesh.shape.items()}
    started = datetime.datetime.fromtimestamp(hosts.agreed(int(time.time())), datetime.UTC).isoformat()
    versions, hardware = {"jstrace": jstrace.__version__, **machine.versions()}, machine.hardware()
    mark = f"{hosts.agreed(secrets.randbits(62)):016x}"  # as two may start within a second
    return {"id": mark, "started": started, "versions": versions, "hardware": hardware, "mesh": mesh}


def _done(there: Iterable[Part], wanted: int) -> np.ndarray:
    """Which inputs there are results of: bool ``[wanted]``."""
    found = np.zeros(wanted, bool)
    for part in there:
        found[part.first : part.last + 1] = True
    return found


def _invalid(folder: Path, names: Sequence[str], mark: str, wanted: int) -> np.ndarray:
    """Which inputs in this host's folder are invalid: bool ``[wanted]``."""
    found = np.zeros(wanted, bool)
    for part in parts.complete_parts(folder, names):
        table = parts.read_part(folder, "inputs", part, mark, ["input", "valid"]).to_pylist()
        found[[row["input"] for row in table if row["input"] < wanted and not row["valid"]]] = True
    return found
