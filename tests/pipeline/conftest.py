"""What tests of own scores, own masks and long lists share."""

from __future__ import annotations

import numpy as np
import pytest

import jstrace
from jstrace.models import Model
from tests.conftest import SIZES


@pytest.fixture
def trace(tiny: Model, tokens: np.ndarray) -> jstrace.Trace:
    return jstrace.trace(tiny, tokens, sizes=SIZES)
