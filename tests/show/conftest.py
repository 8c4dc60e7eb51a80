"""Pages in a browser."""

from __future__ import annotations

import pytest

from jstrace.models import Decoder, Model
from tests.browser import browser, opened  # noqa: F401
from tests.conftest import TINY, tiny_params
from tests.stand_ins import Hostile


@pytest.fixture
def model() -> Model:
    return Model(Decoder(TINY, tiny_params()), Hostile())
