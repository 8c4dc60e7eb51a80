"""What a result was computed on and with, for manifests and benchmarks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "transformers", "pyarrow")

_CHOICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
"""Variables that say which devices JAX looks for."""


def hardware() -> dict[str, Any]:
    """Devices and processor."""
    device = jax.devices()[0]
    facts = {"device": device.device_kind, "devices": jax.device_count(), "processes": jax.process_count()}
    return facts | {"cpu": _cpu(), "cpu_count": os.cpu_count()}


def missing_devices() -> str | None:
    """Why there is no device to compute on; None where there is one."""
    try:
        jax.devices()
    except Exception as error:  # of several kinds, one of them an assertion without words
        asked = [f"{name} is {os.environ[name]!r}" for name in _CHOICES if os.environ.get(name)]
        told = "; ".join([*asked, *str(error).splitlines()[:1]])
        remedy = f"unset {asked[0].split()[0]}" if asked else "set JAX_PLATFORMS=cpu"
        return f"JAX has no device to compute on ({told}); {remedy} to use what this machine has"
    return None


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    releases = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            releases[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return releases


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
