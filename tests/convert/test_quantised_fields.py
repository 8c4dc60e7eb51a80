"""Fields of ``quantization_config``, and numbers of files, that change what a quantised matrix is."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jstrace.convert.fields import Fields
from jstrace.convert.hf.quantised import read_scheme
from jstrace.models import InputError
from tests.convert.test_quantised import METHODS_OF, Method, _fp8, compressed, plain, read, write

__all__ = ["plain"]
_NAME = "layers.1.mlp.down_proj"
_WHOLE = (slice(0, 32), slice(0, 48))
Parts = dict[str, torch.Tensor]


def _fields(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["quantization_config"] |= changed
    path.write_text(json.dumps(fields))


def _parts(folder: Path, change: Callable[[Parts], Parts]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def _without(ending: str) -> Callable[[Parts], Parts]:
    return lambda parts: {name: part for name, part in parts.items() if not name.endswith(ending)}


def test_columns_out_of_order_need_their_groups(plain: Path, tmp_path: Path) -> None:
    """A file of GPTQ without them has them in order, if its config does not say otherwise."""
    dense = write(plain, tmp_path, METHODS_OF["gptq"])
    _parts(tmp_path, _without(".g_idx"))
    np.testing.assert_allclose(read(tmp_path)[1][f"{_NAME}.weight"].read(_WHOLE), dense[f"model.{_NAME}.weight"])
    _fields(tmp_path, desc_act=True)
    with pytest.raises(InputError, match=r"g_idx is missing, without which the groups of columns are not known"):
        read(tmp_path)


def test_columns_out_of_order_in_words(plain: Path, tmp_path: Path) -> None:
    method = METHODS_OF["pack-quantized"]
    for order, refused in (("static", False), ("group", True)):
        config = compressed("pack-quantized", num_bits=4, type="int", group_size=16, actorder=order)
        write(plain, tmp_path, Method(config, method.parts))
        if refused:
            with pytest.raises(InputError, match=r"weight_g_idx is missing"):
                read(tmp_path)
        else:
            read(tmp_path)


def test_zeros_of_which_programs_make_different_numbers(plain: Path, tmp_path: Path) -> None:
    """One less than 0 is 15 in four bits, to which some programs add one, and some keep the lowest bits of that."""
    write(plain, tmp_path, METHODS_OF["gptq"])
    name = f"model.{_NAME}.qzeros"
    _parts(tmp_path, lambda parts: parts | {name: parts[name] | 15})
    with pytest.raises(InputError, match=rf"{_NAME}.qzeros holds 15, .* 0 or 16 .* format gptq_v2"):
        read(tmp_path)[1][f"{_NAME}.weight"].read(_WHOLE)
    _fields(tmp_path, checkpoint_format="gptq_v2")
    read(tmp_path)[1][f"{_NAME}.weight"].read(_WHOLE)


def test_formats_under_their_other_name(plain: Path, tmp_path: Path) -> None:
    """``format`` counts where ``checkpoint_format`` and ``version`` are missing, as in transformers."""
    method = METHODS_OF["gptq-8-ordered"]
    config = {name: value for name, value in method.config.items() if name != "checkpoint_format"}
    dense = write(plain, tmp_path, Method(config | {"format": "gptq_v2"}, method.parts))
    np.testing.assert_allclose(read(tmp_path)[1][f"{_NAME}.weight"].read(_WHOLE), dense[f"model.{_NAME}.weight"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quant_method": "awq", "bits": 4, "format": "gemv"}, r"format = 'gemv' is not supported"),
        ({"quant_method": "awq", "bits": 4, "zero_point": False}, r"zero_point = False is not supported"),
        ({"quant_method": "gptq", "bits": 4, "desc_act": "yes"}, r"desc_act = 'yes', expected true or false"),
        (compressed("int-quantized", symmetric=False), r"weights: symmetric = False is not supported"),
    ],
)
def test_ways_that_are_not_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_scheme(Fields({"quantization_config": given}, "here"))


def test_a_note_that_nothing_is_sparse() -> None:
    given = compressed("int-quantized") | {"sparsity_config": {"format": "dense", "global_sparsity": 0.1}}
    assert read_scheme(Fields({"quantization_config": given}, "here")) is not None


def test_blocks_that_are_not_named(plain: Path, tmp_path: Path) -> None:
    """Blocks of fp8 have 128 rows and columns, as in transformers; null says that there are none."""
    method = Method({"quant_method": "fp8"}, functools.partial(_fp8, block=[128, 128]))
    dense = write(plain, tmp_path, method)
    np.testing.assert_allclose(read(tmp_path)[1][f"{_NAME}.weight"].read(_WHOLE), dense[f"model.{_NAME}.weight"])


@pytest.mark.parametrize(
    ("method", "part"), [("gptq", "scales"), ("pack-quantized", "weight_scale"), ("nf4", "weight.absmax")]
)
def test_scales_that_are_no_floats(method: str, part: str, plain: Path, tmp_path: Path) -> None:
    """Such as those of bitsandbytes that are quantised themselves, where nothing says how."""
    write(plain, tmp_path, METHODS_OF[method])
    name = f"model.{_NAME}.{part}"
    _parts(tmp_path, lambda parts: parts | {name: torch.ones_like(parts[name], dtype=torch.uint8)})
    with pytest.raises(InputError, match=rf"{part} has dtype U8, expected float16 or float32"):
        read(tmp_path)
