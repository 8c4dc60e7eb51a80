"""Means of reference texts that one process keeps for the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.models import Decoder, Model, Replacement
from jstrace.pipeline import kept_means, replacing
from jstrace.pipeline.replacing import Replacing
from jstrace.scale import programs as kept_programs
from tests.conftest import family_config, tiny_params

REFERENCE = [np.arange(9), np.arange(40, 52)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that programs are kept in."""
    monkeypatch.setattr(kept_programs, "_kept", [str(tmp_path)])
    return tmp_path


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
    return Replacing(model, reference).first("mean", 8)


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


@pytest.mark.parametrize("damage", ["name", "fingerprint", "one entry", "width", "infinite"])
def test_an_entry_that_is_not_these_means_is_made_again(damage: str, programs: Path, made: list[Any]) -> None:
    """Whole files of other contents, under the name of the entry."""
    first = means(model_of("float16"))
    (entry,) = (programs / kept_means.FOLDER).iterdir()
    held = Replacement.load(entry)
    arrays = held.arrays()
    name, mark = held.name, held.model_fingerprint
    if damage == "one entry":
        arrays = {key: array[:, :1] for key, array in arrays.items()}
    elif damage == "width":
        arrays = {key: array[..., : array.shape[-1] // 2] for key, array in arrays.items()}
    elif damage == "infinite":
        arrays = {key: np.full_like(array, 1e6) for key, array in arrays.items()}
    else:
        name, mark = ("noise", mark) if damage == "name" else (name, "2-other")
    Replacement(**arrays, name=name, model_fingerprint=mark).save(entry)
    np.testing.assert_array_equal(means(model_of("float16")).values, first.values)
    assert len(made) == 2


def test_none_are_kept_where_programs_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    """Nothing is written before ``enable_cache``, nor by one of several hosts, nor into a folder that is closed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for folders, hosts in (([], 1), ([str(tmp_path / "here")], 2), ([str(tmp_path / "file")], 1), (["gs://a/b"], 1)):
        monkeypatch.setattr(kept_programs, "_kept", folders)
        monkeypatch.setattr(jax, "process_count", lambda hosts=hosts: hosts)
        means(model_of())
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    monkeypatch.setattr(kept_programs, "_kept", [str(tmp_path / "off")])
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        means(model_of())
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert len(made) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_entry_of_another_user_serves(programs: Path, monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    """Its time cannot be set."""

    def refused(*_: Any) -> None:
        raise PermissionError

    means(model_of())
    monkeypatch.setattr(os, "utime", refused)
    means(model_of())
    assert len(made) == 1


def test_other_code_makes_other_means(programs: Path, monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    means(model_of())
    monkeypatch.setattr(kept_means, "_sources", lambda: "changed")
    means(model_of())
    assert len(made) == 2


def test_the_oldest_go(programs: Path, monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    monkeypatch.setattr(kept_means, "_MOST", 2)
    for end in (3, 4, 5):
        means(model_of(), [np.arange(end)])
    assert len([*(programs / kept_means.FOLDER).iterdir()]) == 2
    means(model_of(), [np.arange(5)])
    assert len(made) == 3
