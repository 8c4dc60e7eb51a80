"""What attention makes of states beside softmax's, literally: Gated DeltaNet token by token, and gates of heads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jstrace.models import ModelConfig


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def gates(config: ModelConfig, w: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray | None:
    """What each head of a target is multiplied by [T, H, e]; y are the states under their norm."""
    if config.mixer == "mamba":
        return silu(np.einsum("td,dhe->the", y, w["o_gate"]))
    if config.mixer == "delta":
        return w["o_norm"] * silu(np.einsum("td,dhe->the", y, w["o_gate"]))
    return sigmoid(np.einsum("td,dhe->the", y, w["o_gate"])) if config.gated_attention else None


def convolved(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each token's sum over itself and those before it."""
    out, width = np.zeros_like(x), weight.shape[-1]
    for t in range(len(x)):
        for back in range(min(width, t + 1)):
            out[t] += weight[..., width - 1 - back] * x[t - back]
    return out


def delta_sums(w: dict[str, np.ndarray], y: np.ndarray, name: str) -> np.ndarray:
    """Queries, keys or values of every token and head before their silu."""
    return convolved(np.einsum("td,dhe->the", y, w[name]), w[f"{name}_conv"]) + w.get(f"{name}_conv_bias", 0.0)


def mamba_factors(config: ModelConfig, w: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """How much of each source's value is in each target's output [H, T, T]: one source after the other is written."""
    q, k = (silu(delta_sums(w, y, name)) for name in ("q", "k"))
    step = np.log1p(np.exp(y @ w["decay"] + w["decay_bias"]))
    step = np.maximum(step, config.step_floor)
    found = np.zeros((config.n_heads, len(y), len(y)))
    for h in range(config.n_heads):
        group = h // (config.n_heads // config.n_kv_heads)
        for source in range(len(y)):
            state = step[source, h] * k[source, group]
            found[h, source, source] = state @ q[source, group] + w["skip"][h]
            for t in range(source + 1, len(y)):
                state = np.exp(-np.exp(w["decay_rate"][h]) * step[t, h]) * state
                found[h, t, source] = state @ q[t, group]
    return found


def delta_factors(config: ModelConfig, w: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """How much of each source's value is in each target's output [H, T, T]: one source after the other is written."""
    q, k = (silu(delta_sums(w, y, name)) for name in ("q", "k"))
    q, k = (x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6) for x in (q, k))
    decay = np.exp(-np.exp(w["decay_rate"]) * np.log1p(np.exp(y @ w["decay"] + w["decay_bias"])))
    strength, groups = config.delta_strength * sigmoid(y @ w["strength"]), config.n_heads // config.n_kv_heads
    found = np.zeros((config.n_heads, len(y), len(y)))
    for h in range(config.n_heads):
        keys, queries = k[:, h // groups], q[:, h // groups] / math.sqrt(config.head_dim)
        for source in range(len(y)):
            state = np.zeros(config.head_dim)
            for t in range(source, len(y)):
                state = decay[t, h] * state
                state = state + keys[t] * strength[t, h] * (float(t == source) - state @ keys[t])
                found[h, t, source] = state @ queries[t]
    return found
