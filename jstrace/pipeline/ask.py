"""What a batch of inputs goes through."""

from __future__ import annotations

import dataclasses
from typing import Any

from jstrace.method.conditions import Case, Condition, Source


@dataclasses.dataclass(frozen=True)
class Ask:
    """What one batch of inputs goes through: traces from these sources, then these cases; static.

    Without sources every input comes with its strata.
    """

    sources: tuple[Source, ...]
    cases: tuple[Case, ...]
    sizes: tuple[float, ...]
    seed: int = 0
    keep_scores: bool = False
    """Whether the scores of the first source are fetched, too."""
    keep_strata: bool = True
    """Whether the strata of the sources are fetched."""
    compose: bool = False
    """Whether what the traces are made of is counted, on the device."""

    @property
    def scorings(self) -> tuple[tuple[Any, str], ...]:
        """The different edge scores that the sources read, each with what ablated edges carry meanwhile."""
        return tuple(dict.fromkeys(source.scoring for source in self.sources))

    @property
    def replacements(self) -> tuple[str, ...]:
        """What ablated edges carry in the cases, by name."""
        return tuple(dict.fromkeys(case.condition.replace for case in self.cases))

    @property
    def carried(self) -> tuple[str, ...]:
        """What ablated edges carry anywhere, by name: in the cases, and while edges are scored."""
        return tuple(dict.fromkeys((*self.replacements, *(name for _, name in self.scorings))))

    @property
    def numbered(self) -> tuple[tuple[int, Condition], ...]:
        """Of each case the index of its strata, and its condition."""
        return tuple((self.sources.index(case.source) if self.sources else 0, case.condition) for case in self.cases)
