"""``jstrace info``: what a model is, and how large its graph."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from jstrace.cli.options import MODEL_HELP, Revision


def info_command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    revision: Revision = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the input whose graph is counted.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a model's architecture, its parameters and the size of its graph; reads no weights.

    The paper's ten models are known offline. Only --json has the flags that are as in Llama.
    """
    import dataclasses

    from jstrace.loading import describe
    from jstrace.method import graph
    from jstrace.models import n_params

    config = describe(model, revision=revision)
    edges, count = graph.n_edges(config, tokens), n_params(config)
    size = {"parameters": count, "bytes_float32": 4 * count, "bytes_bfloat16": 2 * count}
    size |= {"tokens": tokens, "nodes": graph.n_nodes(config, tokens), "edges": edges}
    if as_json:
        typer.echo(json.dumps({"model": model, **dataclasses.asdict(config), **size}))
        return
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    shape = {name: value for name, value in dataclasses.asdict(config).items() if value != usual[name]}
    for name, value in {"model": model, **shape, **size}.items():
        typer.echo(f"{name.replace('_', ' '):>18}  {_fact(value)}")


def _fact(value: Any) -> str:
    """One value of ``info``, long lists shortened."""
    if isinstance(value, tuple) and len(value) > 8:
        return f"{len(value)} numbers from {min(value):.4g} to {max(value):.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
