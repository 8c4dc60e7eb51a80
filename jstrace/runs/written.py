"""Tokens that earlier calls of a run have generated: a text goes on with them, wherever the run goes on."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jstrace.models import InputError, Model
from jstrace.pipeline.inputs import tokenised
from jstrace.runs import parts
from jstrace.runs.parts import Part
from jstrace.runs.row import Row
from jstrace.scale import hosts

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
) -> dict[int, Int[np.ndarray, "S"]]:
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
    found: dict[int, list[int]] = {}
    for told in hosts.gathered(json.dumps(list(own.items())).encode()):
        found |= {row: tokens for row, tokens in json.loads(told) if len(tokens) > len(found.get(row, []))}
    return {row: np.asarray(tokens, np.int32) for row, tokens in found.items()}


def _own(
    folder: Path, some: Sequence[Part], mark: str, wanted: set[int], model: Model, rows: Sequence[Row], n: int
) -> dict[int, list[int]]:
    """Of the parts in this host's folder."""
    found: dict[int, list[int]] = {}
    for part in some:
        for one in parts.read_part(folder, "inputs", part, mark, _COLUMNS).to_pylist():
            row, step = divmod(one["input"], n)
            if row in wanted and one["next_token"] is not None and step >= len(found.get(row, [])):
                found[row] = _after_prompt(folder / "inputs" / part.file, one, model, rows[row], step)
    return found


def _after_prompt(path: Path, one: dict[str, Any], model: Model, row: Row, step: int) -> list[int]:
    """The tokens after a row, with the one that was taken last."""
    try:
        tokens = [*map(int, one["tokens"]), int(one["next_token"])]
        prompt = tokenised(model, row.text)[1][0].tolist()
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: damaged (the tokens of input {one['input']}: {error})") from error
    known = all(0 <= token < model.config.vocab_size for token in tokens)
    if not known or len(tokens) != len(prompt) + step + 1 or tokens[: len(prompt)] != prompt:
        raise InputError(f"{path}: the tokens of input {one['input']} do not follow the text of its row")
    return tokens[len(prompt) :]
