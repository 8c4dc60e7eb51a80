"""The frozen description of a decoder: everything the forward pass reads that is not a weight."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and flags of one decoder; hashable, passed whole, varied with ``dataclasses.replace``."""

    family: str
    """Name of the weight and field mapping that it was read with, such as ``llama``."""
    vocab_size: int
    n_layers: int
    d_model: int
    n_heads: int
    """Query heads, H."""
    n_kv_heads: int
    """Key/value heads, K; divides ``n_heads``."""
    head_dim: int
    """Width of one head; need not be ``d_model / n_heads``."""
    d_mlp: int
    norm_eps: float
    rope_theta: float
    rope_divisors: tuple[float, ...] | None
    """What each rotary frequency is divided by, ``head_dim / 2`` numbers; None for plain rotary positions."""
    tied_head: bool
    """Whether the output head is the embedding matrix."""
    max_positions: int
    """Longest context that the model was trained for, in tokens."""

    @property
    def n_groups(self) -> int:
        """Query heads that share one key/value head, G."""
        return self.n_heads // self.n_kv_heads
