"""Options that nothing would read, and those that do not go together: refused in one line, before anything loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jstrace.cli import options as opt
from jstrace.errors import InputError
from jstrace.files import check_local

NO_TEXTS = "--reference has texts for --replace mean or resample; ablated edges carry none of them here"


def check_reference(
    given: bool, scores: Sequence[Any], replace: opt.Replace, score_replace: opt.Replace | None
) -> None:
    """Refuse reference texts that neither scores from gradients nor evaluations are made of."""
    from jstrace.method.naming import takes_passes

    scored = {score_replace or replace} if any(map(takes_passes, scores)) else set[opt.Replace]()
    if given and {replace, *scored} == {opt.Replace.ZERO}:
        raise InputError(NO_TEXTS)


def check_score_replace(score_replace: opt.Replace | None, scores: Sequence[Any]) -> None:
    """Refuse what ablated edges carry in scores where no score looks at them."""
    from jstrace.method.naming import name_of, takes_passes

    if score_replace is not None and not any(map(takes_passes, scores)):
        names = " and ".join(map(name_of, scores))
        raise InputError(f"--score-replace is for scores from gradients, such as rounds; {names} looks at no ablation")


def check_against(score: str, against: str | None) -> None:
    """Refuse the same score twice."""
    if against == score:
        raise InputError(f"--against {against} is the score of the first trace, too: give another")


def check_masks(*, pre_softmax: bool, ablate: opt.Ablate, replace: opt.Replace) -> None:
    """Refuse masks before the softmax where attention is not masked, or where masked edges carry something."""
    if pre_softmax and ablate != opt.Ablate.ALL:
        raise InputError(f"--pre-softmax masks attention, which --ablate {ablate.value} leaves in place: give one")
    if pre_softmax and replace != opt.Replace.ZERO:
        raise InputError(f"--pre-softmax leaves nothing to replace by {replace.value}: give --replace zero")


def check_pair(counterfactual: str | None, replace: opt.Replace, *, pre_softmax: bool, of_file: bool) -> None:
    """Refuse a counterfactual prompt beside what it takes the place of."""
    if counterfactual is None:
        return
    if replace != opt.Replace.ZERO:
        raise InputError("--counterfactual says what ablated edges carry, and so does --replace: give one of the two")
    if pre_softmax or of_file:
        raise InputError(f"--counterfactual does not go with {'--pre-softmax' if pre_softmax else '--file'}")


def seed_of(given: int | None, scores: Sequence[Any], *others: bool, also: str = "") -> int:
    """The seed, by default 0.

    Args:
      given: of the command line.
      scores: that may draw.
      others: whether each of other things is asked for that draws, too.
      also: what these are, for the refusal.
    """
    from jstrace.method.conditions import checked_seed
    from jstrace.method.naming import name_of, traits_of

    if given is not None and not any(others) and not any(traits_of(score).draws for score in scores):
        names = " and ".join(dict.fromkeys(map(name_of, scores)))
        raise InputError(f"--seed is for the scores random, random-nodes and fitted{also}; {names} draws nothing")
    return checked_seed(given or 0)


def check_of_model(
    revision: str | None, ignore_field: list[str] | None, dtype: opt.Dtype, weights: opt.Weights | None
) -> None:
    """Refuse options of a model where none is loaded."""
    given = {"--revision": revision, "--ignore-field": ignore_field, "--dtype": dtype != opt.Dtype.FLOAT32}
    given |= {"--weights": weights}
    if name := next((name for name, value in given.items() if value), None):
        raise InputError(f"{name} says how a model is loaded; add --model")


def check_suffix(path: Path | None, *suffixes: str) -> None:
    """Refuse a file to write whose name does not end as those that are read again."""
    if path is None:
        return
    check_local(path)
    if path.suffix not in suffixes:
        raise InputError(f"{path}: expected a file that ends in {' or '.join(suffixes)}")


def check_installed() -> None:
    """Name the extra where its packages are missing."""
    import importlib.util

    needed = ("pyarrow", "scipy", "matplotlib", "filelock", "jinja2", "networkx")
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        raise InputError(f"{', '.join(missing)} missing: this needs pip install 'jstrace[run]'")
