"""The folder of a run: its lock, its manifest, and the parts that are whole."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import filelock
import jax

from jstrace import devices, tables
from jstrace.data import Data
from jstrace.measures import NUCLEUS_LEVELS
from jstrace.models import InputError
from jstrace.pipeline import Plan
from jstrace.store import write_whole
from jstrace.tables import Part

FORMAT, VERSION = "jstrace-run", 1
MANIFEST = "manifest.json"


def configuration(plan: Plan, data: Data, *, save_strata: bool) -> dict[str, Any]:
    """What makes two runs the same beside the model's fingerprint; not the number of inputs, nor the devices."""
    return {
        "importance": list(plan.importances),
        "ablate": list(plan.ablations),
        "baselines": list(plan.baselines),
        "sizes": list(plan.sizes),
        "seed": plan.seed,
        "save_strata": save_strata,
        "data": data.fingerprint,
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
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path}: not the manifest of a run of jstrace")
    if found.get("version") != VERSION:
        raise InputError(f"{path}: format version {found.get('version')}, this jstrace reads version {VERSION}")
    try:
        _check_manifest(found)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    return found


def _check_manifest(found: dict[str, Any]) -> None:
    """Raise an error of some kind where the manifest lacks what others rely on."""
    config = found["config"]
    importances, ablations, baselines, sizes = (
        tuple(config[k]) for k in ("importance", "ablate", "baselines", "sizes")
    )
    plan = Plan(importances, ablations, baselines, sizes, config["seed"])
    names = [case.name for case in plan.cases], [source.name for source in plan.sources]
    if (found["conditions"], found["sources"], found["nucleus_levels"]) != (*names, list(NUCLEUS_LEVELS)):
        raise ValueError("its conditions are not those of its configuration")
    found["model"]["name"].encode()
    texts = (found["model"]["name"], found["model"]["dtype"], found["data"]["name"], config["model"])
    numbers = (found["data"]["rows"], found["model"]["config"]["n_layers"])
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        raise TypeError("names are texts, and counts are numbers")
    for session in found["sessions"]:
        session["versions"].items(), [session["hardware"][key] for key in ("devices", "device", "cpu")]


def mark_of(config: dict[str, Any]) -> str:
    """A short hash of a run's configuration, which all its files carry."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def check_same(folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuse to go on in the folder of another run.

    Args:
      folder: that may hold a run.
      config: from ``configuration``, or a part of it.
      facts: what the manifest would say beside it; names of data and models go into the message.

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
    manifest = read_manifest(folder)
    there = manifest["config"]
    differences = [
        f"{key} is {_shown(there.get(key), manifest.get(key))} there, {_shown(value, facts.get(key))} here"
        for key, value in config.items()
        if there.get(key) != value
    ]
    if differences:
        raise InputError(f"{folder}: holds another run: {'; '.join(differences)}")


def _shown(value: Any, fact: dict[str, Any] | None) -> str:
    """A setting in words; of data and models, which are compared by fingerprint, with their names."""
    if fact is not None:
        about = ", ".join(f"{fact[name]}{unit}" for name, unit in _NAMED.items() if name in fact)
        return f"{about} (fingerprint {value})"
    text = json.dumps(value)
    return text if len(text) < 120 else f"{text[:100]}... ({len(value)} of them)"


_NAMED = {"name": "", "dtype": "", "rows": " rows"}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time writes into a folder; the system takes the lock from a process that ends, however it ends.

    Raises:
      InputError: another run has it, or the folder cannot be written.
    """
    locks = devices.together(functools.partial(_acquired, folder))
    try:
        yield
    finally:
        for lock in locks:
            lock.release()


def _acquired(folder: Path) -> list[filelock.BaseFileLock]:
    """This process's own lock, and those of runs of more processes than this one has."""
    found: list[filelock.BaseFileLock] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {int(path.name.rpartition("-")[2]) for path in folder.glob(".lock-*") if path.name[6:].isdigit()}
        foreign = {number for number in numbers if number >= jax.process_count()}
        for number in sorted({jax.process_index(), *foreign}):
            found.append(filelock.FileLock(folder / f".lock-{number}"))
            found[-1].acquire(timeout=0)
    except (filelock.Timeout, OSError, NotImplementedError) as error:
        for lock in found:
            lock.release()
        if isinstance(error, filelock.Timeout):
            raise InputError(f"{folder}: another run is writing there") from error
        raise InputError(f"{folder}: cannot be written ({error})") from error
    return found


def opened(
    folder: Path, config: dict[str, Any], facts: dict[str, Any], session: dict[str, Any], names: Sequence[str]
) -> set[Part]:
    """Make the folder this run's own: leftovers removed, the manifest written, all parts that are there found whole.

    Every host does it with the folder that it has, which may be the same for all.

    Args:
      folder: of the run, locked.
      config: from ``configuration``.
      facts: what the manifest says beside it.
      session: what the manifest says of this call, the same on every host.
      names: of the tables.

    Returns:
      The parts in this host's folder.

    Raises:
      InputError: the folder of another run, a damaged part, or parts that overlap.
    """
    devices.together(functools.partial(_clear, folder, config, facts, names))
    for turn in (jax.process_index() == 0, True):  # a shared folder has the first host's manifest when the others look
        write = functools.partial(_record, folder, config, facts, session)
        devices.together(write if turn else _nothing)
    return devices.together(functools.partial(_whole_parts, folder, names, mark_of(config)))


def _nothing() -> None:
    pass


def _clear(folder: Path, config: dict[str, Any], facts: dict[str, Any], names: Sequence[str]) -> None:
    """Remove what a killed run left: files that were never whole, and those of parts that lack others."""
    check_same(folder, config, facts)
    complete = tables.complete_parts(folder, names)
    try:
        for name in names:
            for part in tables.parts_of(folder, name) - complete:
                (folder / name / part.file).unlink(missing_ok=True)
        for stale in (*folder.glob(".jstrace-*"), *folder.glob("*/.jstrace-*")):
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be cleared of what a killed run left ({error})") from error


def _record(folder: Path, config: dict[str, Any], facts: dict[str, Any], session: dict[str, Any]) -> None:
    """Add the session to the manifest, unless it is there, and make the tables' folders."""
    sessions = read_manifest(folder)["sessions"] if (folder / MANIFEST).exists() else []
    if session not in sessions:
        found = {"format": FORMAT, "version": VERSION, "config": config, **facts, "sessions": [*sessions, session]}
        text = json.dumps(found, indent=1) + "\n"
        write_whole(folder / MANIFEST, functools.partial(_write, text))


def _write(text: str, stream: IO[bytes]) -> None:
    stream.write(text.encode())


def _whole_parts(folder: Path, names: Sequence[str], mark: str) -> set[Part]:
    """The complete parts, checksums verified; strata, which may be large, when they are read."""
    try:
        for name in names:
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
    complete = tables.complete_parts(folder, names)
    check_apart(folder, complete)
    for part in complete:
        for name in (name for name in names if name != "strata"):
            tables.read_part(folder, name, part, mark)
    return complete


def check_apart(folder: Path, parts: Iterable[Part]) -> None:
    """Refuse parts that overlap.

    Raises:
      InputError: with the inputs that stand in two parts.
    """
    for one, other in itertools.pairwise(sorted(parts)):
        if other.first <= one.last:
            raise InputError(f"{folder}: inputs {other.first} to {one.last} stand in two parts; remove one of them")
