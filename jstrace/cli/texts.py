"""The texts that ``jstrace trace`` is given, as lines and as token ids."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jstrace.errors import InputError
from jstrace.files import read_text

if TYPE_CHECKING:
    import numpy as np

    from jstrace.models import Model


_ENDINGS = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".parquet", ".npz", ".html", ".gguf")


class Line(NamedTuple):
    """A text and what to call it in errors."""

    text: str
    where: str


def read_texts(text: str | None, file: Path | None, *, literal: bool = False) -> list[Line]:
    """The one text, ``literal`` as in ``one_text``, or the lines of a file that hold any text.

    Raises:
      InputError: neither or both of the two, or no text in them; a text that is the name of a file; a file that is
        none, cannot be read or is binary.
    """
    if (text is None) == (file is None):
        raise InputError("pass either a text or --file")
    if file is not None and literal:
        raise InputError("--text is about a text, and --file names a file: give one")
    if file is not None:
        return _lines(file)
    assert text is not None
    named = shlex.quote(text)
    is_trace = text.endswith(".npz")
    lines = f"jstrace view {named} shows a trace" if is_trace else f"jstrace trace --file {named} traces its lines"
    return [Line(one_text(text, lines, literal=literal), "")]


def one_text(text: str, advice: str = "", *, literal: bool) -> str:
    """A text that is not empty, and that is not the name of a file.

    Args:
      text: of the command line.
      advice: what to do where it is one; by default how a shell reads it.
      literal: whether it is a text, whatever it looks like (``--text``).

    Raises:
      InputError: it is empty, is the name of a file or of a folder by its path, or ends as names of files do.
    """
    if not text.strip():
        raise InputError("the text is empty; a trace needs at least one token")
    kind = _kind(text)
    if literal or kind is None:
        return text
    told = (advice or f'"$(cat {shlex.quote(text)})" is the text in it') + "; " if kind == "a file" else ""
    raise InputError(f"{text} is {kind}, and a text is expected: {told}add --text if it is one")


def _kind(text: str) -> str | None:
    """What a text is the name of: a file, a folder by its path, or a file that is not there."""
    try:
        path = Path(text)
        if path.is_file():
            return "a file"
        if os.sep in text and path.is_dir():
            return "a folder"
        missing = path.suffix in _ENDINGS and not any(map(str.isspace, text))
        return "the name of a file that is not there" if missing else None
    except (OSError, ValueError):  # a text too long for a name, or one that holds a zero byte
        return None


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
