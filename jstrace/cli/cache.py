"""``jstrace cache``: what is kept between starts, and how to be rid of it."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jstrace.errors import InputError

Part = StrEnum("Part", "ALL WEIGHTS PROGRAMS MODEL")
"""What the cache folder holds."""
_CLEAR_HELP = "Remove dequantised weights, compiled programs, the default model, or all of it."


def cache_command(clear: Annotated[Part | None, typer.Option(help=_CLEAR_HELP)] = None) -> None:
    """Show what jstrace keeps between starts, and where; everything is made or fetched again when it is needed."""
    from jstrace.loading import cache_folder, kept_weights

    folder = cache_folder()
    if clear is not None:
        for part in (part for part in Part if part is not Part.ALL and clear in (part, Part.ALL)):
            _remove(folder, part)
    typer.echo(f"{folder}")
    for kind, what in _WHAT.items():
        typer.echo(f"{_bytes(_places(folder, kind)) / 1e6:10,.1f} MB  {kind.value}: {what}")
    for entry, facts, size in kept_weights():  # those not used for longest first
        told = f"{facts['source'].get('path')} in {facts.get('dtype')}" if facts else f"{entry.name}, damaged"
        typer.echo(f"{size / 1e6:10,.1f} MB    {told}")


_WHAT: dict[Part, str] = {
    Part.MODEL: "the default model, as it was fetched",
    Part.WEIGHTS: "of GGUF files, dequantised and stacked for the next start",
    Part.PROGRAMS: "compiled programs, and means of reference texts",
}


def _places(folder: Path, part: Part) -> list[Path]:
    if part is Part.MODEL:
        return [path for path in folder.glob("*.gguf") if path.is_file()]
    return [path for path in [folder / part.value] if path.is_dir()]


def _bytes(places: list[Path]) -> int:
    files = (file for place in places for file in ([place] if place.is_file() else place.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(folder: Path, part: Part) -> None:
    for place in _places(folder, part):
        try:
            place.unlink() if place.is_file() else shutil.rmtree(place)
        except OSError as error:
            raise InputError(f"{place}: cannot be removed ({error.strerror or error})") from error
