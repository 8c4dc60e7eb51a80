"""Files written all or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from jstrace.errors import InputError


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
    """Refuse a path that ``write_whole`` could not write, before any work is done."""
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: cannot be written (it is not a regular file)")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a null byte
        raise InputError(f"{path}: cannot be written ({error})") from error
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot be written (there is no folder {target.parent})")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission)")
