"""The inputs of a run: rows of the data, or the predictions that tokens after each row are taken from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int

from jstrace.models import InputError, Model, Tokenizer, text_of
from jstrace.pipeline.driver import Input
from jstrace.pipeline.generation import generated
from jstrace.pipeline.inputs import tokenised
from jstrace.runs.extras import Extras
from jstrace.runs.row import Row
from jstrace.runs.vocabulary import next_token
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
        written: Mapping[int, Int[np.ndarray, "S"]] = MappingProxyType({}),
    ) -> None:
        """``written``: the first tokens after rows, by their numbers, where an earlier call of the run has some."""
        self._model, self._rows, self._extras = model, rows, extras
        # Of no method: an object that holds a cache of its own method, and a model, is freed late.
        self._of_row = functools.lru_cache(_KEPT)(_Generator(model, rows, extras, seed, written).of)

    def made(self, index: int) -> Made:
        """An input, or why there is none."""
        number, step = divmod(index, max(1, self._extras.generate))
        row = self._rows[number]
        columns: dict[str, Any] = {} if row.pair is None else {"pair": row.pair, "variant": row.variant}
        columns |= {"row": number, "step": step} if self._extras.generate else {}
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
        return Made(row, Input(tokens, next_token(self._tokenizer, row, tokens.tolist())), columns)

    def _continued(self, row: Row, number: int, step: int, columns: Mapping[str, Any]) -> Made:
        """The prediction that the token after so many others is taken from."""
        found = self._of_row(number)
        if isinstance(found, str):
            raise InputError(found)
        prompt, tokens, probs = found
        if not np.isfinite(probs[: step + 1]).all():
            raise InputError("a prediction on the way to it is not finite")
        token, whole = int(tokens[step]), np.concatenate([prompt, tokens[:step]])
        told = {"generated_token": token, "generated_text": self._tokenizer.token(token)}
        told["generated_prob"] = float(probs[step])
        text = self._continuing(row.text, prompt.tolist(), whole.tolist())
        return Made(row._replace(text=text, next_word=None), Input(whole, token), {**columns, **told})

    def _continuing(self, text: str, prompt: list[int], whole: list[int]) -> str:
        """A text with what follows it, which is decoded together with it: alone it would lose its first space."""
        before, found = (text_of(self._tokenizer, tokens) for tokens in (prompt, whole))
        return text + found[len(before) :] if found.startswith(before) else found


class _Generator:
    """What rows go on with; remembers how long a prompt did fit into memory."""

    def __init__(
        self,
        model: Model,
        rows: Sequence[Row],
        extras: Extras,
        seed: int,
        written: Mapping[int, Int[np.ndarray, "S"]],
    ) -> None:
        self._model, self._rows, self._n_tokens, self._written = model, rows, extras.generate, written
        self._how: dict[str, Any] = {"temperature": extras.temperature, "seed": seed}
        self._longest = 0

    def of(self, number: int) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "N"], Float32[np.ndarray, "N"]] | str:
        """A row's tokens, those after it, and their probabilities; or why there are none.

        Raises:
          JaxRuntimeError, MemoryError: memory ran out for a prompt no longer than one that did fit.
        """
        prompt = tokenised(self._model, self._rows[number].text)[1][0]
        try:
            found = generated(
                self._model, prompt, self._n_tokens, row=number, written=self._written.get(number), **self._how
            )
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if jax.process_count() > 1 or not out_of_memory(error) or len(prompt) <= self._longest:
                raise
            return f"{len(prompt)} tokens do not fit into memory"
        self._longest = max(self._longest, len(prompt))
        return (prompt, *found)
