"""``jstrace run``: datasets through a model."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstrace.cli.options import MODEL_HELP, Distributed, Dtype, MeshText, Revision, check_installed, joined, load
from jstrace.cli.progress import interruptible, shown_progress

if TYPE_CHECKING:
    from jstrace.runs import Summary

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
    check_installed()
    from jstrace import runs
    from jstrace.method.conditions import Plan
    from jstrace.scale.hosts import check_agreed

    plan = Plan(_listed(importance), _listed(ablate), _listed(baselines or []), seed=seed)
    rows = runs.read_data(data, n_words=words, count=count, seed=seed, corpus=corpus)
    first = joined() if distributed else True
    check_agreed((model, revision, dtype, mesh))
    wanted = "data=all" if mesh is None and distributed else mesh
    loaded = functools.partial(load, model, dtype.value, revision, wanted, quiet=not first)
    try:
        with interruptible(terminable=not distributed) as check, shown_progress(check, shown=first) as (tell, saved):
            done = runs.run(
                loaded, rows, out, plan,
                name=model, limit=limit, save_strata=save_strata, progress=tell, on_save=saved,
            )  # fmt: skip
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"jstrace: stopped; the same command goes on in {out}\n")
        raise typer.Exit(getattr(stopped, "exit_code", 130)) from None
    if first:
        _show(done, out)


def _listed(words: list[str]) -> tuple[str, ...]:
    """Names separated by commas, in one option or in several."""
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


def _show(done: Summary, out: Path) -> None:
    invalid = f", {done.invalid} of them invalid" if done.invalid else ""
    typer.echo(f"{out}: {done.inputs} inputs{invalid}, {done.computed} of them computed now")
