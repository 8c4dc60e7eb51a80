"""``jstrace view``: a trace as one page to look at."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.cli.options import (
    IMPORTANCE_HELP,
    MODEL_HELP,
    REFERENCE_HELP,
    Dtype,
    Order,
    Revision,
    importance_of,
    load,
)
from jstrace.cli.texts import read_texts

if TYPE_CHECKING:
    from jstrace.models import Model
    from jstrace.pipeline import Evaluation, Trace

_WHAT_HELP = "A text, or an .npz file of jstrace trace --save."
_AGAINST_HELP = "A second score, whose trace stands beside the first."
CURVES: dict[str, dict[str, Any]] = {
    "nothing in their place": {},
    "attention left whole": {"ablate": "residual+mlp"},
    "means in their place": {"replace": "mean"},
}
"""What is evaluated of a trace, by what the page calls it: what stands in the place of ablated edges."""


def view_command(
    what: Annotated[str, typer.Argument(help=_WHAT_HELP)],
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path("trace.html"),
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and residual stream.")] = Dtype.FLOAT32,
    importance: Annotated[str, typer.Option(metavar="l1|rounds|learned|...", help=IMPORTANCE_HELP)] = "l1",
    against: Annotated[str | None, typer.Option(metavar="l1|rounds|learned|...", help=_AGAINST_HELP)] = None,
    order: Annotated[Order, typer.Option(help="How scores become traces.")] = Order.BEST_FIRST,
    reference: Annotated[Path | None, typer.Option(help=REFERENCE_HELP)] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """See how a prediction comes back: the graph at every size, what is predicted there, and the curves.

    The page is one file that needs no server and no network.
    """
    from jstrace.errors import InputError
    from jstrace.files import check_writable

    if out.suffix not in (".html", ".htm"):
        raise InputError(f"{out}: expected a file that ends in .html")
    check_writable(out)
    scores = [importance_of(name) for name in (importance, against) if name is not None]
    saved = _saved(what)
    if saved is None:
        (line,) = read_texts(what, None)
        what = line.text
    texts = None if reference is None else [line.text for line in read_texts(None, reference)]
    loaded = load(model, dtype.value, revision)
    traces = _traces(loaded, what, scores, order.value, texts, saved)
    _page(loaded, traces, texts).save(out)
    typer.echo(f"{out}: {out.stat().st_size / 1e3:,.0f} kB")
    if show:
        webbrowser.open(out.resolve().as_uri())


def _saved(what: str) -> Trace | None:
    """The trace in a file."""
    if not what.endswith(".npz"):
        return None
    import jstrace

    return jstrace.Trace.load(what)


def _traces(
    model: Model, text: str, scores: list[Any], order: str, texts: list[str] | None, saved: Trace | None
) -> list[Trace]:
    import jstrace

    if saved is None:
        return [jstrace.trace(model, text, importance=one, order=order, reference=texts) for one in scores]
    others = [
        jstrace.trace(model, saved.tokens, importance=one, sizes=saved.sizes, reference=texts) for one in scores[1:]
    ]
    return [saved, *others]


def _page(model: Model, traces: list[Trace], texts: list[str] | None) -> Any:
    import jstrace

    found: list[dict[str, Evaluation]] = [{} for _ in traces]
    for name, options in CURVES.items():
        for own, one in zip(found, jstrace.evaluate(model, traces, reference=texts, **options), strict=True):
            own[name] = one
    return jstrace.view(traces, found, model=model)
