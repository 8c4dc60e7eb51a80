"""``jstrace run`` and ``jstrace report``: datasets through a model, and what came of them."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli_options import MODEL_HELP, Distributed, Dtype, MeshText, Revision, joined, load

if TYPE_CHECKING:
    from jstrace.runs import Progress, Summary

_DATA_HELP = "wikitext-2, wikitext-103, or a .tsv, .jsonl, .parquet or .txt file of texts and their next words."


def run_command(
    data: Annotated[str, typer.Option(help=_DATA_HELP)],
    out: Annotated[Path, typer.Option(help="The folder of the results; the same command goes on where it stopped.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    mesh: MeshText = None,
    distributed: Distributed = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many inputs; ask for more later.")] = None,
    ablate: Annotated[
        list[str], typer.Option(metavar="all,residual+mlp", help="Which edges are ablated; both by default.")
    ] = ["all,residual+mlp"],  # noqa: B006 - typer's way to give a default
    baselines: Annotated[
        list[str] | None,
        typer.Option(metavar="random,inverse,pre-softmax", help="What is evaluated beside the traces."),
    ] = None,
    importance: Annotated[
        list[str], typer.Option(metavar="l1,l2,ifr,cosine,random", help="Edge scores; baselines are of the first.")
    ] = ["l1"],  # noqa: B006
    words: Annotated[int, typer.Option(min=1, help="Of a passage of WikiText.")] = 40,
    count: Annotated[int, typer.Option(min=1, help="Passages drawn from WikiText.")] = 5000,
    corpus: Annotated[str | None, typer.Option(help="Another file of texts in which tokens are counted.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of random scores and of drawn passages.")] = 0,
    save_strata: Annotated[bool, typer.Option("--save-strata", help="Keep the strata of every input.")] = False,
) -> None:
    """Evaluate every input of a dataset, into tables that outlive whatever stops the run."""
    _check_installed()
    from jstrace import runs
    from jstrace.data import read_data
    from jstrace.devices import check_agreed
    from jstrace.pipeline import Plan

    plan = Plan(_listed(importance), _listed(ablate), _listed(baselines or []), seed=seed)
    rows = read_data(data, n_words=words, count=count, seed=seed, corpus=corpus)
    first = joined() if distributed else True
    check_agreed((model, revision, dtype, mesh))
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = functools.partial(load, model, dtype.value, revision, wanted, quiet=not first)
    try:
        with _interruptible() as check, _progress(check, shown=first) as progress:
            done = runs.run(
                loaded, rows, out, plan, name=model, limit=limit, save_strata=save_strata, progress=progress
            )
    except KeyboardInterrupt:
        sys.stderr.write(f"jstrace: stopped; the same command goes on in {out}\n")
        raise typer.Exit(130) from None
    if first:
        _show(done, out)


def _check_installed() -> None:
    """Name the extra where its packages are missing."""
    import importlib.util

    missing = [
        name for name in ("pyarrow", "scipy", "matplotlib", "filelock", "jinja2") if not importlib.util.find_spec(name)
    ]
    if missing:
        from jstrace.models import InputError

        raise InputError(f"{', '.join(missing)} missing: runs and reports need pip install 'jstrace[run]'")


def _listed(words: list[str]) -> tuple[str, ...]:
    """Names separated by commas, in one option or in several."""
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


def _show(done: Summary, out: Path) -> None:
    invalid = f", {done.invalid} of them invalid" if done.invalid else ""
    typer.echo(f"{out}: {done.inputs} inputs{invalid}, {done.computed} of them computed now")


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """What raises KeyboardInterrupt after Ctrl-C, even where the first was lost in a callback of the collector."""
    asked: list[bool] = []

    def interrupted(*_: object) -> None:
        asked.append(True)
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress(check: Callable[[], None], *, shown: bool) -> Iterator[Progress]:
    """Inputs done, inputs a second and time left on standard error: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
    task = bar.add_task("inputs", total=None, pace="the first of a length compiles")
    start, last = [0.0], [0.0]

    def tell(done: int, before: int, wanted: int) -> None:
        check()
        now = time.monotonic()
        if not start[0]:  # the model is loaded, and whatever that had to say is said
            start[0] = last[0] = now
            bar.start()
        bar.update(task, completed=done, total=wanted)
        if done == before:
            return
        pace = _pace(done - before, wanted - done, now - start[0])
        bar.update(task, pace=pace)
        if shown and not console.is_terminal and (done == wanted or now - last[0] > _LINE_SECONDS):
            last[0] = now
            sys.stderr.write(f"{done}/{wanted} inputs, {pace}\n")

    try:
        yield tell
    finally:
        bar.stop()


_LINE_SECONDS = 30.0


def _pace(done: int, left: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    remaining = round(left / rate) if rate else 0
    return f"{rate:.3g} inputs/s, {remaining // 3600}:{remaining // 60 % 60:02d}:{remaining % 60:02d} left"


def report_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of jstrace run; several models are compared.")],
    out: Annotated[Path, typer.Option(help="A folder for index.html, figures and tables.")],
) -> None:
    """Make the paper's figures, tables and correlations of runs, and one page with all of them."""
    _check_installed()
    from jstrace.report import write_report

    labels = write_report(folders, out)
    typer.echo(f"{out / 'index.html'}: {', '.join(labels)}")
