"""What ablated edges carry, as callers say it, in scores and in evaluations (section 8 of the method)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jstrace.method.conditions import COUNTERFACTUAL, NO_GRADIENTS, NO_TEXTS, REPLACEMENTS, Condition, checked_ablation
from jstrace.models import InputError, Model
from jstrace.models.slots import check_softmax
from jstrace.pipeline.replacing import Reference, Replace, Replacing, named
from jstrace.pipeline.trace import Trace


@dataclasses.dataclass(frozen=True)
class Under:
    """What ablated edges carry, in evaluations and in scores, as the caller said it."""

    replace: Replace
    score_replace: Replace
    reference: Reference
    paired: bool = False
    """Whether they carry the states of each input's counterfactual."""

    def named(self, model: Model, *, passes: bool) -> tuple[str, str, Replacing, str]:
        """The names of what they carry and of what they carry in scores, which are from ``passes`` or not, what those
        stand for, and a mark of the caller's own texts or arrays.

        Raises:
          InputError: two replacements where one is meant, or one that nothing reads.
        """
        scored, texts = self.score_replace, self.reference
        if self.paired and (self.replace is not None or (texts is not None and scored is None)):
            raise InputError("a counterfactual is what ablated edges carry: give it, or replace and reference")
        name, replacing = named(model, self.replace, texts)
        name, mark = (COUNTERFACTUAL, "") if self.paired else (name, replacing.mark(name))
        if texts is not None and self.replace is None and scored is None:
            raise InputError(NO_TEXTS)
        if not passes:
            if scored is not None:
                raise InputError(NO_GRADIENTS)
            return name, name, Replacing(model), mark
        score_name, replacing = (name, replacing) if scored is None else named(model, scored, texts)
        if len(replacing.own) > 1:
            raise InputError("gradients are taken under one replacement; several are for evaluate")
        return name, score_name, replacing, mark if name != "zero" else replacing.mark(score_name)


@dataclasses.dataclass(frozen=True)
class How:
    """How masks are made, and what ablated edges carry: what was asked for, or what each trace says."""

    condition: Condition
    replacing: Replacing
    asked: bool
    """Whether a replacement was asked for."""

    @staticmethod
    def of(
        model: Model, ablate: str, pre_softmax: Any, inverse: Any, replace: tuple[Replace, Reference], *,
        paired: bool = False,
    ) -> How:  # fmt: skip
        """With everything checked; ``paired`` says that edges carry the states of a counterfactual."""
        name, replacing = named(model, *replace)
        if paired and replace != (None, None):
            raise InputError("a counterfactual is what ablated edges carry: give it, or replace and reference")
        before = _flag("pre_softmax", pre_softmax)
        check_softmax(model.config, pre_softmax=before)
        condition = Condition(checked_ablation(ablate), before, _flag("inverse", inverse))
        if before and condition.ablate != "all":
            raise InputError(
                'pre_softmax masks attention, which ablate="residual+mlp" leaves in place: give one of them'
            )
        asked = replace[0] is not None or paired
        return How(_replaced(condition, COUNTERFACTUAL if paired else name), replacing, asked)

    def under(self, trace: Trace) -> Condition:
        """The condition of a trace.

        Raises:
          InputError: the trace says what is not here: something of the caller's own, or made of other texts.
        """
        if self.asked:
            return self.condition
        name, mark = trace.replace, trace.reference
        if name in ("zero", COUNTERFACTUAL):
            return _replaced(self.condition, name)
        if name not in REPLACEMENTS or mark != self.replacing.mark(name):
            whose = "your own, which it does not hold" if mark else "the texts that come with jstrace"
            raise InputError(
                f"the trace is of edges that carry {name!r:.60} of {whose}: give the same reference, or replace"
            )
        return _replaced(self.condition, name)


def _replaced(condition: Condition, name: str) -> Condition:
    """With ablated edges that carry something.

    Raises:
      InputError: they carry something before the softmax.
    """
    if condition.pre_softmax and name != "zero":
        raise InputError(
            f"pre_softmax removes edges from the softmax, so that nothing is left to replace by {name!r:.60}; give"
            ' replace="zero"'
        )
    return dataclasses.replace(condition, replace=name)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} = {value!r}, expected True or False")
    return bool(value)
