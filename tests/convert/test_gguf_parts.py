"""GGUF files in several parts, and every quantisation that the gguf package knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest

import jstrace
from jstrace.convert import read_config
from jstrace.convert.gguf.blocks import BLOCKS
from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.gguf.header import StoredTensor
from jstrace.convert.stored import Blocked
from jstrace.models import InputError
from tests.convert.test_damage import refusal
from tests.gguf_files import finish, write_gguf

N_PARTS = 3


def part_name(number: int, count: int = N_PARTS) -> str:
    return f"tiny-{number:05}-of-{count:05}.gguf"


def write_parts(whole: Path, folder: Path, *, skipped: str | None = None, **changes: dict[str, Any]) -> Path:
    """A file in parts, as gguf-split makes them: the model's metadata in the first, no weight in it; returns that one.

    ``changes`` are of the metadata of the parts ``part_0`` and so on; the weight ``skipped`` is left out.
    """
    reader = gguf.GGUFReader(whole)
    tensors = [tensor for tensor in reader.tensors if tensor.name != skipped]
    of_part: list[list[Any]] = [[], tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]]
    for number, own in enumerate(of_part):
        writer = gguf.GGUFWriter(folder / part_name(number + 1), "llama" if number == 0 else "")
        if number:
            writer.kv_data[0].pop("general.architecture", None)
        split = {"split.no": number, "split.count": N_PARTS, "split.tensors.count": len(reader.tensors)}
        for name, value in (split | changes.get(f"part_{number}", {})).items():
            writer.add_uint16(name, value) if name != "split.tensors.count" else writer.add_int32(name, value)
        for name, field in reader.fields.items() if number == 0 else ():
            if name.startswith("llama."):
                value = field.contents()
                (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(name, value)
        for tensor in own:
            writer.add_tensor(tensor.name, np.asarray(tensor.data))
        finish(writer)
    return folder / part_name(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    write_gguf(path)
    return path


def test_parts_are_found_from_the_first(whole: Path, tmp_path: Path) -> None:
    first = write_parts(whole, tmp_path)
    expected, found = jstrace.load(whole), jstrace.load(first)
    assert found.config == expected.config == read_config(str(first))
    jax.tree.map(np.testing.assert_array_equal, found.decoder.params(), expected.decoder.params())


def test_a_part_alone_is_named_as_one(whole: Path, tmp_path: Path) -> None:
    first = write_parts(whole, tmp_path)
    with pytest.raises(InputError, match=rf"part 2 of 3 of a model; pass the first, {part_name(1)}"):
        jstrace.load(tmp_path / part_name(2))
    moved = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(InputError, match=r"part 1 of 3 of a model, .* name it NAME-00001-of-00003.gguf"):
        jstrace.load(moved)
    moved.rename(first)
    last = tmp_path / part_name(3)
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(InputError, match=rf"{part_name(3)}: part 3 of 3 is missing"):
        jstrace.load(first)
    for damaged in (b"", content[:40], content[:-40]):
        last.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{part_name(3)}: not a whole GGUF file"):
            jstrace.load(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skipped": "blk.0.attn_q.weight"}, r"its 3 parts hold 29 weights, split.tensors.count says 30"),
        ({"part_2": {"split.no": 1}}, r"split.no, split.count are 1, 3 by its metadata, expected 2, 3"),
        ({"part_2": {"split.count": 2}}, r"split.no, split.count are 2, 2 by its metadata, expected 2, 3"),
        ({"part_0": {"split.count": 0}}, r"split.count = '0', expected a number from 1 to 99999"),
        ({"part_0": {"split.tensors.count": -5}}, r"split.tensors.count = '-5', expected a number from 0 to 99999"),
    ],
)
def test_parts_that_do_not_belong_together(whole: Path, tmp_path: Path, changes: Any, message: str) -> None:
    first = write_parts(whole, tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        jstrace.load(first)


def test_a_part_twice(whole: Path, tmp_path: Path) -> None:
    first = write_parts(whole, tmp_path)
    second = (tmp_path / part_name(2)).read_bytes()
    third = second.replace(b"split.no\x02\x00\x00\x00\x01\x00", b"split.no\x02\x00\x00\x00\x02\x00")
    assert third != second
    (tmp_path / part_name(3)).write_bytes(third)
    assert "two of its 3 parts hold a weight of the same name" in refusal(lambda: jstrace.load(first))


# --- quantisations --------------------------------------------------------------------------------------------------


def blocks(kind: gguf.GGMLQuantizationType, n_rows: int, per_row: int) -> np.ndarray:
    """Random blocks whose numbers are finite."""
    size, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    drawn = np.random.default_rng(kind.value)
    found = drawn.integers(0, 256, (n_rows * per_row, n_bytes), dtype=np.uint8)
    while True:
        with np.errstate(all="ignore"):
            made = gguf.dequantize(found, kind).reshape(-1, size)
        odd = ~(np.abs(made) < 1e4).all(1)  # NaN among them
        if not odd.any():
            return found.reshape(n_rows, -1)
        found[odd] = drawn.integers(0, 256, (int(odd.sum()), n_bytes), dtype=np.uint8)


@pytest.mark.parametrize("kind", [kind.name for kind in gguf.quants._type_traits])
def test_every_quantisation(kind: str, tmp_path: Path) -> None:
    """Some rows, and a part of their columns, are those of the whole as the package dequantises it."""
    number = gguf.GGMLQuantizationType[kind]
    per_row = 2 if gguf.GGML_QUANT_SIZES[number][0] >= 32 else 4
    data = blocks(number, 6, per_row)
    width = per_row * gguf.GGML_QUANT_SIZES[number][0]
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    tensor = GgufFile(path).tensors["output.weight"]
    stored = StoredTensor("output.weight", (width, 6), number, data)
    tensor = type(tensor)(stored, path, {})  # type: ignore[call-arg]
    expected = gguf.dequantize(data, number).reshape(6, width)
    assert np.unique(expected).size > 2
    for rows, columns in ((slice(0, 6), slice(0, width)), (slice(2, 5), slice(3, 20)), (slice(5, 6), slice(0, 1))):
        np.testing.assert_array_equal(tensor.read((rows, columns)), expected[rows, columns])
    assert isinstance(tensor, Blocked)
    if kind in ("F16", "BF16", "F32"):
        assert tensor.form() is None
    elif kind in BLOCKS:
        values, scale, least = tensor.blocks()
        found = values * scale if least is None else values * scale + least
        np.testing.assert_allclose(found.reshape(6, width), expected, atol=1e-6 * np.abs(expected).max())
        assert not tensor.form().packed or (values.min() >= -8 and values.max() <= 7)  # type: ignore[union-attr]
    else:
        assert f"output.weight is quantised as {kind}, which weights stored cannot hold" in refusal(tensor.form)


_MXFP4 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@pytest.mark.parametrize("kind", ["MXFP4", "IQ4_NL"])
def test_literal_values(kind: str) -> None:
    """Of two formats by their published tables: a scale and 32 nibbles a block, low ones first."""
    number = gguf.GGMLQuantizationType[kind]
    for block in blocks(number, 5, 1):
        if kind == "MXFP4":
            scale, packed = 2.0 ** (int(block[0]) - 127), block[1:]
            table = [sign * value for sign in (1, -1) for value in _MXFP4]
        else:
            scale, packed = float(block[:2].view(np.float16)[0]), block[2:]
            table = list(_IQ4)
        nibbles = [int(byte) & 15 for byte in packed] + [int(byte) >> 4 for byte in packed]
        expected = [np.float32(scale * table[nibble]) for nibble in nibbles]
        np.testing.assert_allclose(gguf.dequantize(block, number).ravel(), expected, rtol=1e-6)
