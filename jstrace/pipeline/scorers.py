"""What names of edge scores stand for: the learned scorer of the default model, and the settings of all others."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from typing import Any

from jstrace.method.naming import RANDOM
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.linear import CUTS, KEPT, Coefficients
from jstrace.method.scores.measured import MEASURES
from jstrace.method.scores.rounds import EARLIER, Rounds
from jstrace.method.scores.scoring import SCORES
from jstrace.models import InputError, Model
from jstrace.models.platforms import GENERATOR


@functools.cache
def built_in() -> Scorer:
    """The scorer that was fitted to the default model; docs/scores.md says how."""
    file = importlib.resources.files("jstrace.pipeline") / "learned.safetensors"
    with importlib.resources.as_file(file) as path:
        return Scorer.load(path)


def known_to(model: Model, score: Any) -> Any:
    """The score, or what "learned" and "fitted" stand for, checked against the model.

    Raises:
      InputError: a scorer of another model, also as the start of a fit, or no scorer of this one.
    """
    if score == "fitted":
        return SCORES["fitted"]()
    if isinstance(score, Fitted):
        return dataclasses.replace(score, start=known_to(model, score.start))
    if isinstance(score, Scorer):
        score.check_fits(model)
    if score != "learned":
        return score
    scorer = built_in()
    try:
        scorer.check_fits(model)
    except InputError as error:
        way = model.weights
        others, option = (f", in weights that are not {way}", f" --weights {way}") if way else ("", "")
        raise InputError(
            f"score learned: jstrace comes with a scorer for smollm2 alone{others}; fit one to this model with jstrace"
            f" train-scorer --model ...{option} --data texts.txt --out scorer.safetensors and give that file as score"
        ) from error
    return scorer


def settings_of(name: str) -> dict[str, Any]:
    """What tells a score of ``SCORE_NAMES`` from what another version calls so: its kind and numbers, as JSON has them.

    Of coefficients their digest. Code that changes while its numbers stay is not seen.
    """
    if name in RANDOM:
        return {"kind": {"random": "uniform", "random-nodes": "nodes"}[name], "generator": GENERATOR}
    if name == "learned":
        return _flat(built_in())
    return _flat(MEASURES[name] if name in MEASURES else SCORES[name]())


_UNTOLD = {"name", "model_fingerprints"}
"""Fields that say what a score is called, and whose it is."""


def _flat(score: Any) -> dict[str, Any]:
    """The fields of a score, and those of scores in it by the names of both."""
    settings: dict[str, Any] = {"kind": type(score).__name__}
    fields = {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
    if isinstance(score, Scorer):
        fields |= {"cuts": CUTS, "kept": KEPT}  # which it reads, and which are no numbers of its own
    for name, value in fields.items():
        if name in _UNTOLD or (isinstance(score, Rounds) and EARLIER.get(name, _UNTOLD) == value):
            continue
        if isinstance(value, Coefficients):
            settings[name] = value.digest
        elif dataclasses.is_dataclass(value):
            settings |= {f"{name}.{inner}": setting for inner, setting in _flat(value).items()}
        else:
            settings[name] = list(value) if isinstance(value, tuple) else value
    return settings
