"""jstrace convert and jstrace's own checkpoints: whole or not there, and read again as they were."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jstrace
from jstrace.convert import default_model, native, partials, read_config
from jstrace.loading import convert, describe
from jstrace.models import Decoder, InputError, Model, make_mesh
from jstrace.models.params import narrow_params
from tests import hf_models


def test_a_converted_model_is_the_model(converted: tuple[Path, Path]) -> None:
    source, out = converted
    one, other = jstrace.load(str(source)), jstrace.load(str(out))
    assert other.config == one.config == read_config(str(out))
    assert other.fingerprint() == one.fingerprint()
    header = json.loads((out / "jstrace.json").read_text())
    assert header["fingerprint"] == one.fingerprint()
    narrow = jstrace.load(str(out), dtype="bfloat16")
    assert narrow.decoder.embed[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow.decoder.embed[...], one.decoder.embed[...].astype(jnp.bfloat16))
    for data, model in ((4, 1), (1, 2), (4, 2)):
        wide = jstrace.load(str(out), mesh=make_mesh(data=data, model=model))
        assert wide.fingerprint() == one.fingerprint()
        assert wide.decoder.layers.weights()["up"].sharding.mesh.shape["model"] == model


def test_weights_as_int8(converted: tuple[Path, Path]) -> None:
    """The same of a folder, on a mesh, and of what was converted, which holds them wide."""
    source, out = map(str, converted)
    load, wide = functools.partial(jstrace.load, weights="int8"), jstrace.load(source)
    params = narrow_params(wide.config, wide.decoder.params(), jnp.dtype("float32"), "int8")
    one = Model(Decoder(wide.config, params))
    for found in (load(source), load(out), load(source, mesh=make_mesh(model=2)), load(out, mesh=make_mesh(model=2))):
        assert found.fingerprint() == one.fingerprint() != wide.fingerprint()
        assert (found.weights, found.dtype.name) == ("int8", "float32")
    halved = load(source, dtype="bfloat16").decoder.params()
    np.testing.assert_array_equal(halved["layers"]["q"].values, params["layers"]["q"].values)
    assert (halved["layers"]["q"].dtype, halved["final_norm"].dtype) == (jnp.bfloat16, jnp.bfloat16)
    for given in ("float8", "int3", 8):
        with pytest.raises(
            InputError, match=rf"weights {given!r} is not supported; expected int8, int4, stored, streamed, or None"
        ):
            load(source, weights=given)


def test_convert_keeps_the_tokenizer(real: jstrace.Model, tmp_path: Path) -> None:
    """Of a GGUF file, with a BOS token if it asks for one."""
    from jstrace.convert.gguf.file import GgufFile
    from jstrace.convert.gguf.tokenizer import GgufTokenizer
    from jstrace.convert.hf.tokenizer import HfTokenizer

    metadata = dict(GgufFile(default_model.default_model(print)).metadata)
    text = "The capital of France is\n\n  Paris, 2026! <|im_start|> Ünïcödé 日本"
    for bos in (False, True):
        metadata["tokenizer.ggml.add_bos_token"] = bos
        tokenizer = GgufTokenizer(metadata, "here")
        tokenizer.save(tmp_path / str(bos))
        back = HfTokenizer(tmp_path / str(bos))
        ids = tokenizer.encode(text)
        assert back.encode(text) == ids
        assert [back.token(i) for i in ids] == [tokenizer.token(i) for i in ids]


def test_convert_refuses(converted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = converted
    with pytest.raises(InputError, match="exists already"):
        convert(str(source), out)
    with pytest.raises(InputError, match="no folder"):
        convert(str(source), tmp_path / "no" / "where")
    (tmp_path / "loop").symlink_to("loop")
    for odd in ("loop/out", "x" * 300, "a\0b", "\udcfe"):
        with pytest.raises(InputError, match="cannot be written"):
            convert(str(source), tmp_path / odd)
    (tmp_path / "loop").unlink()
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(native.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(InputError, match=r"GB are needed and 0\.0 GB are free"):
            convert(str(source), tmp_path / "small")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(native.os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            convert(str(source), tmp_path / "full")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_convert_into_an_empty_folder(converted: tuple[Path, Path], tmp_path: Path) -> None:
    """It is as good as a new one, as the help says; one that holds anything is not."""
    source, out = converted
    (tmp_path / "empty").mkdir()
    assert convert(source, tmp_path / "empty", dtype="float32") == jstrace.load(out).fingerprint()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("")
    with pytest.raises(InputError, match="exists already; convert into a new or an empty folder"):
        convert(source, tmp_path / "full")


def test_sources_that_are_no_text(converted: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = converted
    model = jstrace.load(out)
    for odd in (None, 5, b"smollm2", ["smollm2"], model):
        for read in (jstrace.load, describe, functools.partial(convert, out=tmp_path / "new")):
            with pytest.raises(InputError, match=rf"^source is a {type(odd).__name__}, expected a name, a hub id"):
                read(odd)
    with pytest.raises(InputError, match="it is loaded already: pass what it was loaded from"):
        convert(model, tmp_path / "new")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="out is a NoneType, expected a folder"):
        convert(source, None)  # type: ignore[arg-type]


KILLED = """
import os, signal, sys
from jstrace.convert import native
from jstrace.loading import convert
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "header":
    native.json.dump = die
else:
    native.os.replace = die
convert(sys.argv[1], sys.argv[2], dtype="float32")
"""


@pytest.mark.parametrize("moment", ["header", "rename"])
def test_a_killed_conversion_leaves_nothing_that_looks_whole(
    converted: tuple[Path, Path], tmp_path: Path, moment: str
) -> None:
    source, _ = converted
    done = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "out", moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="unknown model"):
        jstrace.load(str(tmp_path / "out"))
    assert [path.name.split(".")[-1] for path in tmp_path.iterdir()] == ["partial"]
    assert convert(str(source), tmp_path / "out", dtype="float32")
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what was left behind is cleared away"


def left_behind(out: Path, monkeypatch: pytest.MonkeyPatch, host: str, pid: int, days: float = 0) -> Path:
    """A folder under way as a process of that host made it, with what it wrote some days ago."""
    with monkeypatch.context() as patch:
        patch.setattr(partials.socket, "gethostname", lambda: host)
        patch.setattr(partials.os, "getpid", lambda: pid)
        partial = partials.new_partial(out)
    (partial / "params").mkdir()
    (partial / "params" / "data").write_text("weights")
    grow_old(partial, days)
    return partial


def grow_old(partial: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in (*partial.rglob("*"), partial):
        os.utime(path, (then, then))


def test_what_another_host_is_writing_stays(
    converted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ids say nothing here; only what nobody touched for days is removed, whoever left it."""
    source, _ = converted
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    out, here, alive = tmp_path / "out", socket.gethostname(), os.getpid()
    stay = [left_behind(out, monkeypatch, "elsewhere", pid) for pid in (gone.pid, alive)]
    stay += [left_behind(out, monkeypatch, here, alive), left_behind(out, monkeypatch, "elsewhere", alive, days=2)]
    go = [left_behind(out, monkeypatch, here, gone.pid), left_behind(out, monkeypatch, "elsewhere", gone.pid, days=4)]
    go += [left_behind(out, monkeypatch, here, alive, days=4)]
    busy = left_behind(out, monkeypatch, "elsewhere", gone.pid, days=4)
    (busy / "params" / "data").write_text("more weights")
    for name, days in (("1", 0), (str(gone.pid), 0), (str(alive), 2)):
        old = tmp_path / f".out.{name}.partial"
        old.mkdir()
        grow_old(old, days)
        stay.append(old)
    ancient, others = tmp_path / ".out.99999999.partial", tmp_path / f".out.other.{gone.pid}.partial"
    for path in (ancient, others):
        path.mkdir()
        grow_old(path, 9)
    convert(str(source), out, dtype="float32")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (out, busy, others, *stay)}
    assert not any(path.exists() for path in (ancient, *go))


def test_checkpoints_that_are_off(converted: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = converted

    def damaged(**changes: Any) -> str:
        folder = Path(shutil.copytree(out, tmp_path / str(len(list(tmp_path.iterdir())))))
        fields = json.loads((folder / "jstrace.json").read_text()) | changes
        (folder / "jstrace.json").write_text(json.dumps(fields))
        return str(folder)

    for dtype in ("float32", "bfloat16"):
        with pytest.raises(InputError, match=r"hash to [\w-]+, expected 2-0123"):
            jstrace.load(damaged(fingerprint="2-0123"), dtype=dtype)
    with pytest.raises(InputError, match="of version 9"):
        jstrace.load(damaged(version=9))
    with pytest.raises(InputError, match="not readable"):
        jstrace.load(damaged(config={}))
    header = json.loads((out / "jstrace.json").read_text())
    odd = [{"rope_theta": "x"}, {"rope_theta": float("nan")}, {"n_heads": 3}, {"family": "nobody"}, {"n_layers": 0}]
    odd += [{"window": "7"}, {"window": 0}, {"activation": "tanh"}, {"global_layers": 5}, {"rotary_dim": "x"}]
    for changes in odd:
        with pytest.raises(InputError):
            describe(damaged(config=header["config"] | changes))
    with pytest.raises(InputError, match="hash to"):
        jstrace.load(damaged(config=header["config"] | {"window": 3}))
    shape = json.loads((out / "jstrace.json").read_text())["config"] | {"d_mlp": 50}
    with pytest.raises(InputError, match=r"parameter .* has shape \(7, 48, 32\), expected \(7, 50, 32\)"):
        jstrace.load(damaged(config=shape))
    folder = damaged()
    shutil.rmtree(Path(folder) / "params")
    with pytest.raises(InputError, match="parameters cannot be read"):
        jstrace.load(folder)


def test_dtypes_of_a_converted_model(tmp_path: Path) -> None:
    """Widened exactly; narrowed with a check; the hash is that of what is stored."""
    hf_models.make(hf_models.VARIANTS["llama-gqa"], tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].copy()
    weights[name][0, 0] = 1e6
    save_file(weights, file)
    convert(str(tmp_path / "hf"), tmp_path / "out")
    narrow, wide = (jstrace.load(str(tmp_path / "out"), dtype=dtype) for dtype in ("bfloat16", "float32"))
    same = jstrace.load(str(tmp_path / "hf"), dtype="bfloat16")
    assert narrow.fingerprint() == same.fingerprint()
    np.testing.assert_array_equal(wide.decoder.embed[...], same.decoder.embed[...].astype(jnp.float32))
    save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}, file)
    for folder, stored in itertools.product(("hf", "out"), (None, "int8")):
        with pytest.raises(InputError, match=r"up.* holds numbers beyond the range of float16"):
            jstrace.load(str(tmp_path / folder), dtype="float16", weights=stored)
