"""What all benchmarks share: clocks, the matrix rate of the machine, and the record that they print last."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.models.platforms import seeded
from jstrace.scale import machine

REPEATS = 5


def timed(function: Callable[[], Any], repeats: int = REPEATS) -> dict[str, float]:
    """Time of the first run, which compiles, then median and range of ``repeats`` more, in seconds."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    first, rest = seconds[0], seconds[1:]
    return {"first": first, "median": statistics.median(rest), "min": min(rest), "max": max(rest)}


def matrix_rate(dtype: Any, size: int, repeats: int = 20) -> float:
    """FLOP/s of a product of two square matrices, the best of three medians: the rate that floors are measured by."""
    a, b = (jax.random.normal(seeded(n), (size, size), dtype) for n in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest" if dtype == jnp.float32 else None))
    return 2 * size**3 / min(timed(lambda: product(a, b), repeats)["median"] for _ in range(3))


def record(benchmark: str, *, out: Path | None = None, **results: Any) -> None:
    """Print the results as one line of JSON, with hardware and versions; also into a file, where one is named."""
    about = {"hardware": machine.hardware(), "versions": machine.versions()}
    line = json.dumps({"benchmark": benchmark, **results, **about})
    if out is not None:
        out.write_text(line + "\n", encoding="utf-8")
    print(line)
