"""Tokens, and heads and units that several programs have."""

from __future__ import annotations

import numpy as np

from experiments.circuits.writing import GAIN, SHARP, VOCABULARY, Writer

START, FIRST, LAST, MARK, YES, NO, ASK = 0, 1, 19, 20, 21, 22, 23
"""Tokens: a start, letters (or numbers) from 1 to 19, a mark, two answers and a question."""
LETTERS = np.arange(FIRST, LAST + 1)
TOKENS = np.eye(VOCABULARY)


def answer(*tokens: int) -> np.ndarray:
    """The logits of an answer."""
    return GAIN * TOKENS[list(tokens)].sum(0)


def previous(writer: Writer, layer: int, out: str) -> None:
    """The token before, as a one-hot part."""
    n = writer.shape.n_tokens
    if out not in writer.parts:
        writer.part(out, VOCABULARY)
    shift = np.eye(n, k=-1)
    shift[0, 0] = 1.0
    writer.attend(
        layer,
        query={"position": SHARP * shift},
        key={"position": np.eye(n)},
        value={"token": TOKENS},
        out={out: TOKENS},
    )


def always(writer: Writer) -> np.ndarray:
    """A query that is the same at every position: 1 in the first dimension of the head."""
    return np.ones((writer.shape.n_tokens, 1))


def select(writer: Writer, layer: int, key: dict[str, np.ndarray], value: dict[str, np.ndarray], out: str) -> None:
    """A head that reads the places whose key, ``[part, 1]``, is one."""
    (matrix,) = value.values()
    query = {"position": SHARP * always(writer)}
    writer.attend(layer, query=query, key=key, value=value, out={out: np.eye(matrix.shape[1])})


def match(writer: Writer, layer: int, query: str, key: str, out: str, barred: np.ndarray | None = None) -> None:
    """A head that reads the token where the part ``key`` is what the part ``query`` is here; never barred places."""
    queries, keys = {query: SHARP * np.eye(VOCABULARY, VOCABULARY + 1)}, {key: np.eye(VOCABULARY, VOCABULARY + 1)}
    if barred is not None:
        constant = np.zeros((len(barred), VOCABULARY + 1))
        queries["position"], keys["position"] = (
            constant + SHARP * last_dimension(1),
            -barred[:, None] * last_dimension(1),
        )
    writer.attend(layer, query=queries, key=keys, value={"token": TOKENS}, out={out: TOKENS})


def last_dimension(value: float) -> np.ndarray:
    """Into the dimension of a head that no token has, ``[1, V + 1]``."""
    return np.eye(1, VOCABULARY + 1, VOCABULARY) * value


def step(writer: Writer, layer: int, read: str, least: np.ndarray, steep: float, write: dict[str, np.ndarray]) -> None:
    """``write[i]`` where a scalar is above ``least[i]``, as differences of two units each."""
    two = np.repeat(least, 2)
    shift = np.tile([0.5, -0.5], len(least))
    both = {
        part: np.repeat(rows, 2, axis=0) * np.tile([1.0, -1.0], len(least))[:, None] for part, rows in write.items()
    }
    writer.compute(layer, read={read: np.full((1, len(two)), steep)}, bias=-steep * two + shift, write=both)


def yes_or_no(writer: Writer, layer: int, read: str) -> None:
    """YES where a scalar is 1, NO where it is 0."""
    writer.compute(layer, read={read: np.array([[1.0, -1.0]])}, bias=[0.0, 1.0], write={"out": TOKENS[[YES, NO]]})
