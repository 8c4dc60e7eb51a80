"""Tiny random models of transformers, one or more of each ``model_type``, with odd choices that real checkpoints have.

Shapes and numbers are shared, so that types which differ by fields and layout alone run in one compiled program.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jstrace.models import Decoder, EdgeTree, Model, ModelConfig, masked_forward, plain_forward
from tests.hf_bases import LLAMA, NO_HEAD_DIM, NO_NORM, PARTIAL, ROPE, TOKENS, YARN, Type, V
from tests.hf_expert_types import EXPERT_TYPES
from tests.hf_wrapper_types import WRAPPER_TYPES

_NORMS = NO_NORM | {"layer_norm_eps": 1e-5}
_GPT2 = {
    "vocab_size": V,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.2,
    **TOKENS,
}
_LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]


TYPES: dict[str, Type] = {
    "llama-yarn": Type("llama", LLAMA | {"rope_parameters": YARN}, "YaRN"),
    "llama-dynamic": Type(
        "llama",
        LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        "dynamic NTK",
    ),
    "opt": Type(
        "opt",
        {
            "vocab_size": V,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.2,
            **TOKENS,
        },
        "ReLU; positions from the third row",
        flagged=True,
    ),
    "ministral3": Type(
        "ministral3",
        LLAMA
        | {
            "rope_parameters": YARN
            | {
                "original_max_position_embeddings": 48,
                "llama_4_scaling_beta": 0.1,
            }
        },
        "YaRN; inputs up to the first training's length",
    ),
    "bloom": Type(
        "bloom",
        {"vocab_size": V, "hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2, **TOKENS},
        "ALiBi; the norm of the embeddings folded into their table",
        flagged=True,
    ),
    "smollm3": Type(
        "smollm3",
        LLAMA | {"no_rope_layers": [1, 0, 1], "tie_word_embeddings": True},
        "layers without rotary positions (NoPE)",
        flagged=True,
    ),
    "cohere2": Type(
        "cohere2",
        _NORMS | {"sliding_window": 5, "logit_scale": 0.25, "layer_types": _LAYERS, "tie_word_embeddings": True},
        "NoPE on layers without a window; pairs beside one another, one norm for both sub-layers, folded logit scale",
        flagged=True,
    ),
    "exaone4": Type(
        "exaone4",
        LLAMA | {"sliding_window": 5, "sliding_window_pattern": "LLG", "layer_types": _LAYERS},
        "NoPE on layers without a window",
        flagged=True,
    ),
    "phi": Type("phi", _NORMS | PARTIAL, "the head's bias; one norm for both sub-layers", flagged=True),
    "gptj": Type(
        "gptj", _GPT2 | {"rotary_dim": 4}, "the head's bias; pairs beside one another, one norm", flagged=True
    ),
    "codegen": Type("codegen", _GPT2 | {"rotary_dim": 4}, "the head's bias; as GPT-J, with fused matrices"),
    "gpt_neo": Type(
        "gpt_neo",
        {
            "vocab_size": V,
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "window_size": 5,
            "attention_types": [[["global", "local"], 2]],
            "initializer_range": 0.2,
            **TOKENS,
        },
        "no scale on query-key products",
    ),
    "granite": Type(
        "granite",
        NO_HEAD_DIM
        | {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
            "logits_scaling": 8.0,
        }
        | {"attention_bias": True, "tie_word_embeddings": True},
        "multipliers folded into weights",
    ),
    "gemma": Type("gemma", LLAMA | {"hidden_act": "gelu", "tie_word_embeddings": True}),
    "vaultgemma": Type(
        "vaultgemma", LLAMA | {"sliding_window": 5, "query_pre_attn_scalar": 12, "tie_word_embeddings": True}
    ),
    "olmo3": Type(
        "olmo3",
        NO_HEAD_DIM
        | {
            "sliding_window": 5,
            "layer_types": _LAYERS,
            "rope_parameters": {"sliding_attention": ROPE["rope_parameters"], "full_attention": YARN},
        },
        "YaRN on layers without a window",
        flagged=True,
    ),
    "olmo": Type(
        "olmo",
        NO_NORM | {"clip_qkv": 0.5, "tie_word_embeddings": True},
        "norms without weights; bounded queries, keys and values",
        flagged=True,
    ),
    "glm": Type("glm", LLAMA | PARTIAL, "pairs beside one another on half of a head, fused gate"),
    "glm4": Type("glm4", LLAMA | PARTIAL, "as GLM, with norms before and after"),
    "starcoder2": Type("starcoder2", NO_NORM | {"norm_epsilon": 1e-5, "sliding_window": 5}),
    "stablelm": Type("stablelm", _NORMS | PARTIAL | {"use_qkv_bias": True}),
    "stablelm-parallel": Type("stablelm", _NORMS | PARTIAL | {"use_parallel_residual": True}),
    "gpt_bigcode": Type("gpt_bigcode", _GPT2, "fused matrices, one key/value head"),
    "gpt_bigcode-heads": Type("gpt_bigcode", _GPT2 | {"multi_query": False}, "fused matrices"),
    "falcon": Type(
        "falcon",
        {
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "initializer_range": 0.2,
            **TOKENS,
        },
        "fused matrices by groups of heads",
    ),
    "falcon-7b": Type(
        "falcon",
        {
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "initializer_range": 0.2,
            **TOKENS,
        },
        "one norm for both sub-layers",
    ),
    "falcon-rw": Type(
        "falcon",
        {
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "multi_query": False,
            "parallel_attn": False,
            "alibi": True,
            "bias": True,
            "initializer_range": 0.2,
            **TOKENS,
        },
        "ALiBi",
        attention="sdpa",  # the other way adds the bias twice
    ),
    "cohere": Type(
        "cohere",
        _NORMS | {"logit_scale": 0.25, "attention_bias": True},
        "pairs beside one another, one norm for both sub-layers, folded logit scale",
    ),
    "ernie4_5": Type("ernie4_5", LLAMA, "pairs beside one another"),
    "helium": Type("helium", LLAMA, "pairs beside one another"),
    "ministral": Type("ministral", LLAMA | {"sliding_window": 5, "layer_types": _LAYERS}),
    "internlm3": Type("internlm3", LLAMA),
    "seed_oss": Type("seed_oss", LLAMA | {"attention_bias": True, "attention_out_bias": False}),
    "cwm": Type("cwm", LLAMA | {"sliding_window": 5, "layer_types": _LAYERS}),
    "xglm": Type(
        "xglm",
        {
            "vocab_size": V,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 3,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.2,
            **TOKENS,
        },
        "sinusoidal positions, computed while reading",
        double=False,
    ),
    "arcee": Type("arcee", LLAMA, "ReLU squared", flagged=True),
    "apertus": Type("apertus", LLAMA, "the activation xIELU", flagged=True),
    "nemotron": Type("nemotron", NO_NORM | {"head_dim": 8} | PARTIAL | {"norm_eps": 1e-5}, "ReLU squared"),
    **EXPERT_TYPES,
    **WRAPPER_TYPES,
    "hunyuan_v1_dense": Type(
        "hunyuan_v1_dense",
        LLAMA | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 50.0, "factor": 1.0}},
        "a norm of queries and keys after their rotation",
        flagged=True,
    ),
    "mpt": Type(
        "mpt",
        {
            "vocab_size": V,
            "d_model": 32,
            "n_layers": 3,
            "n_heads": 6,
            "expansion_ratio": 4,
            "max_seq_len": 64,
            "initializer_range": 0.2,
            "attn_config": {"alibi": True},
            **TOKENS,
        }
        | {"d_model": 48},
        "ALiBi; norms without shifts",
    ),
}
"""By name: the type, or the type and what is odd."""


def make(kind: Type, folder: Path) -> Any:
    """The torch model, saved into ``folder``; norms are moved away from one, biases from zero."""
    config = transformers.AutoConfig.for_model(kind.model_type, **_copied(kind.fields))
    config._attn_implementation, config._experts_implementation = kind.attention, "eager"
    torch.manual_seed(0)
    if kind.whole is None:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=kind.attention)
    else:
        model = getattr(transformers, kind.whole)(config)
    model = model.float().eval()
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                near = 1.0 if abs(float(weight.mean()) - 1) < 1e-6 else 0.0
                weight.copy_(near + 0.3 * torch.randn(weight.shape, generator=drawn))
        for name, number in model.named_buffers():
            if name.endswith(("correction_bias", "layer_scalar")):
                near = 1.0 if name.endswith("layer_scalar") else 0.0
                number.copy_(near + 0.3 * torch.randn(number.shape, generator=drawn))
    model.save_pretrained(folder)
    return model


def alike(model: Model) -> Model:
    """The model with everything made equal to others' that says where it is from and changes no program."""
    config = dataclasses.replace(model.config, family="llama", max_positions=64, bounded=False)
    return Model(Decoder(config, model.decoder.params()))


@jax.jit
def _both(decoder: Decoder, tokens: jax.Array, mask: Any, length: int) -> tuple[jax.Array, jax.Array]:
    return plain_forward(decoder, tokens, length=length), masked_forward(decoder, tokens, mask, length=length)


def logits(model: Model, tokens: np.ndarray, mask: Any, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Without masks and under a soft one, after tokens that are padded to ``longest``."""
    padded = jnp.asarray(np.pad(tokens, (0, longest - len(tokens))))
    plain, masked = _both(model.decoder, padded, jax.tree.map(jnp.float32, mask), len(tokens))
    return np.asarray(plain, np.float64), np.asarray(masked, np.float64)


def everything(config: ModelConfig, n_tokens: int) -> EdgeTree:
    """The mask that keeps all, in every slot: for texts of any length that are padded to ``n_tokens``."""
    rows = np.ones((config.n_layers, n_tokens), np.float32)
    return EdgeTree(rows, np.ones((config.n_layers, config.n_heads, n_tokens, n_tokens), np.float32), rows, rows)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In the precision of what is given."""
    centred = logits - logits.max()
    return centred - np.log(np.exp(centred).sum())


def theirs(torch_model: Any, tokens: np.ndarray) -> np.ndarray:
    """Transformers' log-probabilities after the last token."""
    with torch.no_grad():
        return np.asarray(torch.log_softmax(torch_model(input_ids=torch.tensor(tokens)[None]).logits[0, -1], -1))


def _copied(fields: Any) -> Any:
    """Deeply: transformers writes into what it is given."""
    if isinstance(fields, dict):
        return {name: _copied(value) for name, value in fields.items()}
    return list(fields) if isinstance(fields, list) else fields
