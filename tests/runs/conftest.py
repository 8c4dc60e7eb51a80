"""The model that the tests of runs share."""

from __future__ import annotations

import pytest

from jstrace.models import Model
from tests.stand_ins import Letters


@pytest.fixture
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())
