"""Eleven programs, each with its inputs, and what it answers computed from the tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.circuits import questions as q
from experiments.circuits.blocks import (
    MARK,
    START,
    TOKENS,
    always,
    answer,
    last_dimension,
    match,
    previous,
    select,
    step,
    yes_or_no,
)
from experiments.circuits.writing import SHARP, VOCABULARY, Shape, Writer


class Program(NamedTuple):
    """A program, and what it is asked."""

    write: Callable[[Writer], None]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    """Tokens ``[T]`` of one input."""
    logits: Callable[[np.ndarray], np.ndarray]
    """What it answers, ``[V]``, from the tokens alone."""
    shapes: tuple[str, ...]
    negative: Callable[[np.random.Generator, int], np.ndarray] | None = None
    """Tokens of a counterfactual, where ``draw`` gives no other answers."""

    def model(self, shape: Shape) -> Writer:
        """The program written for a shape."""
        writer = Writer(shape)
        self.write(writer)
        return writer

    def counterfactual(self, rng: np.random.Generator, tokens: np.ndarray) -> np.ndarray:
        """Another input of as many tokens, whose answer is another."""
        while True:
            other = (self.negative or self.draw)(rng, len(tokens))
            if not np.allclose(self.logits(other), self.logits(tokens)):
                return other


def _write_previous(w: Writer) -> None:
    previous(w, 0, "out")


def _write_first(w: Writer) -> None:
    key = np.eye(w.shape.n_tokens, 1)
    select(w, 0, {"position": key}, {"token": TOKENS}, "out")


def _write_parity(w: Writer) -> None:
    """The last two bits, tokens 1 and 2: 1 if they are equal, else 2; a unit for each of the four pairs."""
    previous(w, 0, "previous")
    here, before = [1, 1, 2, 2], [1, 2, 1, 2]
    read = {"token": TOKENS[here].T, "previous": TOKENS[before].T}
    w.compute(w.shape.layers(2)[1], read=read, bias=[-1.0] * 4, write={"out": TOKENS[[1, 2, 2, 1]]})


def _write_majority(w: Writer) -> None:
    """Token 1 or token 2, whichever is there more often."""
    w.part("lead", 1)
    none, votes = np.zeros((w.shape.n_tokens, 1)), (TOKENS[1] - TOKENS[2])[:, None]
    w.attend(0, query={"position": none}, key={"position": none}, value={"token": votes}, out={"lead": np.eye(1)})
    read, steep = {"lead": np.array([[1.0, 1.0, -1.0, -1.0]])}, float(w.shape.n_tokens)
    write = TOKENS[[1, 1, 2, 2]] * np.array([1.0, -1.0, 1.0, -1.0])[:, None]
    w.compute(w.shape.layers(2)[1], read={"lead": steep * read["lead"]}, bias=[0.0, -1.0] * 2, write={"out": write})


def _write_fraction(w: Writer) -> None:
    """How many of all tokens are one of 1, 2 and 3: as the lead of YES over NO."""
    first, second = w.shape.layers(2)
    w.part("flag", 1), w.part("fraction", 1)
    w.compute(first, read={"token": TOKENS[[1, 2, 3]].sum(0)[:, None]}, bias=[0.0], write={"flag": np.eye(1)})
    none = np.zeros((w.shape.n_tokens, 1))
    w.attend(
        second, query={"position": none}, key={"position": none}, value={"flag": np.eye(1)}, out={"fraction": np.eye(1)}
    )
    yes_or_no(w, second, "fraction")


def _write_induction(w: Writer) -> None:
    first, second = w.shape.layers(2)
    previous(w, first, "previous")
    match(w, second, "token", "previous", "out")


def _write_detect(w: Writer) -> None:
    """Whether a 1 is followed by a 2 anywhere."""
    first, second = w.shape.layers(2)
    previous(w, first, "previous")
    w.part("flag", 1), w.part("any", 1)
    read = {"token": TOKENS[[2]].T, "previous": TOKENS[[1]].T}
    w.compute(first, read=read, bias=[-1.0], write={"flag": np.eye(1)})
    select(w, second, {"flag": np.eye(1)}, {"flag": np.eye(1)}, "any")
    yes_or_no(w, second, "any")


def _write_reverse(w: Writer) -> None:
    """Letters, the mark, then the letters from behind: the next one, at 2 * mark - 1 - here, counted in T."""
    first, second = w.shape.layers(2)
    n = w.shape.n_tokens
    at = np.arange(n) / n
    w.place("at", at)
    w.place("square", at**2)
    w.part("mark", 1)
    select(w, first, {"token": TOKENS[:, [MARK]]}, {"at": np.eye(1)}, "mark")
    steep = SHARP * n**2  # -steep * (target - key)^2, without what all keys share
    query = {"mark": [[4.0, 0.0]], "at": [[-2.0, 0.0]], "position": always(w) @ [[-2.0 / n, 1.0]]}
    key = {"at": np.array([[1.0, 0.0]]), "square": np.array([[0.0, -1.0]])}
    scaled = {part: steep * np.asarray(matrix) for part, matrix in query.items()}
    w.attend(second, query=scaled, key=key, value={"token": TOKENS}, out={"out": TOKENS})


def _write_sort(w: Writer) -> None:
    """Numbers, the same again, and k: the k-th smallest. Each counts the smaller ones of the first copy."""
    first, second = w.shape.layers(2)
    n = (w.shape.n_tokens - 2) // 2
    w.part("share", 1), w.part("rank", n)
    place = np.arange(w.shape.n_tokens)
    copied, second_copy = (place > n).astype(float), ((place > n) & (place <= 2 * n)).astype(float)
    smaller = np.zeros((VOCABULARY, VOCABULARY + 1))
    smaller[:, :VOCABULARY] = np.tri(VOCABULARY, VOCABULARY, -1)
    smaller[:, START] = 1.0
    query = {"token": SHARP * smaller, "position": SHARP * always(w) * last_dimension(2.0)}
    key = {"token": np.eye(VOCABULARY, VOCABULARY + 1), "position": -copied[:, None] * last_dimension(1.0)}
    w.attend(first, query=query, key=key, value={"token": TOKENS[:, [START]]}, out={"share": np.eye(1)})
    # A share of 1 / (1 + c) says that c are smaller: rank c is a step at 1 / (c + 1.5), less one at 1 / (c + 0.5).
    bounds = 1 / (np.arange(n) + 1.5)
    ranks = np.eye(n) - np.eye(n, k=1)
    step(w, first, "share", bounds, 4.0 * n**2, {"rank": ranks})
    query = {"token": np.eye(VOCABULARY, n + 1, -1)}
    query["token"][:, n] = 0.0
    queries = {"token": SHARP * query["token"], "position": SHARP * always(w) * np.eye(1, n + 1, n)}
    keys = {"rank": np.eye(n, n + 1), "position": (second_copy - 1)[:, None] * np.eye(1, n + 1, n)}
    w.attend(second, query=queries, key=keys, value={"token": TOKENS}, out={"out": TOKENS})


def _write_duplicate(w: Writer) -> None:
    """The letter that is there twice: where the start has a third of a head that reads equal letters and the start."""
    first, second = w.shape.layers(2)
    w.part("share", 1), w.part("flag", 1)
    equal = np.eye(VOCABULARY)
    equal[:, START] = 1.0
    w.attend(
        first,
        query={"token": SHARP * equal},
        key={"token": TOKENS},
        value={"token": TOKENS[:, [START]]},
        out={"share": np.eye(1)},
    )
    w.compute(
        first, read={"share": np.array([[-20.0, -20.0]])}, bias=[8.5, 7.5], write={"flag": np.array([[1.0], [-1.0]])}
    )
    select(w, second, {"flag": np.eye(1)}, {"token": TOKENS}, "out")


def _write_two_hops(w: Writer) -> None:
    """Pairs of a key and a value: the value of the value of the last token."""
    first, second, third = w.shape.layers(3)
    keys = (np.arange(w.shape.n_tokens) % 2).astype(float)
    keys[0] = 1.0
    previous(w, first, "previous")
    w.part("hop", VOCABULARY)
    match(w, second, "token", "previous", "hop", barred=keys)
    match(w, third, "hop", "previous", "out", barred=keys)


PROGRAMS: dict[str, Program] = {
    "previous": Program(_write_previous, q.any_letters, lambda t: answer(int(t[-2])), ("small",)),
    "first": Program(_write_first, q.any_letters, lambda t: answer(int(t[0])), ("small",)),
    "parity": Program(_write_parity, q.bits, lambda t: answer(1 if t[-1] == t[-2] else 2), ("small",)),
    "fraction": Program(_write_fraction, q.draw_fraction, q.of_fraction, ("small",)),
    "majority": Program(_write_majority, q.bits, q.of_majority, ("small", "large")),
    "induction": Program(
        _write_induction, q.draw_induction, lambda t: answer(int(t[np.flatnonzero(t == t[-1])[0] + 1])),
        ("small", "medium"),
    ),
    "detect": Program(_write_detect, q.draw_detect, q.of_detect, ("medium",), q.draw_no_detect),
    "reverse": Program(_write_reverse, q.draw_reverse, q.of_reverse, ("medium", "large")),
    "duplicate": Program(_write_duplicate, q.draw_duplicate, q.of_duplicate, ("medium",)),
    "sort": Program(_write_sort, q.draw_sort, q.of_sort, ("medium", "large")),
    "two hops": Program(_write_two_hops, q.draw_two_hops, q.of_two_hops, ("medium", "large")),
}  # fmt: skip
"""By name."""
