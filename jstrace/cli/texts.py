"""The texts that ``jstrace trace`` is given, as lines and as token ids."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jstrace.errors import InputError
from jstrace.files import read_text

if TYPE_CHECKING:
    import numpy as np

    from jstrace.models import Model


class Line(NamedTuple):
    """A text and what to call it in errors."""

    text: str
    where: str


def read_texts(text: str | None, file: Path | None) -> list[Line]:
    """The one text, with a hint where it is the name of something on disk, or the lines of a file that hold any text.

    Raises:
      InputError: neither or both of the two, or no text in them; a file that is none, cannot be read or is binary.
    """
    if (text is None) == (file is None):
        raise InputError("pass either a text or --file")
    if file is not None:
        return _lines(file)
    assert text is not None
    if not text.strip():
        raise InputError("the text is empty; a trace needs at least one token")
    _hint(text)
    return [Line(text, "")]


def _hint(text: str) -> None:
    """Say so where a text looks like a mistake; it is traced all the same."""
    try:
        path = Path(text)
        if path.is_file():
            sys.stderr.write(f"jstrace: {text} is a file; its name is traced here, its lines with --file {text}\n")
        elif path.is_dir():
            sys.stderr.write(f"jstrace: {text} is a folder; its name is traced here, a file's lines with --file\n")
    except (OSError, ValueError):  # a text too long for a name, or one that holds a zero byte
        return


def _lines(file: Path) -> list[Line]:
    lines = read_text(file).split("\n")
    binary = next((number for number, line in enumerate(lines, 1) if "\0" in line), None)
    if binary is not None:
        raise InputError(f"{file}:{binary}: holds a zero byte; expected lines of UTF-8 text")
    texts = [Line(line.rstrip("\r"), f"{file}:{n}: ") for n, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise InputError(f"{file}: no line holds any text")
    return texts


def token_rows(model: Model, lines: Sequence[Line]) -> list[np.ndarray]:
    """Token ids of every line: int32 ``[T]`` each.

    Raises:
      InputError: with the line, where its graph would be refused.
    """
    return [_tokens(model, line) for line in lines]


def _tokens(model: Model, line: Line) -> np.ndarray:
    from jstrace.method.graph import full_graph
    from jstrace.pipeline.inputs import tokenised
    from jstrace.scale import batching

    try:
        row = tokenised(model, line.text)[1][0]
        full_graph.check_slots(model.config, len(row), batching.bucket)
    except InputError as error:
        raise InputError(f"{line.where}{error}") from error
    return row
