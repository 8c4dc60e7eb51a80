"""The inputs of a run: rows of the data, or the predictions that tokens after each row are taken from."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int

from jstrace.method.measure.metrics import of_answer
from jstrace.method.questions import Question
from jstrace.models import InputError, Model, Tokenizer, text_of
from jstrace.pipeline.answers import continued, ids_of
from jstrace.pipeline.generation import generated
from jstrace.pipeline.inputs import tokenised
from jstrace.pipeline.pairs import Questions
from jstrace.pipeline.records import Input
from jstrace.runs import parts
from jstrace.runs.parts import Part
from jstrace.runs.row import Row, next_token
from jstrace.runs.schema import ADDED, Extras
from jstrace.scale import hosts
from jstrace.scale.memory import out_of_memory

_KEPT = 64
"""Rows whose generated tokens are kept: those of one row are neighbours."""


@dataclasses.dataclass(frozen=True)
class Made:
    """One input before it is computed; ``given`` is None where it cannot be, for a ``reason``."""

    row: Row
    given: Input | None
    columns: Mapping[str, Any]
    """Of the table of inputs, beside those that all inputs have."""
    reason: str = ""


class Inputs:
    """Makes inputs by their indices; one for a run.

    Generated tokens depend on the model, the row and the seed alone. A run that goes on takes those of a row that are
    written, as other devices and versions may round otherwise, and choose others.
    """

    def __init__(
        self,
        model: Model,
        rows: Sequence[Row],
        extras: Extras,
        seed: int,
        written: Mapping[int, Int[np.ndarray, "_"]] = MappingProxyType({}),
        *,
        paired: bool = False,
    ) -> None:
        """``written``: the first tokens after rows, by their numbers, where an earlier call of the run has some;
        ``paired``: whether ablated edges carry the states of counterfactuals anywhere."""
        self._model, self._rows, self._extras = model, rows, extras
        self._asked, self._paired = any(row.asks for row in rows), paired
        self._of_row = _generator(model, rows, extras, seed, written)

    def made(self, index: int) -> Made:
        """An input, or why there is none."""
        number, step = divmod(index, max(1, self._extras.generate))
        row = self._rows[number]
        columns: dict[str, Any] = {} if row.pair is None else {"pair": row.pair, "variant": row.variant}
        columns |= {"row": number, "step": step} if self._extras.generate else {}
        columns |= {name: getattr(row, name) for name, _ in ADDED["questions"]} if self._asked else {}
        try:
            return self._continued(row, number, step, columns) if self._extras.generate else self._whole(row, columns)
        except InputError as error:
            return Made(row, None, columns, str(error))

    @property
    def _tokenizer(self) -> Tokenizer:
        assert self._model.tokenizer is not None
        return self._model.tokenizer

    def _whole(self, row: Row, columns: Mapping[str, Any]) -> Made:
        tokens = tokenised(self._model, row.text)[1][0]
        following = next_token(self._tokenizer, row, tokens.tolist())
        if self._paired and row.counterfactual is None:
            raise InputError("no counterfactual, which ablated edges are to carry the states of")
        if not row.asks:
            return Made(row, Input(tokens, following), columns)
        asked = asked_of_row(self._model, row, tokens)
        if asked.answer is not None:  # of which surprisal and rank are, then
            following, tokens = None, continued(tokens, asked.answer)
        return Made(row, Input(tokens, following, question=asked), columns)

    def _continued(self, row: Row, number: int, step: int, columns: Mapping[str, Any]) -> Made:
        """The prediction that the token after so many others is taken from."""
        continuation = self._of_row(number)
        if isinstance(continuation, str):
            raise InputError(continuation)
        prompt, tokens, probs = continuation
        if not np.isfinite(probs[: step + 1]).all():
            raise InputError("a prediction on the way to it is not finite")
        token, whole = int(tokens[step]), np.concatenate([prompt, tokens[:step]])
        told = {"generated_token": token, "generated_text": self._tokenizer.token(token)}
        told["generated_prob"] = float(probs[step])
        # Decoded together with its text: alone what follows would lose its first space.
        before, after = (text_of(self._tokenizer, ids.tolist()) for ids in (prompt, whole))
        text = row.text + after[len(before) :] if after.startswith(before) else after
        return Made(row._replace(text=text, next_word=None), Input(whole, token), {**columns, **told})


def asked_of_row(model: Model, row: Row, tokens: Int[np.ndarray, "T"]) -> Question:
    """The counterfactual, the metric and the answer of a row; an answer of several tokens is traced with all of it.

    Raises:
      InputError: a counterfactual of another number of tokens, or words that are no token.
    """
    ids = () if row.answer is None or row.rival is not None else ids_of(model, row.answer)
    metric = None if row.answer is None else of_answer(row.answer, row.rival)
    answer: Any = row.answer if len(ids) > 1 else None
    asked = {"counterfactual": row.counterfactual, "metric": metric, "answer": answer}
    return Questions.of(model, 1, single=True, **asked).about(0, tokens, "")


_Generated = tuple[Int[np.ndarray, "P"], Int[np.ndarray, "N"], Float32[np.ndarray, "N"]]
"""A row's tokens, those after it, and their probabilities."""


def _generator(
    model: Model, rows: Sequence[Row], extras: Extras, seed: int, written: Mapping[int, Int[np.ndarray, "_"]]
) -> Callable[[int], _Generated | str]:
    """What rows go on with, by their numbers, or why there is nothing.

    It raises what was raised where memory ran out for a prompt no longer than one that did fit.
    """
    longest = 0

    @functools.lru_cache(_KEPT)
    def of(number: int) -> Any:
        nonlocal longest
        prompt = tokenised(model, rows[number].text)[1][0]
        try:
            continuation = generated(
                model, prompt, extras.generate,
                temperature=extras.temperature, seed=seed, row=number, written=written.get(number),
            )  # fmt: skip
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if jax.process_count() > 1 or not out_of_memory(error) or len(prompt) <= longest:
                raise
            return f"{len(prompt)} tokens do not fit into memory"
        longest = max(longest, len(prompt))
        return (prompt, *continuation)

    return of


# --- tokens that earlier calls of a run have generated: a text goes on with them, wherever the run goes on ------------

_COLUMNS = ("input", "tokens", "next_token")
"""What is read: the last is the token that was taken."""


def written_tokens(
    folder: Path,
    there: Iterable[Part],
    mark: str,
    done: Bool[np.ndarray, "N"],
    model: Model,
    rows: Sequence[Row],
    n: int,
) -> dict[int, Int[np.ndarray, "_"]]:
    """The first tokens after rows of which some inputs are there and some are not; the same on every host.

    Args:
      folder: of the run.
      there: the parts in this host's folder.
      mark: of the run.
      done: which inputs there are results of, on any host.
      model: with its tokenizer.
      rows: of the data.
      n: tokens that are generated after each row.

    Returns:
      Tokens by the rows' numbers, as many as are known.

    Raises:
      InputError: a part that is damaged, or that holds the tokens of another text.
    """
    wanted = set((np.flatnonzero(~done) // n).tolist())
    some = [part for part in sorted(there) if wanted.intersection(range(part.first // n, part.last // n + 1))]
    own = hosts.together(functools.partial(_own, folder, some, mark, wanted, model, rows, n))
    written: dict[int, list[int]] = {}
    for told in hosts.gathered(json.dumps(list(own.items())).encode()):
        written |= {row: tokens for row, tokens in json.loads(told) if len(tokens) > len(written.get(row, []))}
    return {row: np.asarray(tokens, np.int32) for row, tokens in written.items()}


def _own(
    folder: Path, some: Sequence[Part], mark: str, wanted: set[int], model: Model, rows: Sequence[Row], n: int
) -> dict[int, list[int]]:
    written: dict[int, list[int]] = {}
    for part in some:
        for record in parts.read_part(folder, "inputs", part, mark, _COLUMNS).to_pylist():
            row, step = divmod(record["input"], n)
            if row in wanted and record["next_token"] is not None and step >= len(written.get(row, [])):
                written[row] = _after_prompt(folder / "inputs" / part.file, record, model, rows[row], step)
    return written


def _after_prompt(path: Path, record: dict[str, Any], model: Model, row: Row, step: int) -> list[int]:
    """The tokens after a row, with the one that was taken last."""
    try:
        tokens = [*map(int, record["tokens"]), int(record["next_token"])]
        prompt = tokenised(model, row.text)[1][0].tolist()
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: damaged (the tokens of input {record['input']}: {error})") from error
    known = all(0 <= token < model.config.vocab_size for token in tokens)
    if not known or len(tokens) != len(prompt) + step + 1 or tokens[: len(prompt)] != prompt:
        raise InputError(f"{path}: the tokens of input {record['input']} do not follow the text of its row")
    return tokens[len(prompt) :]
