"""What checks argument types in the tests: beartype, for which an int is a float too, as for type checkers."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
