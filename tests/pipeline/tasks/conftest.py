"""A tiny model that reads letters, and pairs of a task for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace.models import Model


class Characters:
    """A tokenizer of single characters, in 97 of which all printable ones of ASCII have their own."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 97 for letter in text]

    def token(self, token_id: int) -> str:
        return chr(token_id + 97 if token_id < 32 else token_id)

    def text(self, token_ids: Sequence[int]) -> str:
        return "".join(self.token(int(token)) for token in token_ids)

    def save(self, folder: Path) -> None:
        pass


class Syllables:
    """Tokens of two characters, the space before a word with its first letter, after a first token of its own."""

    def __init__(self) -> None:
        self.pieces = ["<s>"]

    def encode(self, text: str) -> list[int]:
        found = [0]
        for start in range(0, len(text), 2):
            piece = text[start : start + 2]
            if piece not in self.pieces:
                self.pieces.append(piece)
            found.append(self.pieces.index(piece))
        return found

    def token(self, token_id: int) -> str:
        return self.pieces[token_id]

    def save(self, folder: Path) -> None:
        pass


@pytest.fixture(scope="session")
def reader(tiny: Model) -> Model:
    return Model(tiny.decoder, Characters())


TEMPLATE = "{A}or{B}:{C}"
ROWS: list[dict[str, Any]] = [
    {"A": a, "B": b, "C": a, "answer": b, "rival": a, "counterfactual": {"C": b}}
    for a, b in ("xy", "ab", "kl", "mn", "pq", "st")
]


@pytest.fixture(scope="session")
def pairs() -> list[jstrace.Pair]:
    return jstrace.pairs_of(TEMPLATE, ROWS)


@pytest.fixture(scope="session")
def by_ids() -> list[jstrace.Pair]:
    """Pairs of token ids without roles, all of one length."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        clean = rng.integers(0, 97, 6)
        other = clean.copy()
        other[3:] = rng.permutation(97)[:3]
        answer, rival = rng.permutation(97)[:2].tolist()
        found.append(jstrace.Pair(clean, other, answer, rival))
    return found
