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
def slow(x):
    for _ in range(200):
        x = jax.numpy.sin(x) @ x
    return x
jax.jit(slow)(jax.numpy.ones((3, 3)))
print(jax.config.jax_compilation_cache_dir)
"""


def run(folder: Path, **environment: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], env=plain | environment, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_second_process_finds_the_programs(tmp_path: Path) -> None:
    assert run(tmp_path) == str(tmp_path)
    kept = {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}
    assert len(kept) == 1, "only what takes long to compile is kept"
    run(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")} == kept


def test_a_folder_of_the_users_own_stays(tmp_path: Path) -> None:
    assert run(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs")) == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()
