"""Dequantised weights that are kept for the next start: found, checked, bounded, and never in the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.convert import kept, source
from jstrace.convert.gguf import header
from jstrace.models import InputError, Model, text_of
from tests.conftest import TINY
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.quick

F32 = jnp.dtype("float32")


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny file, of which it pays to keep the weights."""
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "_WORTH", 0)
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were dequantised, rather than found."""
    found: list[Path] = []
    before = source._dequantised

    def dequantised(path: Path, request: Any) -> Any:
        found.append(path)
        return before(path, request)

    monkeypatch.setattr(source, "_dequantised", dequantised)
    return found


def entry(gguf: Path) -> Path:
    folder = kept._folder_of(gguf, F32)
    assert folder is not None
    return folder


def same(one: Model, other: Model) -> None:
    chex.assert_trees_all_equal(one.decoder.params(), other.decoder.params())
    assert one.config == other.config
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_second_start_maps_what_the_first_made(gguf: Path, made: list[Path], dtype: str) -> None:
    first, second = (jstrace.load(str(gguf), dtype=dtype) for _ in range(2))
    assert made == [gguf]
    same(first, second)
    places = ([leaf.sharding for leaf in jax.tree.leaves(model.decoder)] for model in (first, second))
    assert next(places) == next(places)
    committed = {leaf.committed for model in (first, second) for leaf in jax.tree.leaves(model.decoder)}
    assert committed == {True}, "or the programs of the first start would not serve the second"
    assert second.dtype == jnp.dtype(dtype)
    jax.tree.map(lambda leaf: leaf.block_until_ready(), second.decoder)


def replaced(gguf: Path) -> None:
    """Another model in the file's place: of the same size and time."""
    status, other = gguf.stat(), gguf.with_name("other.gguf")
    content = bytearray(gguf.read_bytes())
    content[-3] ^= 4
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, gguf)
    assert (gguf.stat().st_size, gguf.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def edited(gguf: Path) -> None:
    """The same, with the inode kept, too."""
    status = gguf.stat()
    with gguf.open("r+b") as stream:
        stream.seek(-3, os.SEEK_END)
        stream.write(bytes([gguf.read_bytes()[-3] ^ 4]))
    os.utime(gguf, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, edited])
def test_a_changed_file_is_another(gguf: Path, made: list[Path], change: Callable[[Path], None]) -> None:
    first = jstrace.load(str(gguf))
    change(gguf)
    second = jstrace.load(str(gguf))
    assert len(made) == 2
    assert first.fingerprint() != second.fingerprint()
    same(second, jstrace.load(str(gguf)))
    assert len(made) == 2


def test_the_same_content_is_the_same(gguf: Path, made: list[Path], tmp_path: Path) -> None:
    """Touched, or copied to another folder."""
    first = jstrace.load(str(gguf))
    os.utime(gguf, ns=(0, 1))
    same(first, jstrace.load(str(gguf)))
    (tmp_path / "copy").mkdir()
    same(first, jstrace.load(str(shutil.copy(gguf, tmp_path / "copy"))))
    assert made == [gguf]


@pytest.mark.parametrize("content", [b"", b"a" * 31, b"ab" * 8, b"a" * 33])
def test_the_digest_is_of_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(kept, "_CHUNK", 16)
    monkeypatch.setattr(kept, "_BLOCK", 6)
    (tmp_path / "file").write_bytes(content)
    parts = (hashlib.sha256(content[start : start + 16]).digest() for start in range(0, len(content), 16))
    assert kept.digest(tmp_path / "file") == hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_file_replaced_while_it_is_read_is_not_kept(
    gguf: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dequantised = source._dequantised

    def slowly(path: Path, request: Any) -> Any:
        found = dequantised(path, request)
        replaced(path)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(source, "_dequantised", slowly)
        first = jstrace.load(str(gguf))
    assert list(kept.entries()) == []
    assert jstrace.load(str(gguf)).fingerprint() != first.fingerprint()
    assert len(made) == 2


LLAMA3 = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<|begin|>", "<|end|>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 3,
    "tokenizer.ggml.eos_token_id": 4,
    "tokenizer.ggml.add_eos_token": 1,
}
"""A tokenizer of Llama 3's kind, whose BOS token the file does not ask for."""


def test_the_tokenizer_is_kept_with_what_it_puts_around_texts(gguf: Path, made: list[Path], told: list[str]) -> None:
    write_gguf(gguf, **LLAMA3)
    for _ in range(2):
        tokenizer = jstrace.load(str(gguf)).tokenizer
        assert tokenizer is not None
        assert tokenizer.encode("ab") == [3, 2, 4]
        assert text_of(tokenizer, [3, 2]) == "<|begin|>ab"
    assert made == [gguf]
    tokenizer = jstrace.load(f"random:{gguf}").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("ab") == [3, 2, 4], "random weights come with it, too"
    (entry(gguf) / "tokenizer.json").write_text("{")
    tokenizer = jstrace.load(str(gguf), say=told.append).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("ab") == [3, 2, 4]
    assert (len(made), "is damaged" in told[0]) == (2, True)


def test_what_an_earlier_version_kept_is_made_anew(
    gguf: Path, made: list[Path], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lack the BOS token of a Llama-3 file."""
    with monkeypatch.context() as patch:
        patch.setattr(kept, "_VERSION", 1)
        jstrace.load(str(gguf))
    jstrace.load(str(gguf), say=told.append)
    assert (len(made), told) == (2, [])


def cut(folder: Path) -> None:
    file = folder / "layers.up.npy"
    file.write_bytes(file.read_bytes()[:-5])


def turn_a_bit(folder: Path) -> None:
    file = folder / "layers.up.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(bytes(content))


def swap(folder: Path) -> None:
    shutil.copy(folder / "layers.k.npy", folder / "layers.v.npy")


def change(**facts: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        there = json.loads((folder / "entry.json").read_text())
        (folder / "entry.json").write_text(json.dumps(there | facts))

    return damage


DAMAGES = {
    "cut": cut,
    "turned": turn_a_bit,
    "swapped": swap,
    "missing": lambda folder: (folder / "embed.npy").unlink(),
    "no json": lambda folder: (folder / "entry.json").write_text("{"),
    "a list": lambda folder: (folder / "entry.json").write_text("[]"),
    "other": change(source={"path": "elsewhere"}),
    "later": change(version=kept._VERSION + 1),
    "odd": change(config={"family": 3}),
    "pickled": lambda folder: np.save(folder / "embed.npy", np.array([{}])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_amiss_is_told_and_made_again(gguf: Path, made: list[Path], told: list[str], damage: str) -> None:
    first = jstrace.load(str(gguf))
    DAMAGES[damage](entry(gguf))
    second = jstrace.load(str(gguf), say=told.append)
    assert len(made) == 2
    assert len(told) == 1
    assert "is damaged" in told[0]
    same(first, second)
    jstrace.load(str(gguf), say=told.append)
    assert (len(made), len(told)) == (2, 1), "it is whole again"


def test_memory_that_runs_out_is_no_damage(gguf: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    jstrace.load(str(gguf))

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(kept, "_read", full)
    with pytest.raises(InputError, match="memory"):
        jstrace.load(str(gguf), say=told.append)
    assert not told
    assert entry(gguf).exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EINTR, errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("step", ["load", "read_text", "is_file"])
def test_an_error_that_passes_is_no_damage(
    gguf: Path, made: list[Path], told: list[str], monkeypatch: pytest.MonkeyPatch, number: int, step: str
) -> None:
    first = jstrace.load(str(gguf))

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(np if step == "load" else Path, step, failing)
        assert kept.find(gguf, kept.digest(gguf), F32, told.append) is None
    assert told == [f"{entry(gguf)} cannot be read ({os.strerror(number)}); the weights are dequantised anew"]
    same(first, jstrace.load(str(gguf), say=told.append))
    assert (len(made), len(told)) == (1, 1), "the entry is still there"


def test_an_entry_of_another_user_is_read(gguf: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not be told that it was used."""
    jstrace.load(str(gguf))

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "not the owner")

    monkeypatch.setattr(os, "utime", refused)
    jstrace.load(str(gguf))
    assert made == [gguf]


def test_a_folder_that_cannot_be_written_costs_a_sentence(gguf: Path, told: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").write_text("a file stands there")
    assert jstrace.load(str(gguf), say=told.append).config.family == "llama"
    assert len(told) == 1
    assert "cannot be kept" in told[0]


def test_a_full_disk_costs_a_sentence(gguf: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    jstrace.load(str(gguf), say=told.append)
    assert told == [f"{entry(gguf).parent}: the weights cannot be kept for the next start (No space left on device)"]
    assert list(entry(gguf).parent.iterdir()) == []
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    jstrace.load(str(gguf), say=told.append)
    assert "0.0 GB are free" in told[1]


def test_two_starts_at_once(gguf: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second finds the place taken, and leaves it."""
    write = kept._write

    def slowly(folder: Path, *rest: Any) -> None:
        write(folder, *rest)
        monkeypatch.setattr(kept, "_write", write)
        jstrace.load(str(gguf))  # another start, from beginning to end

    monkeypatch.setattr(kept, "_write", slowly)
    first = jstrace.load(str(gguf))
    assert len(made) == 2
    assert [path.name for path in entry(gguf).parent.iterdir()] == [entry(gguf).name]
    same(first, jstrace.load(str(gguf)))
    assert len(made) == 2


def test_entries_are_bounded(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those not used for longest go first; an entry that is larger than all may be is not kept."""
    paths = [gguf.with_name(f"{name}.gguf") for name in "abc"]
    for age, path in enumerate(paths):
        shutil.copy(gguf, path)
        jstrace.load(str(path))
        os.utime(entry(path) / "entry.json", (1000 + age, 1000 + age))
    jstrace.load(str(paths[0]))  # used again
    (_, facts, size), *_ = kept.entries()
    assert facts["source"]["path"] == str(paths[1].resolve())
    monkeypatch.setenv("JSTRACE_KEPT_GB", str(2.5 * size / 1e9))
    jstrace.load(str(gguf))
    assert [entry(path).exists() for path in (*paths, gguf)] == [True, False, False, True]
    for off in ("0", "none"):
        monkeypatch.setenv("JSTRACE_KEPT_GB", off)
        jstrace.load(str(paths[1]))
        assert not entry(paths[1]).exists()


def test_entries_without_bound(gguf: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("inf", "1e999", "", " 8 "):
        monkeypatch.setenv("JSTRACE_KEPT_GB", size)
        jstrace.load(str(gguf))
        assert entry(gguf).exists()
    assert made == [gguf]


@pytest.mark.parametrize("size", ["nan", "-1", "-inf", "8 GB", "lots"])
def test_bounds_that_are_no_sizes(gguf: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("JSTRACE_KEPT_GB", size)
    with pytest.raises(InputError, match=f"JSTRACE_KEPT_GB={size}: expected a size in GB") as caught:
        jstrace.load(str(gguf))
    assert "\n" not in str(caught.value)


def test_small_models_are_not_worth_it(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_WORTH", 2**24)
    jstrace.load(str(gguf))
    assert not entry(gguf).exists()


def test_the_header_is_that_of_the_gguf_package(gguf: Path) -> None:
    """Every value and every weight, as the package reads them."""
    from gguf import GGUFReader

    metadata, tensors = header.read_header(gguf)
    reader = GGUFReader(gguf)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert metadata == theirs
    for one, other in zip(tensors, reader.tensors, strict=True):
        assert (one.name, one.shape, one.tensor_type) == (other.name, tuple(other.shape.tolist()), other.tensor_type)
        np.testing.assert_array_equal(one.data, other.data)
        assert one.data.dtype == other.data.dtype
    assert TINY.n_layers == metadata["llama.block_count"]


@pytest.mark.parametrize("content", [b"", b"GGU", b"GGUF\3\0\0\0" + b"\xff" * 16, b"GGUF\0\0\0\3" + b"\0" * 64])
def test_headers_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.gguf").write_bytes(content)
    with pytest.raises(InputError, match="not a whole GGUF file"):
        jstrace.load(str(tmp_path / "odd.gguf"))
