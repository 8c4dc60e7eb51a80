"""Object stores (``gs://``, ``s3://``) through fsspec, and runs in them: a run has a folder here, copied there.

Object stores have no locks and no renames, so the run keeps its own folder on this machine, and every save is followed
by a copy: files of a part first, that of ``inputs``, with which the part counts, last.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jstrace.errors import InputError
from jstrace.files import named
from jstrace.runs.parts import HIDDEN
from jstrace.runs.schema import MANIFEST, TABLES


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


class Stage:
    """The folder here of a run there."""

    def __init__(self, url: str, folder: Path) -> None:
        """Fetch what is there.

        Raises:
          InputError: there is no such store, it cannot be read, or what is there is no run.
        """
        self._url, self.folder = url, folder
        self._store, self._root = store_of(url)
        self._there: dict[str, tuple[int, int]] = {}
        with told(url, "read"):
            names = [path.removeprefix(self._root).lstrip("/") for path in self._store.find(self._root)]
            if names and MANIFEST not in names:
                raise InputError(f"{url}: holds files, but no run; give --out a new folder")
            for name in (name for name in names if name == MANIFEST or name.partition("/")[0] in TABLES):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._store.get_file(f"{self._root}/{name}", str(folder / name))
        self._there = self._here()

    def push(self) -> None:
        """Bring the store up to date with what has changed here since; what other hosts put there is left alone.

        A stop at any point leaves what the next start makes whole: where parts are joined, their file of ``inputs``
        goes up under the name that ``parts.finish_joins`` looks for before the old ones give way.
        """
        now = self._here()
        new = [name for name, mark in now.items() if self._there.get(name) != mark]
        gone = [name for name in self._there if name not in now]
        first, last = _divided(new)
        with told(self._url, "written"):
            for name in first:
                self._put(name, name)
            joining = [name for name in last if any(_is_inputs(old) for old in gone)]
            for name in joining:
                self._put(name, _hidden(name))
            others, pieces = _divided(gone)
            self._remove(pieces)
            for name in last:
                self._put(name, name)
            self._remove([*map(_hidden, joining), *others])
        self._there = now

    def after(self, on_save: Callable[[int], None] | None) -> Callable[[int], None]:
        """``on_save`` of a run, which is told when results are there."""

        def saved(count: int) -> None:
            self.push()
            if on_save is not None:
                on_save(count)

        return saved

    def _here(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file that is whole."""
        stats = {path: path.stat() for path in sorted(self.folder.rglob("[!.]*")) if path.is_file()}
        return {str(path.relative_to(self.folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

    def _put(self, name: str, target: str) -> None:
        self._store.makedirs(f"{self._root}/{target}".rpartition("/")[0], exist_ok=True)
        self._store.put_file(str(self.folder / name), f"{self._root}/{target}")

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._store.rm_file(f"{self._root}/{name}")


@contextlib.contextmanager
def staged(url: str) -> Iterator[Stage]:
    """A folder for a run whose results belong into a store, where they are however it ends, but for a kill.

    Raises:
      InputError: the store cannot be written; the folder stays then, and the error names it. So it does where the last
        copy is stopped, and a warning names it.
    """
    folder = Path(tempfile.mkdtemp(prefix="jstrace-"))
    try:
        with named(folder, url.rstrip("/")):
            stage = Stage(url, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        with named(folder, url.rstrip("/")):
            yield stage
    except BaseException:
        try:
            _push_last(stage)
        except InputError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        raise
    _push_last(stage)


def _push_last(stage: Stage) -> None:
    """The last copy to the store, after which the folder here goes; what ends it before that leaves it, and says so.

    Raises:
      InputError: the store cannot be written.
    """
    notice = f"what was computed is in {stage.folder}"
    try:
        stage.push()
    except InputError as error:
        raise InputError(f"{error}; {notice}") from error
    except BaseException:  # a second Ctrl-C
        warnings.warn(f"the copy was stopped; {notice}", RuntimeWarning, stacklevel=2)
        raise
    shutil.rmtree(stage.folder, ignore_errors=True)


def _is_inputs(name: str) -> bool:
    return name.startswith("inputs/")


def _divided(names: list[str]) -> tuple[list[str], list[str]]:
    """Those of other tables, and those of ``inputs``."""
    return [name for name in names if not _is_inputs(name)], [name for name in names if _is_inputs(name)]


def _hidden(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{HIDDEN}{file}"
