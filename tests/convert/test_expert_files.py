"""Experts as official files have them: gpt-oss in four-bit floats, Qwen3.5 in one matrix for all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import mxfp4

import jstrace
from tests import hf_types


def test_experts_in_four_bits(tmp_path: Path) -> None:
    kind = hf_types.TYPES["gpt_oss"]
    hf_types.make(dataclasses.replace(kind, fields=kind.fields | {"intermediate_size": 64}), tmp_path)
    path, drawn = tmp_path / "model.safetensors", torch.Generator().manual_seed(3)
    tensors, expected = load_file(path), {}
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        n_experts, into, out = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (n_experts, out, into // 32, 16), dtype=torch.uint8, generator=drawn)
        scales = torch.randint(120, 128, (n_experts, out, into // 32), dtype=torch.uint8, generator=drawn)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        expected[name] = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    save_file(tensors, path, metadata={"format": "pt"})
    fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    fields["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    layers = jstrace.load(tmp_path).decoder.params()["layers"]
    for index in range(3):
        both, down = (expected[f"model.layers.{index}.mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj"))
        np.testing.assert_array_equal(layers["gate"][index], both[..., ::2])
        np.testing.assert_array_equal(layers["up"][index], both[..., 1::2])
        np.testing.assert_array_equal(layers["down"][index], down)


def test_experts_in_one_matrix(tmp_path: Path) -> None:
    """The weights are those of the same model with experts apart."""
    hf_types.make(hf_types.TYPES["qwen3_5_moe"], tmp_path)
    apart, path = jstrace.load(tmp_path).decoder.params(), tmp_path / "model.safetensors"
    tensors = load_file(path)
    for layer in range(3):
        folder = f"model.language_model.layers.{layer}.mlp.experts."
        gate, up, down = (
            torch.stack([tensors.pop(f"{folder}{expert}.{name}_proj.weight") for expert in range(5)])
            for name in ("gate", "up", "down")
        )
        tensors |= {f"{folder}gate_up_proj": torch.cat([gate, up], 1), f"{folder}down_proj": down}
    save_file(tensors | {"mtp.norm.weight": torch.ones(32)}, path, metadata={"format": "pt"})
    jax.tree.map(np.testing.assert_array_equal, jstrace.load(tmp_path).decoder.params(), apart)
