"""Compiled programs kept on disk, so that the next process need not compile them again."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jstrace.files import remove_beyond

_WORTH_KEEPING = 0.1
"""Seconds of compilation from which a program is kept."""
MOST_BYTES = 10**9
"""Of all programs kept, when a process starts."""
_PROGRAM = re.compile(r".+-[0-9a-f]{64}-cache")
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_LOOKED_AT = ".looked-at"
"""An empty file, as old as the last look at what is damaged."""


def keep_programs(folder: Path) -> str | None:
    """Keep programs in ``folder``, unless JAX was told of one already (``JAX_COMPILATION_CACHE_DIR``).

    Beyond 1 GB those that were not used for longest, to the day, are removed first: what a process adds waits for the
    next one. JAX's own bound (``JAX_COMPILATION_CACHE_MAX_SIZE``, of which -1 is none) takes the place of this one. It
    is not the default as it needs filelock, and keeps nothing more once a program lacks its note of when it was used,
    as do all that were kept without the bound, and the one that a killed process was writing.

    For entry points: it changes JAX's configuration. ``JAX_ENABLE_COMPILATION_CACHE=false`` switches it off.

    Returns:
      Where JAX keeps programs now; None where that is switched off, or, with a warning, where ``folder`` cannot be
      written.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    own: str | None = jax.config.values["jax_compilation_cache_dir"]
    if own is not None:
        _kept.append(own)
        return own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:  # JAX itself would warn of every program
        message = f"{folder}: cannot be written ({error.strerror or error}), so compiled programs are not kept"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return None
    _remove_damaged(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if _untouched("jax_persistent_cache_min_compile_time_secs", 1.0):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
    if _untouched("jax_compilation_cache_max_size", -1):
        _remove_beyond(folder, MOST_BYTES)
    compilation_cache.reset_cache()  # JAX looks once, at the first program, whether they are kept
    _kept.append(str(folder))
    return str(folder)


def kept_in() -> str | None:
    """Where programs are kept since ``keep_programs`` was called in this process; None before, or where that is off."""
    return _kept[-1] if _kept and jax.config.values["jax_enable_compilation_cache"] else None


_kept: list[str] = []
"""What ``keep_programs`` found or made."""


def _untouched(name: str, default: float) -> bool:
    """Whether a setting of JAX is as JAX has it, which no user asked for."""
    return name.upper() not in os.environ and jax.config.values[name] == default


def _remove_damaged(folder: Path) -> None:
    """Remove programs that a killed process left half written: JAX warns of them each time and writes none again.

    Looks at those written since the last look. Another process may be writing one of them: it has its program, and
    the next one makes the file again.
    """
    mark = folder / _LOOKED_AT
    with contextlib.suppress(OSError):
        since = mark.stat().st_mtime_ns if mark.exists() else 0
        mark.touch()
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # removed meanwhile
                is_new = _PROGRAM.fullmatch(entry.name) and entry.stat().st_mtime_ns >= since
                if is_new and not _is_whole(Path(entry.path).read_bytes()):
                    os.unlink(entry.path)


def _is_whole(content: bytes) -> bool:
    """Whether a program can be decompressed; not looked at is what JAX compresses where zstandard is installed."""
    if content.startswith(_ZSTANDARD):
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True


def _remove_beyond(folder: Path, most: int) -> None:
    """Remove programs until the rest has ``most`` bytes; other processes may do the same, or read and write there."""
    entries: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError):  # no folder yet, or none of ours
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # removed meanwhile
                facts = entry.stat(follow_symlinks=False)
                if entry.name.endswith("-cache") and entry.is_file(follow_symlinks=False):
                    entries.append((max(facts.st_atime, facts.st_mtime), facts.st_size, entry.path))
    remove_beyond(((Path(path), size) for _, size, path in sorted(entries)), most)


@contextlib.contextmanager
def compile_seconds() -> Iterator[Callable[[], float]]:
    """How long JAX has traced, lowered and compiled since this was entered, or fetched programs from disk: seconds."""
    seconds = 0.0

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal seconds
        seconds += duration_secs if event.startswith("/jax/core/compile/") else 0.0

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
