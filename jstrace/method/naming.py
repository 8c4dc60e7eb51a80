"""Edge scores by name, and what objects that are scores say of themselves; no JAX."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

from jstrace.errors import InputError, did_you_mean

GRADIENTS = ("gradient", "integrated", "l1*gradient", "relp", "l1*relp", "rounds", "steady-rounds", "learned", "fitted")
"""Edge scores from gradients in the mask (section 8); learned: by the scorer that comes with jstrace."""

RANDOM = ("random", "random-nodes")
"""Scores that look at nothing, so that what their traces have is chance: every edge drawn alike, or nodes that are
reached drawn alike, which give their residual edge first, then the MLP's, then attention's."""

SCORE_NAMES = ("l1", "l2", "ifr", "cosine", *RANDOM, *GRADIENTS)
"""The kinds of edge scores (sections 2 and 8 of the method)."""

NAMES = r"[\w*+-]+"
"""What edge scores can be called."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A score of one's own by its name alone: what the files of a run say of it."""

    name: str
    passes: bool = False
    """Whether it is known to be a score from gradients."""


class Traits(NamedTuple):
    """What a score says of itself by attributes of these names; the defaults are of one that has none."""

    name: str
    """What tables call it; by default its class."""
    shares: bool = False
    """Whether the score of an edge is its share of all those into the same node."""
    draws: bool = False
    """Whether it draws anything, so that a seed matters."""
    alone: bool = False
    """Whether a CPU takes inputs one at a time: what a stop costs is then one of them."""


def traits_of(score: Any) -> Traits:
    """Of a score by name, or of an object."""
    if isinstance(score, str):
        return Traits(score, draws=score in (*RANDOM, "fitted"), alone=score == "fitted")
    own = (bool(getattr(score, trait, default)) for trait, default in Traits._field_defaults.items())
    return Traits(str(getattr(score, "name", type(score).__name__)), *own)


def takes_passes(score: Any) -> bool:
    """Whether a score runs passes of its own under a replacement, rather than measure the edges of a clean one."""
    if isinstance(score, Named):
        return score.passes
    return score in GRADIENTS if isinstance(score, str) else hasattr(score, "edge_scores")


def name_of(score: Any) -> str:
    """What tables call an edge score."""
    return traits_of(score).name


def scored_name(score: Any, replace: str) -> str:
    """What tables call an edge score and what ablated edges carried meanwhile.

    Means are not named: all scores from gradients were made under means before they followed the evaluation.
    """
    named = takes_passes(score) and replace != "mean"
    return f"{name_of(score)} under {replace}" if named else name_of(score)


_IN_FILES = {
    "jstrace.method.scores.measured": "jstrace.method.scores",
    "jstrace.method.scores.gradients": "jstrace.method.gradients",
    "jstrace.method.scores.rounds": "jstrace.method.gradients",
    "jstrace.method.scores.linear": "jstrace.method.scorer",
    "jstrace.method.scores.fitted": "jstrace.method.learning",
    "jstrace.method.scores.learned": "jstrace.method.scorer",
}
"""Where files say that the classes of these modules are, so that a run goes on whatever they are called later."""


def identity_of(score: Any) -> str:
    """What tells a score of one's own from another of its name: its class and its attributes, in words.

    Code that changes under the same words is not seen; a ``version`` among the attributes would be.
    """
    kind = type(score)
    state = ", ".join(f"{key}={value!r}" for key, value in sorted(getattr(score, "__dict__", {}).items()))
    return f"{_IN_FILES.get(kind.__module__, kind.__module__)}.{kind.__qualname__}({state})"


def checked_score(score: Any) -> Any:
    """The name of an edge score, or one of one's own (``models.Score``).

    Raises:
      InputError: a name that is not known, with those there are; or what cannot score edges, or be hashed.
    """
    known = ", ".join(SCORE_NAMES)
    if isinstance(score, str):
        if score not in SCORE_NAMES:
            raise InputError(f"score {score!r} is not known; expected one of {known}{did_you_mean(score, SCORE_NAMES)}")
        return score
    methods = all(callable(getattr(score, name, None)) for name in ("vector", "attention"))
    methods = methods or callable(getattr(score, "edge_scores", None))
    if not methods or isinstance(score, type):
        raise InputError(
            f"score is {score!r:.80}; expected one of {known}, or an object with vector and attention"
            " (jstrace.Score) or with edge_scores (jstrace.GradientScore); for scores that are there already, use"
            " jstrace.Trace.from_scores"
        )
    try:
        hash(score)
    except TypeError as error:
        raise InputError(f"score {name_of(score)} cannot be hashed; make it a frozen dataclass") from error
    if type(score).__hash__ is object.__hash__ and getattr(score, "__dict__", None):
        raise InputError(
            f"score {name_of(score)} has attributes and compares by identity: a change of them would not be"
            " seen; make it a frozen dataclass"
        )
    if not re.fullmatch(NAMES, name_of(score)):
        raise InputError(f"score {name_of(score)!r:.60}: a name is of letters, digits and any of _*+-")
    if name_of(score) in SCORE_NAMES and not _is_built_in(score):
        raise InputError(f"score {name_of(score)!r} of your own needs another name: that one is taken")
    return score


def _is_built_in(score: Any) -> bool:
    """Whether its name is its class's own, and the class jstrace's."""
    kind = type(score)
    return kind.__module__.startswith("jstrace.") and vars(kind).get("name") == score.name
