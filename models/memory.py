"""Memory that this process may have: the machine's, and that of every control group around it, which is often less.

Containers, Slurm and Kubernetes set limits by control groups; the kernel ends what takes more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_MEMINFO, _OWN, _MOUNT = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class _Names(NamedTuple):
    """What a version of control groups calls the files of one."""

    limit: str
    used: str
    cached: str
    """A line of ``memory.stat``: what the kernel takes back before it ends anything."""


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def free_memory() -> int | None:
    """Bytes that may still be allocated; None where nothing tells."""
    bounds = [_machine("MemAvailable")]
    for group, names in _groups():
        limit = _number(group / names.limit)
        if limit is not None:
            cached = _fields(group / "memory.stat").get(names.cached, 0)
            bounds.append(max(0, limit - max(0, (_number(group / names.used) or 0) - cached)))
    return _least(bounds)


def whole_memory() -> int | None:
    """Bytes that can be allocated at most, by whomever, with swap; None where nothing tells."""
    bounds, swap = [_machine("MemTotal", "SwapTotal")], 1024 * _fields(_MEMINFO).get("SwapTotal", 0)
    for group, names in _groups():
        limit = _number(group / names.limit)
        if limit is not None:
            of_group = _number(group / "memory.swap.max")
            bounds.append(limit + (swap if of_group is None else min(swap, of_group)))
        bounds.append(_number(group / "memory.memsw.limit_in_bytes"))  # of version 1, swap among it
    return _least(bounds)


def resident_memory() -> int | None:
    """Bytes that can be in memory at most, by whomever, without swap; None where nothing tells."""
    return _least([_machine("MemTotal"), *(_number(group / names.limit) for group, names in _groups())])


def _machine(*names: str) -> int | None:
    """The sum of these lines of /proc/meminfo; where there is none, all of the machine's memory, if that is known."""
    fields = _fields(_MEMINFO)
    if all(name in fields for name in names):
        return 1024 * sum(fields[name] for name in names)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _groups() -> Iterator[tuple[Path, _Names]]:
    """Folders of the groups that this process is in, and of those around them: a limit of any of them holds.

    A container may see its own group alone, at the top, by a path of the host: what is not there has no limit.
    """
    for line in _lines(_OWN):
        _, _, rest = line.partition(":")
        controllers, colon, place = rest.partition(":")
        if colon and (not controllers or "memory" in controllers.split(",")):
            top, names = (_MOUNT / "memory", _V1) if controllers else (_MOUNT, _V2)
            inner = PurePosixPath("/" if ".." in place.split("/") else place)
            for around in (inner, *inner.parents):
                yield top / str(around).lstrip("/"), names


def _number(path: Path) -> int | None:
    """Of a file that holds one; None where there is none, or "max"."""
    return next((int(line) for line in _lines(path) if line.isdecimal()), None)


def _fields(path: Path) -> dict[str, int]:
    """The lines of a file that are a name and a number."""
    words = (line.split() for line in _lines(path))
    return {parts[0].rstrip(":"): int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdecimal()}


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


def _least(bounds: list[int | None]) -> int | None:
    return min((number for number in bounds if number is not None), default=None)
