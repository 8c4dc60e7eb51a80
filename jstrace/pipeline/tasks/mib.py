"""What the circuit track of MIB (arXiv 2504.13151) reads and measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jstrace.models import InputError, ModelConfig
from jstrace.models.slots import with_mlp
from jstrace.pipeline.tasks.alignment import components_of


def cpr(sizes: Sequence[float], recovered: Sequence[float]) -> float:
    """Circuit performance ratio: the area under what is recovered, over size.

    The sum over neighbouring sizes of ``(s[i+1] - s[i]) * (r[i] + r[i+1]) / 2``: 1 is as good as the full graph at all
    sizes, where these reach from 0 to 1. Nothing is added before the first size or behind the last.

    Args:
      sizes: fractions, increasing. MIB's are .001 .002 .005 .01 .02 .05 .1 .2 .5 1.
      recovered: of each size; MIB recovers means over prompts (``Judged.faithfulness``).

    Examples:
      >>> jstrace.cpr([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
      0.75

    Raises:
      InputError: other numbers of them, fewer than two, or sizes that do not increase or are outside [0, 1].
    """
    return _area(sizes, recovered, lambda r: r)


def cmd(sizes: Sequence[float], recovered: Sequence[float]) -> float:
    """Circuit-model distance: the area between what is recovered and 1, over size.

    As ``cpr``, of ``|1 - r|``: 0 is the best, and what is recovered beyond 1 counts against the circuit.

    Examples:
      >>> jstrace.cmd([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
      0.25

    Raises:
      InputError: as ``cpr``.
    """
    return _area(sizes, recovered, lambda r: np.abs(1 - r))


def _area(sizes: Sequence[float], recovered: Sequence[float], of: Any) -> float:
    try:
        s, r = np.asarray(sizes, float), np.asarray(recovered, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"sizes and recovered: expected numbers ({error})") from error
    if s.ndim != 1 or s.shape != r.shape or len(s) < 2 or not (np.diff(s) > 0).all() or s[0] < 0 or s[-1] > 1:
        raise InputError(
            f"sizes of shape {s.shape} and recovered of {r.shape}: expected as many of both, two at least, and sizes"
            " that increase, from 0 to 1"
        )
    return float(np.trapezoid(of(r), s))


def graph(
    config: ModelConfig, shares: Float[np.ndarray, "L C"], components: Bool[np.ndarray, "L C"], *, edges: bool
) -> dict[str, Any]:
    """The JSON of ``TaskCircuit.to_mib``.

    Args:
      config: of the model.
      shares: the score of each head of a layer, and of its MLP.
      components: which are in the circuit.
      edges: whether to write the edges between them.
    """
    mlps = [[f"m{layer}"] * there for layer, there in enumerate(with_mlp(config))]
    names = [
        ([f"a{layer}.h{head}" for head in range(n_heads)], mlps[layer]) for layer, n_heads in enumerate(config.heads)
    ]
    real = components_of(config)
    flat = zip([name for heads, mlps in names for name in (*heads, *mlps)], shares[real], components[real], strict=True)
    scored = [(name, {"in_graph": bool(inside), "score": float(share)}) for name, share, inside in flat]
    nodes: dict[str, Any] = {"input": {"in_graph": True}, **dict(scored), "logits": {"in_graph": True}}
    cfg = {"n_layers": config.n_layers, "n_heads": config.n_heads, "d_model": config.d_model}
    entries = {}
    if edges:
        largest = float(shares.max())
        for source, target, entry in _edges(names, parallel=config.parallel):
            inside = nodes[source]["in_graph"] and nodes[target]["in_graph"]
            entries[entry] = {"score": nodes[source].get("score", largest), "in_graph": inside}
    return {"cfg": {**cfg, "parallel_attn_mlp": config.parallel}, "nodes": nodes, "edges": entries}


def _edges(names: Sequence[tuple[list[str], list[str]]], *, parallel: bool) -> Iterator[tuple[str, str, str]]:
    """Every edge of a graph of components: its source, its target, and its name, with what of a head it enters."""
    before = ["input"]
    for heads, mlps in names:
        for source in before:
            for head in heads:
                yield from ((source, head, f"{source}->{head}<{part}>") for part in "qkv")
        for source in before if parallel else [*before, *heads]:
            yield from ((source, mlp, f"{source}->{mlp}") for mlp in mlps)
        before = [*before, *heads, *mlps]
    for source in before:
        yield source, "logits", f"{source}->logits"
