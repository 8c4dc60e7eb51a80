"""One row of a dataset, the token that follows it in the text, and how often tokens occur. No JAX."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable


class Row(NamedTuple):
    """One input."""

    text: str
    next_word: str | None = None
    pair: str | None = None
    """Texts of the same pair are compared with each other,"""
    variant: str | None = None
    """each being another variant of it: as it was, or altered somehow."""
    counterfactual: str | None = None
    """A prompt of as many tokens, whose states ablated edges carry under ``replace`` counterfactual."""
    answer: str | None = None
    """What the text goes on with, which is measured, too;"""
    rival: str | None = None
    """as its logit less that of another next token."""

    @property
    def asks(self) -> bool:
        """Whether more is asked of it than its own prediction."""
        return self.counterfactual is not None or self.answer is not None


class Passage(Row):
    """A row of a text in which every word follows after a space, whatever other texts have there."""

    __slots__ = ()


@runtime_checkable
class Encoder(Protocol):
    """What this module needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


def next_token(tokenizer: Encoder, row: Row, tokens: list[int]) -> int | None:
    """The token that follows in the text as it goes on, where the text's own tokens stay what they are before it."""
    if row.next_word is None:
        return None
    space = " " if isinstance(row, Passage) else between(row.text, row.next_word)
    longer = tokenizer.encode(f"{row.text}{space}{row.next_word}")
    return longer[len(tokens)] if longer[: len(tokens)] == tokens and len(longer) > len(tokens) else None


def token_fingerprint(counts: Counter[int]) -> str:
    """A short hash that tells tokenizers apart by what they make of a corpus."""
    return hashlib.sha256(repr(sorted(counts.items())).encode()).hexdigest()[:16]


def token_counts(tokenizer: Encoder, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs in a corpus (Fig. 8)."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer.encode(text))
    return counts


# --- what stands between a text and the word that follows it ---------------------------------------------------------

_SPACELESS = (
    "BOPOMOFO", "CJK", "FULLWIDTH", "HALFWIDTH KATAKANA", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KHMER", "LAO",
    "MYANMAR", "THAI", "TIBETAN",
)  # fmt: skip
"""How Unicode's names of letters and marks begin that are written without spaces between words."""
_OPENING = ("Ps", "Pi")
_CLOSING = ("Pe", "Pf")
_PREFIXES = "\"'#@"
"""What belongs to the word after it, where no word stands before it; ``_LINKS`` do where one does."""
_LINKS = "/\\@=<"
_ENDS = ",.;:!?%…"
_SUFFIXES = ("'s", "'t", "'m", "'re", "'ll", "'ve", "'d", "n't")
_QUOTED = re.compile(r"(?<!\S)['‘]")


def between(text: str, word: str) -> str:
    """A space or nothing, by how a text ends and how the word that follows it begins.

    Where either is white space nothing is added: the data says itself what stands there.
    """
    last, first = text[-1:], word[:1]
    if last.isspace() or first.isspace() or _takes_next(text, last) or _joins_last(text, word, first):
        return ""
    return "" if _without_spaces(text, last, first) else " "


def _takes_next(text: str, last: str) -> bool:
    """Whether a text ends with what has no space after it: an opening bracket, the hyphen of a word, ``$``, ``l'``."""
    kind, rest = _category(last), text.rstrip(last)
    before = rest[-1:]
    if kind == "Sc":
        return not rest.rstrip()[-1:].isdigit()
    if kind in (*_OPENING, "Pc") or (kind[0] == "P" and _spaceless(last)):
        return True
    if not before or before.isspace() or _category(before) in _OPENING:
        return last in _PREFIXES
    elided = last in "'’" and before.isalpha() and before not in "sS" and not _QUOTED.search(text)
    return elided or kind == "Pd" or last in _LINKS


def _joins_last(text: str, word: str, first: str) -> bool:
    """Whether a word has no space before it: closing brackets, marks that end a sentence, ``'s``."""
    kind = _category(first)
    quotes = first in "\"'" and text.count(first) % 2 == 1
    marks = not any(map(str.isalnum, word)) and (first in _ENDS or quotes)
    return marks or word in _SUFFIXES or kind in _CLOSING or (kind == "Po" and _spaceless(first))


def _without_spaces(text: str, last: str, first: str) -> bool:
    """Whether both letters are of a script without spaces, or one of them is, and most of the text."""
    of_script = (_spaceless(last), _spaceless(first))
    if all(of_script) or not any(of_script):
        return all(of_script)
    others = "".join(" " if _spaceless(letter) else letter for letter in text)
    return sum(map(_spaceless, text)) > len(re.findall(r"[^\W\d_]+", others))


def _category(letter: str) -> str:
    return unicodedata.category(letter) if letter else "Zs"


def _spaceless(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(_SPACELESS) if letter else False
