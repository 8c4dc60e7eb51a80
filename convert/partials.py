"""Folders under way: hidden beside the one that they become, named after who writes them.

A conversion writes into ``.NAME.HOST.PID.RANDOM.partial`` and renames it last. What a killed one left behind is removed
by the next into the same folder: at once if it was this host's and its process is gone. Whether a process of another
host lives cannot be asked for, so what another host left, or this one before it was started anew, is removed when
nothing in it was touched for three days, for which no conversion pauses; and so is a folder of the old naming,
``.NAME.PID.partial``, which does not say its host.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_PLAINLY_OLD = 3 * 24 * 3600.0
"""Seconds without a change after which nobody is at work."""
_NAMED = re.compile(r"(?P<host>[0-9a-f]{8})\.(?P<pid>[0-9]{1,10})\.[0-9a-f]{4}\.partial")
_NAMED_OF_OLD = re.compile(r"[0-9]{1,10}\.partial")


def new_partial(target: Path) -> Path:
    """An empty hidden folder beside ``target``, this process's own.

    Raises:
      OSError: it cannot be made.
    """
    partial = target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{secrets.token_hex(2)}.partial")
    partial.mkdir()
    return partial


@contextlib.contextmanager
def filled(target: Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name of ``target`` last, and goes where anything fails before."""
    partial = new_partial(target)
    try:
        yield partial
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned(target: Path) -> None:
    """Remove what killed conversions into ``target`` left behind, and nothing that one may still be writing."""
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        rest = partial.name.removeprefix(f".{target.name}.")
        new, old = _NAMED.fullmatch(rest), _NAMED_OF_OLD.fullmatch(rest)
        gone = new is not None and new["host"] == _host() and not _lives(int(new["pid"]))
        if gone or ((new or old) and time.time() - _last_touched(partial) > _PLAINLY_OLD):
            shutil.rmtree(partial, ignore_errors=True)


def _host() -> str:
    """Eight hexadecimal digits for this host since its start, and this container in it: where a pid is one process."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):  # no Linux
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    """Whether a process of this host has the number: perhaps another one since, and then its folder waits to be old."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # alive under another user; a number that no process has
        return True
    return True


def _last_touched(folder: Path) -> float:
    """Seconds since the epoch of the newest change in a tree; now, where it is being changed."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()
