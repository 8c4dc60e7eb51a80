"""The models that one command runs: a single one, or several revisions of it, each into a folder of its own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from jstrace.errors import InputError, checked_revision


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One model, where its run goes, and what it is called."""

    source: str
    """What ``jstrace.load`` takes,"""
    revision: str | None
    """with the revision of a hub id."""
    name: str
    out: str
    """A folder, or a URL."""
    label: str | None = None
    """Of a revision beside others."""
    place: int = 0


def checkpoints(model: str, revisions: Sequence[str], out: str) -> list[Checkpoint]:
    """What is run, in the order of the revisions; those of a local folder are folders in it."""
    for revision in revisions:
        checked_revision(revision)
    if len(revisions) < 2:
        return [Checkpoint(model, revisions[0] if revisions else None, model, out)]
    folders = [re.sub(r"[^\w.-]", "_", revision) for revision in revisions]
    for place, folder in enumerate(folders):
        outside = ".." in revisions[place].split("/")
        if folder in folders[:place] or not folder.strip(".") or outside:
            raise InputError(f"revision {revisions[place]!r}: expected names of folders, each of them once")
    targets = []
    for place, (revision, folder) in enumerate(zip(revisions, folders, strict=True)):
        source, asked = _source(model, revision)
        name = f"{model.rstrip('/')}@{folder}"
        targets.append(Checkpoint(source, asked, name, f"{out.rstrip('/')}/{folder}", revision, place))
    return targets


def _source(model: str, revision: str) -> tuple[str, str | None]:
    if not Path(model).is_dir():
        return model, revision
    if not (Path(model) / revision).is_dir():
        raise InputError(f"{model}: holds no folder {revision}; revisions of a local folder are folders in it")
    return str(Path(model) / revision), None
