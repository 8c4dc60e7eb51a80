"""What a report shows of its runs, in its order (section 7 of the method): an exhibit is an entry here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from jstrace.reports import (
    answers,
    beside,
    chance,
    computation,
    control,
    curves,
    generations,
    geometries,
    makeup,
    models,
    networks,
    pairs,
    steady,
)
from jstrace.reports.exhibit import (
    ADDED,
    DETAIL,
    Exhibit,
    Picture,
    Rows,
    Table,
    ablated,
    counted,
    each_run,
    those,
    usable,
)
from jstrace.reports.results import Results


@each_run
def validity(run: Results) -> Rows:
    """Inputs, valid and invalid ones and why."""
    reasons = [reason for reason in run.inputs["reason"].to_pylist() if reason is not None]
    valid, count = run.valid.num_rows, run.inputs.num_rows
    row = {"dtype": run.precision, "rows_of_data": run.rows_of_data}
    row |= {"inputs": count, "valid": valid, "invalid": count - valid}
    yield row | {"reasons": "; ".join(f"{reasons.count(r)} x {r}" for r in dict.fromkeys(reasons))}


@each_run
def seconds(run: Results) -> Rows:
    """What each score took an input, without compilation and evaluation, on the devices of each session that says it.

    Scores of one clean pass share a line; what a control took, which scores are made again for, is not in it.
    """
    for session in run.manifest["sessions"]:
        device = f"{session['hardware']['devices']} x {session['hardware']['device']}"
        for score, took in session.get("seconds", {}).items():
            row = {"score": score, "device": device, "n": took["inputs"]}
            yield row | {"seconds_an_input": took["seconds"] / took["inputs"]}


_TEXTS = (
    "text", "next_word", "tokens", "token_texts", "next_token", "top_token", "top_text", "counts", "foreign_inputs",
    "generated_token", "generated_text", "dimension", "anisotropy", "pair", "variant",
    "counterfactual", "answer", "rival",
)  # fmt: skip


def numbers_of_inputs(runs: Sequence[Results]) -> pa.Table:
    """The table of inputs without their texts."""
    parts = []
    for run in runs:
        table = run.inputs.drop_columns([name for name in _TEXTS if name in run.inputs.column_names])
        parts.append(table.add_column(0, "model", pa.array([run.label] * table.num_rows)))
    return pa.concat_tables(parts, promote_options="default")


EXHIBITS = (
    Exhibit("validity", table=validity, title="Valid and invalid inputs (Table 2)", of=list, whole=True),
    Exhibit("density", table=curves.densities, title="Density"),
    Exhibit("tv", curves.tv),
    Exhibit("nucleus", curves.NUCLEUS, table=curves.nuclei, title="The size that each nucleus needs", shelf=DETAIL),
    Exhibit(
        "core", makeup.CORE, table=makeup.cores, title="Share of edges held by the top components (Fig. 4)",
        shelf=DETAIL,
    ),
    Exhibit(
        "makeup", makeup.MAKEUP, table=makeup.makeups, title="Types and quarters of the depth (Fig. 5)", shelf=DETAIL
    ),
    Exhibit("layers", table=makeup.layers, title="Share of every layer (Fig. 5)", shelf=DETAIL),
    Exhibit("hubs", networks.hubs),
    Exhibit(
        "answers", answers.picture, table=answers.table, title="Recovered share of the answer's lead",
        of=those(answers.has),
    ),
    Exhibit(
        "computation", computation.picture, table=computation.table, title="Floating-point operations of traces",
        shelf=DETAIL, of=those(computation.has),
    ),
    Exhibit(
        "density-flops", table=computation.densities, title="Density over floating-point operations",
        of=those(computation.has),
    ),
    Exhibit("random", beside.random),
    Exhibit("necessity", beside.necessity),
    Exhibit("pre-softmax", beside.pre_softmax),
    Exhibit("score", beside.score),
    Exhibit("order", beside.order),
    Exhibit("replace", beside.replace),
    Exhibit(
        "selectivity", control.picture, table=control.selectivities, title="Where traces are most selective",
        of=those(lambda run: run.controlled),
    ),
    Exhibit("phases", table=curves.phases, title="Fall of the median TV in each phase"),
    Exhibit(
        "generation", generations.picture, table=generations.table, title="Density along generated text", shelf=ADDED,
        of=those(lambda run: run.generates),
    ),
    Exhibit(
        "geometry", geometries.picture, table=geometries.table, title="The shape of hidden states by layer",
        shelf=ADDED, of=those(geometries.has),
    ),
    Exhibit(
        "seconds", table=seconds, title="Seconds an input, by score", shelf=ADDED,
        of=those(lambda run: any(session.get("seconds") for session in run.manifest["sessions"])),
    ),
    Exhibit(
        "paired", pairs.picture, table=pairs.table, title="Altered texts against those of their pairs", shelf=ADDED,
        of=those(pairs.pairs_of), whole=True,
    ),
    Exhibit(
        "correlation", curves.CORRELATION, file="correlations", table=curves.correlations,
        title="Density against entropy, loss, frequency and length (Fig. 8)",
    ),
    Exhibit("models", compared=models.models),
    Exhibit(
        "revisions", compared=models.revisions, table=models.revision_rows, title="Checkpoints", shelf=ADDED,
        of=lambda runs: models.revised(usable(runs)),
    ),
    Exhibit(
        "between-models", compared=models.between, table=models.model_pairs,
        title="Density between models (Fig. 9)", shelf=ADDED,
        of=lambda runs: usable(runs) if len(usable(runs)) > 1 else [],
    ),
    Exhibit("curves", table=curves.curves, title="All curves (Figs. 3, 6, 7)", shelf=DETAIL),
    Exhibit(
        "inputs", table=numbers_of_inputs, title="All inputs, without their texts", shelf=DETAIL, of=list, whole=True
    ),
)  # fmt: skip
"""Figures stand in this order, first those of each run; tables too, shelf by shelf."""


def pictures(runs: Sequence[Results]) -> Iterator[Picture]:
    """Every figure that the runs, which have valid inputs, have the numbers for."""
    several = len(runs) > 1
    for number, run in enumerate(runs, 1):
        for exhibit in EXHIBITS:
            own = run if exhibit.whole else run.first
            figure = exhibit.figure if exhibit.of([own]) else None
            if picture := figure(own) if callable(figure) else figure:
                words = picture.ablated or ablated(run.ablations, run.plan.replacements[:1])
                shown = f"{picture.caption}{chance.words(own) if picture.chance else ''}"
                shown += steady.WORDS if picture.steady and steady.has(own) else ""
                caption = f"{shown} {counted([own]) if picture.n is None else f'n = {picture.n}.'}"
                yield dataclasses.replace(
                    picture, title=f"{run.label}: {picture.title}", caption=caption, ablated=words, kind=exhibit.name,
                    draw=functools.partial(picture.draw, own), number=number if several else None,
                )  # fmt: skip
    firsts = [run.first for run in runs]
    for exhibit in EXHIBITS:
        picture = exhibit.compared(firsts) if exhibit.compared and several else None
        if picture:
            yield dataclasses.replace(picture, kind=exhibit.name)


def tables(runs: Sequence[Results]) -> Iterator[Table]:
    """Every table of the runs."""
    for exhibit in sorted(EXHIBITS, key=lambda exhibit: exhibit.shelf):
        own = runs if exhibit.whole else [run.first for run in runs]
        if exhibit.table and (chosen := exhibit.of(own)):
            yield Table(exhibit.file or exhibit.name, exhibit.title, functools.partial(exhibit.table, chosen))
