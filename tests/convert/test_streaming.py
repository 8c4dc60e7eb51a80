"""Layers read from disk give, to the bit, what weights in memory give; one layer of them is in memory at a time."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace import loading, runs
from jstrace.convert.hf import folder as hf_folder
from jstrace.convert.streaming import LayerReader
from jstrace.method.plans import Plan
from jstrace.models import (
    Decoder,
    EdgeTree,
    InputError,
    Model,
    full_mask,
    make_mesh,
    masked_forward,
    shapes,
    weight_bytes,
    widened_bytes,
)
from jstrace.models.narrow import is_narrow
from jstrace.models.streamed import Streamed
from jstrace.pipeline.footprint import wide_bytes
from tests import hf_models, hf_types
from tests.conftest import SIZES, TINY
from tests.stand_ins import Letters

IDS = np.asarray([1, 5, 9, 33, 2, 7], np.int32)
FLOAT32 = jnp.dtype("float32")
UP = "model.layers.{}.mlp.up_proj.weight"


def made(name: str, folder: Path) -> Path:
    """A tiny model of a family, or of another type."""
    make: Any = hf_models.make if name in hf_models.VARIANTS else hf_types.make
    make((hf_models.VARIANTS | hf_types.TYPES)[name], folder)
    return folder


@jax.jit
def passes(model: Model, masks: EdgeTree) -> tuple[jax.Array, Any]:
    """Logits without masks; a log-probability under two soft ones, with their gradients."""

    def soft(mask: EdgeTree) -> jax.Array:
        return jax.nn.log_softmax(masked_forward(model.decoder, jnp.asarray(IDS), mask, remat=True))[3]

    return model(IDS), jax.vmap(jax.value_and_grad(soft))(masks)


def leaves_of(model: Model) -> list[Streamed]:
    """Weights that are streamed."""
    leaves = jax.tree.leaves(model.decoder.params(), is_leaf=is_narrow)
    return [leaf for leaf in leaves if isinstance(leaf, Streamed)]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return made("llama-gqa", tmp_path)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gemma2", "bfloat16"),
        ("phi3", "float16"),
        ("gpt_neox", "float32"),
        ("qwen2_moe", "float32"),
        ("qwen3_next", "float32"),
    ],
)
def test_equal_to_weights_in_memory(name: str, dtype: str, tmp_path: Path) -> None:
    """Of fused and interleaved matrices, shards, experts apart, and layers of two forms.

    Layers are computed again for gradients, as those of streamed weights are always: other programs round otherwise.
    """
    source = made(name, tmp_path)
    here, streamed = jstrace.load(source, dtype=dtype), jstrace.load(source, dtype=dtype, weights="streamed")
    rng, full = np.random.default_rng(0), here.full_mask(len(IDS))
    masks = jax.tree.map(lambda leaf: jnp.asarray(leaf * rng.random((2, *leaf.shape)), jnp.float32), full)
    for leaf, other in zip(*(jax.tree.leaves(passes(model, masks)) for model in (here, streamed)), strict=True):
        np.testing.assert_array_equal(leaf, other)
    assert streamed.fingerprint() == here.fingerprint()
    assert (streamed.weights, streamed.dtype) == (here.weights, here.dtype)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(streamed)) < sum(leaf.nbytes for leaf in jax.tree.leaves(here))
    assert len(leaves_of(streamed)) >= 4


def test_traces_are_those_of_weights_in_memory(llama: Path) -> None:
    """By forward scores and by gradients; a trace of either is evaluated by the other."""
    here, streamed = jstrace.load(llama), jstrace.load(llama, weights="streamed")
    for score in ("l1", "gradient"):
        trace, other = (jstrace.trace(model, IDS, score=score, sizes=SIZES) for model in (here, streamed))
        assert trace == other
        assert jstrace.evaluate(here, other) == jstrace.evaluate(streamed, trace)
    assert wide_bytes(streamed) == widened_bytes(here.config, 4) > 0 == wide_bytes(here)


def test_numbers_of_another_dtype(llama: Path) -> None:
    """Those of fewer digits are read as they are; those of more are rounded while they are read."""
    reads = []
    for stored in ("float32", "bfloat16"):
        for dtype in ("float32", "bfloat16", "float16"):
            here, streamed = (jstrace.load(llama, dtype=dtype, weights=way) for way in (None, "streamed"))
            leaf = leaves_of(streamed)[0]
            assert leaf.reader is not None
            reads.append((stored, dtype, leaf.reader(1).dtype.name))
            assert (streamed.fingerprint(), leaf.checked(1).dtype) == (here.fingerprint(), here.dtype)
            np.testing.assert_array_equal(streamed(IDS), here(IDS))
        halved(llama / "model.safetensors")
    assert [read for stored, dtype, read in reads if read != dtype] == ["bfloat16"]


def halved(file: Path) -> None:
    """A file's matrices as bfloat16."""
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({name: array.astype(jnp.bfloat16) for name, array in tensors.items()}, file)


def test_one_layer_is_read_at_a_time(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once in a forward pass, and again for gradients; the next is fetched meanwhile.

    What is gone is the last layer, and what a pass before this one had of the layer itself.
    """
    done: list[tuple[str, int]] = []

    class Watched(LayerReader):
        def __call__(self, layer: int) -> np.ndarray:
            out = super().__call__(layer)
            if self._own[0][0].name == UP.format(0):
                done.append(("read", layer))
            return out

    def advise(self: Any, name: str, advice: str) -> None:
        done.extend((advice, layer) for layer in range(3) if name == UP.format(layer))

    monkeypatch.setattr("jstrace.convert.streaming.LayerReader", Watched)
    model = jstrace.load(llama, weights="streamed")
    monkeypatch.setattr(hf_folder._Content, "advise", advise)
    mask = jax.tree.map(lambda leaf: leaf.astype(np.float32), model.full_mask(len(IDS)))
    ahead, gone, read = "MADV_WILLNEED", "MADV_DONTNEED", "read"
    jax.block_until_ready(jax.jit(Model.__call__)(model, IDS))
    turns = [(ahead, 1), (gone, 2), (gone, 0), (read, 0)]
    turns += [(ahead, 2), (gone, 0), (gone, 1), (read, 1), (ahead, 0), (gone, 1), (gone, 2), (read, 2)]
    assert done == turns
    done.clear()
    jax.block_until_ready(jax.jit(jax.grad(lambda mask, model: model(IDS, mask)[0]))(mask, model))
    back = [(ahead, 0), (gone, 2), (read, 2)]
    back += [(ahead, 0), (gone, 2), (gone, 1), (read, 1), (ahead, 2), (gone, 1), (gone, 0), (read, 0)]
    assert done == turns + back


def test_files_are_closed_after_every_pass(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the model and its programs stay; a file that has changed by the next pass is refused."""
    opened: list[weakref.ref[mmap.mmap]] = []

    def watched(*args: Any, make: Any = mmap.mmap, **kwargs: Any) -> mmap.mmap:
        content: mmap.mmap = make(*args, **kwargs)
        opened.append(weakref.ref(content))
        return content

    monkeypatch.setattr("mmap.mmap", watched)
    model = jstrace.load(llama, weights="streamed")
    n_loading = len(opened)
    for _ in range(2):
        jax.block_until_ready(passes(model, jax.tree.map(lambda leaf: leaf[None] * 0.5, model.full_mask(len(IDS)))))
        assert [each for each in opened if each() is not None] == []
    assert len(opened) > n_loading > 0
    status = (llama / "model.safetensors").stat()
    os.utime(llama / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"model\.safetensors: the file has changed since the model"):
        jax.block_until_ready(jax.jit(Model.__call__)(model, IDS))


def test_layers_are_never_all_in_memory() -> None:
    """Not in a forward pass, and not for the gradients of a mask."""
    config = dataclasses.replace(TINY, n_layers=40, d_model=64, d_mlp=512)
    masks = jax.tree.map(lambda leaf: leaf.astype(np.float32), full_mask(config, 2))

    def loss(mask: EdgeTree, decoder: Decoder) -> jax.Array:
        return masked_forward(decoder, jnp.asarray(IDS[:2]), mask)[0]

    for dtype in (FLOAT32, jnp.dtype("bfloat16")):
        blank = jax.eval_shape(functools.partial(Decoder, config), shapes(config, dtype, narrow="streamed"))
        found = jax.jit(jax.grad(loss)).lower(masks, blank).compile().memory_analysis()
        assert found is not None
        size = dtype.itemsize
        assert found.temp_size_in_bytes < 0.2 * weight_bytes(config, size)
        assert found.argument_size_in_bytes < 0.2 * weight_bytes(config, size)
        assert weight_bytes(config, size, narrow="streamed") < 0.1 * weight_bytes(config, size)


def test_refusals(llama: Path, tmp_path: Path) -> None:
    """In one line, before anything is read."""
    load = functools.partial(jstrace.load, weights="streamed")
    with pytest.raises(InputError, match="weights streamed are read to one device; load them without a mesh"):
        load(llama, mesh=make_mesh(model=2))
    with pytest.raises(InputError, match="weights streamed reads layers of a Hugging Face model, which this is not"):
        load(f"random:{llama}")
    loading.convert(llama, tmp_path / "own")
    with pytest.raises(InputError, match="own: weights streamed reads layers of a Hugging Face model"):
        load(tmp_path / "own")
    model = load(llama)
    with pytest.raises(InputError, match="repeats move weights in memory, and those of this model are streamed"):
        jstrace.trace(model, IDS, repeats=2)
    data = runs.Data("letters", (runs.Row("hello"),), ("hello",))
    named = Model(model.decoder, Letters())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="repeats move weights in memory"):
        runs.run(named, data, tmp_path / "run", Plan(sizes=SIZES), extras=runs.Extras(repeats=2))
    assert not (tmp_path / "run" / "manifest.json").exists(), "another run may go there"
    assert copy.deepcopy(model).fingerprint() == model.fingerprint()
    wide = Model.from_arrays(model.config, model.decoder.params())
    assert wide.fingerprint() == model.fingerprint()
    assert not leaves_of(wide)


def spoilt(name: str, value: float) -> Callable[[Path], None]:
    """Puts a number into a matrix of a file."""

    def write(file: Path) -> None:
        content = bytearray(file.read_bytes())
        first = 8 + int.from_bytes(content[:8], "little")
        start = first + json.loads(content[8:first])[name]["data_offsets"][0]
        content[start + 8 : start + 12] = np.float32(value).tobytes()
        file.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-4]), "not a whole safetensors file"),
        (spoilt(UP.format(1), np.nan), r"layers\.1\.mlp\.up_proj\.weight is nan at \(0, 2\)"),
        (spoilt(UP.format(2), 1e38), r"beyond the range of float16"),
    ],
)
def test_damaged_files_are_refused(llama: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(llama / "model.safetensors")
    with pytest.raises(InputError, match=said) as caught:
        jstrace.load(llama, weights="streamed", dtype="float16")
    assert "\n" not in str(caught.value)
