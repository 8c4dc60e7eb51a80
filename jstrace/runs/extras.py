"""What a run adds to its inputs and to their table beside a plan. No JAX."""

from __future__ import annotations

import dataclasses
from typing import Any

from jstrace.errors import InputError
from jstrace.method.conditions import MOST_TOKENS, checked_temperature


@dataclasses.dataclass(frozen=True)
class Extras:
    """What is asked beside the plan."""

    generate: int = 0
    """Tokens that are generated after each row of the data, whose predictions are the inputs; 0: rows are inputs."""
    temperature: float = 0.0
    """Of draws; 0 takes the most probable tokens."""
    geometry: bool = False
    """Whether the geometry of hidden states is measured."""

    @property
    def config(self) -> dict[str, Any]:
        """What a run's configuration says of them: of what is asked for alone."""
        asked = dataclasses.asdict(self)
        return {name: value for name, value in asked.items() if value != getattr(Extras, name)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The groups of columns (``schema.ADDED``) that they bring."""
        return tuple(name for name in ("generate", "geometry") if getattr(self, name))


NOTHING = Extras()
"""Nothing is added."""


def checked_extras(extras: Extras, *, selectivity: int) -> Extras:
    """What is asked beside a plan, as it may be.

    Raises:
      InputError: no numbers of tokens, no temperature, or what does not go together.
    """
    counted = isinstance(extras.generate, int) and not isinstance(extras.generate, bool)
    if not (counted and 0 <= extras.generate <= MOST_TOKENS):
        raise InputError(
            f"generate = {extras.generate!r}, expected a number of tokens up to {MOST_TOKENS:,}, 0 for none"
        )
    checked = dataclasses.replace(extras, temperature=checked_temperature(extras.temperature))
    if checked.temperature and not checked.generate:
        raise InputError("temperature is for generated tokens; ask for some")
    if checked.generate and selectivity:
        raise InputError("selectivity tells an input what others predict, and those next to it are the same text here")
    return checked
