"""What tests of own scores, own masks and long lists share."""

from __future__ import annotations

import numpy as np
import pytest

import jstrace
from jstrace.models import Model

SIZES = (0.01, 0.05, 0.1, 0.3, 0.6, 0.9)


@pytest.fixture
def trace(tiny: Model, tokens: np.ndarray) -> jstrace.Trace:
    return jstrace.trace(tiny, tokens, sizes=SIZES)
