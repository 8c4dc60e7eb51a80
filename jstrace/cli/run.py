"""``jstrace run``: datasets through a model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli.checkpoints import Checkpoint, checkpoints
from jstrace.cli.hosting import joined
from jstrace.cli.options import (
    MODEL_HELP,
    REPEATS_HELP,
    REPLACE_HELP,
    SCORE_CHOICES,
    Distributed,
    Dtype,
    IgnoreField,
    MeshText,
    ScoreReplace,
    check_installed,
    load,
    score_of,
)
from jstrace.cli.progress import interruptible, say, shown_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from jstrace.method.plans import Plan
    from jstrace.models import Model, ModelConfig
    from jstrace.runs import Data, Summary

_DATA_HELP = (
    "wikitext-2 or wikitext-103, or a file: .tsv (a text, a tab and the word that truly follows, which may be missing),"
    ' .jsonl ({"text": ..., "next": ...}), .parquet (columns text and next) or .txt (a text a line). Columns pair and'
    " variant (of a .tsv the third and fourth) say which texts reports compare. Columns counterfactual, answer and"
    " rival (.jsonl, .parquet) ask of each text what --counterfactual, --answer and --instead-of of jstrace trace do."
)
_OUT_HELP = "The folder of the results, new or of the same run, which goes on where it stopped; a URL (gs://...) too."
_LIMIT_HELP = "Only the first so many inputs, those done before among them; ask for more later."
_BASELINES_HELP = "What is evaluated beside the traces, by the first score; none by default."
_WORDS_HELP = "Words of a passage of WikiText; rows of files stay as they are."
_SEED_HELP = (
    "Of random scores, of what fits draw, of generated tokens, of shuffled words, and of passages from WikiText."
)
_STRATA_HELP = "Keep the strata of every input, too: a byte for each pair of tokens, head and layer."
_CORPUS_HELP = (
    "Another file of texts in which predicted tokens are counted; by default the data's texts, or of WikiText up to"
    " 20,000 paragraphs."
)

_SCORE_HELP = f"Edge scores: {SCORE_CHOICES}, or files of scorers (jstrace train-scorer); with commas."
_REPLACE_HELP = (
    f"{REPLACE_HELP} zero, mean, resample, or counterfactual: the states of each row's own, which is the default where"
    " the data has them. Several with commas."
)
_ORDER_HELP = "How scores become traces; several with commas."
_REVISION_HELP = (
    "Branch, tag or commit of a hub id; several are run one after another, each into a folder in --out, and those of a"
    " local folder are folders in it."
)
_ALTER_HELP = "Every row twice, as it is and altered: shuffle moves its words, by --seed. Reports compare the two."
_GENERATE_HELP = (
    "Tokens that the model adds to each row, which is a prompt then: the prediction of each of them is an input, N of a"
    " row."
)
_TEMPERATURE_HELP = "Of draws of generated tokens, by --seed; 0 takes the most probable ones."
_GEOMETRY_HELP = "Measure intrinsic dimension and anisotropy of the hidden states after each layer, too."
_SELECTIVITY_HELP = (
    "Foreign predictions of each input: scores from gradients are also told what so many other inputs predict, which"
    " says how much of their curves a mask can do by itself; costs as many times those scores again."
)
_REFERENCE_HELP = (
    "A file of texts, read as --data is, or data for the run's own first 100: of what means and resampled states are"
    " made. By default sentences that come with jstrace."
)
_OWN_REFERENCE = 100
"""Texts of the run's own that are a reference."""

_LARGE, _MANY = 2**24, 1000
"""Bytes of a file, and texts, from which on reading and counting take seconds."""


def run_command(
    data: Annotated[str, typer.Option(help=_DATA_HELP)],
    out: Annotated[str, typer.Option(help=_OUT_HELP)],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Annotated[list[str] | None, typer.Option(help=_REVISION_HELP)] = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    mesh: MeshText = None,
    distributed: Distributed = False,
    limit: Annotated[int | None, typer.Option(min=1, help=_LIMIT_HELP)] = None,
    ablate: Annotated[
        list[str],
        typer.Option(metavar="all,residual+mlp", help="Which edges are ablated; several with commas."),
    ] = ["all,residual+mlp"],  # noqa: B006 - typer's way to give a default
    baselines: Annotated[
        list[str] | None,
        typer.Option(metavar="random,random-proportional,inverse,pre-softmax,random-inverse", help=_BASELINES_HELP),
    ] = None,
    score: Annotated[list[str], typer.Option(metavar="l1,rounds,...", help=_SCORE_HELP)] = ["l1"],  # noqa: B006
    replace: Annotated[list[str] | None, typer.Option(metavar="zero,mean,...", help=_REPLACE_HELP)] = None,
    score_replace: ScoreReplace = None,
    order: Annotated[list[str], typer.Option(metavar="best-first,score", help=_ORDER_HELP)] = ["best-first"],  # noqa: B006
    reference: Annotated[str | None, typer.Option(help=_REFERENCE_HELP)] = None,
    selectivity: Annotated[int, typer.Option(min=0, metavar="N", help=_SELECTIVITY_HELP)] = 0,
    words: Annotated[int, typer.Option(min=1, help=_WORDS_HELP)] = 40,
    count: Annotated[int, typer.Option(min=1, help="Passages drawn from WikiText, at most.")] = 5000,
    corpus: Annotated[str | None, typer.Option(help=_CORPUS_HELP)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help=_SEED_HELP)] = 0,
    save_strata: Annotated[bool, typer.Option("--save-strata", help=_STRATA_HELP)] = False,
    alter: Annotated[str | None, typer.Option(metavar="shuffle", help=_ALTER_HELP)] = None,
    generate: Annotated[int, typer.Option(min=0, metavar="N", help=_GENERATE_HELP)] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help=_TEMPERATURE_HELP)] = 0.0,
    geometry: Annotated[bool, typer.Option("--geometry", help=_GEOMETRY_HELP)] = False,
    repeats: Annotated[int, typer.Option(min=0, metavar="N", help=REPEATS_HELP)] = 0,
) -> None:
    """Evaluate every input of a dataset, into tables that outlive whatever stops the run.

    What is finished is written about every minute, and on Ctrl-C.
    """
    check_installed()
    from jstrace import runs
    from jstrace.method.conditions import COUNTERFACTUAL
    from jstrace.method.plans import Plan
    from jstrace.runs.schema import checked_extras

    chosen = checkpoints(model, revision or [], out)
    plan = Plan(
        tuple(map(score_of, _listed(score))), _listed(ablate), _listed(baselines or []), seed=seed,
        replacements=_listed(replace or ["zero"]), orders=_listed(order), selectivity=selectivity,
        score_replace=None if score_replace is None else score_replace.value,
    )  # fmt: skip
    extras = checked_extras(runs.Extras(generate, temperature, geometry, repeats), selectivity=selectivity)
    _check_store(out)
    speaks = not distributed or os.environ.get("JAX_PROCESS_ID") == "0"  # hosts have not met yet
    if speaks and any(map(_is_slow, (data, corpus or ""))):
        say(f"reading {data}")
    rows = runs.read_data(data, n_words=words, count=count, seed=seed, corpus=corpus)
    rows = rows if alter is None else runs.altered(rows, alter, seed=seed)
    if replace is None and rows.has_counterfactuals:
        plan = dataclasses.replace(plan, replacements=(COUNTERFACTUAL,))
    texts = None if reference is None else _reference_texts(reference, rows)
    if speaks:
        n_inputs = len(rows.rows) * max(1, generate)
        say(f"{n_inputs:,} inputs in {data}; starting JAX{' with the other hosts' if distributed else ''}")
        if selectivity:
            say(f"selectivity: scores from gradients are made {selectivity + 1} times, for each input's own and foreign"
                " predictions")  # fmt: skip
    from jstrace.loading import describe
    from jstrace.scale.hosts import check_agreed
    from jstrace.scale.programs import compile_seconds

    first = joined() if distributed else True
    check_agreed((model, revision, ignore_field, dtype, mesh))
    wanted = "data=all" if mesh is None and distributed else mesh

    def loaded(checkpoint: Checkpoint) -> Model:
        described = functools.partial(
            describe, checkpoint.source, revision=checkpoint.revision, ignore_fields=ignore_field or ()
        )
        check_model_fits(described, dtype, wanted, plan, rows)
        if first:
            say(f"loading {checkpoint.source}")
        found = load(
            checkpoint.source, dtype.value, checkpoint.revision, wanted, ignore_fields=ignore_field, quiet=not first
        )
        if first and len(rows.corpus) >= _MANY:
            say(f"counting the tokens of {len(rows.corpus):,} texts")
        return found

    for checkpoint in chosen:
        try:
            with (
                contextlib.nullcontext(_go_on) if distributed else interruptible() as check,
                compile_seconds() as compiled,
                shown_progress(check, compiled, shown=first) as shown,
            ):
                done = runs.run(
                    functools.partial(loaded, checkpoint), rows, checkpoint.out, plan, name=checkpoint.name,
                    limit=limit, save_strata=save_strata, progress=shown.progress, on_save=shown.saved,
                    on_batch=shown.batch, reference=texts, extras=extras,
                    revision=checkpoint.label, place=checkpoint.place,
                )  # fmt: skip
        except KeyboardInterrupt as stopped:
            sys.stderr.write(f"jstrace: stopped; the same command goes on in {out}\n")
            raise typer.Exit(getattr(stopped, "exit_code", 130)) from None
        if first:
            _show(done, checkpoint.out)


def _check_store(out: str) -> None:
    """Refuse a URL of no store, before reading and JAX take seconds.

    Raises:
      InputError: fsspec knows none such, or lacks a package for it.
    """
    from jstrace.runs import stores

    if stores.is_remote(out):
        stores.store_of(out)


def check_model_fits(
    described: Callable[[], ModelConfig], dtype: Dtype, mesh: str | None, plan: Plan, rows: Data
) -> None:
    """Refuse what no device holds, before it is loaded; a CPU's memory is the machine's, and swaps.

    Raises:
      InputError: with the mesh that would hold it.
    """
    import jax

    from jstrace.loading import checked_dtype
    from jstrace.pipeline.ask import Ask
    from jstrace.pipeline.footprint import check_fits
    from jstrace.scale.memory import total_bytes
    from jstrace.scale.meshes import parse_mesh

    device = jax.local_devices()[0]
    room = None if device.platform == "cpu" else total_bytes(device)
    if room is None:
        return
    over = 1 if mesh is None else parse_mesh(mesh).shape["model"]
    shortest = max(1, min(len(row.text.split()) for row in rows.rows))
    config, ask = described(), Ask(plan.sources, plan.cases, plan.sizes)
    itemsize = checked_dtype(dtype.value).itemsize
    check_fits(config, shortest, ask, itemsize, room, n_devices=jax.device_count(), over=over)


def _reference_texts(reference: str, data: Data) -> list[str]:
    """Of a file, or the run's own first ones."""
    from jstrace.errors import InputError
    from jstrace.runs import read_data

    if reference == "data":
        return [row.text for row in data.rows[:_OWN_REFERENCE]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of next words, which are not needed here
            return [row.text for row in read_data(reference).rows]
    except InputError as error:
        raise InputError(f"reference: {error}") from error


def _go_on() -> None:
    """No signal is looked for: several hosts see to that in the run itself."""


def _is_slow(data: str) -> bool:
    """Whether reading takes a while: WikiText, and large files. What is wrong with others is one line, at once."""
    from jstrace.runs.wikitext import WIKITEXT

    return data in WIKITEXT or (os.path.isfile(data) and os.path.getsize(data) > _LARGE)


def _listed(words: list[str]) -> tuple[str, ...]:
    """Names separated by commas, in one option or in several."""
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


def _show(done: Summary, out: str) -> None:
    invalid = f", {done.invalid} of them invalid" if done.invalid else ""
    typer.echo(f"{out}: {done.inputs} inputs{invalid}, {done.computed} of them computed now")
    if done.seconds:
        took = "; ".join(f"{name} {seconds:.{2 if seconds < 10 else 0}f}" for name, seconds in done.seconds.items())
        typer.echo(f"seconds an input for scores, without compilation: {took}")
