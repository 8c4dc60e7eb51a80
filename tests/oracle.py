"""The slow, literal truth: explicit edge vectors, a heap, and one edge at a time, in float64 numpy."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jstrace.graph import NO_EDGE
from jstrace.models import EdgeTree, ModelConfig
from jstrace.models.layers import rope_frequencies

FAMILIES = ("residual_attn", "attn", "residual_mlp", "mlp")
Edge = tuple[int, ...]
"""Index into an EdgeTree: family number, then position."""


@dataclasses.dataclass
class Graph:
    """A list of edges in index order, each with its source node, target node, score; nodes are (level, token)."""

    edges: list[tuple[Edge, tuple[int, int], tuple[int, int], float]]
    output: tuple[int, int]


def graph_of(scores: EdgeTree) -> Graph:
    """The graph of every slot with a score that is not negative."""
    n_layers, n_tokens = scores.mlp.shape
    edges = []
    for family, name in enumerate(FAMILIES):
        for index, score in np.ndenumerate(np.asarray(getattr(scores, name))):
            if score < 0:
                continue
            layer, source, target = index[0], index[-1], index[2 if name == "attn" else 1]
            level = 2 * layer + (1 if name in ("residual_mlp", "mlp") else 0)
            edges.append(((family, *index), (level, source), (level + 1, target), float(score)))
    return Graph(edges, (2 * n_layers, n_tokens - 1))


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
            heapq.heappush(heap, (FAMILIES[edge[0]] not in first, -score, number))

    discover(graph.output)
    order = []
    while heap:
        number = heapq.heappop(heap)[2]
        order.append(graph.edges[number][0])
        discover(graph.edges[number][1])
    return order


def strata(scores: EdgeTree, sizes: tuple[float, ...], first: tuple[str, ...] = ()) -> EdgeTree:
    """Strata by the heap: every size's prefix of the order."""
    order = best_first(graph_of(scores), first)
    return strata_of(order, [math.floor(size * len(order)) for size in sizes], scores)


def strata_of(order: list[Edge], cuts: Any, scores: EdgeTree) -> EdgeTree:
    """Strata of edges in the order taken: the first cut that lies beyond each."""
    out = {name: np.full(getattr(scores, name).shape, NO_EDGE, np.uint8) for name in FAMILIES}
    for place, (family, *index) in enumerate(order):
        stratum = next((k for k, cut in enumerate(cuts) if place < cut), len(cuts))
        out[FAMILIES[family]][tuple(index)] = stratum
    return EdgeTree(**out)


# --- the model ------------------------------------------------------------------------------------------------------


def _wide(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _wide(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float64)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps)


class Literal:
    """One model on one input, layer by layer, with an explicit vector for every edge."""

    def __init__(self, config: ModelConfig, params: Any, tokens: Any) -> None:
        self.config, self.params = config, _wide(params)
        self.embedded = self.params["embed"][np.asarray(tokens)]
        self.n_tokens = len(self.embedded)

    def layer(self, index: int) -> dict[str, np.ndarray]:
        return {name: stack[index] for name, stack in self.params["layers"].items()}

    def attention(self, w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [H,T,T] and W_O v [H,T,D]."""
        c = self.config
        y = rms_norm(x, w["attn_norm"], c.norm_eps)
        groups = c.n_heads // c.n_kv_heads
        q = np.stack([self._turned(y @ w["q"][:, h]) for h in range(c.n_heads)])
        k = np.stack([self._turned(y @ w["k"][:, h // groups]) for h in range(c.n_heads)])
        u = np.stack([y @ w["v"][:, h // groups] @ w["o"][h] for h in range(c.n_heads)])
        return np.einsum("htd,hsd->hts", q, k) / np.sqrt(c.head_dim), u

    def _turned(self, x: np.ndarray) -> np.ndarray:
        half = x.shape[1] // 2
        angle = np.arange(len(x))[:, None] * np.asarray(rope_frequencies(self.config), np.float64)
        a, b = x[:, :half], x[:, half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1)

    def mlp(self, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        y = rms_norm(x, w["mlp_norm"], self.config.norm_eps)
        gate = y @ w["gate"]
        return (gate / (1 + np.exp(-gate)) * (y @ w["up"])) @ w["down"]

    def logits(self, x: np.ndarray) -> np.ndarray:
        head = self.params.get("head", self.params["embed"])
        return head @ rms_norm(x, self.params["final_norm"], self.config.norm_eps)

    def edges(self) -> Iterator[tuple[tuple[int, int], dict[Edge, np.ndarray], np.ndarray]]:
        """For every node of the full graph: its edges' vectors and the node's own vector."""
        x = self.embedded
        for index in range(self.config.n_layers):
            w = self.layer(index)
            logits, u = self.attention(w, x)
            middle = np.empty_like(x)
            for i in range(self.n_tokens):
                found = {(0, index, i): x[i]}
                for h in range(self.config.n_heads):
                    probs = softmax(logits[h, i, : i + 1])
                    found |= {(1, index, h, i, j): probs[j] * u[h, j] for j in range(i + 1)}
                middle[i] = sum(found.values())
                yield (2 * index + 1, i), found, middle[i]
            x = middle + self.mlp(w, middle)
            for i in range(self.n_tokens):
                yield (2 * index + 2, i), {(2, index, i): middle[i], (3, index, i): x[i] - middle[i]}, x[i]

    def masked(self, mask: EdgeTree, *, pre_softmax: bool = False) -> np.ndarray:
        """Logits with each edge's vector multiplied by its mask, one edge at a time."""
        x = self.embedded
        for index in range(self.config.n_layers):
            w = self.layer(index)
            logits, u = self.attention(w, x)
            middle = np.zeros_like(x)
            for i in range(self.n_tokens):
                middle[i] += float(mask.residual_attn[index, i]) * x[i]
                for h in range(self.config.n_heads):
                    kept = np.asarray(mask.attn[index, h, i, : i + 1], np.float64)
                    row = logits[h, i, : i + 1]
                    if pre_softmax:
                        weight = kept * np.exp(row - row.max())
                        weight = weight / weight.sum() if weight.sum() > 0 else weight
                    else:
                        weight = softmax(row) * kept
                    for j in range(i + 1):
                        middle[i] += weight[j] * u[h, j]
            out = np.zeros_like(x)
            mlp = self.mlp(w, middle)
            for i in range(self.n_tokens):
                out[i] += float(mask.residual_mlp[index, i]) * middle[i]
                out[i] += float(mask.mlp[index, i]) * mlp[i]
            x = out
        return self.logits(x[-1])


def softmax(row: np.ndarray) -> np.ndarray:
    weight = np.exp(row - row.max())
    return weight / weight.sum()


def l1(x: np.ndarray) -> float:
    return float(np.abs(x).sum())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 0 else 0.0


def scores(model: Literal, importance: str) -> EdgeTree:
    """Scores of every edge from its explicit vector; -1 for no edge."""
    c, t = model.config, model.n_tokens
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
    }[importance]
    for (level, token), edges, node in model.edges():
        if level > 2 * c.n_layers - 2 and token != t - 1:
            continue
        gain = model.params["final_norm"] if level == 2 * c.n_layers else 1.0
        sizes = {edge: magnitude(vector * gain, node * gain) for edge, vector in edges.items()}
        total = 1.0 if importance == "cosine" else sum(sizes.values()) or 1.0
        for (family, *index), size in sizes.items():
            out[FAMILIES[family]][tuple(index)] = size / total
    return EdgeTree(**out)


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
