"""Compiled programs outlive their process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jstrace
from jstrace.models import InputError
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


LATE = """
import sys
import warnings
warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"{message}\\n")
import jax
counts = dict.fromkeys(("cache_hits", "cache_misses"), 0)
def count(name, **_):
    if name.rpartition("/")[2] in counts:
        counts[name.rpartition("/")[2]] += 1
jax.monitoring.register_event_listener(count)
on = jax.config.jax_enable_compilation_cache
jax.config.update("jax_enable_compilation_cache", False)
jax.jit(lambda x: x * 2)(3.0)  # JAX looks once whether programs are kept
jax.config.update("jax_enable_compilation_cache", on)
import jstrace
where = jstrace.enable_cache(*sys.argv[2:])
assert jstrace.enable_cache() == where, "the second call is no other"
model = jstrace.load(sys.argv[1])
trace = jstrace.trace(model, [3, 1, 4], sizes=(0.1, 0.5))
assert jstrace.evaluate(model, trace).tv[-1] == 0
print(where, *counts.values())
"""


def child(script: str, *words: str | Path, **environment: str) -> tuple[list[str], str]:
    """The words that a process printed, and what it said on standard error."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=plain | environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def run(folder: Path, **environment: str) -> tuple[str, int]:
    """Where programs are kept, and how many of them were found there."""
    (where, found), told = child(SCRIPT, folder, **environment)
    assert told == ""
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


def test_programs_of_python_are_kept_when_asked_for(hf_llama: Callable[..., Path], tmp_path: Path) -> None:
    """The second process compiles nothing, though JAX had found before that programs are not kept."""
    model, every = hf_llama(), {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JSTRACE_CACHE": str(tmp_path)}
    where, kept = str(tmp_path / "programs"), []
    for _ in range(2):
        (told, hits, misses), warned = child(LATE, model, **every)
        assert (told, warned) == (where, "")
        kept.append((int(hits) > 0, int(misses) > 0, sorted(path.name for path in Path(where).iterdir())))
    assert kept == [(False, True, kept[0][2]), (True, False, kept[0][2])]


def test_what_a_user_told_jax_of_programs_holds(hf_llama: Callable[..., Path], tmp_path: Path) -> None:
    """Its folder, its being switched off; a folder that cannot be written is one warning, and all works."""
    (tmp_path / "file").touch()
    model, theirs, no = hf_llama(), str(tmp_path / "theirs"), str(tmp_path / "file" / "no")
    (where, *_), warned = child(LATE, model, JAX_COMPILATION_CACHE_DIR=theirs)
    assert (where, warned) == (theirs, "")
    (where, *_), warned = child(LATE, model, tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=theirs)
    assert (where, warned) == (
        theirs,
        f"JAX keeps compiled programs in {theirs} already, so {tmp_path}/ours is not used\n",
    )
    assert child(LATE, model, tmp_path / "ours", JAX_ENABLE_COMPILATION_CACHE="false")[0][0] == "None"
    assert not (tmp_path / "ours").exists()
    code = LATE.replace("assert jstrace.enable_cache()", "#")
    (where, *_), warned = child(code, model, no)
    assert (where, warned) == (
        "None",
        f"{no}: cannot be written (Not a directory), so compiled programs are not kept\n",
    )
    with pytest.raises(InputError, match="folder is a int, expected a folder"):
        jstrace.enable_cache(3)  # type: ignore[arg-type]


def test_programs_half_written_are_made_again(tmp_path: Path) -> None:
    """JAX would warn of them each time, and write none where there is one."""
    run(tmp_path)
    (program,) = (path for path in tmp_path.iterdir() if path.name.startswith("jit_slow"))
    whole = program.read_bytes()
    for left in (0, len(whole) // 2):
        program.write_bytes(whole[:left])
        assert run(tmp_path) == (str(tmp_path), 0)
        assert len(program.read_bytes()) > left
        assert run(tmp_path)[1] > 0


def test_programs_are_looked_at_once(tmp_path: Path) -> None:
    """Those that were whole are not read again; zstandard's are left alone."""
    name = f"jit_f-{'0' * 64}-cache"
    (tmp_path / name).write_bytes(zlib.compress(b"program"))
    (tmp_path / name.replace("f", "g", 1)).write_bytes(programs._ZSTANDARD)
    programs._remove_damaged(tmp_path)
    before = (tmp_path / programs._LOOKED_AT).stat().st_mtime
    (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / name, (before - 1, before - 1))
    programs._remove_damaged(tmp_path)
    assert len(list(tmp_path.glob("*-cache"))) == 2
    os.utime(tmp_path / name)
    programs._remove_damaged(tmp_path)
    assert not (tmp_path / name).exists()


def keep(folder: Path, name: str, size: int, days: int) -> None:
    """A file without contents, last used and written some days ago."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("wb") as stream:
        stream.truncate(size)
    then = time.time() - days * 24 * 3600
    os.utime(folder / name, (then, then))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(("jit_", "."))}


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
