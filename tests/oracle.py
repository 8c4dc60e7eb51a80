"""The slow, literal truth: explicit edge vectors, a heap, and one edge at a time, in float64 numpy."""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models import EdgeTree, ModelConfig
from tests.oracle_attention import LiteralAttention
from tests.oracle_mlp import LiteralMLP

EDGE_KINDS = ("residual_attn", "attn", "residual_mlp", "mlp")
Edge = tuple[int, ...]
"""Index into an EdgeTree: family number, then position."""


@dataclasses.dataclass
class Graph:
    """A list of edges in index order, each with its source node, target node, score; nodes are (level, token)."""

    edges: list[tuple[Edge, tuple[int, int], tuple[int, int], float]]
    outputs: list[tuple[int, int]]


def graph_of(scores: EdgeTree, parallel: bool = False, n_outputs: int = 1) -> Graph:
    """The graph of every slot with a score that is not negative."""
    n_layers, n_tokens = scores.mlp.shape
    edges = []
    for family, name in enumerate(EDGE_KINDS):
        for index, score in np.ndenumerate(np.asarray(getattr(scores, name))):
            if score < 0:
                continue
            layer, source, target = index[0], index[-1], index[2 if name == "attn" else 1]
            level = layer if parallel else 2 * layer + (1 if name in ("residual_mlp", "mlp") else 0)
            edges.append(((family, *index), (level, source), (level + 1, target), float(score)))
    level = n_layers if parallel else 2 * n_layers
    return Graph(edges, [(level, token) for token in range(n_tokens - n_outputs, n_tokens)])


def best_first(graph: Graph, first: tuple[str, ...] = ()) -> list[Edge]:
    """Every reachable edge in the order that a heap takes it; families in ``first`` rank before all others."""
    into: dict[tuple[int, int], list[int]] = {}
    for number, (_, _, target, _) in enumerate(graph.edges):
        into.setdefault(target, []).append(number)
    heap: list[tuple[bool, float, int]] = []
    seen = set()

    def discover(node: tuple[int, int]) -> None:
        if node in seen:
            return
        seen.add(node)
        for number in into.get(node, []):
            edge, _, _, score = graph.edges[number]
            heapq.heappush(heap, (EDGE_KINDS[edge[0]] not in first, -score, number))

    for output in graph.outputs:
        discover(output)
    order = []
    while heap:
        number = heapq.heappop(heap)[2]
        order.append(graph.edges[number][0])
        discover(graph.edges[number][1])
    return order


def random_nodes(graph: Graph, rng: np.random.Generator) -> list[Edge]:
    """Every reachable edge as drawn: some node that has edges left gives the residual one, the MLP's, then any."""
    into: dict[tuple[int, int], list[tuple[Edge, tuple[int, int]]]] = {}
    for number in rng.permutation(len(graph.edges)):
        edge, source, target, _ = graph.edges[number]
        into.setdefault(target, []).append((edge, source))
    ranks = {"residual_attn": 0, "residual_mlp": 0, "mlp": 1, "attn": 2}
    for edges in into.values():
        edges.sort(key=lambda one: -ranks[EDGE_KINDS[one[0][0]]])
    reached, order = list(graph.outputs), []
    while frontier := [node for node in reached if into.get(node)]:
        edge, source = into[frontier[rng.integers(len(frontier))]].pop()
        order.append(edge)
        reached += [source] if source not in reached else []
    return order


def proportional(
    scores: EdgeTree, beside: EdgeTree, n_sizes: int, parallel: bool = False, n_outputs: int = 1
) -> EdgeTree:
    """Strata of random traces with as many edges of each kind as those beside, turn by turn and edge by edge."""
    graph = graph_of(scores, parallel, n_outputs)
    kinds = {"residual_attn": 0, "residual_mlp": 0, "mlp": 1, "attn": 2}
    kind_of = [kinds[EDGE_KINDS[edge[0]]] for edge, *_ in graph.edges]
    strata_beside = [int(getattr(beside, EDGE_KINDS[edge[0]])[tuple(edge[1:])]) for edge, *_ in graph.edges]
    taken: dict[int, int] = {}
    reached = set(graph.outputs)
    for k in range(n_sizes):
        lack = [sum(s <= k and c == kind for s, c in zip(strata_beside, kind_of, strict=True)) for kind in range(3)]
        lack = [n - sum(kind_of[number] == kind for number in taken) for kind, n in enumerate(lack)]
        room, lack = sum(lack), [max(n, 0) for n in lack]
        for kind in range(3):
            lack[kind] = min(lack[kind], room)
            room -= lack[kind]
        while sum(lack):
            there: list[list[int]] = [[], [], []]
            for number, (_, _, target, _) in enumerate(graph.edges):
                if number not in taken and target in reached:
                    there[kind_of[number]].append(number)
            if not any(n and edges for n, edges in zip(lack, there, strict=True)):
                first = next(kind for kind in (2, 0, 1) if there[kind])
                lack = [sum(lack) if kind == first else 0 for kind in range(3)]
            for kind, edges in enumerate(there):
                best = sorted(edges, key=lambda number: (-graph.edges[number][3], number))
                now = best[: min(lack[kind], (len(edges) + 1) // 2)]
                taken |= dict.fromkeys(now, k)
                reached |= {graph.edges[number][1] for number in now}
                lack[kind] -= len(now)
    out = {name: np.full(getattr(scores, name).shape, NO_EDGE, np.uint8) for name in EDGE_KINDS}
    for number, ((family, *index), *_) in enumerate(graph.edges):
        out[EDGE_KINDS[family]][tuple(index)] = taken.get(number, n_sizes)
    return EdgeTree(**out)


def strata(
    scores: EdgeTree,
    sizes: tuple[float, ...],
    first: tuple[str, ...] = (),
    parallel: bool = False,
    n_outputs: int = 1,
) -> EdgeTree:
    """Strata by the heap: every size's prefix of the order."""
    order = best_first(graph_of(scores, parallel, n_outputs), first)
    return strata_of(order, [math.floor(size * len(order)) for size in sizes], scores)


def strata_of(order: list[Edge], cuts: Any, scores: EdgeTree) -> EdgeTree:
    """Strata of edges in the order taken: the first cut that lies beyond each."""
    out = {name: np.full(getattr(scores, name).shape, NO_EDGE, np.uint8) for name in EDGE_KINDS}
    for place, (family, *index) in enumerate(order):
        stratum = next((k for k, cut in enumerate(cuts) if place < cut), len(cuts))
        out[EDGE_KINDS[family]][tuple(index)] = stratum
    return EdgeTree(**out)


# --- the model ------------------------------------------------------------------------------------------------------


def _wide(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _wide(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float64)


class Literal(LiteralAttention, LiteralMLP):
    """One model on one input, layer by layer, with an explicit vector for every edge."""

    def __init__(self, config: ModelConfig, params: Any, tokens: Any) -> None:
        self.config, self.whole, self.params = config, config, _wide(params)
        self.embedded = self.params["embed"][np.asarray(tokens)] * config.embed_scale
        self.n_tokens = len(self.embedded)
        if config.learned_positions:
            self.embedded = self.embedded + self.params["positions"][: self.n_tokens]

    def layer(self, index: int) -> dict[str, np.ndarray]:
        """Its weights; ``config`` becomes that of the layer's form."""
        stacks = self.params["layers"]
        if self.whole.forms:
            form = self.whole.form_of[index]
            self.config, stacks = self.whole.layer_forms[form], stacks[str(form)]
            index = self.whole.form_of[:index].count(form)
        weights = {name: stack[index] for name, stack in stacks.items()}
        c = self.config
        return weights | ({"o": np.zeros((c.n_heads, c.value_width, c.d_model))} if c.mixer == "none" else {})

    def sigma(self, x: np.ndarray) -> np.ndarray:
        """What a norm divides by."""
        centre = x.mean(-1, keepdims=True) if self.config.norm == "layer" else 0.0
        return np.sqrt(np.mean((x - centre) ** 2, -1, keepdims=True) + self.config.norm_eps)

    def linear(self, w: Any, name: str, x: np.ndarray) -> np.ndarray:
        """The linear part of a norm."""
        if self.config.norm == "none":
            return x
        centre = x.mean(-1, keepdims=True) if self.config.norm == "layer" else 0.0
        return (w[name] + self.config.norm_offset) * (x - centre)

    def norm(self, w: Any, name: str, x: np.ndarray) -> np.ndarray:
        if self.config.norm == "none":
            return x
        return self.linear(w, name, x) / self.sigma(x) + w.get(f"{name}_shift", 0.0)

    def logits(self, x: np.ndarray) -> np.ndarray:
        head = self.params.get("head", self.params["embed"])
        out, cap = head @ self.norm(self.params, "final_norm", x), self.config.logit_softcap
        out = out + self.params.get("head_bias", 0.0)
        return cap * np.tanh(out / cap) if cap else out

    def nodes(self) -> Iterator[tuple[tuple[int, int], dict[Edge, np.ndarray], np.ndarray, np.ndarray]]:
        """For every node of the full graph: its edges' vectors, its constants, and the node's own vector.

        The node's vector is computed as the model does, not as a sum of edges; into the last level everything is
        under the linear part of the final norm.
        """
        x = self.embedded
        for index in range(self.whole.n_layers):
            w = self.layer(index)
            c = self.config
            probs, seen, v, gate = self.attended(index, w, x)
            mixed = np.einsum("hts,hse->the", probs, v)
            own = [None] * len(x) if gate is None else gate
            attn = np.stack([self.written(w, *each, each[1]).sum(0) for each in zip(own, mixed, strict=True)])
            constant = w.get("o_bias", np.zeros(c.d_model))
            middle = x + (self.norm(w, "attn_post_norm", attn) if c.post_norm else attn) + constant
            scale = w.get("layer_scale", 1.0)
            out = scale * (middle + self.mlp(w, x if c.parallel else middle))
            into = [{} for _ in x]
            for i in range(self.n_tokens):
                into[i][0, index, i] = x[i]
                for j in range(self.n_tokens):
                    vectors = self.written(w, own[i], probs[:, i, j, None] * v[:, j], mixed[i])
                    if c.post_norm:
                        vectors = self.linear(w, "attn_post_norm", vectors) / self.sigma(attn[i])
                    into[i] |= {(1, index, h, i, j): vectors[h] for h in range(c.n_heads) if seen[h, i, j]}
            mlp, last = self.mlp(w, x if c.parallel else middle), index == c.n_layers - 1
            final = functools.partial(self.linear, self.params, "final_norm") if last else np.asarray
            for i in range(self.n_tokens):
                if c.parallel:
                    edges = into[i] | ({(3, index, i): mlp[i]} if c.d_mlp else {})
                    edges = {edge: final(vector) for edge, vector in edges.items()}
                    yield (index + 1, i), edges, final(constant), final(out[i])
                else:
                    yield (2 * index + 1, i), into[i], constant, middle[i]
                    edges = {(2, index, i): final(scale * middle[i]), (3, index, i): final(scale * mlp[i])}
                    yield (2 * index + 2, i), edges, np.zeros(c.d_model), final(out[i])
            x = out

    def states(self) -> dict[str, np.ndarray]:
        """What a clean pass may give in the place of ablated edges: [L, T, ...] each."""
        x = self.embedded
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("attn_input", "values", "mlp_input", "mlp_output")}
        for index in range(self.whole.n_layers):
            w = self.layer(index)
            c = self.config
            probs, _, v, gate = self.attended(index, w, x)
            mixed = np.einsum("hts,hse->the", probs, v)
            own = [None] * len(x) if gate is None else gate
            attn = np.stack([self.written(w, *each, each[1]).sum(0) for each in zip(own, mixed, strict=True)])
            middle = x + (self.norm(w, "attn_post_norm", attn) if c.post_norm else attn)
            middle = middle + w.get("o_bias", np.zeros(c.d_model))
            mlp = self.mlp(w, x if c.parallel else middle)
            values = np.swapaxes(self.values(w, x), 0, 1)
            n_kv_heads, _, width = self.whole.widest
            values = np.pad(values, ((0, 0), (0, n_kv_heads - values.shape[1]), (0, width - values.shape[2])))
            for name, state in zip(found, (x, values, middle, mlp), strict=True):
                found[name].append(state)
            x = w.get("layer_scale", 1.0) * (middle + mlp)
        return {name: np.stack(each) for name, each in found.items()}

    def masked(
        self,
        mask: EdgeTree,
        *,
        pre_softmax: bool = False,
        replace: dict[str, np.ndarray] | None = None,
        n_outputs: int | None = None,
    ) -> np.ndarray:
        """Logits with each edge's vector multiplied by its mask, one edge at a time: after the last token, or outputs.

        An ablated edge carries what ``replace`` has for its layer and token ([L, T, ...] or [L, 2, ...]), or nothing.
        """

        def other(name: str, layer: int, token: int) -> Any:
            if replace is None:
                return np.zeros(self.whole.d_model)
            entries = np.asarray(replace[name], np.float64)[layer]
            return entries[min(token, len(entries) - 1)]

        x = self.embedded
        for index in range(self.whole.n_layers):
            w = self.layer(index)
            c = self.config
            groups = c.n_heads // c.n_kv_heads if c.mixer == "softmax" else 1
            probs, _, v, gate = self.attended(index, w, x)
            attn, middle, out = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
            for i in range(self.n_tokens):
                mixed = np.zeros((c.n_heads, w["o"].shape[1]))
                for h in range(c.n_heads):
                    kept = np.asarray(mask.attn[index, h, i], np.float64)
                    weight = probs[h, i] * kept
                    if pre_softmax:
                        beside = 1 - probs[h, i].sum() if c.sinks else 0.0
                        weight = weight / (weight.sum() + beside) if weight.sum() > 0 else weight
                    for j in range(self.n_tokens):
                        mixed[h] += weight[j] * v[h, j]
                        if replace is not None:
                            ablated = probs[h, i, j] * (1 - kept[j])
                            mixed[h] += ablated * other("values", index, j)[h // groups, : mixed.shape[1]]
                attn[i] = self.written(w, None if gate is None else gate[i], mixed, mixed).sum(0)
                m = float(mask.residual_attn[index, i])
                middle[i] = m * x[i] + (1 - m) * other("attn_input", index, i) + w.get("o_bias", 0.0)
                middle[i] += self.norm(w, "attn_post_norm", attn[i]) if c.post_norm else attn[i]
            mlp = self.mlp(w, x if c.parallel else middle)
            for i in range(self.n_tokens):
                m = 1.0 if c.parallel else float(mask.residual_mlp[index, i])
                out[i] = m * middle[i] + (1 - m) * other("mlp_input", index, i)
                m = float(mask.mlp[index, i]) if c.d_mlp else 1.0
                out[i] += m * mlp[i] + (1 - m) * other("mlp_output", index, i)
            x = w.get("layer_scale", 1.0) * out
        return self.logits(x[-1]) if n_outputs is None else np.stack([self.logits(row) for row in x[-n_outputs:]])


def l1(x: np.ndarray) -> float:
    return float(np.abs(x).sum())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 0 else 0.0


def scores(model: Literal, score: str, n_outputs: int = 1) -> EdgeTree:
    """Scores of every edge from its explicit vector; -1 for no edge."""
    c, t = model.whole, model.n_tokens
    out = {
        "residual_attn": np.full((c.n_layers, t), -1.0),
        "attn": np.full((c.n_layers, c.n_heads, t, t), -1.0),
        "residual_mlp": np.full((c.n_layers, t), -1.0),
        "mlp": np.full((c.n_layers, t), -1.0),
    }
    magnitude = {
        "l1": lambda e, x: l1(e),
        "l2": lambda e, x: float(np.linalg.norm(e)),
        "ifr": lambda e, x: max(l1(x) - l1(x - e), 0.0),
        "cosine": lambda e, x: (1 + cosine(e, x)) / 2,
    }[score]
    reached = reachable(model, n_outputs)
    for node, edges, _, whole in model.nodes():
        if node not in reached:
            continue
        sizes = {edge: magnitude(vector, whole) for edge, vector in edges.items()}
        total = 1.0 if score == "cosine" else sum(sizes.values()) or 1.0
        for (family, *index), size in sizes.items():
            out[EDGE_KINDS[family]][tuple(index)] = size / total
    return EdgeTree(**out)


def reachable(model: Literal, n_outputs: int = 1) -> set[tuple[int, int]]:
    """The nodes that an output can be reached from, by walking down every edge."""
    parallel = model.config.parallel
    into: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for (level, token), edges, _, _ in model.nodes():
        into[level, token] = {(level - 1, edge[-1]) for edge in edges}
    level, n_tokens = model.config.n_layers * (1 if parallel else 2), model.n_tokens
    found, wave = set(), {(level, token) for token in range(n_tokens - n_outputs, n_tokens)}
    while wave:
        found |= wave
        wave = set().union(*(into.get(node, set()) for node in wave)) - found
    return found


def nucleus(p: np.ndarray, reference: np.ndarray, level: float) -> list[int]:
    """The shortest prefix of tokens by probability that reaches ``level``; ties in the order of the reference."""
    place = np.argsort(np.argsort(-reference, kind="stable"))
    order = sorted(range(len(p)), key=lambda token: (-p[token], place[token]))
    mass = 0.0
    for count, token in enumerate(order, 1):
        mass += float(p[token])
        if mass >= level:
            return order[:count]
    return order
