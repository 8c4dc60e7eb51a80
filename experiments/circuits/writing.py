"""Writes a transformer program into weights: named parts of the residual stream, heads and units that read and write.

Every part has dimensions of its own, so what a head or a unit reads and writes is known by name. ``Writer.finished``
fills all heads that the program leaves free with junk: they read and write 16 dimensions that nothing else reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jstrace.models import Model, ModelConfig
from jstrace.models.families import FLAGS

VOCABULARY, JUNK, WIDTH = 24, 16, 136
HEAD_WIDTH = VOCABULARY + 1
UNITS = 24
"""Of a layer's MLP, that programs may use; as many as there are junk dimensions come after them."""
SHARP = 12.0
"""Lead of the logit of what a head selects: what it does not select gets a share below 1e-5."""
GAIN = 10.0
"""Logit of an answer; every other token has 0, so that an answer has a probability of 0.999."""

Matrices = Mapping[str, np.ndarray]
"""By the name of a part: ``[part, heads' width]`` where it is read, ``[heads' width, part]`` where it is written."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of the graph: all programs of one shape share their compiled code."""

    name: str
    n_layers: int
    n_heads: int
    n_tokens: int

    @property
    def config(self) -> ModelConfig:
        """Of the model: no norms, learned positions, ReLU."""
        return ModelConfig(
            family="program", vocab_size=VOCABULARY, n_layers=self.n_layers, d_model=WIDTH, n_heads=self.n_heads,
            n_kv_heads=self.n_heads, head_dim=HEAD_WIDTH, d_mlp=UNITS + JUNK, norm_eps=1e-5, rope_theta=1e4,
            rope_divisors=None, tied_head=False, max_positions=self.n_tokens, query_scale=1.0, **FLAGS["program"],
        )  # fmt: skip

    def layers(self, steps: int) -> list[int]:
        """Where the steps of a program go: the first one into layer 0, the last one into the last layer."""
        return [round(layer) for layer in np.linspace(0, self.n_layers - 1, steps)] if steps > 1 else [0]


SHAPES = {shape.name: shape for shape in (Shape("small", 2, 3, 8), Shape("medium", 3, 4, 12), Shape("large", 4, 8, 20))}
"""159, 747 and 5,383 edges."""


@dataclasses.dataclass
class Writer:
    """Weights that are being written; tokens and positions are there from the start, as one-hot parts."""

    shape: Shape

    def __post_init__(self) -> None:
        """Zeros, embeddings and the output head."""
        config, n = self.shape.config, self.shape.n_tokens
        layers, heads = config.n_layers, (config.n_heads, HEAD_WIDTH)
        self.parts: dict[str, slice] = {}
        self.used = 0
        self.heads, self.units = [0] * layers, [0] * layers
        self.embed, self.positions = np.zeros((VOCABULARY, WIDTH)), np.zeros((n, WIDTH))
        self.head = np.zeros((VOCABULARY, WIDTH))
        self.layers: dict[str, np.ndarray] = {name: np.zeros((layers, WIDTH, *heads)) for name in ("q", "k", "v")}
        self.layers |= {"o": np.zeros((layers, *heads, WIDTH)), "up": np.zeros((layers, WIDTH, UNITS + JUNK))}
        self.layers |= {"down": np.zeros((layers, UNITS + JUNK, WIDTH)), "up_bias": np.zeros((layers, UNITS + JUNK))}
        self.layers["down_bias"] = np.zeros((layers, WIDTH))
        self.embed[:, self.part("token", VOCABULARY)] = np.eye(VOCABULARY)
        self.positions[:, self.part("position", n)] = np.eye(n)
        self.head[:, self.part("out", VOCABULARY)] = GAIN * np.eye(VOCABULARY)

    def part(self, name: str, width: int) -> slice:
        """A new part of the residual stream."""
        assert name not in self.parts, name
        assert self.used + width <= WIDTH - JUNK, name
        self.parts[name] = slice(self.used, self.used + width)
        self.used += width
        return self.parts[name]

    def place(self, name: str, values: np.ndarray) -> None:
        """A new part that positions have: a number for each, ``[T]``."""
        self.positions[:, self.part(name, 1)] = values[:, None]

    def attend(self, layer: int, *, query: Matrices, key: Matrices, value: Matrices, out: Matrices) -> None:
        """The next head of a layer; matrices may be narrower than the heads, and act on their first dimensions."""
        head = self.heads[layer]
        self.heads[layer] += 1
        for name, matrices in (("q", query), ("k", key), ("v", value)):
            for part, matrix in matrices.items():
                self.layers[name][layer, self.parts[part], head, : matrix.shape[1]] += matrix
        for part, matrix in out.items():
            self.layers["o"][layer, head, : matrix.shape[0], self.parts[part]] += matrix

    def compute(self, layer: int, *, read: Matrices, bias: Any, write: Matrices) -> None:
        """Units of a layer's MLP, ``relu(x @ read + bias) @ write``: ``[part, N]``, ``[N]`` and ``[N, part]``."""
        first = self.units[layer]
        self.units[layer] += len(bias)
        assert self.units[layer] <= UNITS
        own = slice(first, self.units[layer])
        for part, matrix in read.items():
            self.layers["up"][layer, self.parts[part], own] += matrix
        self.layers["up_bias"][layer, own] = bias
        for part, matrix in write.items():
            self.layers["down"][layer, own, self.parts[part]] += matrix

    def finished(self, junk: float, seed: int = 0) -> tuple[ModelConfig, dict[str, Any]]:
        """Config and weights; ``junk`` is the norm of the junk over that of the embeddings, 0 for none.

        Attention to junk is the same at every strength; what heads and units write of it is 0.7 of what they read.
        """
        if junk:
            self._fill(junk * np.sqrt(2), np.random.default_rng(seed))
        params = {"embed": self.embed, "positions": self.positions, "head": self.head, "layers": self.layers}
        return self.shape.config, params

    def _fill(self, size: float, rng: np.random.Generator) -> None:
        own, units = slice(WIDTH - JUNK, WIDTH), slice(UNITS, UNITS + JUNK)
        for table in (self.embed, self.positions):
            drawn = rng.normal(size=(len(table), JUNK))
            table[:, own] = size / np.sqrt(2) * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        for layer in range(self.shape.n_layers):
            free = range(self.heads[layer], self.shape.n_heads)
            for head in free:
                for name in ("q", "k"):
                    self.layers[name][layer, own, head, :JUNK] = rng.normal(size=(JUNK, JUNK)) / size / 2
                self.layers["v"][layer, own, head, :JUNK] = _rotation(rng)
                self.layers["o"][layer, head, :JUNK, own] = 0.7 / np.sqrt(len(free)) * _rotation(rng)
            self.layers["up"][layer, own, units] = _rotation(rng)
            self.layers["down"][layer, units, own] = 0.7 * _rotation(rng)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(JUNK, JUNK)))[0]


def model_of(writer: Writer, junk: float, seed: int = 0) -> Model:
    """The program as a model of jstrace."""
    return Model.from_arrays(*writer.finished(junk, seed))
