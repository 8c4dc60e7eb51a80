"""Counterfactual pairs of a task, made by hand or of a template, and as token ids with a role for each token."""

from __future__ import annotations

import dataclasses
import operator
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jstrace.method.measure.metrics import LogitDifference, logit_difference
from jstrace.models import InputError, Model, Tokenizer, text_of
from jstrace.models.edges import ByValue
from jstrace.pipeline.inputs import Tokens, token_ids
from jstrace.pipeline.pairs import Questions, common

Span = tuple[int, int]
"""Where a role starts, and where it has ended."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt of a task, a counterfactual prompt of as many tokens, and two words that could follow.

    Examples:
      >>> pair = jstrace.Pair(text, other, " Mary", " John")
      >>> circuit = jstrace.task(model, [pair], held_out=0, score="gradient")
    """

    clean: Any
    """A text, or token ids."""
    counterfactual: Any
    """Another of as many tokens, whose states ablated edges carry."""
    answer: Any
    """The word of one token, or its id, that should follow the clean prompt,"""
    rival: Any
    """and the word that should not."""
    roles: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Start and end of each role in the clean prompt: in characters of a text, in tokens of token ids."""

    def __post_init__(self) -> None:
        """Keep token ids and spans as tuples, which compare by value."""
        for name in ("clean", "counterfactual"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray | list):
                object.__setattr__(self, name, tuple(np.asarray(value).tolist()))
        roles = {} if self.roles is None else self.roles
        if not isinstance(roles, Mapping):
            raise InputError(f"roles = {roles!r:.60}, expected a start and an end for each name")
        spans = {name: tuple(span) if isinstance(span, list) else span for name, span in roles.items()}
        object.__setattr__(self, "roles", spans)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt(ByValue):
    """A pair as token ids."""

    tokens: Int[np.ndarray, "T"]
    counterfactual: Int[np.ndarray, "T"]
    metric: LogitDifference
    """logit(answer) - logit(rival)."""
    roles: tuple[str, ...]
    """The role of each token of the clean prompt; empty where it has none."""

    def exchanged(self) -> Prompt:
        """Clean and counterfactual prompt, answer and rival exchanged: the control of ``jstrace.task``."""
        metric = LogitDifference(self.metric.rival, self.metric.answer)
        return Prompt(self.counterfactual, self.tokens, metric, self.roles)


def pairs_of(template: str, rows: Sequence[Mapping[str, Any]], counterfactual: str | None = None) -> list[Pair]:
    """Pairs of a template, whose fields are the roles of the prompt.

    Args:
      template: a text with named fields, such as ``"When {S1} and {IO} met, {S2} called"``.
      rows: for each pair the value of every field, "answer" and "rival" (words of one token), and "counterfactual": the
        fields that the counterfactual prompt has other values for.
      counterfactual: the template of counterfactual prompts, if it is another one.

    Returns:
      A pair for each row. A field that stands twice is two roles, the second called ``S#2``.

    Examples:
      >>> row = {"A": "Mary", "B": "John", "C": "John", "answer": " Mary", "rival": " John"}
      >>> row["counterfactual"] = {"C": "Mary"}
      >>> jstrace.pairs_of("{A} and {B} met. {C} called", [row])[0].counterfactual
      'Mary and John met. Mary called'

    Raises:
      InputError: a template or a row that makes no sense, with the number of the row.
    """
    fields = _parsed(template)
    others = fields if counterfactual is None else _parsed(counterfactual)
    known = [*dict.fromkeys(name for _, name in others if name is not None)]
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise InputError(f"rows: {type(rows).__name__}, expected a list of mappings of fields to values")
    pairs = []
    for index, row in enumerate(rows):
        where = f"row {index}: "
        if not isinstance(row, Mapping):
            raise InputError(f"{where}{type(row).__name__}, expected a mapping of fields to values")
        for name in ("answer", "rival"):
            if name not in row:
                raise InputError(f"{where}it has no {name}")
        changes = row.get("counterfactual", {})
        if not isinstance(changes, Mapping):
            raise InputError(f"{where}counterfactual is {changes!r:.60}, expected a mapping of the fields that change")
        if not changes and counterfactual is None:
            raise InputError(f"{where}it has no counterfactual: give the fields that change, or a second template")
        unknown = [name for name in changes if name not in known]
        if unknown:
            fields_told = f"the template has {', '.join(known)}" if known else "the template has no field"
            raise InputError(f"{where}counterfactual changes {unknown[0]!r:.60}, but {fields_told}")
        clean, roles = _filled(fields, row, where)
        other, _ = _filled(others, {**row, **changes}, f"{where}counterfactual: ")
        pairs.append(Pair(clean, other, row["answer"], row["rival"], roles))
    return pairs


Fields = list[tuple[str, str | None]]
"""Literal texts, each with the field after it."""


def _parsed(template: str) -> Fields:
    try:
        parts = [*string.Formatter().parse(template)]
    except (ValueError, TypeError) as error:
        raise InputError(f"template {template!r:.60} cannot be read ({error})") from error
    for _, name, spec, conversion in parts:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise InputError(f"template {template!r:.60}: {{{name}}}, expected fields with a name alone, such as {{S}}")
    return [(text, name) for text, name, _, _ in parts]


def _filled(fields: Fields, values: Mapping[str, Any], where: str) -> tuple[str, dict[str, Span]]:
    """A text, and where the value of each field stands in it."""
    text, roles, seen = "", dict[str, Span](), dict[str, int]()
    for literal, name in fields:
        text += literal
        if name is None:
            continue
        if not isinstance(values.get(name), str) or not values[name]:
            raise InputError(f"{where}field {name} of the template has {values.get(name)!r:.60}, expected a text")
        seen[name] = seen.get(name, 0) + 1
        role = name if seen[name] == 1 else f"{name}#{seen[name]}"
        roles[role] = len(text), len(text) + len(values[name])
        text += values[name]
    return text, roles


def prompts_of(model: Model, pairs: Sequence[Any], where: str = "pair") -> list[Prompt]:
    """Pairs as token ids.

    Raises:
      InputError: prompts of different lengths, words of several tokens, or roles that cover no token, with the number
        of the pair.
    """
    return [prompt_of(model, pair, f"{where} {index}: ") for index, pair in enumerate(pairs)]


def prompt_of(model: Model, pair: Any, where: str = "") -> Prompt:
    """One of them.

    Raises:
      InputError: as ``prompts_of``, after ``where``, which names the pair.
    """
    if not isinstance(pair, Pair):
        raise InputError(f"{where}{type(pair).__name__}, expected a jstrace.Pair")
    ids = token_ids(model, pair.clean, where)
    try:
        metric = logit_difference(pair.answer, pair.rival)
        asked = Questions.of(model, 1, single=True, counterfactual=pair.counterfactual, metric=metric)
        question = asked.about(0, ids, "")
        roles = token_roles(model.tokenizer, ids, pair.clean, pair.roles)
    except InputError as error:
        raise InputError(f"{where}{error}") from error
    assert isinstance(question.metric, LogitDifference)
    assert question.counterfactual is not None
    return Prompt(ids, question.counterfactual, question.metric, roles)


def token_roles(
    tokenizer: Tokenizer | None, ids: Int[np.ndarray, "T"], clean: Tokens, roles: Mapping[str, Any]
) -> tuple[str, ...]:
    """The role of each token: the one whose characters it shares most of, the first of those that share as many.

    Raises:
      InputError: a role that is no start and end, or has no token that is no other role's.
    """
    if not roles:
        return ("",) * len(ids)
    is_text = isinstance(clean, str)
    if is_text and tokenizer is not None:
        spans = token_spans(tokenizer, ids, str(clean))
    else:
        spans = np.stack([np.arange(len(ids)), np.arange(1, len(ids) + 1)], axis=1)
    names, shared = [*roles], np.zeros((len(roles), len(ids)), int)
    for row, (start, end) in zip(shared, _checked_spans(roles), strict=True):
        row[:] = np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start)
    for name, row in zip(names, shared, strict=True):
        if row.max() <= 0:
            what = f"characters {roles[name]} of {clean!r:.60}" if is_text else f"tokens {roles[name]} of {len(ids)}"
            raise InputError(f"role {name}: there is no token at {what}")
    best, most = shared.argmax(axis=0), shared.max(axis=0)
    labels = tuple(names[at] if many > 0 else "" for at, many in zip(best, most, strict=True))
    for name, row in zip(names, shared, strict=True):
        if name not in labels:
            raise InputError(f"role {name}: its token is role {labels[int(row.argmax())]}'s, and a token has one role")
    return labels


def _checked_spans(roles: Mapping[str, Any]) -> Iterator[Span]:
    for name, span in roles.items():
        if not isinstance(name, str) or not name or name[0] in "-0123456789":
            raise InputError(f"role {name!r:.60}: a name starts with a letter")
        try:
            start, end = span
            yield operator.index(start), operator.index(end)
        except (TypeError, ValueError) as error:
            raise InputError(f"role {name}: {span!r:.60}, expected its start and its end") from error


def token_spans(tokenizer: Tokenizer, ids: Int[np.ndarray, "T"], text: str) -> Int[np.ndarray, "T 2"]:
    """The characters of a text that each token stands for, by decoding ever longer prefixes.

    A token that is a part of a character has the whole character; those that stand for no character of the text, as
    special tokens, lie outside it.

    Raises:
      InputError: the tokenizer does not give the text back.
    """
    whole = text_of(tokenizer, ids.tolist())
    offset = whole.find(text)
    if offset < 0:
        raise InputError(
            f"the tokenizer reads {text!r:.60} as {whole!r:.60}, so that roles cannot be found in it: give token ids,"
            " and roles by token"
        )
    prefixes = (text_of(tokenizer, ids[:count].tolist()) for count in range(1, len(ids) + 1))
    ends = np.maximum.accumulate([common(whole, prefix) for prefix in prefixes])
    starts = np.concatenate([[0], ends[:-1]])
    for at in range(len(ids) - 2, -1, -1):
        if ends[at] == starts[at]:
            ends[at] = ends[at + 1]
    return np.stack([starts, ends], axis=1) - offset
