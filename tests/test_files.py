"""Files, and folders of them, that are written all or nothing."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from jstrace.errors import InputError
from jstrace.files import check_writable, filled_folder

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "it is not a regular file"),
        ("no/a", "there is no folder {path.parent}"),
        ("a\0", ".*null (byte|character).*"),
        ("a" * 300, ".*File name too long.*"),
    ],
)
def test_what_cannot_be_written_is_said_once(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError) as raised:
        check_writable(path)
    said = str(raised.value)
    assert re.fullmatch(rf".*: cannot be written \({reason.format(path=path)}\)", said)
    assert said.count("cannot be written") == 1


def fill(target: Path, content: str) -> None:
    """Two files in a folder, and one beside it."""
    with filled_folder(target, ["in"]) as folder:
        for name in ("in/a", "in/b", "c"):
            (folder / name).write_text(content)


def contents(target: Path) -> dict[str, str]:
    """What files and folders hold, hidden ones too; folders nothing themselves."""
    return {str(path.relative_to(target)): path.read_text() if path.is_file() else "" for path in target.rglob("*")}


OLD = {"in": "", "in/a": "old", "in/b": "old", "c": "old"}


def test_a_folder_is_filled(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    assert contents(tmp_path / "out") == OLD
    (tmp_path / "out" / "mine").touch()
    fill(tmp_path / "out", "new")
    assert contents(tmp_path / "out") == {"in": "", "in/a": "new", "in/b": "new", "c": "new", "mine": ""}


def test_places_are_looked_at_before_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match=r"c: cannot be written \(it is not a regular file\)"):
        fill(tmp_path, "new")
    assert contents(tmp_path) == {"c": ""}


def test_folders_that_were_made_for_nothing_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "move", stopped)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "new" / "out", "new")
    assert contents(tmp_path) == {}


def test_copies_to_another_disk_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is full at the second file: the first must not be replaced, nor the second be half of itself."""
    out, disk = tmp_path / "out", tmp_path / "disk"
    disk.mkdir()
    out.mkdir()
    (out / "in").symlink_to(disk)
    fill(out, "old")
    copied, renamed, copy = list[Any](), os.rename, shutil.copyfile

    def rename(one: Any, other: Any, **options: Any) -> None:
        if disk in Path(other).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        renamed(one, other, **options)

    def full(one: Any, other: Any, **options: Any) -> Any:
        copied.append(other)
        if len(copied) == 2:
            Path(other).write_text("ne")
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(one, other, **options)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)"):
        fill(out, "new")
    assert contents(disk) == {"a": "old", "b": "old"}
    assert (out / "c").read_text() == "old"
    fill(out, "new")
    assert contents(disk) == {"a": "new", "b": "new"}
    assert len(copied) == 4


def test_a_stop_amid_the_moves_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them new; nothing hidden stays."""
    fill(tmp_path, "old")
    moved, replace = list[Any](), os.replace

    def stopped(one: Any, other: Any) -> None:
        moved.append(other)
        if len(moved) == 2:
            raise KeyboardInterrupt
        replace(one, other)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, "new")
    assert contents(tmp_path) == OLD | {Path(moved[0]).relative_to(tmp_path).as_posix(): "new"}
