"""The cost of s-Trace in formulas: FLOPs and bytes per stage (explained in experiments/results/benchmarks).

Command: ``python experiments/benchmarks/cost_model.py`` prints the table of the paper's ten models (a second; no
weights).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from jstrace.loading import describe
from jstrace.method.graph.full_graph import n_edges
from jstrace.method.graph.sizes import SIZES
from jstrace.models import PRESETS, EdgeTree, ModelConfig, n_params
from jstrace.pipeline import Trace


@dataclasses.dataclass(frozen=True)
class Live:
    """Shares of (size, layer, token) rows that masks leave live; all of them in a dense evaluation."""

    mlp: float = 1.0
    """Rows whose MLP edge is kept,"""
    targets: float = 1.0
    """with an attention edge into them,"""
    qkv: float = 1.0
    """or whose key is read by such a row."""


DENSE = Live()
TYPICAL = Live(mlp=0.40, targets=0.36, qkv=0.40)
"""As counted on SmolLM2 with texts of about 50 tokens and the default sizes."""


def row_flops(c: ModelConfig) -> tuple[int, int, int]:
    """FLOPs of one token in one layer: queries, keys and values; attention's output; MLP."""
    qkv = 2 * c.d_model * c.head_dim * (c.n_heads + 2 * c.n_kv_heads)
    out = 2 * c.d_model * c.head_dim * c.n_heads
    return qkv, out, 2 * c.d_model * ((3 if c.gated_mlp else 2) * c.mlp_width + c.n_experts)


def score_flops(c: ModelConfig, t: int) -> int:
    """The clean pass with the norms of all attention edges: W_O v of every head costs as much again as the output."""
    qkv, out, mlp = row_flops(c)
    attention = 4 * t * c.n_heads * c.head_dim
    return c.n_layers * t * (qkv + 2 * out + mlp + attention) + 2 * c.d_model * c.vocab_size


def evaluate_flops(c: ModelConfig, t: int, n_sizes: int, live: Live = DENSE) -> int:
    """The masked forwards of all sizes and of the full graph; attention's products are dense always."""
    qkv, out, mlp = row_flops(c)
    row = live.qkv * qkv + live.targets * out + live.mlp * mlp + 4 * t * c.n_heads * c.head_dim
    return int((n_sizes + 1) * (c.n_layers * t * row + 2 * c.d_model * c.vocab_size))


def weight_bytes(c: ModelConfig, itemsize: int) -> int:
    """Read once by every call, however many inputs it has."""
    return itemsize * n_params(c)


def live_of(traces: list[Trace]) -> Live:
    """The shares counted on traces."""
    found = [live_of_masks(trace.masks(), len(trace.tokens)) for trace in traces]
    return Live(*(float(np.mean(column)) for column in zip(*map(dataclasses.astuple, found), strict=True)))


def live_of_masks(masks: EdgeTree, n_tokens: int) -> Live:
    """The same for the masks of all sizes and the full graph, of which only the first tokens are true."""
    into = masks.attn.any(axis=(2, 4))  # size, layer, token
    reached = np.ones_like(into)
    reached[:, 1:] = (masks.mlp | masks.residual_mlp)[:, :-1]
    read = np.flip(np.maximum.accumulate(np.flip(into, -1), axis=-1), -1) & reached
    rows = into.shape[0] * into.shape[1] * n_tokens
    return Live(*(float(live.sum() / rows) for live in (masks.mlp, into, into | read)))


def main() -> None:
    """Print floors for the ten models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=55)
    parser.add_argument("--rate", type=float, default=600.0, help="matrix rate, TFLOP/s")
    options = parser.parse_args()
    t, z = options.tokens, len(SIZES)
    print(f"T = {t}, {z} sizes, floor at {options.rate:g} TFLOP/s with the live shares {TYPICAL}")
    print("| model | edges | scores, TFLOP | dense evaluation | live evaluation | floor, ms an input | inputs/s |")
    print("|---|---|---|---|---|---|---|")
    floors = []
    for name in PRESETS:
        c = describe(name)
        scores, dense, live = (
            x / 1e12 for x in (score_flops(c, t), evaluate_flops(c, t, z), evaluate_flops(c, t, z, TYPICAL))
        )
        floors.append((scores + live) / options.rate)
        cells = f"{scores:.2f} | {dense:.1f} | {live:.1f} | {1e3 * floors[-1]:.1f} | {1 / floors[-1]:.0f}"
        print(f"| {name} | {n_edges(c, t):,} | {cells} |")
    print(f"mean floor {1e3 * sum(floors) / len(floors):.1f} ms: {len(floors) / sum(floors):.0f} inputs/s over the ten")


if __name__ == "__main__":
    main()
