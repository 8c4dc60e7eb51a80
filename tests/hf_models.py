"""Tiny random models of transformers, one or more of each family, with odd shapes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers
import tokenizers.models
import tokenizers.pre_tokenizers
import tokenizers.processors
import torch
import transformers

_BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
_GPT2: dict[str, Any] = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
}
_NO_GROUPS = {name: value for name, value in _BASE.items() if name != "num_key_value_heads"}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 6.0],
}
# Phi3Config has its own field for the length of the first training and overwrites the one in rope_parameters.
_LONG = {"pad_token_id": 0, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 16}
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
_GEMMA3 = {"rope_parameters": _GEMMA3_ROPE, "num_hidden_layers": 7, "final_logit_softcapping": 30.0}
_GEMMA = {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 20, "tie_word_embeddings": True}


@dataclasses.dataclass(frozen=True)
class Variant:
    """The class's prefix in transformers, with what is changed in the tiny config."""

    family: str
    name: str
    changes: dict[str, Any]
    base: dict[str, Any] = dataclasses.field(default_factory=lambda: _BASE)
    shards: int = 1


VARIANTS: dict[str, Variant] = {
    "llama-mha": Variant("llama", "Llama", {"num_key_value_heads": 4}),
    "llama-gqa": Variant("llama", "Llama", {}),
    "llama-mqa-wide-heads": Variant("llama", "Llama", {"num_key_value_heads": 1, "head_dim": 14}),
    "llama-square": Variant("llama", "Llama", {"intermediate_size": 32, "head_dim": 8}),
    "llama-tied-sharded": Variant("llama", "Llama", {"tie_word_embeddings": True}, shards=3),
    "llama-3.1-rope": Variant("llama", "Llama", {"rope_parameters": _LLAMA3}),
    "llama-biases": Variant("llama", "Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": Variant(
        "llama", "Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    ),
    "mistral-window": Variant("mistral", "Mistral", {"sliding_window": 7}),
    "mistral-no-window": Variant("mistral", "Mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": Variant("qwen2", "Qwen2", {}, shards=3),
    "qwen2-tied-windows": Variant(
        "qwen2",
        "Qwen2",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3-wide-heads": Variant("qwen3", "Qwen3", {"head_dim": 12}),
    "qwen3-mqa-tied": Variant(
        "qwen3", "Qwen3", {"head_dim": 10, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ),
    "olmo2-mha": Variant("olmo2", "Olmo2", {"num_key_value_heads": 4}),
    "olmo2-gqa-sharded": Variant("olmo2", "Olmo2", {}, shards=3),
    "phi3": Variant("phi3", "Phi3", {"pad_token_id": 0}),
    "phi3-longrope-sharded": Variant("phi3", "Phi3", _LONG, shards=3),
    "phi3-window": Variant("phi3", "Phi3", {"pad_token_id": 0, "sliding_window": 7, "num_key_value_heads": 1}),
    "gemma2": Variant("gemma2", "Gemma2", _GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "gemma3": Variant("gemma3", "Gemma3", _GEMMA | _GEMMA3),
    "gpt2": Variant("gpt2", "GPT2", {}, _GPT2),
    "gpt2-untied-sharded": Variant("gpt2", "GPT2", {"tie_word_embeddings": False, "n_inner": 40}, _GPT2, shards=3),
    "gpt_neox": Variant("gpt_neox", "GPTNeoX", {}, _NO_GROUPS, shards=3),
    "gpt_neox-sequential": Variant(
        "gpt_neox", "GPTNeoX", {"use_parallel_residual": False, "hidden_act": "gelu_new"}, _NO_GROUPS
    ),
}


TYPE_OF = {
    variant.family: {"gemma3": "gemma3_text"}.get(variant.family, variant.family) for variant in VARIANTS.values()
}
"""From families to the ``model_type`` of their configs."""


def varied(variant: Variant, changes: dict[str, Any]) -> Variant:
    """The variant with further changes."""
    return dataclasses.replace(variant, changes=variant.changes | changes)


def make(variant: Variant, folder: Path) -> Any:
    """The torch model, saved into ``folder``; norms and biases are moved away from one and zero."""
    # Gemma 3's text model and its config have names of their own.
    prefix = "Gemma3Text" if variant.name == "Gemma3" else variant.name
    config = getattr(transformers, f"{prefix}Config")(**(variant.base | variant.changes))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    head = "LMHeadModel" if variant.name == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{variant.name}{head}")(config).eval()
    one = 0.0 if variant.family.startswith("gemma") else 1.0  # Gemma's norms multiply by 1 + w
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=one if "norm" in name or ".ln_" in name else 0.0, std=0.3)
    model.save_pretrained(folder, max_shard_size="20KB" if variant.shards > 1 else "5GB")
    return model


def add_tokenizer(folder: Path) -> None:
    """A tokenizer of five words, the first of them put before every text."""
    words = {word: i for i, word in enumerate(["<s>", "the", "cat", "sat", "<unk>"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    single = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = single
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
