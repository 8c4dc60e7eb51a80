"""Object stores (``gs://``, ``s3://``) through fsspec: their files, and what they say of errors."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jstrace.errors import InputError
from jstrace.files import named


def is_remote(path: object) -> bool:
    """Whether a path is a URL."""
    return isinstance(path, str) and "://" in path


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """A file by its path; of a URL a copy.

    Raises:
      InputError: it cannot be read.
    """
    if not is_remote(source):
        yield Path(source)
        return
    store, path = store_of(source)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.rpartition("/")[2]
        with told(source, "read"):
            store.get_file(path, str(target))
        with named(target, source.rstrip("/")):
            yield target


def store_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    with told(url, "opened"):
        store, path = fsspec.core.url_to_fs(url)
    return store, str(path).rstrip("/")


@contextlib.contextmanager
def told(url: str, what: str) -> Iterator[None]:
    """Whatever a store raises, as an ``InputError``: each has errors of its own."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"{url}: cannot be {what} ({reason})") from error
