"""The folder of a run: its lock, its manifest, and the parts that are whole."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import filelock
import jax

from jstrace import devices, tables
from jstrace.data import Data
from jstrace.models import InputError
from jstrace.pipeline import Plan
from jstrace.store import write_whole
from jstrace.tables import Part

FORMAT, VERSION = "jstrace-run", 1
MANIFEST = "manifest.json"


def configuration(plan: Plan, data: Data, *, save_strata: bool, fingerprint: str) -> dict[str, Any]:
    """What makes two runs the same, as the manifest holds it; not the number of inputs, nor the devices."""
    return {
        "importance": list(plan.importances),
        "ablate": list(plan.ablations),
        "baselines": list(plan.baselines),
        "sizes": list(plan.sizes),
        "seed": plan.seed,
        "save_strata": save_strata,
        "data": data.fingerprint,
        "model": fingerprint,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
      InputError: the folder holds no run, or one of a newer format.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder}: no folder of a run ({MANIFEST} cannot be read: {error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("config"), dict):
        raise InputError(f"{path}: not the manifest of a run of jstrace")
    if found.get("version") != VERSION:
        raise InputError(f"{path}: format version {found.get('version')}, this jstrace reads version {VERSION}")
    return found


def check_same(folder: Path, config: dict[str, Any]) -> None:
    """Refuse to go on in the folder of another run; ``config`` may hold less than all of it.

    Raises:
      InputError: the folder holds something else; the message shows every difference.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    if not (folder / MANIFEST).exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"{folder}: holds files, but no run; give --out a new folder")
        return
    there = read_manifest(folder)["config"]
    differences = [f"{key} is {_short(there.get(key))} there, {_short(value)} here"
                   for key, value in config.items() if there.get(key) != value]  # fmt: skip
    if differences:
        raise InputError(f"{folder}: holds another run: {'; '.join(differences)}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else f"{text[:100]}... ({len(value)} of them)"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time writes into a folder; the system takes the lock from a process that ends, however it ends.

    Raises:
      InputError: another run has it, or the folder cannot be written.
    """
    lock = devices.together(functools.partial(_acquired, folder))
    try:
        yield
    finally:
        lock.release()


def _acquired(folder: Path) -> filelock.BaseFileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f".lock-{jax.process_index()}")
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another run is writing there") from error
    except (OSError, NotImplementedError) as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
    return lock


def clear(folder: Path, config: dict[str, Any], names: Sequence[str]) -> None:
    """Remove what a killed run left: files that were never whole, and those of parts that lack others.

    Raises:
      InputError: as ``check_same``.
    """
    check_same(folder, config)
    complete = tables.complete_parts(folder, names)
    for name in names:
        for part in tables.parts_of(folder, name) - complete:
            (folder / name / part.file).unlink(missing_ok=True)
    for stale in (*folder.glob(".jstrace-*"), *folder.glob("*/.jstrace-*")):
        stale.unlink(missing_ok=True)


def opened(
    folder: Path, config: dict[str, Any], facts: dict[str, Any], session: dict[str, Any], names: Sequence[str]
) -> set[Part]:
    """Write the manifest, and find the parts that are there, every one of them whole.

    Args:
      folder: of the run, locked and cleared.
      config: from ``configuration``.
      facts: what the manifest says beside it.
      session: what the manifest says of this call.
      names: of the tables.

    Raises:
      InputError: a damaged part, or parts that overlap.
    """
    there = read_manifest(folder) if (folder / MANIFEST).exists() else {"sessions": []}
    if jax.process_index() == 0 or not there["sessions"]:
        found = {"format": FORMAT, "version": VERSION, "config": config, **facts}
        text = json.dumps(found | {"sessions": [*there["sessions"], session]}, indent=1) + "\n"
        write_whole(folder / MANIFEST, lambda stream: _write(stream, text))
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    complete = tables.complete_parts(folder, names)
    check_apart(folder, complete)
    for part in complete:
        for name in names:
            tables.read_part(folder, name, part)
    return complete


def _write(stream: IO[bytes], text: str) -> None:
    stream.write(text.encode())


def check_apart(folder: Path, parts: Iterable[Part]) -> None:
    """Refuse parts that overlap.

    Raises:
      InputError: with the inputs that stand in two parts.
    """
    for one, other in itertools.pairwise(sorted(parts)):
        if other.first <= one.last:
            raise InputError(f"{folder}: inputs {other.first} to {one.last} stand in two parts; remove one of them")
