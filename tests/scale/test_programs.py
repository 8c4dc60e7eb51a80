"""Compiled programs outlive their process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
import jax
from jstrace.scale.programs import keep_programs
keep_programs(Path(sys.argv[1]))
import os
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1, "cheap programs are not kept"
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
