"""A model that tests of loading and of conversion share."""

from __future__ import annotations

from pathlib import Path

import pytest

from jstrace.loading import convert
from tests import hf_models


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of Hugging Face's, and the checkpoint that was made of it."""
    source, out = tmp_path_factory.mktemp("hf"), tmp_path_factory.mktemp("out") / "model"
    hf_models.make(hf_models.varied(hf_models.VARIANTS["gemma3"], {"vocab_size": 98}), source)
    convert(str(source), out, dtype="float32")
    return source, out
