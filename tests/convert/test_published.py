"""Configs of further types as their repositories publish them, and those of models with other parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jstrace.convert.hf.config import described
from jstrace.models import InputError, check_ids, n_params
from tests.convert.test_configs import minimal

pytestmark = pytest.mark.quick

PUBLISHED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published.json").read_text())
"""By repository ``config``, ``parameters`` as its page gives them, and how many more there are here (``more_here``): a
norm that stands for two counts twice, shifts that no file has are zeros, and unused positions are not read."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    published = PUBLISHED[name]
    config = described(published["config"], where=name).config
    assert n_params(config) == published["parameters"] + published["more_here"]


def test_olmo_3_as_published() -> None:
    """YaRN is for the layers without a window."""
    config = described(PUBLISHED["allenai/Olmo-3-1025-7B"]["config"], where="olmo").config
    assert config.kinds == (1, 1, 1, 0) * 8
    assert (config.local_rope_theta, config.rope_magnitude) == (500000.0, pytest.approx(1.2079441541679836))
    assert max(config.rope_divisors or ()) == pytest.approx(8.0)


def test_exaone_without_a_window() -> None:
    """All its layers see everything, and are rotated; with one those that do are not."""
    fields = minimal("exaone4") | {"num_hidden_layers": 4}
    assert described(fields, where="here").config.unrotated_layers == (3,)
    assert described(fields | {"sliding_window_pattern": "LG"}, where="here").config.unrotated_layers == (1, 3)
    whole = described(fields | {"sliding_window": None}, where="here").config
    assert (whole.window, whole.unrotated_layers) == (None, ())


@pytest.mark.parametrize(
    ("model_type", "rope", "most"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, 16),
        ("ministral3", {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}, 8),
    ],
)
def test_positions_that_follow_another_rule_later(model_type: str, rope: dict[str, Any], most: int) -> None:
    """Texts that reach there are refused."""
    config = described(minimal(model_type) | {"rope_scaling": rope, "head_dim": 8}, where="here").config
    check_ids(config, np.zeros(most, np.int32))
    with pytest.raises(InputError, match=f"{most + 1} tokens, more than the {most} positions of this model"):
        check_ids(config, np.zeros(most + 1, np.int32))


def test_fields_that_tools_leave() -> None:
    """Bookkeeping: passed over, whatever they say."""
    left = {
        "unsloth_fixed": True,
        "unsloth_version": "2026.4.5",
        "model_name": "somebody/model",
        "_pre_quantization_dtype": "bfloat16",
        "custom_pipelines": {"text-generation": {"impl": "code.Pipeline"}},
        "max_sequence_length": 4096,
        "chunk_size_feed_forward": 0,
        "tie_encoder_decoder": False,
        "add_cross_attention": False,
    }
    assert described(minimal("llama") | left, where="here").config == described(minimal("llama"), where="here").config
    with pytest.raises(InputError, match="add_cross_attention = True is not supported"):
        described(minimal("llama") | {"add_cross_attention": True}, where="here")


def test_several_unknown_fields() -> None:
    """All of them are named, with what to pass."""
    fields = minimal("llama") | {"one": 1, "other": [2]}
    message = r"fields 'one' = 1, 'other' = \[2\] are not known.*--ignore-field one --ignore-field other"
    with pytest.raises(InputError, match=message):
        described(fields, where="here")
    with pytest.raises(InputError, match=r"field 'other' = \[2\] is not known"):
        described(fields, where="here", ignore=["one"])
    assert described(fields, where="here", ignore=["other", "one"]).config.ignored_fields == ("one", "other")


def whole(**changes: Any) -> dict[str, Any]:
    """A Mistral that reads images."""
    text = {name: value for name, value in minimal("mistral").items() if name != "model_type"}
    return {"model_type": "mistral3", "text_config": text, "vision_config": {}, "image_token_index": 10} | changes


def test_the_text_part() -> None:
    """The whole says whether the head is tied, if it says anything; its other fields are known or refused."""
    assert described(whole(), where="here").config == described(minimal("mistral"), where="here").config
    tied = {"text_config": minimal("mistral") | {"tie_word_embeddings": True}}
    assert described(whole(**tied), where="here").config.tied_head
    assert not described(whole(**tied, tie_word_embeddings=False), where="here").config.tied_head
    with pytest.raises(InputError, match="'mystery' = 1 is not known"):
        described(whole(mystery=1), where="here")
    assert described(whole(mystery=1), where="here", ignore=["mystery"]).config.ignored_fields == ("mystery",)
    assert described(whole(vocab_size=9), where="here").config.vocab_size == 9, "said twice"
    with pytest.raises(InputError, match="text_config has model_type 'llama', expected 'mistral' or 'ministral3'"):
        described(whole(text_config=minimal("llama")), where="here")
    assert "vision_tower." in described(whole(), where="here").left_out


def test_ties_of_older_files() -> None:
    """Of Qwen2.5-VL the text's part may tie the head, too; its oldest files have the fields of both in one."""
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    flat = PUBLISHED[name]["config"]
    text = {
        key: value
        for key, value in flat.items()
        if "token_id" not in key and key not in ("model_type", "vision_config")
    }
    nested = {"model_type": "qwen2_5_vl", "text_config": text, "tie_word_embeddings": False}
    assert described(nested, where=name).config == described(flat, where=name).config
    text["rope_scaling"] = {"type": "default", "mrope_section": [16, 24, 24]}
    assert described(nested, where=name).config == described(flat, where=name).config


@pytest.mark.parametrize(
    ("model_type", "missing"),
    [
        ("dbrx", "mixture of experts"),
        ("mamba", "state-space"),
    ],
)
def test_what_is_missing_of_types_that_are_not_read(model_type: str, missing: str) -> None:
    with pytest.raises(InputError, match=f"is not supported: .*{missing}.* is missing"):
        described({"model_type": model_type, "text_config": {}, "mystery": 9}, where="here")


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
        ("opt", {"word_embed_proj_dim": 8}, "word_embed_proj_dim = 8"),
        ("olmo", {"clip_qkv": -8.0}, "clip_qkv"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers is no list of 3 zeros and ones"),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 4, "no_rope_layers": [0, 1, 1]},
            "layer 0 is without",
        ),
        ("exaone4", {"sliding_window_pattern": "LX"}, "sliding_window_pattern = 'LX'"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "attention_types does not give 4 layers"),
        ("codegen", {"n_head": 2}, "2 heads do not divide into the four groups"),
        ("bloom", {"n_head": 2**20}, "expected at most 65536"),
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config: alibi = False"),
        ("mpt", {"attn_config": {"kv_n_heads": 2}}, "attn_config: field 'kv_n_heads' = 2 is not known"),
        ("starcoder2", {"norm_type": "rms_norm"}, "norm_type"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "olmo3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "only the default type",
        ),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_theta": 1.0}, "has no frequencies"),
        ("phi3", {"rope_scaling": {"type": "yarn"}}, "an older name of longrope"),
    ],
)
def test_what_is_refused(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        described(minimal(model_type) | changes, where="here")
