"""Inputs of the programs, and what each is to answer, from the tokens alone."""

from __future__ import annotations

import numpy as np

from experiments.circuits.blocks import ASK, LETTERS, MARK, NO, START, YES, answer


def _letters(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.choice(LETTERS, count, replace=False)


def _started(*parts: np.ndarray | list[int]) -> np.ndarray:
    return np.concatenate([[START], *parts]).astype(np.int32)


def bits(rng: np.random.Generator, n: int) -> np.ndarray:
    """A start and bits, tokens 1 and 2."""
    return _started(rng.integers(1, 3, n - 1))


def any_letters(rng: np.random.Generator, n: int) -> np.ndarray:
    """Letters, which may be there several times."""
    return rng.choice(LETTERS, n).astype(np.int32)


def draw_fraction(rng: np.random.Generator, n: int) -> np.ndarray:
    """Tokens from 1 to 6."""
    return rng.integers(1, 7, n).astype(np.int32)


def draw_induction(rng: np.random.Generator, n: int) -> np.ndarray:
    """Letters, of which the last one was there before."""
    drawn = _letters(rng, n - 2)
    return _started(drawn, [int(drawn[rng.integers(n - 3)])])


def draw_detect(rng: np.random.Generator, n: int) -> np.ndarray:
    """Tokens from 1 to 5 with a 1 before a 2."""
    tokens = draw_no_detect(rng, n)
    place = rng.integers(1, n - 2)
    tokens[place : place + 2] = 1, 2
    return tokens


def draw_no_detect(rng: np.random.Generator, n: int) -> np.ndarray:
    """Tokens from 1 to 5 without a 1 before a 2."""
    tokens = _started(rng.integers(1, 6, n - 1))
    tokens[1:][(tokens[1:] == 2) & (tokens[:-1] == 1)] = 3
    return tokens


def draw_reverse(rng: np.random.Generator, n: int) -> np.ndarray:
    """Letters, the mark, and the letters from behind as far as there is room."""
    mark = int(rng.integers((n + 1) // 2, n))
    letters = _letters(rng, mark)
    return np.concatenate([letters, [MARK], letters[::-1]])[:n].astype(np.int32)


def draw_sort(rng: np.random.Generator, n: int) -> np.ndarray:
    """Numbers, the same again, and which of them is asked for."""
    count = (n - 2) // 2
    numbers = _letters(rng, count)
    return _started(numbers, numbers, [int(rng.integers(1, count + 1))])


def draw_duplicate(rng: np.random.Generator, n: int) -> np.ndarray:
    """Letters, one of them twice, and the question."""
    letters = _letters(rng, n - 3)
    return _started(rng.permutation([*letters, letters[0]]), [ASK])


def draw_two_hops(rng: np.random.Generator, n: int) -> np.ndarray:
    """Pairs of a key and a value, which is a key itself, and one of the keys."""
    count = (n - 2) // 2
    keys = _letters(rng, count)
    values = rng.choice(keys, count)
    a, b = rng.choice(count, 2, replace=False)
    values[a] = keys[b]
    return _started(np.stack([keys, values], 1).ravel(), [int(keys[a])])


def of_majority(tokens: np.ndarray) -> np.ndarray:
    """The token that is there more often."""
    return answer(1 if (tokens == 1).sum() > (tokens == 2).sum() else 2)


def of_fraction(tokens: np.ndarray) -> np.ndarray:
    """YES as far as tokens are 1, 2 or 3, and NO as far as they are not."""
    share = float(np.isin(tokens, [1, 2, 3]).mean())
    return share * answer(YES) + (1 - share) * answer(NO)


def of_detect(tokens: np.ndarray) -> np.ndarray:
    """Whether a 1 is before a 2."""
    return answer(YES if ((tokens[:-1] == 1) & (tokens[1:] == 2)).any() else NO)


def of_reverse(tokens: np.ndarray) -> np.ndarray:
    """The letter that comes next."""
    mark = int(np.flatnonzero(tokens == MARK)[0])
    return answer(int(tokens[2 * mark - len(tokens)]))


def of_sort(tokens: np.ndarray) -> np.ndarray:
    """The k-th smallest number."""
    return answer(int(np.sort(tokens[1 : len(tokens) // 2])[tokens[-1] - 1]))


def of_duplicate(tokens: np.ndarray) -> np.ndarray:
    """The letter that is there twice."""
    found, counts = np.unique(tokens, return_counts=True)
    return answer(int(found[counts == 2][0]))


def of_two_hops(tokens: np.ndarray) -> np.ndarray:
    """The value of the last key's value."""
    values = dict(zip(tokens[1:-1:2].tolist(), tokens[2:-1:2].tolist(), strict=True))
    return answer(values[values[int(tokens[-1])]])
