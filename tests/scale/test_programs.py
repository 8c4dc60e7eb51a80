"""Compiled programs outlive their process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jstrace.scale import programs

SCRIPT = """
import sys
from pathlib import Path
import jax
from jstrace.scale.programs import keep_programs
keep_programs(Path(sys.argv[1]))
import os
own = os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    assert jax.config.jax_persistent_cache_min_compile_time_secs == float(own or 0.1), "cheap programs are not kept"
seen = []
jax.monitoring.register_event_listener(lambda name, **_: seen.append(name))
def slow(x):
    for _ in range(200):
        x = jax.numpy.sin(x) @ x
    return x
jax.jit(slow)(jax.numpy.ones((3, 3)))
print(jax.config.jax_compilation_cache_dir, seen.count("/jax/compilation_cache/cache_hits"))
"""


def run(folder: Path, **environment: str) -> tuple[str, int]:
    """Where programs are kept, and how many of them were found there."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], env=plain | environment, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    where, found = done.stdout.split()
    return where, int(found)


def test_a_second_process_finds_the_programs(tmp_path: Path) -> None:
    assert run(tmp_path) == (str(tmp_path), 0)  # JAX keeps what takes longer than keep_programs says
    assert any(path.name.startswith("jit_slow") for path in tmp_path.iterdir())
    where, found = run(tmp_path)
    assert where == str(tmp_path)
    assert found > 0


def test_a_folder_of_the_users_own_stays(tmp_path: Path) -> None:
    where, _ = run(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs"))
    assert where == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()


def keep(folder: Path, name: str, size: int, days: int) -> None:
    """A file without contents, last used and written some days ago."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("wb") as stream:
        stream.truncate(size)
    then = time.time() - days * 24 * 3600
    os.utime(folder / name, (then, then))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("jit_")}


def test_programs_beyond_a_gigabyte_go(tmp_path: Path) -> None:
    """Those not used for longest; the bound that a user sets for JAX, or a folder of the user's own, is left to JAX."""
    folder, everything = tmp_path / "programs", {"old-cache", "new-cache", "newest-cache", "notes.txt"}

    def fill() -> None:
        for days, name in enumerate(("newest-cache", "new-cache", "old-cache", "notes.txt")):
            keep(folder, name, 6 * 10**8 if days else 10**6, days)

    fill()
    run(folder, JAX_COMPILATION_CACHE_MAX_SIZE="-1")
    run(folder, JAX_COMPILATION_CACHE_DIR=str(folder))
    assert names(folder) == everything
    run(folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.05")
    assert names(folder) == everything - {"old-cache"}


def test_what_stays_of_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs._remove_beyond(tmp_path / "none", 0)
    for number in range(4):
        keep(tmp_path, f"{number}-cache", 100, number)
    (tmp_path / "folder-cache").mkdir()
    now = time.time()
    os.utime(tmp_path / "3-cache", (now, now - 9 * 24 * 3600))  # read today, written long ago
    programs._remove_beyond(tmp_path, 400)
    assert len(names(tmp_path)) == 5
    programs._remove_beyond(tmp_path, 299)
    assert names(tmp_path) == {"0-cache", "3-cache", "folder-cache"}

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(programs.os, "unlink", refuse)
    programs._remove_beyond(tmp_path, 0)
    assert len(names(tmp_path)) == 3


def test_seconds_of_compilation() -> None:
    """They grow with a new program alone; JAX calls nobody afterwards."""
    with programs.compile_seconds() as compiled:
        assert compiled() == 0
        double = jax.jit(lambda x: x * 2)
        double(jnp.ones(3))
        once = compiled()
        assert once > 0
        double(jnp.ones(3))
        assert compiled() == once
    jax.jit(lambda x: x * 3)(jnp.ones(3))
    assert compiled() == once
