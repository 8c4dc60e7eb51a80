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

from jstrace.cli import options as opt
from jstrace.cli.checkpoints import Checkpoint, checkpoints
from jstrace.cli.checks import NO_TEXTS, check_installed, seed_of
from jstrace.cli.hosting import joined
from jstrace.cli.progress import Shown, interruptible, say
from jstrace.cli.room import check_model_fits
from jstrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jstrace.method.plans import Plan
    from jstrace.models import Model
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
_WORDS_HELP = "Cut WikiText into passages of N words, 40 by default; rows of files stay as they are."
_COUNT_HELP = "Draw at most N passages from WikiText, 5,000 by default."
_SEED_HELP = (
    "The random seed of random scores, fits, generated tokens, shuffled words, and passages from WikiText. The default"
    " is 0."
)
_STRATA_HELP = "Keep the traces themselves, too (a byte for each pair of tokens, head and layer)."
_CORPUS_HELP = (
    "Count predicted tokens in this file of texts. By default they are counted in the data, or in up to 20,000"
    " paragraphs of WikiText."
)

_SCORE_HELP = f"{opt.SCORE_HELP} Separate several by commas."
_REPLACE_HELP = (
    f"{opt.REPLACE_HELP} The default is zero, or counterfactual where the data has counterfactual prompts. Separate"
    " several by commas."
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
_ALSO_DRAWN = ", generated tokens with a --temperature, --alter, random baselines and WikiText"
_OWN_REFERENCE = 100
"""Texts of the run's own that are a reference."""

_LARGE, _MANY = 2**24, 1000
"""Bytes of a file, and texts, from which on reading and counting take seconds."""

_data, _beside = (
    functools.partial(typer.Option, rich_help_panel=panel) for panel in ("Data and results", "Beside the traces")
)


def run_command(
    data: Annotated[str, _data(metavar="DATA", help=_DATA_HELP)],
    out: Annotated[str, _data(metavar="FOLDER", help=_OUT_HELP)],
    model: opt.ModelOption = "smollm2",
    revision: Annotated[list[str] | None, opt.of_model(metavar="NAME", help=_REVISION_HELP)] = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    mesh: opt.MeshText = None,
    distributed: opt.Distributed = False,
    limit: Annotated[int | None, _data(min=1, metavar="N", help=_LIMIT_HELP)] = None,
    ablate: Annotated[list[str], opt.ranked(metavar="all,residual+mlp", help=_ABLATE_HELP)] = ["all,residual+mlp"],  # noqa: B006
    baselines: Annotated[list[str] | None, _beside(metavar="random,inverse,...", help=_BASELINES_HELP)] = None,
    score: Annotated[list[str], opt.ranked(metavar="l1,rounds,...", help=_SCORE_HELP)] = ["l1"],  # noqa: B006
    replace: Annotated[list[str] | None, opt.ranked(metavar="zero,mean,...", help=_REPLACE_HELP)] = None,
    score_replace: opt.ScoreReplace = None,
    order: Annotated[list[str], opt.ranked(metavar="best-first,score", help=_ORDER_HELP)] = ["best-first"],  # noqa: B006
    sizes: opt.SizesOption = None,
    reference: Annotated[str | None, opt.ranked(metavar="FILE", help=_REFERENCE_HELP)] = None,
    selectivity: Annotated[int, _beside(min=0, metavar="N", help=_SELECTIVITY_HELP)] = 0,
    words: Annotated[int | None, _data(min=1, metavar="N", help=_WORDS_HELP)] = None,
    count: Annotated[int | None, _data(min=1, metavar="N", help=_COUNT_HELP)] = None,
    corpus: Annotated[str | None, _data(metavar="FILE", help=_CORPUS_HELP)] = None,
    seed: Annotated[int | None, opt.ranked(help=_SEED_HELP, **opt.SEED_RANGE)] = None,
    save_strata: Annotated[bool, _data("--save-strata", help=_STRATA_HELP)] = False,
    alter: Annotated[str | None, _data(metavar="shuffle", help=_ALTER_HELP)] = None,
    generate: Annotated[int, _data(min=0, metavar="N", help=_GENERATE_HELP)] = 0,
    temperature: Annotated[float, _data(min=0.0, metavar="X", help=_TEMPERATURE_HELP)] = 0.0,
    geometry: Annotated[bool, _beside("--geometry", help=_GEOMETRY_HELP)] = False,
    repeats: Annotated[int, _beside(min=0, metavar="N", help=opt.REPEATS_HELP)] = 0,
) -> None:
    """Trace and evaluate every input of a dataset, and write tables.

    Results are written about every minute, and on Ctrl-C. Repeat the command to resume.
    """
    check_installed()
    from jstrace import runs
    from jstrace.method.conditions import COUNTERFACTUAL
    from jstrace.method.plans import Plan
    from jstrace.runs import remote
    from jstrace.runs.schema import checked_extras
    from jstrace.runs.wikitext import COUNT, N_WORDS, WIKITEXT

    chosen = checkpoints(model, revision or [], out)
    plan = Plan(
        tuple(map(opt.score_of, _listed(score))), _listed(ablate), _listed(baselines or []), seed=seed or 0,
        replacements=_listed(replace or ["zero"]), orders=_listed(order), selectivity=selectivity,
        score_replace=None if score_replace is None else score_replace.value, sizes=opt.sizes_of(sizes),
    )  # fmt: skip
    of_wikitext = data in WIKITEXT
    if not of_wikitext and (words, count) != (None, None):
        raise InputError(f"--words and --count are for WikiText; for the first rows of {data} give --limit")
    draws = (of_wikitext, temperature > 0, alter is not None, any(map(_is_begun, chosen)))
    drawn = seed_of(seed, [*plan.scores, *plan.built_in_names], *draws, also=_ALSO_DRAWN)
    extras = checked_extras(runs.Extras(generate, temperature, geometry, repeats), selectivity=selectivity)
    if remote.is_remote(out):
        remote.store_of(out)  # refused before reading and JAX take seconds
    speaks = not distributed or os.environ.get("JAX_PROCESS_ID") == "0"  # hosts have not met yet
    if speaks and any(map(_is_slow, (data, corpus or ""))):
        say(f"reading {data}")
    rows = runs.read_data(data, n_words=words or N_WORDS, count=count or COUNT, seed=drawn, corpus=corpus)
    rows = rows if alter is None else runs.altered(rows, alter, seed=drawn)
    if replace is None and rows.has_counterfactuals:
        plan = dataclasses.replace(plan, replacements=(COUNTERFACTUAL,))
    if reference is not None and not plan.takes_reference and not plan.scored_under:  # an older run may have means
        raise InputError(NO_TEXTS)
    texts = None if reference is None else _reference_texts(reference, rows)
    if speaks:
        _say_what_starts(len(rows.rows) * max(1, generate), data, selectivity, distributed=distributed)
    from jstrace.scale.hosts import check_agreed

    first = joined() if distributed else True
    check_agreed((model, revision, ignore_field, dtype, weights, mesh))
    wanted = "data=all" if mesh is None and distributed else mesh
    loading = _Loading(plan, rows, dtype, weights, ignore_field, wanted, speaks=first)
    for checkpoint in chosen:
        run = functools.partial(
            runs.run, functools.partial(loading.model, checkpoint), rows, checkpoint.out, plan, name=checkpoint.name,
            limit=limit, save_strata=save_strata, reference=texts, extras=extras, revision=checkpoint.label,
            place=checkpoint.place,
        )  # fmt: skip
        done = _resumable(run, out, shown=first, alone=not distributed)
        if first:
            _show(done, checkpoint.out)


def _say_what_starts(n_inputs: int, data: str, selectivity: int, *, distributed: bool) -> None:
    say(f"{n_inputs:,} inputs in {data}; starting JAX{' with the other hosts' if distributed else ''}")
    if selectivity:
        times = f"{selectivity + 1} times, for each input's own and foreign predictions"
        say(f"selectivity: scores from gradients are made {times}")


@dataclasses.dataclass(frozen=True)
class _Loading:
    """How the model of every checkpoint is loaded."""

    plan: Plan
    rows: Data
    dtype: opt.Dtype
    weights: opt.Weights | None
    ignore_fields: list[str] | None
    mesh: str | None
    speaks: bool

    def model(self, checkpoint: Checkpoint) -> Model:
        """Refused before its weights are read where they would not fit."""
        from jstrace.loading import describe

        described = functools.partial(
            describe, checkpoint.source, revision=checkpoint.revision, ignore_fields=self.ignore_fields or ()
        )
        check_model_fits(described, self.dtype, self.mesh, self.plan, self.rows, narrow=self.weights or "")
        if self.speaks:
            say(f"loading {checkpoint.source}")
        model = opt.load(
            checkpoint.source, self.dtype.value, checkpoint.revision, self.mesh, weights=self.weights,
            ignore_fields=self.ignore_fields, quiet=not self.speaks,
        )  # fmt: skip
        if self.speaks and len(self.rows.corpus) >= _MANY:
            say(f"counting the tokens of {len(self.rows.corpus):,} texts")
        return model


def _resumable(run: Callable[..., Summary], out: str, *, shown: bool, alone: bool) -> Summary:
    """Run with progress, and stop at a signal, where no other hosts have to stop, too."""
    from jstrace.scale.programs import compile_seconds

    try:
        with (
            interruptible() if alone else contextlib.nullcontext(lambda: None) as check,
            compile_seconds() as compiled,
            Shown(check, compiled, shown=shown) as bar,
        ):
            return run(progress=bar.progress, on_save=bar.saved, on_batch=bar.batch, on_steps=bar.steps)
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"jstrace: stopped; repeat the command to resume {out}\n")
        raise typer.Exit(getattr(stopped, "exit_code", 130)) from None


def _is_begun(checkpoint: Checkpoint) -> bool:
    """Whether its folder holds a run, which goes on with its seed, whatever draws by it."""
    from jstrace.runs.manifest import MANIFEST

    return os.path.isfile(os.path.join(checkpoint.out, MANIFEST))


def _reference_texts(reference: str, data: Data) -> list[str]:
    from jstrace.runs import read_data

    if reference == "data":
        return [row.text for row in data.rows[:_OWN_REFERENCE]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of next words, which are not needed here
            return [row.text for row in read_data(reference).rows]
    except InputError as error:
        raise InputError(f"reference: {error}") from error


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
