"""Every architecture of GGUF files against the folder of Hugging Face that it was made of: config and weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jstrace.convert import weights
from jstrace.convert.gguf.architectures import ARCHITECTURES
from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.hf.config import read_hf_config
from jstrace.convert.hf.folder import open_safetensors
from jstrace.convert.layouts import as_stored, file_sizes, layout_of
from jstrace.models import InputError
from jstrace.models.params import map_weights, place_of
from tests import gguf_files, hf_models, hf_types
from tests.convert.test_damage import refusal
from tests.hf_bases import YARN
from tests.hf_types import TYPES


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model and the architecture that it is written as."""

    architecture: str
    kind: hf_types.Type | hf_models.Variant
    odd: str = ""
    """Which matrices are those of other files, as for ``gguf_mixed.changed``."""

    def make(self, folder: Path) -> Any:
        """The torch model, saved into ``folder``."""
        made = hf_models.make if isinstance(self.kind, hf_models.Variant) else hf_types.make
        return made(self.kind, folder)  # type: ignore[operator]


def of_type(architecture: str, name: str, odd: str = "", **changes: Any) -> Case:
    kind = TYPES[name]
    text = {"text_config": kind.fields["text_config"] | changes} if "text_config" in kind.fields else changes
    return Case(architecture, dataclasses.replace(kind, fields=kind.fields | text), odd)


def of_variant(architecture: str, name: str, **changes: Any) -> Case:
    return Case(architecture, hf_models.varied(hf_models.VARIANTS[name], changes))


def scaled(scale: float) -> dict[str, Any]:
    """YaRN with a scale on queries and keys, which files say once for both of its numbers."""
    return {"rope_parameters": YARN | {"mscale": scale, "mscale_all_dim": scale}}


_LLAMA4 = {"no_rope_layers": [1, 1, 1, 0], "moe_layers": None, "interleave_moe_layer_step": 2}
"""Llama 4 as it is, which no field of its files says."""
_SCALAR = {"query_pre_attn_scalar": 12}
"""llama.cpp takes the head width, which is what the released models have."""
CASES = {
    "llama": of_variant("llama", "llama-mqa-wide-heads"),
    "llama-biases": of_variant("llama", "llama-biases"),
    "llama-yarn": of_type("llama", "llama-yarn"),
    "qwen2": of_variant("qwen2", "qwen2"),
    "qwen3": of_variant("qwen3", "qwen3-wide-heads"),
    "gemma2": of_variant("gemma2", "gemma2", **_SCALAR),
    "gemma3": of_variant("gemma3", "gemma3", **_SCALAR),
    "phi3": of_variant("phi3", "phi3"),
    "phi3-longrope": of_variant("phi3", "phi3-longrope-sharded"),
    "phi3-window": of_variant("phi3", "phi3-window"),
    "olmo2": of_variant("olmo2", "olmo2-gqa-sharded"),
    "olmo3": of_type("olmo2", "olmo3"),
    "gpt2": of_variant("gpt2", "gpt2"),
    "gptneox": of_variant("gptneox", "gpt_neox"),
    "gptneox-sequential": of_variant("gptneox", "gpt_neox-sequential", hidden_act="gelu"),
    "gemma": of_type("gemma", "gemma"),
    "qwen2vl": of_type("qwen2vl", "qwen2_vl"),
    "qwen2_5vl": of_type("qwen2vl", "qwen2_5_vl"),
    "qwen3vl": of_type("qwen3vl", "qwen3_vl"),
    "mistral3": of_variant("mistral3", "mistral-no-window"),
    "ministral3": of_type("mistral3", "ministral3"),
    "starcoder": of_type("starcoder", "gpt_bigcode"),
    "starcoder2": of_type("starcoder2", "starcoder2", sliding_window=None),
    "stablelm": of_type("stablelm", "stablelm"),
    "stablelm-parallel": of_type("stablelm", "stablelm-parallel"),
    "granite": of_type("granite", "granite"),
    "falcon": of_type("falcon", "falcon"),
    "falcon-7b": of_type("falcon", "falcon-7b"),
    "phi2": of_type("phi2", "phi"),
    "command-r": of_type("command-r", "cohere", tie_word_embeddings=True),
    "cohere2": of_type("cohere2", "cohere2"),
    "bloom": of_type("bloom", "bloom"),
    "mpt": of_type("mpt", "mpt"),
    "olmo": of_type("olmo", "olmo", clip_qkv=None),
    "olmo-clipped": of_type("olmo", "olmo"),
    "nemotron": of_type("nemotron", "nemotron"),
    "smollm3": of_type("smollm3", "smollm3", no_rope_layers=None, num_hidden_layers=5),
    "seed_oss": of_type("seed_oss", "seed_oss"),
    "arcee": of_type("arcee", "arcee"),
    "apertus": of_type("apertus", "apertus"),
    "ernie4_5": of_type("ernie4_5", "ernie4_5"),
    "exaone4": of_type("exaone4", "exaone4"),
    "chatglm": of_type("chatglm", "glm"),
    "glm4": of_type("glm4", "glm4"),
    "qwen3moe": of_type("qwen3moe", "qwen3_moe"),
    "gpt-oss": of_type("gpt-oss", "gpt_oss", swiglu_limit=7.0),
    "glm4moe": of_type("glm4moe", "glm4_moe"),
    "ernie4_5-moe": of_type("ernie4_5-moe", "ernie4_5_moe"),
    "llama4": of_type("llama4", "llama4_text", **_LLAMA4, attention_chunk_size=8192, floor_scale=8192),
    "deepseek2": of_type("deepseek2", "deepseek_v3", **scaled(1.0)),
    "deepseek2-v2": of_type("deepseek2", "deepseek_v2", **scaled(0.7)),
    "deepseek2-old": of_type("deepseek2", "deepseek_v2", "kv_b", **scaled(0.7)),
    "qwen3next": of_type("qwen3next", "qwen3_next", mlp_only_layers=[]),
    "qwen3next-old": of_type("qwen3next", "qwen3_next", "ssm_in", mlp_only_layers=[]),
    "qwen35": of_type("qwen35", "qwen3_5"),
    "qwen35moe": of_type("qwen35moe", "qwen3_5_moe"),
    "qwen35moe-fused": of_type("qwen35moe", "qwen3_5_moe", "gate_up"),
    "gemma4": of_type("gemma4", "gemma4_text"),
    "gemma4-experts": of_type("gemma4", "gemma4_text-experts"),
    "gemma4-values": of_type("gemma4", "gemma4_text", attention_k_eq_v=False, final_logit_softcapping=None),
}
"""By name: the architecture, or the architecture and what is odd."""
_SAID_OTHERWISE: dict[str, dict[str, Any]] = {
    "phi3-longrope": {"rope_magnitude": 1.25},
    "bloom": {"max_positions": 64},
}
"""What a GGUF file says of a model and its config does not."""


def values(config: Any, layouts: Any, tensors: Any) -> dict[str, tuple[np.ndarray, Any]]:
    """Every weight of every layer with its layout, as a device would be given it."""
    parts: dict[str, tuple[np.ndarray, Any]] = {}

    def add(name: str, _: Any) -> None:
        form, layers = place_of(config, name)
        layout, sizes = layout_of(layouts, name), file_sizes(form)
        for layer in layers:
            part = weights._Part(form, layout, layer, tensors, np.float32, "here", checked=True)
            parts[f"{name} {layer}"] = part(tuple(slice(0, sizes[letter]) for letter in layout.letters)), layout

    map_weights(add, config, named=True)
    return parts


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_folder(name: str, tmp_path: Path) -> None:
    """Config and weights; of the file no weight is left over, and none is missing."""
    torch_model = CASES[name].make(tmp_path / "hf")
    gguf_files.write_torch_model(tmp_path / "tiny.gguf", CASES[name].architecture, torch_model, odd=CASES[name].odd)
    file, folder = GgufFile(tmp_path / "tiny.gguf"), read_hf_config(tmp_path / "hf")
    expected = {**dataclasses.asdict(folder.config), **_SAID_OTHERWISE.get(name, {})}
    for field, value in dataclasses.asdict(file.config).items():
        if isinstance(value, float):  # which the file holds in single precision
            assert value == pytest.approx(expected[field], rel=1e-6), field
        else:
            assert value == expected[field], field
    assert {*weights._wanted(file.config, file.layouts)} == {*file.tensors}
    tensors = open_safetensors(tmp_path / "hf", left_out=folder.left_out)
    theirs = values(folder.config, as_stored(folder.layouts, tensors, folder.config.n_layers), tensors)
    parts = values(file.config, file.layouts, file.tensors)
    assert parts.keys() == theirs.keys()
    for place, (value, layout) in parts.items():
        expected, own = theirs[place]
        axes = [own.letters.index(letter) for letter in layout.letters]
        np.testing.assert_allclose(value, expected.transpose(axes), atol=2e-7, err_msg=place)


def test_every_architecture_is_compared() -> None:
    assert {case.architecture for case in CASES.values()} == {*ARCHITECTURES}


@pytest.mark.parametrize("name", ["gemma3", "phi3-longrope", "mpt", "ministral3", "deepseek2", "qwen35moe", "gemma4"])
def test_fields_of_other_kinds(name: str, tmp_path: Path) -> None:
    """Whatever a field says, it is read or refused in a line."""
    case = CASES[name]
    torch_model = case.make(tmp_path / "hf")
    metadata = gguf_files.metadata_of(case.architecture, gguf_files.text_config(torch_model))
    tensors = gguf_files.tensors_of(case.architecture, torch_model)
    n_refused = 0
    for field in metadata:
        for value in ("text", 0, 2.5, [1.0], [True], True, 2**31 - 1, float("nan"), float("inf")):
            own = {f"{case.architecture}.{key}": said for key, said in (metadata | {field: value}).items()}
            gguf_files.write(tmp_path / "odd.gguf", case.architecture, own, tensors)
            message = refusal(lambda: GgufFile(tmp_path / "odd.gguf"))
            assert "\n" not in message
            n_refused += message != ""
    assert n_refused > 5 * len(metadata)


def test_an_unknown_field_and_an_unknown_architecture(tmp_path: Path) -> None:
    torch_model = CASES["phi3"].make(tmp_path / "hf")
    gguf_files.write_torch_model(tmp_path / "odd.gguf", "phi3", torch_model, unheard_of=2)
    with pytest.raises(InputError, match="field 'unheard_of' = 2 is not known"):
        GgufFile(tmp_path / "odd.gguf")
    gguf_files.write(tmp_path / "odd.gguf", "qwen2moe", {}, {"token_embd.weight": np.zeros((4, 4), np.float32)})
    with pytest.raises(InputError, match=r"architecture 'qwen2moe' is not supported; supported: apertus, arcee"):
        GgufFile(tmp_path / "odd.gguf")
