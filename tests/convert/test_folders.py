"""Which weights of a Hugging Face folder count: those that transformers reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import chex
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_model

import jstrace
from jstrace.convert.hf.folder import open_safetensors
from jstrace.loading import describe
from jstrace.models import InputError
from tests import hf_models, hf_types


@pytest.mark.parametrize("shards_left", [True, False])
def test_the_single_file_counts_before_an_index(
    hf_llama: Callable[..., Path], tmp_path: Path, shards_left: bool
) -> None:
    """As of a model that was saved in shards and then in one file, with which transformers removes the shards alone."""
    folder = Path(shutil.copytree(hf_llama(shards=3), tmp_path / "model"))
    shards = sorted(folder.glob("model-*.safetensors"))
    new = {name: 2 * weight for shard in shards for name, weight in load_file(shard).items()}
    save_file(new, folder / "model.safetensors", {"format": "pt"})
    for shard in [] if shards_left else shards:
        shard.unlink()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()["model.embed_tokens.weight"]
    np.testing.assert_array_equal(theirs.numpy(), new["model.embed_tokens.weight"])
    model = jstrace.load(str(folder))
    np.testing.assert_array_equal(model.decoder.params()["embed"], new["model.embed_tokens.weight"])
    assert describe(str(folder)) == model.config


def test_adapters_are_refused(hf_llama: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hf_llama(), tmp_path / "model"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter_config\.json changes the weights.*merge_and_unload"):
        jstrace.load(str(folder))


@pytest.mark.parametrize("variant", ["llama-tied-sharded", "gemma3", "gpt2"])
def test_a_tied_embedding_that_is_stored_as_the_head(variant: str, tmp_path: Path) -> None:
    """safetensors' own ``save_model`` keeps one of two names that share memory, the first in order."""
    torch_model = hf_models.make(hf_models.VARIANTS[variant], tmp_path)
    expected = jstrace.load(str(tmp_path)).decoder.params()
    for path in tmp_path.glob("model*"):
        path.unlink()
    save_model(torch_model, str(tmp_path / "model.safetensors"))
    stored = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" in stored
    assert not any("embed_tokens" in name or "wte" in name for name in stored)
    chex.assert_trees_all_equal(jstrace.load(str(tmp_path)).decoder.params(), expected)
    fields = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"(embed_tokens|wte)\.weight is missing"):
        jstrace.load(str(tmp_path))


def test_buffers_of_old_files(tmp_path: Path) -> None:
    """Masks, sinusoids and rotary frequencies, which follow from the config; a bias of a matrix is none of them."""
    buffers = (
        "transformer.h.0.attn.attention.bias",
        "transformer.h.0.attn.attention.masked_bias",
        "h.1.attn.masked_bias",
        "transformer.h.0.attn.causal_mask",
        "transformer.h.0.self_attention.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "model.embed_positions.weights",
    )
    kept = ("transformer.h.0.attn.attention.out_proj.bias", "model.decoder.embed_positions.weight")
    save_file({name: np.zeros(2, np.float32) for name in (*buffers, *kept)}, tmp_path / "model.safetensors")
    assert open_safetensors(tmp_path).keys() == {"h.0.attn.attention.out_proj.bias", "embed_positions.weight"}


def test_names_of_released_files(tmp_path: Path) -> None:
    """Of OLMo Hybrid, whose norms transformers saves under other names than those of released files."""
    hf_types.make(hf_types.TYPES["olmo_hybrid"], tmp_path)
    path = tmp_path / "model.safetensors"
    saved, names = load_file(path), {"attention_layer_norm": "input_layernorm"}
    names["feedforward_layer_norm"] = "post_attention_layernorm"
    expected = jstrace.load(str(tmp_path)).fingerprint()
    released = {".".join(names.get(part, part) for part in name.split(".")): value for name, value in saved.items()}
    assert len(released) == len(saved)
    assert released.keys() != saved.keys()
    save_file(released, path, {"format": "pt"})
    assert jstrace.load(str(tmp_path)).fingerprint() == expected
