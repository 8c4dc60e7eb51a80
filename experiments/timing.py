"""What all benchmarks share: clocks, the matrix rate of the machine, and the record that they print last."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

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
    a, b = (jax.random.normal(jax.random.key(n), (size, size), dtype) for n in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest" if dtype == jnp.float32 else None))
    return 2 * size**3 / min(timed(lambda: product(a, b), repeats)["median"] for _ in range(3))


def record(benchmark: str, *, out: Path | None = None, **results: Any) -> None:
    """Print the results as one line of JSON, with hardware and versions; also into a file, where one is named."""
    device = jax.devices()[0]
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    hardware = {"device": device.device_kind, "devices": jax.device_count(), "cpu": _cpu(), "cpu_count": os.cpu_count()}
    line = json.dumps({"benchmark": benchmark, **results, "hardware": hardware, "versions": versions})
    if out is not None:
        out.write_text(line + "\n", encoding="utf-8")
    print(line)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
