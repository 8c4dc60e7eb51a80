"""Saved traces, replacements and scorers: archives of arrays with a header."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

import jstrace
from jstrace.method.measure.metrics import described
from jstrace.method.scores.learned import Scorer
from jstrace.models import EdgeTree, Replacement, edge_shapes
from jstrace.pipeline.scorers import built_in
from jstrace.pipeline.tasks.judging import Judged
from tests.conftest import ROOT, SIZES, TINY
from tests.fuzz.hostile import HUGE, altered, cases, damaged, hostile_json, refusal, refusal_of

GOLDEN = (ROOT / "tests" / "golden" / "trace.npz").read_bytes()


def members(whole: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(found: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in found.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array))
    return stream.getvalue()


def outlined(descr: Any, shape: Any, content: bytes = b"", order: bool = False) -> bytes:
    """An array that says that it is of this type and shape."""
    text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def replacement_bytes() -> bytes:
    arrays = {"attn_input": (3, 2, 16), "values": (3, 2, 2, 6), "mlp_input": (3, 2, 16), "mlp_output": (3, 2, 16)}
    header = {"format": "jstrace-replacement", "version": 1, "name": "own", "model_fingerprint": ""}
    found = {f"{name}.npy": npy(np.ones(shape, np.float32)) for name, shape in arrays.items()}
    return zipped({"header.npy": npy(np.frombuffer(json.dumps(header).encode(), np.uint8)), **found})


def pair_bytes(folder: Path) -> bytes:
    """Of the golden trace, as if it were one of a pair, with a metric."""
    trace = jstrace.Trace.load(ROOT / "tests" / "golden" / "trace.npz")
    other, texts = trace.tokens.copy(), trace.token_texts
    other[-1] = (other[-1] + 1) % trace.config.vocab_size
    asked: dict[str, Any] = {"replace": "counterfactual", "counterfactual": other, "counterfactual_texts": texts}
    asked["metric"] = jstrace.LogitDifference(np.int32(3), np.int32(4))
    dataclasses.replace(trace, **asked).save(folder / "pair.npz")
    return (folder / "pair.npz").read_bytes()


def circuit_bytes(folder: Path) -> bytes:
    """Of two classes, judged on one pair."""
    shapes = edge_shapes(TINY.n_layers, TINY.n_heads, 2)
    rows = Judged(*(np.zeros(shape, np.float32) for shape in ((1, 5), (1, 2), (1, 5), (1, 5))))
    circuit = jstrace.TaskCircuit(
        images=EdgeTree(**{kind: np.ones(shape, np.float32) for kind, shape in shapes.items()}),
        components=np.ones((TINY.n_layers, TINY.n_heads + 1), np.float32), classes=("S", "-1"), align="roles",
        level="edges", sizes=SIZES, score="l1", score_replace="", replace="counterfactual", reference="", seed=0,
        config=TINY, model_fingerprint="", n_pairs=1, judged={"task": rows},
    )  # fmt: skip
    circuit.save(folder / "task.npz")
    return (folder / "task.npz").read_bytes()


def made(write: Callable[[Path], bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder))


KINDS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "trace": (GOLDEN, jstrace.Trace.load),
    "replacement": (replacement_bytes(), Replacement.load),
    "pair": (made(pair_bytes), jstrace.Trace.load),
    "task": (made(circuit_bytes), jstrace.TaskCircuit.load),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_archives(kind: str, tmp_path: Path) -> None:
    """As they are, and where damage is not found by the checksums of the archive."""
    whole, read = KINDS[kind]
    assert not refusal_of(whole, tmp_path / "whole.npz", read)
    parts = members(whole)

    @cases(100)
    @given(damaged(whole) | st.sampled_from(sorted(parts)).flatmap(lambda name: _one_damaged(parts, name)))
    def check(content: bytes) -> None:
        refusal_of(content, tmp_path / "it.npz", read)

    check()


def _one_damaged(parts: dict[str, bytes], name: str) -> st.SearchStrategy[bytes]:
    return damaged(parts[name], min(len(parts[name]), 200)).map(lambda content: zipped(parts | {name: content}))


@pytest.mark.parametrize("kind", KINDS)
def test_headers(kind: str, tmp_path: Path) -> None:
    """Whatever the header says, the file is refused or what it holds can be used."""
    whole, read = KINDS[kind]
    parts = members(whole)
    header = json.loads(np.load(io.BytesIO(parts["header.npy"])).tobytes())

    def use(path: Path) -> None:
        found: Any = read(path)
        assert repr(found)
        if kind == "task":
            assert found.columns()["tv"]
            assert found.to_mib(0)
        if kind in ("trace", "pair"):
            assert found.first_difference == (len(found.tokens) - 1) * (kind == "pair")
            assert isinstance(described(found.metric), str)
            assert found._repr_html_()
            assert found.composition()
            assert len(found.edges(len(found.sizes))) == found.n_edges
            found.save(path)

    @cases(60)
    @given(hostile_json(header) | altered(header["config"] if kind == "trace" else header).map(_with_config(header)))
    def check(content: bytes) -> None:
        refusal_of(zipped(parts | {"header.npy": npy(np.frombuffer(content, np.uint8))}), tmp_path / "it.npz", use)

    check()


def _with_config(header: dict[str, Any]) -> Callable[[Any], bytes]:
    return lambda config: json.dumps(header | {"config": config}).encode()


_ODD_KINDS = (
    "<f4",
    ">f4",
    "|u1",
    "<i4",
    "<f8",
    "|O",
    "|V8",
    "<U9",
    "|b1",
    "<c8",
    "<M8[s]",
    "",
    "x",
    [("a", "<f4")],
    3,
    None,
)
_ODD_SHAPES = st.one_of(
    st.lists(st.sampled_from(HUGE), max_size=5).map(tuple), st.sampled_from((3, None, "x", (-1,), (1.5,), (None,)))
)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_say_what_they_are_not(kind: str, tmp_path: Path) -> None:
    whole, read = KINDS[kind]
    parts = members(whole)

    @cases(100)
    @given(
        st.sampled_from(sorted(parts)), st.sampled_from(_ODD_KINDS), _ODD_SHAPES, st.binary(max_size=40), st.booleans()
    )
    def check(name: str, descr: Any, shape: Any, content: bytes, order: bool) -> None:
        message = refusal_of(zipped(parts | {name: outlined(descr, shape, content, order)}), tmp_path / "it.npz", read)
        assert message

    check()


# --- bombs ----------------------------------------------------------------------------------------------------------


def write_zeros(archive: zipfile.ZipFile, name: str, before: bytes, length: int) -> None:
    with archive.open(name, "w", force_zip64=True) as stream:
        stream.write(before)
        for _ in range(length // 2**22):
            stream.write(bytes(2**22))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("trace", "header.npy"), ("trace", "tokens.npy"), ("trace", "strata.attn.npy"), ("replacement", "more.npy")],
)
def test_bombs(kind: str, name: str, tmp_path: Path) -> None:
    """A quarter of a gigabyte of zeros takes little on disk, and nothing in memory."""
    whole, read = KINDS[kind]
    path, length = tmp_path / "bomb.npz", 2**28
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for other, content in members(whole).items():
            if other != name:
                archive.writestr(other, content)
        write_zeros(archive, name, outlined("|u1", (length,)), length)
    assert path.stat().st_size < 2**21
    assert f"{path}: not a readable" in refusal(lambda: read(path))


def test_a_replacement_of_nothing_but_zeros(tmp_path: Path) -> None:
    """It fits together, and no file of its size holds as much."""
    path, shape = tmp_path / "bomb.npz", (40, 2, 2**18)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("header.npy", members(replacement_bytes())["header.npy"])
        for name in ("attn_input", "mlp_input", "mlp_output", "values"):
            own = shape if name != "values" else (40, 2, 1, 2**18)
            write_zeros(archive, f"{name}.npy", outlined("<f4", own), 4 * 40 * 2**19)
    assert "bytes claim to hold 335,544,320" in refusal(lambda: Replacement.load(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x05\x06" + bytes(18), npy(np.zeros(3)), outlined("<f4", (2**40,)), b"\x80\x04K\x01.", bytes(1000)],
    ids=["nothing", "no members", "one array", "one array of 2^40", "a pickle", "zeros"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_archives(kind: str, content: bytes, tmp_path: Path) -> None:
    assert "not a readable" in refusal_of(content, tmp_path / "it.npz", KINDS[kind][1])


def test_packed_otherwise(tmp_path: Path) -> None:
    """Encrypted, or by methods whose dictionaries may be as large as they say."""
    parts = members(GOLDEN)
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        assert "packed" in refusal_of(zipped(parts, kind), tmp_path / "it.npz", jstrace.Trace.load)
    locked = bytearray(zipped(parts))
    at = locked.index(b"PK\x01\x02")
    locked[at + 8] |= 1
    assert "packed" in refusal_of(bytes(locked), tmp_path / "it.npz", jstrace.Trace.load)


# --- scorers --------------------------------------------------------------------------------------------------------


def scorer_bytes(path: Path) -> bytes:
    built_in().save(path)
    return path.read_bytes()


def test_damaged_scorers(tmp_path: Path) -> None:
    whole = scorer_bytes(tmp_path / "whole.safetensors")
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    arrays = load(whole)

    def with_header(said: bytes) -> bytes:
        return struct.pack("<Q", len(said)) + said + whole[start:]

    about = header["__metadata__"]
    texts = st.dictionaries(st.sampled_from(sorted(about)), st.text(max_size=9), min_size=1, max_size=2)
    odd = st.sampled_from((np.zeros(0), np.zeros((2, 2), np.float16), np.full((4, 2), np.nan, np.float32), np.int8(1)))
    changed = st.tuples(st.sampled_from(sorted(arrays)), odd)

    @cases(120)
    @given(
        damaged(whole, start + 200)
        | hostile_json(header).map(with_header)
        | texts.map(lambda some: save(arrays, about | some))
        | changed.map(lambda pair: save(arrays | {pair[0]: np.asarray(pair[1])}, about))
    )
    def check(content: bytes) -> None:
        refusal_of(content, tmp_path / "it.safetensors", Scorer.load)

    check()


def test_traces_that_were_altered_by_hand(tmp_path: Path) -> None:
    """Each field of a trace with something else in it is refused, or read back as it was written."""
    trace = jstrace.Trace.load(ROOT / "tests" / "golden" / "trace.npz")
    for field in ("score", "model_fingerprint", "replace", "reference", "seed"):
        changed = dataclasses.replace(trace, **{field: 7 if field == "seed" else "\x1b[2J\u202e"})
        changed.save(tmp_path / "it.npz")
        assert jstrace.Trace.load(tmp_path / "it.npz") == changed
