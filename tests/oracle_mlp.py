"""The literal MLP of ``tests.oracle``: one, or the experts that a router chooses, row by row in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from jstrace.models import ModelConfig


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def _xielu(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    above, below = np.log1p(np.exp(w["alpha_p"])), w["beta"] + np.log1p(np.exp(w["alpha_n"]))
    return np.where(x > 0, above * x**2, (np.expm1(np.minimum(x, w["eps"])) - x) * below) + w["beta"] * x


def softmax(row: np.ndarray) -> np.ndarray:
    weight = np.exp(row - row.max())
    return weight / weight.sum()


class LiteralMLP:
    """What a layer's MLP makes of rows; the norm is the model's."""

    config: ModelConfig

    def norm(self, w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def mlp(self, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        if not self.config.d_mlp:
            return np.zeros_like(x)
        y = self.norm(w, "mlp_norm", x) if self.config.pre_norm else x
        if self.config.own_norms:
            return self.norm(w, "mlp_post_norm", self.separate(w, x, y))
        out = self.feed_forward(w, y) if self.config.n_experts == 0 else np.stack([self.mixture(w, row) for row in y])
        return self.norm(w, "mlp_post_norm", out) if self.config.post_norm else out

    def feed_forward(self, w: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
        hidden = y @ w["up"] + w.get("up_bias", 0.0)
        gate = y @ w["gate"] + w.get("gate_bias", 0.0) if "gate" in w else None
        return self.activated(w, gate, hidden) @ w["down"] + w.get("down_bias", 0.0)

    def activated(self, w: dict[str, np.ndarray], gate: np.ndarray | None, up: np.ndarray) -> np.ndarray:
        if gate is None:
            return self.activation(w, up)
        return self.activation(w, gate) * (up if self.config.gate_clamp is None else self.bounded(up) + 1)

    def activation(self, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        if self.config.gate_clamp is not None:
            alpha, limit = self.config.gate_clamp
            return np.minimum(x, limit) / (1 + np.exp(-alpha * np.minimum(x, limit)))
        return _xielu(w, x) if self.config.activation == "xielu" else ACTIVATIONS[self.config.activation](x)

    def bounded(self, up: np.ndarray) -> np.ndarray:
        return np.clip(up, -self.config.gate_clamp[1], self.config.gate_clamp[1])  # type: ignore[index]

    def separate(self, w: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The MLP of rows y and the experts of rows x, each with the norms of its own."""
        shared = self.feed_forward({name: w[f"shared_{name}"] for name in ("up", "gate", "down")}, y)
        out = self.norm(w, "shared_post_norm", shared)
        asked = self.norm(w, "router_norm", x) / math.sqrt(self.config.d_model)
        read = self.norm(w, "experts_norm", x)
        for row, (question, state) in enumerate(zip(asked, read, strict=True)):
            mixed = np.zeros(self.config.d_model)
            for expert, factor in self.chosen(w, question).items():
                own = {name: w[name][expert] for name in ("up", "gate", "down")}
                mixed += factor * w["router_factors"][expert] * self.feed_forward(own, state)
            out[row] += self.norm(w, "experts_post_norm", mixed[None])[0]
        return out

    def mixture(self, w: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
        """Of one row: the chosen experts one by one, then the MLP beside them."""
        parts = ("up", "gate", "down", "up_bias", "gate_bias", "down_bias")
        out = np.zeros(self.config.d_model)
        for expert, factor in self.chosen(w, y).items():
            own = {name: w[name][expert] for name in parts if name in w}
            scaled = self.config.scaled_inputs
            out += self.feed_forward(own, factor * y) if scaled else factor * self.feed_forward(own, y)
        if self.config.d_shared:
            own = {name: w[f"shared_{name}"] for name in parts if f"shared_{name}" in w}
            out += self.shared_factor(w, y) * self.feed_forward(own, y)
        return out

    def shared_factor(self, w: dict[str, np.ndarray], y: np.ndarray) -> float:
        return 1 / (1 + math.exp(-(y @ w["shared_scale"]))) if self.config.shared_gate else 1.0

    def chosen(self, w: dict[str, np.ndarray], y: np.ndarray) -> dict[int, float]:
        """The router of one row: experts and their factors; of equal logits the first."""
        c, corrected = self.config, self.config.router in ("sigmoid", "sigmoids", "corrected")
        logits = y @ w["router"] + (0.0 if corrected else w.get("router_bias", 0.0))
        if c.router == "mixer":
            found, left = {}, logits
            for _ in range(2):
                best = int(np.argmax(left))
                near = (left[best] - logits) / np.maximum(np.abs(logits), left[best]) <= 2 * c.mixer_noise
                found[best] = float(1 / np.sum(np.exp(left - left[best]), where=near & (left > -np.inf)))
                left = np.where(np.arange(len(left)) == best, -np.inf, left)
            return found
        scores = 1 / (1 + np.exp(-logits)) if c.router.startswith("sigmoid") else softmax(logits)
        value = scores + w["router_bias"] if corrected else logits
        if c.router_groups:
            n_groups, n_kept, n_best = c.router_groups
            groups = np.split(np.arange(c.n_experts), n_groups)
            best = [np.sort(value[group])[::-1][:n_best].sum() for group in groups]
            kept = np.concatenate([groups[group] for group in np.argsort(best)[::-1][:n_kept]])
            value = np.where(np.isin(np.arange(c.n_experts), kept), value, -np.inf)
        experts = [int(expert) for expert in np.argsort(-value, kind="stable")[: c.n_chosen]]
        total = 1.0 if c.router in ("softmax", "sigmoids") else sum(scores[expert] for expert in experts)
        return {expert: float(c.router_scale * scores[expert] / total) for expert in experts}
