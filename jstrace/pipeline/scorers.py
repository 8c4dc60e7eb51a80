"""Learned scorers by name: the one that comes with jstrace, for its default model."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from typing import Any

from jstrace.method.learning import Fitted
from jstrace.method.scorer import Scorer
from jstrace.method.scoring import SCORES
from jstrace.models import InputError, Model


@functools.cache
def built_in() -> Scorer:
    """The scorer that was fitted to the default model; docs/scores.md says how."""
    file = importlib.resources.files("jstrace.pipeline") / "learned.safetensors"
    with importlib.resources.as_file(file) as path:
        return Scorer.load(path)


def known_to(model: Model, importance: Any) -> Any:
    """The importance, or what "learned" and "fitted" stand for, checked against the model.

    Raises:
      InputError: a scorer of another model, also as the start of a fit, or no scorer of this one.
    """
    if importance == "fitted":
        return SCORES["fitted"]()
    if isinstance(importance, Fitted):
        return dataclasses.replace(importance, start=known_to(model, importance.start))
    if isinstance(importance, Scorer):
        importance.check_fits(model)
    if importance != "learned":
        return importance
    found = built_in()
    try:
        found.check_fits(model)
    except InputError as error:
        raise InputError(
            "importance learned: jstrace comes with a scorer for smollm2 alone; fit one to this model with jstrace"
            " fit-scorer --model ... --data texts.txt --out scorer.safetensors and give that file as importance"
        ) from error
    return found
