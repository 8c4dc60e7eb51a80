"""WikiText by the paper's selection: passages of 40 words, and the word that follows (section 7 of the method)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from jstrace.errors import InputError
from jstrace.runs.row import Passage, Row

WIKITEXT = {"wikitext-2": "wikitext-2-raw-v1", "wikitext-103": "wikitext-103-raw-v1"}
"""Corpora by name, with their configuration on the hub."""
HUB_NAME = "Salesforce/wikitext"
N_WORDS, COUNT = 40, 5000
"""The paper's passages."""


def paragraphs(name: str) -> list[str]:
    """All paragraphs of the corpus but headings, as running text."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError("WikiText is fetched by the datasets library: pip install 'jstrace[run]'") from error
    try:
        parts = [
            load_dataset(HUB_NAME, WIKITEXT[name], split=split)["text"] for split in ("train", "validation", "test")
        ]
    except Exception as error:  # the library raises errors of many kinds where the hub is out of reach
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} could not be fetched from the hub ({reason}); pass a file of texts instead"
        ) from error
    return [detokenised(line) for part in parts for line in part if line.strip() and not line.strip().startswith("=")]


_JOINS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), ("( ", "("), (" )", ")"))
_CONTRACTION = re.compile(r"(?<=\w) '(s|t|m|re|ll|ve|d)\b")


def detokenised(line: str) -> str:
    """WikiText's spaced tokens as running text."""
    for spaced, joined in _JOINS:
        line = line.replace(spaced, joined)
    return re.sub(r" ([,.;:!?%])", r"\1", _CONTRACTION.sub(r"'\1", line)).strip()


_SENTENCE_ENDS = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(.])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|No|vs|Lt|Col|Gen|Capt|Sgt|Maj|Adm|Rev|Prof|Mt|Ft|Gov|Sen)\.$"
)
_UNCLEAR = ("<unk>", '"', " '")
"""What passages must not hold: words that are not known, and quotes whose spaces cannot be told."""


def _sentences(paragraph: str) -> list[str]:
    """Sentences, not split after initials and titles."""
    sentences: list[str] = []
    for piece in _SENTENCE_ENDS.split(paragraph):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences


def passages(paragraph: str, n_words: int) -> Iterator[Row]:
    """The passages of so many words that start at a sentence, do not overlap and have a word after them.

    Passages with ``<unk>`` or with quotes whose spaces cannot be told are left out.
    """
    sentences, start = _sentences(paragraph), 0
    while start < len(sentences):
        words: list[str] = []
        end = start
        while end < len(sentences) and len(words) <= n_words:
            words += sentences[end].split()
            end += 1
        if len(words) <= n_words:
            return
        text = " ".join(words[: n_words + 1])
        if any(mark in text for mark in _UNCLEAR):
            start += 1
            continue
        yield Passage(" ".join(words[:n_words]), words[n_words])
        start = end


def shuffled(texts: list[str], seed: int) -> list[str]:
    """Paragraphs in an order of the seed."""
    return [texts[index] for index in np.random.default_rng(seed).permutation(len(texts))]


def drawn(paragraphs: list[str], n_words: int, count: int, seed: int) -> tuple[Row, ...]:
    """At most one passage of each paragraph, in the paragraphs' order."""
    if n_words < 1 or count < 1:
        raise InputError(f"{count} passages of {n_words} words, expected at least one of each")
    draw, rows = np.random.default_rng((seed, 1)), list[Row]()
    for paragraph in paragraphs:
        if choices := list(passages(paragraph, n_words)):
            rows.append(choices[draw.integers(len(choices))])
        if len(rows) == count:
            break
    if not rows:
        raise InputError(f"no passage of {n_words} words that starts at a sentence")
    return tuple(rows)
