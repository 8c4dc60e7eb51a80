"""Ways to compute a layer of experts: blocks of rows (what jstrace does), all experts, ``jax.lax.ragged_dot``, gathers.

Command: ``python experiments/benchmarks/bench_experts.py`` (a minute or two on two CPU cores). Shapes are OLMoE's layer
(64 experts of width 1,024, of which 8 are chosen, model width 2,048), float32 on a CPU and bfloat16 elsewhere. Medians
of five runs after compilation, in milliseconds; the last line is JSON. Rows are those of a token that is generated, of
a text, and of the masked passes of one text, of which four tenths are live there.
Expected, on a shared machine under load, so that ratios alone count: for one row blocks 220 ms, all experts 1,410,
gathers 780 and ``ragged_dot`` 4,980; for 55 rows blocks 3,900 ms and all experts 7,490. ``ragged_dot`` for 55 rows did
not end within minutes. Not run on accelerators.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.models import ModelConfig
from jstrace.models.experts import chosen_experts, routing
from jstrace.models.feed_forward import feed_forward
from jstrace.models.platforms import form

CONFIG = ModelConfig(
    family="olmoe", vocab_size=8, n_layers=1, d_model=2048, n_heads=16, n_kv_heads=16, head_dim=128, d_mlp=1024,
    norm_eps=1e-5, rope_theta=10000.0, rope_divisors=None, tied_head=False, max_positions=64, n_experts=64, n_chosen=8,
)  # fmt: skip
ROWS = (1, 55, 1485)
LIVE = 0.4


def all_experts(w: dict[str, Any], x: Any, live: Any) -> Any:
    """Every expert of every row, one expert after the other."""
    del live
    factors = routing(CONFIG, w, x).factors

    def step(out: Any, one: Any) -> tuple[Any, None]:
        own, factor = one
        return out + feed_forward(CONFIG, own, x) * factor[:, None], None

    stacks = {name: w[name] for name in ("gate", "up", "down")}
    return jax.lax.scan(step, jnp.zeros(x.shape, jnp.float32), (stacks, factors.T))[0].astype(x.dtype)


def ragged(w: dict[str, Any], x: Any, live: Any) -> Any:
    """Rows sorted by expert, and products of ragged groups."""
    route = routing(CONFIG, w, x)
    experts = jnp.where(live[:, None], route.places, CONFIG.n_experts).ravel()
    order = jnp.argsort(experts)
    rows = order // CONFIG.n_chosen
    counts = jnp.sum(experts[:, None] == jnp.arange(CONFIG.n_experts), axis=0, dtype=jnp.int32)
    sorted_x = x[rows]
    hidden = jax.nn.silu(jax.lax.ragged_dot(sorted_x, w["gate"], counts))
    out = jax.lax.ragged_dot(hidden * jax.lax.ragged_dot(sorted_x, w["up"], counts), w["down"], counts)
    factors = jnp.take_along_axis(route.factors, route.places, axis=1).ravel()[order]
    return jnp.zeros_like(x).at[rows].add((out * factors[:, None]).astype(x.dtype))


def gathered(w: dict[str, Any], x: Any, live: Any) -> Any:
    """The chosen experts' weights, of each row its own copy."""
    del live
    route = routing(CONFIG, w, x)
    gate, up, down = (w[name][route.places] for name in ("gate", "up", "down"))
    hidden = jax.nn.silu(jnp.einsum("rd,rcdf->rcf", x, gate)) * jnp.einsum("rd,rcdf->rcf", x, up)
    factors = jnp.take_along_axis(route.factors, route.places, axis=1)
    return jnp.einsum("rcf,rcfd,rc->rd", hidden, down, factors.astype(x.dtype))


def blocks(w: dict[str, Any], x: Any, live: Any) -> Any:
    """As jstrace does where dead rows are left out."""
    return chosen_experts(CONFIG, w, x, live)


def every_block(w: dict[str, Any], x: Any, live: Any) -> Any:
    """As it does where gradients are wanted."""
    del live
    return chosen_experts(CONFIG, w, x)


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """Milliseconds."""
    run = jax.jit(function)
    jax.block_until_ready(run(*arguments))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def main() -> None:
    """Print a line for each number of rows."""
    dtype = form(None, cpu=jnp.float32, gpu=jnp.bfloat16, tpu=jnp.bfloat16)
    shapes = {"router": (2048, 64), "gate": (64, 2048, 1024), "up": (64, 2048, 1024), "down": (64, 1024, 2048)}
    w = {
        name: (0.02 * jax.random.normal(jax.random.key(i), shape)).astype(dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }
    found: dict[str, Any] = {}
    for n_rows in ROWS:
        x = jax.random.normal(jax.random.key(9), (n_rows, 2048)).astype(dtype)
        live = jax.random.uniform(jax.random.key(8), (n_rows,)) < (LIVE if n_rows == ROWS[-1] else 2)
        ways = [blocks, every_block, all_experts, ragged, *([gathered] if n_rows == 1 else [])]
        for way in ways:
            try:
                found[f"{way.__name__} {n_rows}"] = round(timed(way, w, x, live), 2)
            except jax.errors.JaxRuntimeError as error:
                found[f"{way.__name__} {n_rows}"] = str(error)[:60]
            print(n_rows, way.__name__, found[f"{way.__name__} {n_rows}"], flush=True)
    print(json.dumps({"platform": jax.default_backend(), "jax": jax.__version__, "ms": found}))


if __name__ == "__main__":
    main()
