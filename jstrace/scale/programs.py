"""Compiled programs kept on disk, so that the next process need not compile them again."""

from __future__ import annotations

from pathlib import Path

import jax

_WORTH_KEEPING = 0.1
"""Seconds of compilation from which a program is kept."""


def keep_programs(folder: Path) -> None:
    """Keep programs in ``folder``, unless JAX was told of one already (``JAX_COMPILATION_CACHE_DIR``).

    For entry points: it changes JAX's configuration. ``JAX_ENABLE_COMPILATION_CACHE=false`` switches it off.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
