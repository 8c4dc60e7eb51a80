"""How many inputs fit into one compiled call: estimates of memory, as docs/performance.md derives them."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jstrace.models import Decoder, ModelConfig

_SHARE = 0.8
"""Of the free memory that a batch may be planned for."""
_TOKENS = {"cpu": 64, "gpu": 640, "tpu": 640}
"""Tokens in one call from which more inputs bring nothing: each of them is a row under each of 27 sizes."""
_INPUTS = {"cpu": 4, "gpu": 16, "tpu": 16}


def slots(config: ModelConfig, width: int) -> int:
    """Slots of an ``EdgeTree`` of so many tokens."""
    return config.n_layers * (config.n_heads * width**2 + 3 * width)


def trace_bytes(config: ModelConfig, width: int, n_sizes: int, itemsize: int) -> int:
    """Peak bytes of scores and extraction of one input, beside the weights.

    Scores are written twice (magnitudes, then shares), extraction holds scores, strata and a layer's keys.
    """
    layer = slots(config, width) // config.n_layers
    scored = 8 * slots(config, width) + 4 * (3 * layer + 2 * config.n_heads * width * config.d_model)
    scored += itemsize * width * (4 * config.d_model + 3 * config.d_mlp) + 4 * config.vocab_size
    extracted = 6 * slots(config, width) + 40 * layer + 8 * n_sizes * 65536
    return max(scored, extracted)


def evaluate_bytes(config: ModelConfig, width: int, n_sizes: int, itemsize: int) -> int:
    """Peak bytes of the masked forwards of one input under all sizes and in full, beside the weights."""
    n = n_sizes + 1
    attention = 3 * 4 * n * config.n_heads * width**2
    mlp = 3 * itemsize * n * width * config.d_mlp
    head = 6 * 4 * n * config.vocab_size
    state = 4 * itemsize * n * width * max(config.d_model, config.n_heads * config.head_dim)
    return slots(config, width) + state + max(attention, mlp, head)


def free_bytes(device: jax.Device) -> int | None:
    """What may still be allocated: on the device, or for a CPU in the machine; None where nothing tells."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    if device.platform != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def batch_inputs(decoder: Decoder, width: int, bytes_each: int) -> int:
    """Inputs for one call on each device: a power of two, at most what pays and what memory holds, at least one."""
    device = min(decoder.embed[...].sharding.addressable_devices, key=lambda device: device.id)
    most = min(_INPUTS.get(device.platform, 4), _TOKENS.get(device.platform, 512) // width)
    free = free_bytes(device)
    if free is not None:
        most = min(most, int(_SHARE * free) // bytes_each)
    return 1 << (max(1, most).bit_length() - 1)
