"""The folder of a run: its lock, its manifest, and the parts that are whole, on one host or on several."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax

from jstrace.files import write_bytes
from jstrace.models import InputError
from jstrace.runs import parts
from jstrace.runs.manifest import FORMAT, MANIFEST, VERSION, check_same, mark_of, read_manifest
from jstrace.runs.parts import Part
from jstrace.runs.schema import OPTIONAL
from jstrace.scale import hosts


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time writes into a folder; the system takes the lock from a process that ends, however it ends.

    A folder that was made for a run that fails before it has written anything is removed.

    Raises:
      InputError: another run has it, or the folder cannot be written.
    """
    # The folder and those above it that are not there, innermost first: before any host makes a shared one.
    missing = hosts.together(lambda: [path for path in (folder, *folder.parents) if not path.exists()])
    locks = hosts.together(functools.partial(_acquired, folder))
    try:
        yield
    except BaseException:
        _remove_empty(missing, locks)
        raise
    finally:
        for lock in locks:
            lock.release()


def _remove_empty(made: Sequence[Path], locks: Sequence[filelock.BaseFileLock]) -> None:
    """Remove folders that hold nothing but this process's locks."""
    with contextlib.suppress(OSError):  # another host's lock is there, or another run's: let them have it
        if made and all(path.name.startswith(".lock-") for path in made[0].iterdir()):
            for lock in locks:
                Path(lock.lock_file).unlink(missing_ok=True)
            for path in made:
                path.rmdir()


def _acquired(folder: Path) -> list[filelock.BaseFileLock]:
    """This process's own lock, and those of runs of more processes than this one has."""
    locks: list[filelock.BaseFileLock] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {int(path.name.rpartition("-")[2]) for path in folder.glob(".lock-*") if path.name[6:].isdigit()}
        foreign = {number for number in numbers if number >= jax.process_count()}
        for number in sorted({jax.process_index(), *foreign}):
            locks.append(filelock.FileLock(folder / f".lock-{number}"))
            locks[-1].acquire(timeout=0)
    except (filelock.Timeout, OSError, NotImplementedError) as error:
        for lock in locks:
            lock.release()
        if isinstance(error, filelock.Timeout):
            raise InputError(f"{folder}: another run is writing there") from error
        raise InputError(f"{folder}: cannot be written ({error})") from error
    return locks


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
    hosts.together(functools.partial(_clear, folder, config, facts, names))
    for turn in (jax.process_index() == 0, True):  # a shared folder has the first host's manifest when the others look
        hosts.together(functools.partial(_record, folder, config, facts, session) if turn else lambda: None)
    return hosts.together(functools.partial(_whole_parts, folder, names, mark_of(config)))


@contextlib.contextmanager
def timed(folder: Path, session: dict[str, Any], seconds: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Let the manifest say of a session what its scores took, however it ends, but for a kill; the first host's alone.

    Where that cannot be written there is a warning: the results are there, and other hosts are not waiting.

    Args:
      folder: of the run, opened.
      session: as it was recorded.
      seconds: what the manifest says of the scores, asked when it is over; nothing where it is empty.
    """

    def tell() -> None:
        took = dict(seconds())
        if took and jax.process_index() == 0:
            held = read_manifest(folder)
            told = [entry | {"seconds": took} if entry == session else entry for entry in held["sessions"]]
            _write(folder, held | {"sessions": told})

    try:
        yield
    finally:
        try:
            tell()
        except InputError as error:
            warnings.warn(f"what scores took is not in the manifest ({error})", RuntimeWarning, stacklevel=2)


def _clear(folder: Path, config: dict[str, Any], facts: dict[str, Any], names: Sequence[str]) -> None:
    """Remove what a killed run left: files that were never whole, and those of parts that were never finished.

    The file of ``inputs`` is a part's last, so where others of it lack, they were moved or removed.
    """
    check_same(folder, config, facts)
    try:
        parts.finish_joins(folder, names)
        finished = parts.parts_of(folder, "inputs")
        gone = [name for name in names if name not in OPTIONAL and finished - parts.parts_of(folder, name)]
        if gone:
            raise InputError(
                f"{folder}: {', '.join(gone)} of finished inputs is not there; put those files back, or remove those in"
                " inputs/, too, and the same run computes them again"
            )
        for name in names:
            for part in parts.parts_of(folder, name) - finished:
                (folder / name / part.file).unlink(missing_ok=True)
        for stale in (*folder.glob(".jstrace-*"), *folder.glob("*/.jstrace-*")):
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be cleared of what a killed run left ({error})") from error


def _record(folder: Path, config: dict[str, Any], facts: dict[str, Any], session: dict[str, Any]) -> None:
    """Add the session to the manifest, unless it is there, and make the tables' folders."""
    held = read_manifest(folder) if (folder / MANIFEST).exists() else {"sessions": [], "model": {}}
    sessions = held["sessions"]
    if session not in sessions:
        if "place" in held["model"] and "place" not in facts["model"]:  # a checkpoint among others, gone on with alone
            checkpoint = {name: held["model"][name] for name in ("name", "revision", "place")}
            facts = facts | {"model": facts["model"] | checkpoint}
        record = {"format": FORMAT, "version": VERSION, "config": config, **facts, "sessions": [*sessions, session]}
        _write(folder, record)


def _write(folder: Path, facts: dict[str, Any]) -> None:
    write_bytes(folder / MANIFEST, f"{json.dumps(facts, indent=1)}\n".encode())


def _whole_parts(folder: Path, names: Sequence[str], mark: str) -> set[Part]:
    """The complete parts, checksums verified; strata, which may be large, when they are read."""
    try:
        for name in names:
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
    complete = parts.complete_parts(folder, names)
    parts.check_apart(folder, complete)
    for part in complete:
        for name in (name for name in names if name not in OPTIONAL):
            parts.read_part(folder, name, part, mark)
    return complete
