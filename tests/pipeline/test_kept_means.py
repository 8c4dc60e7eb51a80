"""Means of reference texts that one process keeps for the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.models import Decoder, Model
from jstrace.pipeline import kept_means, replacing
from jstrace.pipeline.replacing import Replacing
from tests.conftest import family_config, tiny_params

REFERENCE = [np.arange(9), np.arange(40, 52)]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """A folder that JAX keeps programs in."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What means were made of since the start."""
    seen: list[Any] = []
    make = replacing.mean_replacement

    def counted(model: Model, texts: Any) -> Any:
        seen.append(texts)
        return make(model, texts)

    monkeypatch.setattr(replacing, "mean_replacement", counted)
    return seen


def model_of(dtype: str = "float32") -> Model:
    config = family_config("llama")
    return Model(Decoder(config, jax.tree.map(lambda leaf: leaf.astype(dtype), tiny_params(config))))


def means(model: Model, reference: Any = REFERENCE) -> Any:
    """As a process that has made none yet."""
    replacing._MEANS.clear()
    return Replacing(model, reference).one("mean", 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_next_process_has_them(dtype: str, programs: Path, made: list[Any]) -> None:
    """To the bit, in the model's dtype."""
    first, second = means(model_of(dtype)), means(model_of(dtype))
    assert len(made) == 1
    assert len([*(programs / kept_means.FOLDER).iterdir()]) == 1
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.dtype == other.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(one, other)


def test_others_have_their_own(programs: Path, made: list[Any]) -> None:
    """Other dtypes, texts and weights."""
    params = tiny_params(family_config("llama"), seed=5)
    means(model_of())
    means(model_of("bfloat16"))
    means(model_of(), REFERENCE[:1])
    means(Model(Decoder(family_config("llama"), params)))
    assert len(made) == len([*(programs / kept_means.FOLDER).iterdir()]) == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_a_damaged_entry_is_made_again(content: bytes, programs: Path, made: list[Any]) -> None:
    first = means(model_of())
    (entry,) = (programs / kept_means.FOLDER).iterdir()
    whole = entry.read_bytes()
    for damaged in (content, whole[: len(whole) // 2], whole[:-90] + bytes(90)):
        entry.write_bytes(damaged)
        np.testing.assert_array_equal(means(model_of()).values, first.values)
        assert entry.stat().st_size == len(whole)
    assert len(made) == 4


def test_none_are_kept_where_programs_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    """Nothing is written before ``enable_cache``, nor by one of several hosts, nor into a folder that is closed."""
    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.chdir(tmp_path)
    try:
        for folder, hosts in ((None, 1), (str(tmp_path / "here"), 2), (str(tmp_path / "file"), 1), ("gs://a/b", 1)):
            (tmp_path / "file").write_text("")
            jax.config.update("jax_compilation_cache_dir", folder)
            monkeypatch.setattr(jax, "process_count", lambda hosts=hosts: hosts)
            means(model_of())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(made) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_oldest_go(programs: Path, monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    monkeypatch.setattr(kept_means, "_MOST", 2)
    for end in (3, 4, 5):
        means(model_of(), [np.arange(end)])
    assert len([*(programs / kept_means.FOLDER).iterdir()]) == 2
    means(model_of(), [np.arange(5)])
    assert len(made) == 3
