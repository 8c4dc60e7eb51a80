"""The one error type that a user can cause, with its remedy in one line; and what several sub-packages refuse."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 4000


class InputError(ValueError):
    """Input that jstrace refuses; the message states what, what was expected and what to do.

    What a message quotes of a file is kept to one line that a terminal can show: breaks become spaces, what does not
    print is escaped, and the middle of what is longer than 4,000 letters is left out.

    Examples:
      >>> jstrace.trace(model, text, sizes=[2])
      Traceback (most recent call last):
      jstrace.errors.InputError: size 2.0 is outside (0, 1]; sizes are fractions of all edges
    """

    def __init__(self, message: object = "") -> None:
        text = "".join(map(_shown, str(message)))
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        super().__init__(text)


class UnsupportedError(InputError):
    """A model that is whole, and that jstrace does not compute: the message names what is missing."""


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    return " " if letter.isspace() else letter.encode("unicode_escape").decode("ascii")


def checked_revision(revision: str | None) -> str | None:
    """A revision that is named, or none.

    Raises:
      InputError: an empty name.
    """
    if revision is not None and not revision.strip():
        raise InputError(f"revision {revision!r}: expected a branch, a tag or a commit")
    return revision


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known name that a word is a slip of, whatever its case, or None."""
    import difflib

    lower = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(word).lower(), lower, n=1, cutoff=0.7)
    return lower[near[0]] if near else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'rounds'?`` for the end of a message, or nothing where no known name is near."""
    guess = nearest(word, known)
    return "" if guess is None else f"; did you mean {guess!r}?"
