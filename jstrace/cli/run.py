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
    DTYPE_HELP,
    MODEL,
    MODEL_HELP,
    RANKED,
    REPEATS_HELP,
    REPLACE_HELP,
    SCORE_HELP,
    Distributed,
    Dtype,
    IgnoreField,
    MeshText,
    ScoreReplace,
    WeightsOption,
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
    "wikitext-2, wikitext-103, or a file: .tsv (a text, a tab and the word that truly follows, which may be missing),"
    ' .jsonl ({"text": ..., "next": ...}), .parquet (columns text and next) or .txt (a text a line). Reports compare'
    " texts by the columns pair and variant. Columns counterfactual, answer and rival (.jsonl, .parquet) ask of each"
    " text what the options of jstrace trace ask."
)
_OUT_HELP = "The folder of the results. Name the folder of an interrupted run to resume it. URLs (gs://...) work, too."
_LIMIT_HELP = "Evaluate only the first N inputs. Ask for more later."
_ABLATE_HELP = "Which edges are ablated. Separate several by commas."
_BASELINES_HELP = (
    "What is evaluated beside the traces of the first score: random, random-proportional, inverse, random-inverse,"
    " pre-softmax. There is none by default."
)
_WORDS_HELP = "Cut WikiText into passages of N words; rows of files stay as they are."
_COUNT_HELP = "Draw at most N passages from WikiText."
_SEED_HELP = "The random seed of random scores, fits, generated tokens, shuffled words, and passages from WikiText."
_STRATA_HELP = "Keep the traces themselves, too (a byte for each pair of tokens, head and layer)."
_CORPUS_HELP = (
    "Count predicted tokens in this file of texts. By default they are counted in the data, or in up to 20,000"
    " paragraphs of WikiText."
)

_SCORE_HELP = f"{SCORE_HELP} Separate several by commas."
_REPLACE_HELP = (
    f"{REPLACE_HELP} The default is zero, or counterfactual where the data has counterfactual prompts. Separate several"
    " by commas."
)
_ORDER_HELP = "How scores become traces. Separate several by commas."
_REVISION_HELP = (
    "The branch, tag or commit of a hub id, or a sub-folder of a local one. Several run one after another, each into a"
    " folder in --out."
)
_ALTER_HELP = "Evaluate every row twice, as it is and with its words shuffled. Reports compare the two."
_GENERATE_HELP = "Take rows as prompts and generate N tokens after each. The prediction of each token is an input."
_TEMPERATURE_HELP = "The temperature of generated tokens. 0 takes the most probable ones."
_GEOMETRY_HELP = "Measure intrinsic dimension and anisotropy of hidden states after each layer, too."
_SELECTIVITY_HELP = (
    "The control: make scores from gradients also towards what N other inputs predict. This costs N times those scores"
    " again."
)
_REFERENCE_HELP = (
    "A file of texts for means and resampled states, or data for the run's own first 100. By default they are made of"
    " sentences that come with jstrace."
)
_OWN_REFERENCE = 100
"""Texts of the run's own that are a reference."""

_LARGE, _MANY = 2**24, 1000
"""Bytes of a file, and texts, from which on reading and counting take seconds."""


BESIDE = "Beside the traces"
_model, _ranked, _beside = (functools.partial(typer.Option, rich_help_panel=each) for each in (MODEL, RANKED, BESIDE))
_data = functools.partial(typer.Option, rich_help_panel="Data and results")


def run_command(
    data: Annotated[str, _data(metavar="DATA", help=_DATA_HELP)],
    out: Annotated[str, _data(metavar="FOLDER", help=_OUT_HELP)],
    model: Annotated[str, _model(metavar="MODEL", help=MODEL_HELP)] = "smollm2",
    revision: Annotated[list[str] | None, _model(metavar="NAME", help=_REVISION_HELP)] = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, _model(help=DTYPE_HELP)] = Dtype.FLOAT32,
    weights: WeightsOption = None,
    mesh: MeshText = None,
    distributed: Distributed = False,
    limit: Annotated[int | None, _data(min=1, metavar="N", help=_LIMIT_HELP)] = None,
    ablate: Annotated[list[str], _ranked(metavar="all,residual+mlp", help=_ABLATE_HELP)] = ["all,residual+mlp"],  # noqa: B006
    baselines: Annotated[list[str] | None, _beside(metavar="random,inverse,...", help=_BASELINES_HELP)] = None,
    score: Annotated[list[str], _ranked(metavar="l1,rounds,...", help=_SCORE_HELP)] = ["l1"],  # noqa: B006
    replace: Annotated[list[str] | None, _ranked(metavar="zero,mean,...", help=_REPLACE_HELP)] = None,
    score_replace: ScoreReplace = None,
    order: Annotated[list[str], _ranked(metavar="best-first,score", help=_ORDER_HELP)] = ["best-first"],  # noqa: B006
    reference: Annotated[str | None, _ranked(metavar="FILE", help=_REFERENCE_HELP)] = None,
    selectivity: Annotated[int, _beside(min=0, metavar="N", help=_SELECTIVITY_HELP)] = 0,
    words: Annotated[int, _data(min=1, metavar="N", help=_WORDS_HELP)] = 40,
    count: Annotated[int, _data(min=1, metavar="N", help=_COUNT_HELP)] = 5000,
    corpus: Annotated[str | None, _data(metavar="FILE", help=_CORPUS_HELP)] = None,
    seed: Annotated[int, _ranked(min=0, max=2**31 - 1, metavar="N", help=_SEED_HELP)] = 0,
    save_strata: Annotated[bool, _data("--save-strata", help=_STRATA_HELP)] = False,
    alter: Annotated[str | None, _data(metavar="shuffle", help=_ALTER_HELP)] = None,
    generate: Annotated[int, _data(min=0, metavar="N", help=_GENERATE_HELP)] = 0,
    temperature: Annotated[float, _data(min=0.0, metavar="X", help=_TEMPERATURE_HELP)] = 0.0,
    geometry: Annotated[bool, _beside("--geometry", help=_GEOMETRY_HELP)] = False,
    repeats: Annotated[int, _beside(min=0, metavar="N", help=REPEATS_HELP)] = 0,
) -> None:
    """Trace and evaluate every input of a dataset, and write tables.

    Results are written about every minute, and on Ctrl-C. Repeat the command to resume.
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
    check_agreed((model, revision, ignore_field, dtype, weights, mesh))
    wanted = "data=all" if mesh is None and distributed else mesh

    def loaded(checkpoint: Checkpoint) -> Model:
        described = functools.partial(
            describe, checkpoint.source, revision=checkpoint.revision, ignore_fields=ignore_field or ()
        )
        check_model_fits(described, dtype, wanted, plan, rows, narrow=weights is not None)
        if first:
            say(f"loading {checkpoint.source}")
        found = load(
            checkpoint.source,
            dtype.value,
            checkpoint.revision,
            wanted,
            weights=weights,
            ignore_fields=ignore_field,
            quiet=not first,
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
            sys.stderr.write(f"jstrace: stopped; repeat the command to resume {out}\n")
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
    described: Callable[[], ModelConfig], dtype: Dtype, mesh: str | None, plan: Plan, rows: Data, *, narrow: bool
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
    check_fits(config, shortest, ask, itemsize, room, n_devices=jax.device_count(), over=over, narrow=narrow)


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
