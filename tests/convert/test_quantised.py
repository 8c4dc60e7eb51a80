"""Quantised folders of Hugging Face: written by hand by each method's formula, against other dequantisers."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import finegrained_fp8, mxfp4

import jstrace
from jstrace.convert import weights
from jstrace.convert.hf.config import described, read_hf_config
from jstrace.convert.hf.folder import open_safetensors
from jstrace.convert.hf.quantised import METHODS
from jstrace.loading import describe
from jstrace.models import InputError
from tests import hf_models, hf_types
from tests.convert.test_damage import refusal

Parts = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Method:
    """How a matrix is drawn: ``parts`` of ``(out, in)`` and a generator, with the dense matrix beside them."""

    config: dict[str, Any]
    parts: Callable[[int, int, np.random.Generator], tuple[Parts, np.ndarray]]


def _int32(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(numbers.astype(np.uint32).view(np.int32).copy())


def packed(numbers: np.ndarray, bits: int, axis: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Numbers in words of 32 bits: one after another, or number ``order[place]`` of each word at that place."""
    per_word = 32 // bits
    moved = np.moveaxis(numbers, axis, -1).astype(np.int64)
    moved = np.pad(moved, ((0, 0), (0, -moved.shape[1] % per_word)))
    words = np.zeros((moved.shape[0], moved.shape[1] // per_word), np.int64)
    for row in range(words.shape[0]):
        for word in range(words.shape[1]):
            for place in range(per_word):
                number = moved[row, word * per_word + (place if order is None else order[place])]
                words[row, word] |= int(number) << (bits * place)
    return _int32(np.moveaxis(words, -1, axis))


def _fp8(n_out: int, n_in: int, rng: np.random.Generator, *, block: list[int] | None) -> tuple[Parts, np.ndarray]:
    weight = torch.from_numpy(rng.normal(size=(n_out, n_in)).astype(np.float32)).to(torch.float8_e4m3fn)
    shape = () if block is None else (math.ceil(n_out / block[0]), math.ceil(n_in / block[1]))
    scale = torch.from_numpy(np.asarray(rng.uniform(0.01, 0.1, shape), np.float32))
    dense = weight.float().numpy()
    for row in range(n_out):
        for column in range(n_in):
            dense[row, column] *= np.float32(scale if block is None else scale[row // block[0], column // block[1]])
    parts = {"weight": weight, "weight_scale_inv": scale}
    return parts | ({"activation_scale": torch.tensor(2.0)} if block is None else {}), dense


def _by_row(
    n_out: int, n_in: int, rng: np.random.Generator, *, kind: str, name: str, factor: float = 1.0
) -> tuple[Parts, np.ndarray]:
    if kind == "int8":
        weight = torch.from_numpy(rng.integers(-128, 128, (n_out, n_in)).astype(np.int8))
    else:
        weight = torch.from_numpy(rng.normal(size=(n_out, n_in)).astype(np.float32)).to(torch.float8_e4m3fn)
    shape = (n_out,) if name == "SCB" else (n_out, 1)
    scale = rng.uniform(0.01, 0.1, shape).astype(np.float32)
    return {"weight": weight, name: torch.from_numpy(scale)}, weight.float().numpy() * scale.reshape(-1, 1) * factor


def _gptq(
    n_out: int, n_in: int, rng: np.random.Generator, *, bits: int, less: int, ordered: bool
) -> tuple[Parts, np.ndarray]:
    groups = np.arange(n_in) // 16
    groups = rng.permutation(groups) if ordered else groups
    numbers = rng.integers(0, 2**bits, (n_in, n_out))
    zeros = rng.integers(1, 2**bits, (n_in // 16, n_out))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    dense = np.zeros((n_out, n_in), np.float32)
    for i in range(n_in):
        for o in range(n_out):
            dense[o, i] = np.float32(scales[groups[i], o]) * np.float32(numbers[i, o] - zeros[groups[i], o])
    parts = {"qweight": packed(numbers, bits, 0), "qzeros": packed(zeros - less, bits, 1)}
    return parts | {"scales": torch.from_numpy(scales), "g_idx": torch.from_numpy(groups.astype(np.int32))}, dense


def _awq(n_out: int, n_in: int, rng: np.random.Generator) -> tuple[Parts, np.ndarray]:
    order = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight columns lies at each place
    numbers, zeros = rng.integers(0, 16, (n_in, n_out)), rng.integers(0, 16, (n_in // 16, n_out))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    dense = np.zeros((n_out, n_in), np.float32)
    for i in range(n_in):
        dense[:, i] = np.float32(scales[i // 16]) * np.float32(numbers[i] - zeros[i // 16])
    parts = {"qweight": packed(numbers, 4, 1, order), "qzeros": packed(zeros, 4, 1, order)}
    return parts | {"scales": torch.from_numpy(scales)}, dense


def _words(n_out: int, n_in: int, rng: np.random.Generator, *, bits: int, symmetric: bool) -> tuple[Parts, np.ndarray]:
    """Of compressed-tensors: signed numbers and zeros, moved to be positive before they are packed."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    numbers, zeros = rng.integers(low, high, (n_out, n_in)), rng.integers(low, high, (n_out, n_in // 16))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float32)
    zeros = zeros * (not symmetric)
    dense = np.zeros((n_out, n_in), np.float32)
    for i in range(n_in):
        dense[:, i] = scales[:, i // 16] * np.float32(numbers[:, i] - zeros[:, i // 16])
    parts = {"weight_packed": packed(numbers - low, bits, 1), "weight_scale": torch.from_numpy(scales)}
    parts |= {} if symmetric else {"weight_zero_point": packed(zeros - low, bits, 0)}
    return parts | {"weight_shape": torch.tensor([n_out, n_in])}, dense


def _nf4(n_out: int, n_in: int, rng: np.random.Generator, *, nested: bool) -> tuple[Parts, np.ndarray]:
    table = np.sort(rng.normal(size=16)).astype(np.float32)
    places, block = rng.integers(0, 16, n_out * n_in), 64
    scales = rng.uniform(0.5, 1, n_out * n_in // block).astype(np.float32)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": [n_out, n_in]}
    more: Parts = {"weight.absmax": torch.from_numpy(scales)}
    if nested:
        quantised, values = rng.integers(0, 256, scales.size).astype(np.uint8), rng.normal(size=256).astype(np.float32)
        again = rng.uniform(0.5, 1, math.ceil(scales.size / 8)).astype(np.float32)
        state |= {"nested_blocksize": 8, "nested_dtype": "float32", "nested_offset": 0.25}
        scales = np.float32([values[q] * again[i // 8] + 0.25 for i, q in enumerate(quantised)])
        more = {"weight.absmax": torch.from_numpy(quantised), "weight.nested_absmax": torch.from_numpy(again)}
        more["weight.nested_quant_map"] = torch.from_numpy(values)
    dense = np.float32([table[place] * scales[i // block] for i, place in enumerate(places)]).reshape(n_out, n_in)
    halves = torch.from_numpy((places[::2] << 4 | places[1::2]).astype(np.uint8)).reshape(-1, 1)
    named = torch.from_numpy(np.frombuffer(json.dumps(state).encode(), np.uint8).copy())
    parts = {"weight": halves, "weight.quant_map": torch.from_numpy(table), **more}
    return parts | {"weight.quant_state.bitsandbytes__nf4": named}, dense


def compressed(way: str, **of_weights: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": 8, **of_weights}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "format": way, "config_groups": {"group_0": group}}


_FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True}
METHODS_OF = {
    "fp8": Method({"quant_method": "fp8", "weight_block_size": [16, 20]}, functools.partial(_fp8, block=[16, 20])),
    "fp8-whole": Method({"quant_method": "fp8", "weight_block_size": None}, functools.partial(_fp8, block=None)),
    "fbgemm_fp8": Method(
        {"quant_method": "fbgemm_fp8"}, functools.partial(_by_row, kind="float8", name="weight_scale")
    ),
    "float-quantized": Method(
        compressed("float-quantized", type="float", strategy="channel"),
        functools.partial(_by_row, kind="float8", name="weight_scale"),
    ),
    "int-quantized": Method(
        compressed("int-quantized", type="int", strategy="channel"),
        functools.partial(_by_row, kind="int8", name="weight_scale"),
    ),
    "pack-quantized": Method(
        compressed("pack-quantized", num_bits=4, type="int", group_size=16),
        functools.partial(_words, bits=4, symmetric=True),
    ),
    "pack-quantized-zeros": Method(
        compressed("pack-quantized", num_bits=8, type="int", group_size=16),
        functools.partial(_words, bits=8, symmetric=False),
    ),
    "gptq": Method(
        {"quant_method": "gptq", "bits": 4, "group_size": 16},
        functools.partial(_gptq, bits=4, less=1, ordered=False),
    ),
    "gptq-2": Method(
        {"quant_method": "gptq", "bits": 2, "group_size": 16},
        functools.partial(_gptq, bits=2, less=1, ordered=False),
    ),
    "gptq-8-ordered": Method(
        {"quant_method": "gptq", "bits": 8, "group_size": 16, "desc_act": True, "checkpoint_format": "gptq_v2"},
        functools.partial(_gptq, bits=8, less=0, ordered=True),
    ),
    "awq": Method({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}, _awq),
    "nf4": Method(_FOUR, functools.partial(_nf4, nested=False)),
    "nf4-nested": Method(_FOUR, functools.partial(_nf4, nested=True)),
    "int8": Method(
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        functools.partial(_by_row, kind="int8", name="SCB", factor=1 / 127),
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    hf_models.make(hf_models.VARIANTS["llama-gqa"], folder)
    return folder


def write(plain: Path, folder: Path, method: Method) -> dict[str, np.ndarray]:
    """A folder with quantised matrices in the layers; returns the dense ones by name."""
    rng, found, dense = np.random.default_rng(3), {}, {}
    for name, weight in load_file(plain / "model.safetensors").items():
        if "_proj.weight" not in name:
            found[name] = weight
            continue
        parts, dense[name] = method.parts(*weight.shape, rng)
        found |= {f"{name.removesuffix('.weight')}.{part}": tensor for part, tensor in parts.items()}
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "model.safetensors")
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": method.config}
    (folder / "config.json").write_text(json.dumps(config))
    return dense


def read(folder: Path) -> tuple[Any, dict[str, Any]]:
    found = read_hf_config(folder)
    assert found.quantised is not None
    return found, found.quantised.dequantised(open_safetensors(folder), str(folder))


@pytest.mark.parametrize("name", METHODS_OF)
def test_matrices_equal_the_formula(name: str, plain: Path, tmp_path: Path) -> None:
    """Whole ones, and parts of them that begin and end within blocks and words; no part is left over."""
    dense = write(plain, tmp_path, METHODS_OF[name])
    found, tensors = read(tmp_path)
    assert {*weights._wanted(found.config, found.layouts)} == {*tensors}
    for full, expected in dense.items():
        tensor = tensors[full.removeprefix("model.")]
        assert tensor.shape == expected.shape
        everything = tuple(slice(0, length) for length in tensor.shape)
        for part in (everything, (slice(3, 9), slice(5, 23)), (slice(15, 16), slice(31, 32))):
            np.testing.assert_allclose(tensor.read(part), expected[part], rtol=1e-6)
    assert describe(tmp_path) == describe(plain)


@pytest.mark.parametrize("name", ["fp8-whole", "gptq", "nf4-nested"])
def test_a_loaded_model(name: str, plain: Path, tmp_path: Path) -> None:
    """Equal to that of a folder with the dense matrices, on one device and on two; the same is read layer by layer."""
    dense = write(plain, tmp_path / "quantised", METHODS_OF[name])
    unquantised = load_file(plain / "model.safetensors") | {n: torch.from_numpy(x) for n, x in dense.items()}
    (tmp_path / "dense").mkdir()
    save_file(unquantised, tmp_path / "dense" / "model.safetensors")
    (tmp_path / "dense" / "config.json").write_text((plain / "config.json").read_text())
    expected = jstrace.load(tmp_path / "dense").decoder.params()
    for mesh in (None, jstrace.make_mesh(model=2)) if name == "gptq" else (None,):
        found = jstrace.load(tmp_path / "quantised", mesh=mesh).decoder.params()
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)
    here, streamed = (jstrace.load(tmp_path / "quantised", weights=way) for way in (None, "streamed"))
    assert streamed.fingerprint() == here.fingerprint()


def test_fp8_as_transformers_has_it(plain: Path, tmp_path: Path) -> None:
    method = Method({"quant_method": "fp8", "weight_block_size": [16, 16]}, functools.partial(_fp8, block=[16, 16]))
    write(plain, tmp_path, method)
    stored, (_, tensors) = load_file(tmp_path / "model.safetensors"), read(tmp_path)
    name = "layers.1.mlp.up_proj.weight"
    weight, scale = stored[f"model.{name}"], stored[f"model.{name}_scale_inv"]
    theirs = finegrained_fp8._dequantize_fp8_weight(weight, scale, [16, 16], torch.float32)
    np.testing.assert_array_equal(tensors[name].read((slice(0, 48), slice(0, 32))), theirs.numpy())


def test_mxfp4_as_transformers_has_it(plain: Path, tmp_path: Path) -> None:
    """Of experts in GPT-OSS's files; whole, and a part that begins within a block."""
    write(
        plain,
        tmp_path,
        Method({"quant_method": "mxfp4"}, lambda *shape: ({"weight": torch.ones(shape[:2])}, np.ones(1))),
    )
    rng, path = np.random.default_rng(0), tmp_path / "model.safetensors"
    blocks = torch.from_numpy(rng.integers(0, 256, (3, 10, 2, 16)).astype(np.uint8))
    scales = torch.from_numpy(rng.integers(120, 134, (3, 10, 2)).astype(np.uint8))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    save_file(load_file(path) | {f"{name}_blocks": blocks, f"{name}_scales": scales}, path)
    tensor = read(tmp_path)[1]["layers.0.mlp.experts.gate_up_proj"]
    theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    assert tensor.shape == theirs.shape == (3, 64, 10)
    for part in ((slice(0, 3), slice(0, 64), slice(0, 10)), (slice(1, 2), slice(17, 45), slice(3, 9))):
        np.testing.assert_array_equal(tensor.read(part), theirs[part])


# --- refusals -------------------------------------------------------------------------------------------------------


def test_every_method_is_compared() -> None:
    compared = {method.config["quant_method"] for method in METHODS_OF.values()} | {"mxfp4"}
    assert compared == {*METHODS}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quant_method": "aqlm"}, r"quant_method = 'aqlm' is not read; read are awq, bitsandbytes, .* GGUF file"),
        ({"bits": 4}, r"quant_method = 'None' is not read"),
        ({"quant_method": "gptq", "bits": 3}, r"bits = 3 is not read; read are 2, 4, 8"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, r"'marlin' is not supported; supported"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, r"group_size = 0, expected a positive integer"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, r"version = 'gemv' is not supported"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size = \[128\], expected two numbers"),
        ({"quant_method": "compressed-tensors"}, r"config_groups quantise weights in 0 ways, expected one"),
        (compressed("nvfp4-pack-quantized", num_bits=4), r"format = 'nvfp4-pack-quantized' is not read; read are"),
        (compressed("float-quantized") | {"sparsity_config": {"format": "x"}}, r"sparsity_config is not read"),
        ("fp8", r"quantization_config = 'fp8', expected an object"),
    ],
)
def test_methods_that_are_not_read(given: Any, message: str, plain: Path, tmp_path: Path) -> None:
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": given}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        describe(tmp_path)


def damages(tensor: torch.Tensor) -> list[torch.Tensor | None]:
    """Nothing, another size, other axes, no numbers, another type."""
    flat = tensor.reshape(-1)
    other = torch.zeros_like(tensor, dtype=torch.bool)
    return [None, flat[: max(len(flat) - 1, 1)].clone(), tensor[None].clone(), flat[:0].clone(), other]


def read_all(folder: Path, bare: str) -> None:
    """What loading checks before it reads, and one matrix of what it reads."""
    found, tensors = read(folder)
    wanted = weights._wanted(found.config, found.layouts)
    weights._check_shapes(wanted, tensors, "here")
    weights._check_left_over(found.config, {*tensors} - {*wanted}, tensors, found.layouts, "here")
    own = tensors[f"{bare}weight"]
    weights._check_finite(own.read(tuple(slice(0, length) for length in own.shape)), [0, 0], "here")


@pytest.mark.parametrize("name", METHODS_OF)
def test_parts_that_do_not_fit(name: str, plain: Path, tmp_path: Path) -> None:
    """Each part of one matrix missing, cut, of another shape or type: refused in a line, or read as something else."""
    write(plain, tmp_path, METHODS_OF[name])
    path, bare = tmp_path / "model.safetensors", "model.layers.1.mlp.down_proj."
    whole, n_refused, n_all = load_file(path), 0, 0
    for part in [part for part in whole if part.startswith(bare) and "activation" not in part]:
        for damaged in damages(whole[part]):
            others = {name: tensor for name, tensor in whole.items() if name != part}
            save_file(others if damaged is None else others | {part: damaged}, path)
            message = refusal(functools.partial(read_all, tmp_path, bare.removeprefix("model.")))
            assert "\n" not in message
            n_refused, n_all = n_refused + (message != ""), n_all + 1
    assert n_refused >= 0.6 * n_all, (n_refused, n_all)


@pytest.mark.parametrize(
    ("name", "part", "value", "message"),
    [
        ("pack-quantized", "weight_shape", torch.tensor([2**40, 3]), "is no shape of a matrix"),
        ("pack-quantized", "weight_shape", torch.tensor([2**30, 2**30]), "has shape"),
        ("pack-quantized", "weight_shape", torch.tensor([-1, 48]), "is no shape of a matrix"),
        (
            "gptq",
            "g_idx",
            torch.full((48,), 2**31 - 1, dtype=torch.int32),
            r"scales has shape \(3, 32\), expected \(2147",
        ),
        ("gptq", "g_idx", torch.full((48,), -1, dtype=torch.int32), "has groups of"),
        ("gptq", "scales", torch.full((3, 32), float("nan")), "is nan at"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", torch.zeros(9, dtype=torch.uint8), "is not readable as JSON"),
        ("int8", "SCB", torch.full((32,), float("inf")), "at"),
    ],
)
def test_values_that_make_no_sense(
    name: str, part: str, value: torch.Tensor, message: str, plain: Path, tmp_path: Path
) -> None:
    write(plain, tmp_path, METHODS_OF[name])
    path, bare = tmp_path / "model.safetensors", "layers.1.mlp.down_proj."
    save_file(load_file(path) | {f"model.{bare}{part}": value}, path)
    with pytest.raises(InputError, match=message):
        read_all(tmp_path, bare)


def test_the_text_part_of_a_quantised_model() -> None:
    """The whole says how it is quantised, or the text part does."""
    fields, given = {"model_type": "llava"} | hf_types.TYPES["llava"].fields, {"quant_method": "fp8"}
    for changed in (
        fields | {"quantization_config": given},
        fields | {"text_config": fields["text_config"] | {"quantization_config": given}},
    ):
        found = described(changed, where="here").quantised
        assert found is not None
        assert found.method == "fp8"
    assert described(fields, where="here").quantised is None
