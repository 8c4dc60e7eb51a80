"""Files, and folders of them, written all or nothing, and files and streams that are read whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from jstrace.errors import InputError

MOST_TEXT = 2**30
"""Bytes that are read of a text; more cannot be meant, and a stream may have no end."""
_CHUNK = 2**20
_STREAMS = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
"""Where the system keeps what a process was handed open: standard input, and pipes such as a shell's ``<(command)``."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""As a path has it, which keeps one slash of several; a single letter is a drive."""


def check_local(path: Path) -> None:
    """Refuse a URL where a path of this machine is taken: it would name a folder here that is called ``gs:``.

    Raises:
      InputError: a URL.
    """
    if url := _URL.fullmatch(str(path)):
        raise InputError(f"{url[1]}://{url[2]}: this takes a local path, and no URL (runs in stores: copy them)")


def check_regular(path: Path) -> None:
    """Refuse what is there but no regular file: a device may have no end, and a pipe nobody who writes into it.

    Raises:
      InputError: a device, a pipe or a socket.
      OSError: there is nothing, or a folder, or it cannot be looked at.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: cannot be read (it is a device or a pipe, expected a regular file)")


def read_regular(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
      InputError: as ``check_regular``.
      OSError: it cannot be read.
    """
    check_regular(path)
    return path.read_bytes()


def read_text(path: Path, *, most: int = MOST_TEXT) -> str:
    """The text of a regular file, of ``-``, standard input, or of a stream that this process was handed open.

    Args:
      path: of the file or the stream.
      most: bytes that are read.

    Returns:
      UTF-8 text; a byte order mark before it is left out.

    Raises:
      InputError: a URL, nothing that can be read, no UTF-8, or more than ``most`` bytes.
    """
    check_local(path)
    try:
        if str(path) == "-":
            if sys.stdin is None:
                raise InputError("-: cannot be read (standard input is closed)")
            content = _up_to(sys.stdin.buffer, most, path)
        else:
            if not str(path).startswith(_STREAMS):
                check_regular(path)
            with path.open("rb") as stream:
                content = _up_to(stream, most, path)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a name that holds a zero byte
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _up_to(stream: IO[bytes], most: int, path: Path) -> bytearray:
    """All of a stream."""
    content = bytearray()
    while chunk := stream.read(_CHUNK):
        content += chunk
        if len(content) > most:
            raise InputError(f"{path}: cannot be read (it holds more than {most:,} bytes of text)")
    return content


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file through a temporary one beside it, so that it is whole or not there.

    Raises:
      InputError: the path cannot be written.
    """
    check_writable(path)
    target = path.resolve()
    temporary = target.with_name(f".jstrace-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with open(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """``write_whole`` of content that is there already.

    Raises:
      InputError: the path cannot be written.
    """

    def write(stream: IO[bytes]) -> None:
        stream.write(content)

    write_whole(path, write)


def check_writable(path: Path) -> None:
    """Refuse a path that ``write_whole`` could not write, before any work is done.

    Raises:
      InputError: a URL, no regular file, no folder to hold it, or no permission.
    """
    check_local(path)
    try:
        target = path.resolve()
        taken = target.exists() and not target.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a null byte
        raise InputError(f"{path}: cannot be written ({error})") from error
    if taken:
        raise InputError(f"{path}: cannot be written (it is not a regular file)")
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot be written (there is no folder {target.parent})")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission)")


@contextlib.contextmanager
def filled_folder(target: Path, folders: Sequence[str]) -> Iterator[Path]:
    """A hidden folder for files that take their places in ``target`` once all of them are written.

    Whatever ends it before the first of them takes its place leaves ``target`` as it was, and none where there was
    none; what ends it while they do leaves whole files, of which some are new. Only a kill leaves hidden files, and
    folders that were made, behind.

    Args:
      target: made where it is missing; what it holds stays, but for files of the same names.
      folders: names of folders in it that files may go into.

    Raises:
      InputError: it cannot be made or written, or one of ``folders`` is something else there.
    """
    hidden, made = target / f".jstrace-{secrets.token_hex(8)}", list[Path]()
    try:
        with named(hidden, str(target)):
            with _told(target, "made"):
                made += [folder for folder in (target, *target.parents) if not folder.exists()]
                for folder in (hidden, *(hidden / name for name in folders)):
                    folder.mkdir(parents=True)
                _check_places(target, folders)
            yield hidden
            with _told(target, "written"):
                _move(hidden, target, made)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds what was written
                folder.rmdir()


def remove_beyond(entries: Iterable[tuple[Path, float]], most: float) -> None:
    """Remove files and folders with their sizes, the first of them first, until the rest has ``most``.

    Other processes may do the same; what cannot be removed stays, and counts.
    """
    there = list(entries)
    left = sum(size for _, size in there)
    for path, size in there:
        if left <= most:
            return
        with contextlib.suppress(OSError):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else os.unlink(path)
        left -= 0 if os.path.lexists(path) else size


@contextlib.contextmanager
def named(path: Path, shown: str) -> Iterator[None]:
    """Errors speak of what a user named, not of a path beside it, or of its copy here, which nobody has seen."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), shown)) from error


@contextlib.contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """What the system says, as an ``InputError``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be {what} ({error.strerror or error})") from error


def _check_places(target: Path, folders: Sequence[str]) -> None:
    """Refuse what ``_move`` would fail at, as far as it can be seen before."""
    for place in (target / name for name in folders):
        if place.exists() and not (place.is_dir() and os.access(place, os.W_OK)):
            reason = "no permission" if place.is_dir() else "it is no folder"
            raise InputError(f"{place}: cannot be written ({reason})")


def _move(hidden: Path, target: Path, made: list[Path]) -> None:
    """Give every file its place, those of folders first, when no place is taken by something else.

    All wait beside their places, on the disk where links lead, before the first is moved there: a move is then all or
    nothing, and can hardly fail. Folders that are made go before those in ``made``.
    """
    files = sorted((path for path in hidden.rglob("*") if path.is_file()), key=lambda path: -len(path.parts))
    places = [target / path.relative_to(hidden) for path in files]
    for place in places:
        if place.parent.exists():
            check_writable(place)
    for folder in dict.fromkeys(place.parent for place in places if not place.parent.exists()):
        made.insert(0, folder)
        folder.mkdir()
    waiting = {place: place.resolve().with_name(f".jstrace-{secrets.token_hex(8)}") for place in places}
    try:
        for path, place in zip(files, places, strict=True):
            shutil.move(path, waiting[place])
            with waiting[place].open("r+b") as stream:  # a copy, where that is another disk
                os.fsync(stream.fileno())
        for place, beside in waiting.items():
            os.replace(beside, place.resolve())
    finally:
        for beside in waiting.values():
            beside.unlink(missing_ok=True)
