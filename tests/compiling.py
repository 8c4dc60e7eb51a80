"""How XLA compiles in tests, where tiny models spend their time in the compiler, and where its programs are kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
from pathlib import Path

QUICK = (
    "--xla_backend_optimization_level=0"
    # The older code of fusions compiles in half the time; users have the newer.
    " --xla_cpu_use_fusion_emitters=false"
    # Tests have a worker for each core.
    " --xla_cpu_parallel_codegen_split_count=1"
)
_FOLDER = Path(__file__).parent.parent / ".pytest_cache" / "programs"


def kept_programs() -> dict[str, str]:
    """The environment in which all workers, child processes and later sessions share what was compiled.

    A program is found by all that it was compiled from, so changed code finds none; the folder's name has the rest:
    versions, flags and the processor. Those of other names are removed. With a largest size JAX locks the folder.
    """
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")]
    name = hashlib.sha256("\n".join((*versions, QUICK, _processor())).encode()).hexdigest()[:16]
    for other in _FOLDER.glob("*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return {
        "JAX_COMPILATION_CACHE_DIR": str(_FOLDER / name),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def _processor() -> str:
    """Machine code for one processor may hold what another does not know."""
    facts = Path("/proc/cpuinfo")
    flags = [line for line in facts.read_text().splitlines() if line.startswith("flags")][:1] if facts.exists() else []
    return " ".join((platform.machine(), *flags))
