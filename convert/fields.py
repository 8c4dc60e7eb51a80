"""A config file's fields, taken out one by one with checks, so that what nobody took can be refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from jstrace.models import InputError
from jstrace.models.validation import MOST_LAYERS, WIDEST_HEAD

_MISSING: Any = object()


class Fields:
    """Fields of a JSON object that are consumed by asking for them; ``where`` names the file in errors."""

    def __init__(self, values: Mapping[str, Any], where: str, ignore: Collection[str] = ()) -> None:
        self._left = dict(values)
        self._ignore = frozenset(ignore)
        self.where = where

    def take(self, name: str, default: Any = None) -> Any:
        """Any value, unchecked."""
        return self._left.pop(name, default)

    def peek(self, name: str) -> Any:
        """A value that stays to be taken."""
        return self._left.get(name)

    def integer(self, name: str, default: int | None = _MISSING, *, most: int = 2**31 - 1) -> Any:
        """A positive integer, or the default where there is none; required without a default."""
        value = self._number(name, default, whole=True)
        if value is not None and value > most:
            raise InputError(f"{self.where}: {name} = {str(value)[:20]}, expected at most {most}")
        return value

    def peeked_integer(self, name: str, default: int | None = _MISSING) -> Any:
        """As ``integer``, of a field that stays to be taken."""
        return Fields({name: self.peek(name)}, self.where).integer(name, default)

    def nullable(self, name: str, absent: float | None) -> Any:
        """A positive number, None where the file says null, and ``absent`` where it says nothing."""
        if name not in self._left:
            return absent
        return self.integer(name, None) if isinstance(absent, int) else self.number(name, None)

    def layers(self, name: str, default: int = _MISSING) -> int:
        """A number of layers that a model can have; what is listed by layer is not made for more."""
        return int(self.integer(name, default, most=MOST_LAYERS))

    def head_dim(self, name: str, default: int | None) -> Any:
        """The width of a head, which tables of rotary factors are made for."""
        return self.integer(name, default, most=WIDEST_HEAD)

    def number(self, name: str, default: float | None = _MISSING) -> Any:
        """A positive finite number as a float."""
        return self._number(name, default, whole=False)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._left.pop(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {name} = {value!r}, expected true or false")
        return value

    def choice(self, name: str, known: Mapping[str, str], default: str) -> str:
        """What one of the ``known`` names stands for."""
        value = self._left.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{self.where}: {name} = {value!r} is not supported; supported: {', '.join(known)}")
        return known[value]

    def fixed(self, name: str, *allowed: Any) -> None:
        """A field that changes the computation and of which only the ``allowed`` values are supported."""
        value = self._left.pop(name, allowed[0])
        if not any(type(value) is type(known) and value == known for known in allowed):
            raise InputError(f"{self.where}: {name} = {value!r} is not supported; only {allowed[0]!r} is")

    def object(self, name: str) -> dict[str, Any]:
        """A JSON object; null and absence are the empty one."""
        value = self._left.pop(name, None)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise InputError(f"{self.where}: {name} = {value!r}, expected an object")
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of positive finite numbers."""
        value = self._left.pop(name, None)
        if not isinstance(value, list) or not all(_is_number(item) for item in value):
            raise InputError(f"{self.where}: {name} = {str(value)[:80]}, expected a list of positive numbers")
        return tuple(float(item) for item in value)

    def unread(self, irrelevant: Collection[str]) -> list[str]:
        """Fields that nobody asked for and that are not known to be irrelevant, in order."""
        return sorted(set(self._left) - set(irrelevant))

    def refuse_unread(
        self, irrelevant: Collection[str], what: str = "field", *, ignorable: bool = False
    ) -> tuple[str, ...]:
        """The unread fields that are to be ignored; ``ignorable`` says that any may be, and the error then how.

        Raises:
          InputError: with all others.
        """
        unread = self.unread(irrelevant)
        ignored = tuple(name for name in unread if name in self._ignore)
        unknown = [name for name in unread if name not in ignored]
        if not unknown:
            return ignored
        several = len(unknown) > 1
        said = ", ".join(f"{name!r} = {str(self._left[name])[:80]}" for name in unknown)
        remedy = f"remove {'them' if several else 'it'} if {'they do' if several else 'it does'} not"
        if ignorable:
            options = " ".join(f"--ignore-field {name}" for name in unknown)
            remedy = (
                f"if {'they do' if several else 'it does'} not, go on with {options} (ignore_fields in jstrace.load)"
            )
        raise InputError(
            f"{self.where}: {what}{'s' if several else ''} {said} {'are' if several else 'is'} not known and may change"
            f" the computation; {remedy}"
        )

    def _number(self, name: str, default: Any, *, whole: bool) -> Any:
        value = self._left.pop(name, None)
        if value is None:
            if default is _MISSING:
                raise InputError(f"{self.where}: field {name!r} is missing")
            return default
        if not _is_number(value) or (whole and not isinstance(value, int)):
            kind = "integer" if whole else "number"
            raise InputError(f"{self.where}: {name} = {value!r}, expected a positive {kind}")
        try:
            return value if whole else float(value)
        except OverflowError as error:
            raise InputError(f"{self.where}: {name} = {str(value)[:20]}..., expected a number") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
