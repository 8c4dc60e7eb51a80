"""``jstrace info``: what a model is, and how large its graph; what a trace is, and how it is as a network."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.cli import options as opt
from jstrace.cli.room import in_bytes
from jstrace.cli.showing import buffered
from jstrace.errors import InputError

if TYPE_CHECKING:
    from jstrace.analysis import Analysis
    from jstrace.models import ModelConfig
    from jstrace.pipeline import Trace

_GRAPH_HELP = f"Of a trace, print hubs, communities and degrees at one size. {opt.AT_HELP}"
_TOKENS_HELP = "Count the graph of an input of N tokens, 50 by default."
_COMPILE_HELP = "Compile for this device, and print the memory that the compiler gives; not with --weights stored."
_TOP_HELP = "With --graph, print N hubs and N communities, 10 by default."
_SEED_HELP = (
    "With --graph, the random seed of communities, and of the nodes that betweenness samples where there are more than"
    " 5,000. The default is 0."
)


def info_command(
    model: Annotated[str, typer.Argument(help=f"{opt.MODEL_HELP} Or an .npz file of jstrace trace --save.")],
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    tokens: Annotated[int | None, opt.asked(min=1, metavar="N", help=_TOKENS_HELP)] = None,
    compiled: Annotated[bool, opt.asked("--compile", help=_COMPILE_HELP)] = False,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    graph: Annotated[str | None, opt.asked(metavar="SIZE", help=_GRAPH_HELP)] = None,
    seed: Annotated[int | None, opt.asked(help=_SEED_HELP, **opt.SEED_RANGE)] = None,
    top: Annotated[int | None, opt.printed(min=0, metavar="N", help=_TOP_HELP)] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Print whether a model loads, its architecture, the size of its graph, and the memory it needs.

    No weights are read, and the paper's ten models are known offline. If a model
    does not load, the command prints what is missing, and exits with code 1. Only
    --json prints the fields that have Llama's value. For a saved trace, you see
    what it holds, and with --graph its hubs and communities.
    """
    is_trace = model.endswith(".npz")
    if is_trace and (tokens is not None or revision is not None or ignore_field or compiled):
        raise InputError("--tokens, --compile, --revision and --ignore-field are of models; a trace has its own")
    if graph is not None and not is_trace:
        raise InputError(f"--graph takes a trace: an .npz file of jstrace trace --save, not {model!r}")
    if graph is None and (top is not None or seed is not None):
        raise InputError(f"{'--seed' if top is None else '--top'} is for the graph of a trace: add --graph 0.01")
    if not compiled and (dtype != opt.Dtype.FLOAT32 or weights is not None):
        raise InputError("--dtype and --weights are of what --compile compiles; add --compile")
    if is_trace:
        _of_trace(model, graph, 10 if top is None else top, seed or 0, as_json)
        return
    ask = functools.partial(_compiled, dtype=dtype, weights=weights) if compiled else _estimated
    _of_model(model, revision, ignore_field or [], tokens or 50, as_json, ask)


_Memory = tuple[str, dict[str, int]]
"""Of what it is, and bytes by their names."""


def _of_model(
    model: str, revision: str | None, ignore_fields: list[str], tokens: int, as_json: bool,
    memory_of: Callable[[ModelConfig, int], _Memory],
) -> None:  # fmt: skip
    import dataclasses

    from jstrace.errors import UnsupportedError
    from jstrace.loading import describe
    from jstrace.method.graph import full_graph
    from jstrace.models import n_params, weight_bytes
    from jstrace.models.narrow import INT4, INT8

    try:
        config = describe(model, revision=revision, ignore_fields=ignore_fields)
    except UnsupportedError as error:
        facts = {"model": model, "loads": False, "missing": str(error)}
        typer.echo(json.dumps(facts)) if as_json else _print(facts | {"loads": "no"})
        raise typer.Exit(1) from None
    edges, count = full_graph.n_edges(config, tokens), n_params(config)
    name = {"model": model, "loads": True}
    size = {"parameters": count, "bytes_float32": 4 * count, "bytes_bfloat16": 2 * count}
    size |= {f"bytes_{way}": weight_bytes(config, 2, narrow=way) for way in (INT8, INT4)}
    size |= {"tokens": tokens, "nodes": full_graph.n_nodes(config, tokens), "edges": edges}
    told, memory = memory_of(config, tokens)
    if as_json:
        typer.echo(json.dumps({**name, **dataclasses.asdict(config), **size, "estimated_bytes": memory}))
        return
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    shape = {name: value for name, value in dataclasses.asdict(config).items() if value != usual[name]}
    _print({**name, "loads": "yes", **shape, **size})
    _print({"estimated_memory": told} | {what: in_bytes(number) for what, number in memory.items()})


def _compiled(config: ModelConfig, n_tokens: int, *, dtype: opt.Dtype, weights: opt.Weights | None) -> _Memory:
    """The same by the compiler, and of the evaluation, too."""
    import jax

    from jstrace.loading import checked_dtype
    from jstrace.models import weight_bytes
    from jstrace.pipeline.compiled import compiled_bytes

    if weights == opt.Weights.STORED:
        raise InputError("--weights stored depends on the file; compile with --weights int8 or int4")
    kind, narrow = checked_dtype(dtype.value), weights or ""
    told = f"of {dtype}{f', weights {weights}' if weights else ''}, compiled for {jax.devices()[0].device_kind};"
    memory = {"weights": weight_bytes(config, kind.itemsize, narrow=narrow)}
    return f"{told} the others come on top of the weights", memory | compiled_bytes(config, n_tokens, kind, narrow)


def _estimated(config: ModelConfig, n_tokens: int) -> _Memory:
    """Bytes of the weights in float32, and, beside them, of an input that is traced and evaluated, and of gradients."""
    from jstrace.method.graph.sizes import SIZES
    from jstrace.models import weight_bytes
    from jstrace.models.platforms import assumed
    from jstrace.pipeline.footprint import gradient_bytes, text_bytes
    from jstrace.scale.batching import bucket

    with assumed("cpu"):  # no device is started
        return "in float32 on a CPU or GPU; traces and gradients come on top of the weights", {
            "weights": weight_bytes(config, 4),
            "one_trace": text_bytes(config, n_tokens, len(SIZES), 4),
            "round_of_gradients": gradient_bytes(config, bucket(n_tokens), 4),
        }


def _of_trace(path: str, at: str | None, top: int, seed: int, as_json: bool) -> None:
    from jstrace.analysis import analyse
    from jstrace.method.graph.sizes import percent
    from jstrace.pipeline import Trace
    from jstrace.show.records import facts_of, network_json

    trace = Trace.load(path)
    analysis = None if at is None else analyse(trace, **opt.at_size(at), seed=seed)
    facts = {"trace": path, **facts_of(trace), "sizes": [*trace.sizes, 1.0], "counts": [*trace.counts.tolist()]}
    if as_json:
        typer.echo(json.dumps(facts if analysis is None else facts | {"graph": network_json(analysis, top=top)}))
    elif analysis is None:
        sizes = f"{len(trace.sizes)} from {percent(trace.sizes[0], 3)} to {percent(trace.sizes[-1], 3)}, and 100%"
        _print(facts | {"tokens": len(trace.tokens), "token_texts": _text(trace), "sizes": sizes})
    else:
        typer.echo(_tables(trace, analysis, top), nl=False, color=True)


def _text(trace: Trace) -> str:
    from jstrace.show.text import shown, text_of

    return shown(text_of(trace))


def _tables(trace: Trace, result: Analysis, top: int) -> str:
    from jstrace.method.graph.sizes import percent
    from jstrace.show import tables

    console, written = buffered()
    net = result.network
    console.print(f"{_text(trace)}: {len(trace.tokens)} tokens, ranked by {trace.score}", markup=False)
    counted = (
        "betweenness exact" if result.exact else f"betweenness sampled from {result.sources:,} of {net.n_nodes:,} nodes"
    )
    console.print(
        f"{percent(result.size, 3)} of all edges: {net.n_edges:,} edges, {net.n_nodes:,} nodes; {counted}", markup=False
    )
    for by, title in (("betweenness", "between others"), ("backward_pagerank", "read from most, backward PageRank")):
        console.print(f"hubs: {title}", markup=False)
        console.print(tables.hub_table(result, top, by))
    about = f"{result.n_communities} communities (Louvain, seed {result.seed}), modularity {result.modularity:.3f}"
    console.print(about, markup=False)
    console.print(tables.community_table(result, top))
    return written.getvalue()


def _print(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):>18}  {_fact(value)}")


def _fact(value: Any) -> str:
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)} numbers from {min(value):.4g} to {max(value):.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
