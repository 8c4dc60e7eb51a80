"""``jstrace info``: what a model is, and how large its graph; what a trace is, and how it is as a network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.cli.options import AT_HELP, MODEL_HELP, IgnoreField, Revision, at_size
from jstrace.cli.showing import buffered

if TYPE_CHECKING:
    from jstrace.analysis import Analysis
    from jstrace.pipeline import Trace

_GRAPH_HELP = f"Of a trace: hubs, communities and degrees at one size. {AT_HELP}"
_SEED_HELP = "With --graph: of communities, and of what betweenness samples beyond 5,000 nodes."


def info_command(
    model: Annotated[str, typer.Argument(help=f"{MODEL_HELP} Or an .npz file of jstrace trace --save.")],
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of the input whose graph is counted, 50 by default.")
    ] = None,
    graph: Annotated[str | None, typer.Option(metavar="SIZE", help=_GRAPH_HELP)] = None,
    top: Annotated[int, typer.Option(min=0, help="With --graph: so many hubs and communities.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help=_SEED_HELP)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print whether a model loads, its architecture, its parameters and the size of its graph; reads no weights.

    Of a model that does not load it says what is missing, with exit code 1.
    The paper's ten models are known offline. What is as in Llama is left out;
    --json has it. Of a saved trace, what it is; with --graph its hubs and its
    communities.
    """
    from jstrace.errors import InputError

    if model.endswith(".npz"):
        if tokens is not None or revision is not None or ignore_field:
            raise InputError("--tokens, --revision and --ignore-field are of models; a trace has its own")
        _of_trace(model, graph, top, seed, as_json)
        return
    if graph is not None:
        raise InputError(f"--graph takes a trace: an .npz file of jstrace trace --save, not {model!r}")
    _of_model(model, revision, ignore_field or [], tokens or 50, as_json)


def _of_model(model: str, revision: str | None, ignore_fields: list[str], tokens: int, as_json: bool) -> None:
    import dataclasses

    from jstrace.errors import UnsupportedError
    from jstrace.loading import describe
    from jstrace.method.graph import full_graph
    from jstrace.models import n_params, weight_bytes

    try:
        config = describe(model, revision=revision, ignore_fields=ignore_fields)
    except UnsupportedError as error:
        facts = {"model": model, "loads": False, "missing": str(error)}
        typer.echo(json.dumps(facts)) if as_json else _print(facts | {"loads": "no"})
        raise typer.Exit(1) from None
    edges, count = full_graph.n_edges(config, tokens), n_params(config)
    name = {"model": model, "loads": True}
    size = {"parameters": count, "bytes_float32": 4 * count, "bytes_bfloat16": 2 * count}
    size |= {"bytes_int8": weight_bytes(config, 2, narrow=True)}
    size |= {"tokens": tokens, "nodes": full_graph.n_nodes(config, tokens), "edges": edges}
    if as_json:
        typer.echo(json.dumps({**name, **dataclasses.asdict(config), **size}))
        return
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    shape = {name: value for name, value in dataclasses.asdict(config).items() if value != usual[name]}
    _print({**name, "loads": "yes", **shape, **size})


def _of_trace(path: str, at: str | None, top: int, seed: int, as_json: bool) -> None:
    from jstrace.analysis import analyse
    from jstrace.pipeline import Trace
    from jstrace.show.records import facts_of, network_json

    trace = Trace.load(path)
    found = None if at is None else analyse(trace, **at_size(at), seed=seed)
    facts = {"trace": path, **facts_of(trace), "sizes": [*trace.sizes, 1.0], "counts": [*trace.counts.tolist()]}
    if as_json:
        typer.echo(json.dumps(facts if found is None else facts | {"graph": network_json(found, top=top)}))
    elif found is None:
        _print(facts | {"tokens": len(trace.tokens), "token_texts": _text(trace)})
    else:
        typer.echo(_tables(trace, found, top), nl=False, color=True)


def _text(trace: Trace) -> str:
    from jstrace.show.text import shown, text_of

    return shown(text_of(trace))


def _tables(trace: Trace, found: Analysis, top: int) -> str:
    """All that is printed of a trace as a network."""
    from jstrace.show import tables

    console, written = buffered()
    net = found.network
    console.print(f"{_text(trace)}: {len(trace.tokens)} tokens, ranked by {trace.score}", markup=False)
    counted = (
        "betweenness exact" if found.exact else f"betweenness sampled from {found.sources:,} of {net.n_nodes:,} nodes"
    )
    console.print(f"size {found.size:g}: {net.n_edges:,} edges, {net.n_nodes:,} nodes; {counted}", markup=False)
    for by, title in (("betweenness", "between others"), ("backward_pagerank", "read from most, backward PageRank")):
        console.print(f"hubs: {title}", markup=False)
        console.print(tables.hub_table(found, top, by))
    about = f"{found.n_communities} communities (Louvain, seed {found.seed}), modularity {found.modularity:.3f}"
    console.print(about, markup=False)
    console.print(tables.community_table(found, top))
    return written.getvalue()


def _print(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):>18}  {_fact(value)}")


def _fact(value: Any) -> str:
    """One value of ``info``, long lists shortened."""
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)} numbers from {min(value):.4g} to {max(value):.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
