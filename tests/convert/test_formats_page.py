"""docs/formats.md says what the code reads."""

from __future__ import annotations

import gguf
import pytest

from experiments.benchmarks import formats
from jstrace.convert.gguf.architectures import ARCHITECTURES
from jstrace.convert.hf.quantised import METHODS

pytestmark = pytest.mark.quick


def test_the_page_of_formats() -> None:
    page = formats.PAGE.read_text(encoding="utf-8")
    assert formats.page_with(formats.tables(), page) == page
    assert formats.MODELS.keys() == ARCHITECTURES.keys()
    assert formats.STORED.keys() == {*METHODS}
    assert {kind.name for kind in gguf.quants._type_traits} <= {*formats.QUANTISATIONS}
