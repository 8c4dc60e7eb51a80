"""The texts that ``jstrace trace`` is given, as lines and as token ids."""

from __future__ import annotations

import os
import shlex
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
    """The one text, ``literal`` as in ``one_text``, or the lines of a file that hold any text."""
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


def reference_texts(reference: Path | None) -> list[str] | None:
    """The texts of ``--reference``, a line each; None for those that come with jstrace."""
    return None if reference is None else [line.text for line in _lines(reference)]


def one_text(text: str, advice: str = "", *, literal: bool) -> str:
    """A text that is not empty, and that is not the name of a file.

    Args:
      text: of the command line.
      advice: what to do where it is one; by default how a shell reads it.
      literal: whether it is a text, whatever it looks like (``--text``).
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


def tokens_of(model: Model, line: Line) -> np.ndarray:
    """Token ids of a line, int32 ``[T]``, unless its graph would be refused."""
    from jstrace.method.graph import full_graph
    from jstrace.pipeline.inputs import tokenised
    from jstrace.scale import batching

    try:
        row = tokenised(model, line.text)[1][0]
        full_graph.check_slots(model.config, len(row), batching.bucket)
    except InputError as error:
        raise InputError(f"{line.where}{error}") from error
    return row
