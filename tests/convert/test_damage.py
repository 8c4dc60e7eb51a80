"""Damaged files are one sentence, wherever the damage lies; what is our own fault stays a traceback."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from safetensors.numpy import load_file

import jstrace
import jstrace.loading
from jstrace.convert import native, source
from jstrace.convert.hf import config as hf_config
from jstrace.loading import convert, describe
from jstrace.models import InputError
from tests import hf_models
from tests.convert.test_configs import minimal
from tests.gguf_files import write_gguf

N_DAMAGES = 50


def damages(whole: bytes, end: int, seed: int = 0) -> Iterator[bytes]:
    """The bytes cut, with one bit turned, or with some of them random, at places before ``end``."""
    rng = random.Random(seed)
    for number in range(N_DAMAGES):
        at, found = rng.randrange(end), bytearray(whole)
        if number % 3 == 0:
            del found[at:]
        elif number % 3 == 1:
            found[at] ^= 1 << rng.randrange(8)
        else:
            found[at : at + 4] = rng.randbytes(4)
        yield bytes(found)


def refusal(read: Callable[[], Any]) -> str:
    """What is said of the file, or nothing."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def refusals(read: Callable[[], Any], path: Path, damaged: Iterator[bytes]) -> int:
    """How many of the damaged files are refused in one line; the others must be read, whatever they now say."""
    n_refused = 0
    for content in damaged:
        path.write_bytes(content)
        message = refusal(read)
        assert "\n" not in message
        n_refused += message != ""
    return n_refused


def test_damaged_gguf_files(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole, header = path.read_bytes(), gguf.GGUFReader(path).data_offset
    assert refusals(lambda: jstrace.load(str(path)), path, damages(whole, header)) > 40


def test_damaged_safetensors(tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    assert refusals(lambda: jstrace.load(str(tmp_path)), path, damages(whole, header)) > 40
    assert refusals(lambda: jstrace.load(str(tmp_path)), path, damages(whole, 8)) == N_DAMAGES
    assert refusals(lambda: describe(str(tmp_path)), path, damages(whole, 8)) == N_DAMAGES


def test_a_description_knows_cut_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the header and the size; random weights need none, and a config alone is described."""
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path)
    path, expected = tmp_path / "model.safetensors", describe(str(tmp_path))
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.chdir(tmp_path.parent)
    for name in (str(tmp_path), tmp_path.name, f"{tmp_path}/"):
        with pytest.raises(InputError, match=r"model.safetensors: not a whole safetensors file"):
            describe(name)
    assert describe(f"random:{tmp_path}") == expected
    path.unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "part.safetensors"}}))
    with pytest.raises(InputError, match=r"shard part.safetensors is missing"):
        describe(str(tmp_path))
    index.unlink()
    assert describe(str(tmp_path)) == expected


def test_damaged_configs(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    whole = json.dumps(minimal("phi3") | {"rope_scaling": {"type": "linear", "factor": 2.0}}).encode()
    assert refusals(lambda: describe(str(tmp_path)), path, damages(whole, len(whole))) > 40


ODD: list[Any] = [None, True, 0, -1, 2.5, "x", [], [1], ["x"], [[1]], {}, {"a": 1}, 10**30, 1e308, float("nan")]


@pytest.mark.parametrize("variant", ["llama-gqa", "phi3", "gemma3", "gpt2", "gpt_neox"])
def test_fields_of_other_types(variant: str, tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS[variant], tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    rope = fields.get("rope_parameters") or {}
    changed = [fields | {name: odd} for name in (*fields, "layer_types", "partial_rotary_factor") for odd in ODD]
    names = (*rope, "partial_rotary_factor", "rope_type")
    changed += [fields | {"rope_parameters": rope | {name: odd}} for name in names for odd in ODD]
    written = (json.dumps(one).encode() for one in changed)
    assert refusals(lambda: describe(str(tmp_path)), path, written) > len(changed) / 3


def test_damaged_checkpoints_of_ones_own(tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path / "hf")
    convert(str(tmp_path / "hf"), tmp_path / "out")
    path = tmp_path / "out" / native.HEADER
    whole = path.read_bytes()
    header = json.loads(whole)
    assert refusals(lambda: describe(str(tmp_path / "out")), path, damages(whole, len(whole))) > 25
    odd_ones = [odd for odd in ODD if odd is not True]  # which is version 1
    changed = [header | {name: odd} for name in ("format", "version", "config", "dtype") for odd in odd_ones]
    changed += [{name: header[name] for name in header if name != left_out} for left_out in header]
    changed += [header | {"config": header["config"] | {name: "x"}} for name in header["config"] if name != "family"]
    written = [json.dumps(one).encode() for one in changed] + [b"[]", b"3", b"[" * 200_000]
    assert refusals(lambda: describe(str(tmp_path / "out")), path, iter(written)) == len(written)


def test_an_index_of_shards_that_is_none(tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path)
    assert load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()  # which counts before an index
    path = tmp_path / "model.safetensors.index.json"
    names = (None, [1], "x" * 300, "..", "", "b\0", "c/d")
    maps = [odd for odd in ODD if odd != {}] + [{"a": name} for name in names]
    written = [json.dumps({"weight_map": one}).encode() for one in maps] + [b"[" * 200_000, b"3", b"\xff"]
    assert refusals(lambda: jstrace.load(str(tmp_path)), path, iter(written)) == len(written)


def test_paths_that_are_none() -> None:
    for odd in ("~no-such-user-at-all/model", "a\0b", "\udcfe", "a" * 5000, "b" * 300 + "/" + "c" * 300):
        with pytest.raises(InputError, match=r"cannot be read|unknown model|hub"):
            jstrace.load(odd, say=lambda _: None)


# --- our own faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [AttributeError, TypeError, KeyError, IndexError, ValueError, RuntimeError])
def test_a_fault_of_our_own_is_a_traceback(
    hf_llama: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    """It is not the file that cannot be read."""
    folder = Path(shutil.copytree(hf_llama(), tmp_path / "model"))

    def broken(*_: Any, **__: Any) -> None:
        raise fault("a bug")

    random_weights, reads = (
        functools.partial(jstrace.load, f"random:{folder}"),
        functools.partial(describe, str(folder)),
    )
    loads, reads = functools.partial(jstrace.load, str(folder)), functools.partial(describe, str(folder))
    places: list[tuple[Any, str, Callable[[], Any]]] = [(source, "build_params", loads)]
    places += [(jstrace.loading, "Decoder", loads), (source, "random_params", random_weights)]
    places += [(hf_config, "validated", reads), (source, "read_hf_config", reads)]
    for module, name, read in places:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            with pytest.raises(fault, match="a bug") as raised:
                read()
        assert not isinstance(raised.value, InputError), name
    with monkeypatch.context() as patch:
        patch.setitem(hf_config.FAMILIES, "llama", broken)  # type: ignore[arg-type]
        with pytest.raises(fault, match="a bug") as raised:
            describe(str(folder))
    assert not isinstance(raised.value, InputError)
