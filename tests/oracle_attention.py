"""The literal attention of ``tests.oracle``: with a softmax, and without one token by token; gates of heads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jstrace.models import ModelConfig
from jstrace.models.layers import rope_frequencies
from tests.oracle_mlp import softmax


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


class LiteralAttention:
    """What a layer's attention makes of rows; the norm is the model's."""

    config: ModelConfig

    def norm(self, w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def root(self, x: np.ndarray, eps: float) -> np.ndarray:
        """What values, and what they are made of, are divided by."""
        return np.sqrt(np.mean(x**2, -1, keepdims=True) + eps)

    def heads(self, w: dict[str, np.ndarray], name: str, y: np.ndarray) -> np.ndarray:
        """Queries, keys or values [T, heads, d]; no positions yet."""
        latent = self.config.kv_rank > 0
        x = self.latent_heads(w, name, y) if latent else np.einsum("td,dhe->the", y, w[name])
        x = x + w.get(f"{name}_bias", 0.0)
        if name == "v" and self.config.value_norm:
            x = x / self.root(x, self.config.norm_eps)
        if name != "v" and self.config.qk_norm != "none" and not self.config.qk_norm_last:
            x = self.normed_heads(w, name, x)
        return x if self.config.clip_qkv is None else np.clip(x, -self.config.clip_qkv, self.config.clip_qkv)

    def latent_heads(self, w: dict[str, np.ndarray], name: str, y: np.ndarray) -> np.ndarray:
        def latent(name: str) -> np.ndarray:
            down = y @ w[name]
            return down / self.root(down, 1e-6) * w[f"{name}_norm"]

        if name == "q":
            return np.einsum("ta,ahe->the", latent("q_down") if self.config.q_rank else y, w["q"])
        x = np.einsum("tc,che->the", latent("kv_down"), w[name])
        if name == "v":
            return x
        turned = y @ w["k_turned"]
        return np.stack([np.concatenate([turned, x[:, head]], -1) for head in range(x.shape[1])], 1)

    def normed_heads(self, w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
        x = x.copy()
        for i in range(len(x)):
            rows = [x[i]] if self.config.qk_norm == "full" else list(x[i])
            normed = [row / np.sqrt(np.mean(row**2) + self.config.norm_eps) for row in rows]
            x[i] = normed[0] if self.config.qk_norm == "full" else np.stack(normed)
        return x * (w[f"{name}_norm"] + self.config.norm_offset)

    def attended(self, index: int, w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Factors [H,T,T], which sources are seen, values by query head [H,T,e], and gates of heads [T,H,e] or none."""
        if self.config.mixer == "none":
            factors = np.zeros((self.config.n_heads, len(x), len(x)))
            return factors, factors > 0, self.values(w, x), None
        y = self.norm(w, "attn_norm", x) if self.config.pre_norm else x
        gate = gates(self.config, w, y)
        if self.config.mixer != "softmax":
            factors = (delta_factors if self.config.mixer == "delta" else mamba_factors)(self.config, w, y)
            return factors, np.broadcast_to(np.tri(len(x), dtype=bool), factors.shape), self.values(w, x), gate
        logits, values = self.attention(index, w, x)
        return self.probabilities(w, logits), logits > -np.inf, values, gate

    def values(self, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        """Of every head that has its own [N,T,e]."""
        if self.config.mixer == "none":
            return np.zeros((self.config.n_kv_heads, len(x), self.config.value_width))
        y = self.norm(w, "attn_norm", x) if self.config.pre_norm else x
        found = self.silu(delta_sums(w, y, "v")) if self.config.mixer != "softmax" else self.heads(w, "v", y)
        return np.swapaxes(found, 0, 1)

    def silu(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(silu(x))

    def written(self, w: dict[str, np.ndarray], gate: Any, mixed: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """What heads make of (parts of) what they mix of a token [H,e], of which norms and gates are those of all."""
        c, weight = self.config, 1.0
        if c.mixer == "delta":
            weight = 1 / self.root(whole, c.delta_eps or c.norm_eps)
        if c.mixer == "mamba":
            root = self.root((whole * gate).reshape(c.n_kv_heads, -1), c.norm_eps)
            weight = w["o_norm"] / np.repeat(root, c.n_heads // c.n_kv_heads, axis=0)
        return np.einsum("he,hed->hd", mixed * weight * (1.0 if gate is None else gate), w["o"])

    def attention(self, index: int, w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [H,T,T], minus infinity where a source is not seen, and values [H,T,e]."""
        c = self.config
        y = self.norm(w, "attn_norm", x) if c.pre_norm else x
        groups = c.n_heads // c.n_kv_heads
        q, k, v = (self.heads(w, name, y) for name in ("q", "k", "v"))
        local = c.window is not None and index not in c.global_layers
        logits = np.full((c.n_heads, len(x), len(x)), -np.inf)
        for h in range(c.n_heads):
            turned_q, turned_k = q[:, h], k[:, h // groups]
            if index not in c.unrotated_layers:
                turned_q, turned_k = self._turned(turned_q, local), self._turned(turned_k, local)
            if c.qk_norm_last:
                turned_q = self.normed_heads(w, "q", turned_q[:, None])[:, 0]
                turned_k = self.normed_heads(w, "k", turned_k[:, None])[:, 0]
            for i in range(len(x)):
                for j in range(i + 1):
                    if local and i - j >= c.window:  # type: ignore[operator]
                        continue
                    scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
                    logit = turned_q[i] @ turned_k[j] * scale
                    logit += 0.0 if c.alibi_slopes is None else c.alibi_slopes[h] * (j - i)
                    logits[h, i, j] = c.attn_softcap * np.tanh(logit / c.attn_softcap) if c.attn_softcap else logit
        return logits, np.stack([v[:, h // groups] for h in range(c.n_heads)])

    def _turned(self, x: np.ndarray, local: bool) -> np.ndarray:
        c = self.config
        long = c.rope_long_divisors is not None and self.n_tokens > c.rope_switch
        frequencies = rope_frequencies(c, local=local, divisors=c.rope_long_divisors if long else None)
        angle = np.arange(len(x))[:, None] * np.asarray(frequencies, np.float64)
        half, m = c.n_rotary // 2, 1.0 if local and c.local_rope_theta is not None else c.rope_magnitude
        a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
        cos, sin = m * np.cos(angle), m * np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], 1)

    def probabilities(self, w: dict[str, np.ndarray], logits: np.ndarray) -> np.ndarray:
        """Softmax over sources [H,T,T], with the head's sink in the denominator where there is one."""
        sinks = w.get("sink", [-np.inf] * len(logits))
        return np.stack(
            [[softmax(np.append(row, sink))[:-1] for row in head] for head, sink in zip(logits, sinks, strict=True)]
        )
