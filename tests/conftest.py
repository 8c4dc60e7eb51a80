"""Fixtures: tiny models made on the spot, and the real default model. Shape strings are enforced by beartype."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

# Shape strings are enforced on functions. EdgeTree stays out: pytrees also hold specs, axes and single layers.
CHECKED = (
    "models.layers",
    "models.decoder",
    "models.rows",
    "scores",
    "measures",
    "extraction",
    "evaluation",
    "tracing",
)
install_import_hook([f"jstrace.{name}" for name in CHECKED], "beartype.beartype")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.model import Model
from jstrace.models import Decoder, ModelConfig, random_params

TINY = ModelConfig(
    family="llama",
    vocab_size=97,
    n_layers=3,
    d_model=16,
    n_heads=4,
    n_kv_heads=2,
    head_dim=6,
    d_mlp=24,
    norm_eps=1e-5,
    rope_theta=10000.0,
    rope_divisors=None,
    tied_head=False,
    max_positions=128,
)


def tiny_params(config: ModelConfig = TINY, seed: int = 0) -> dict[str, Any]:
    """Weights large enough that every edge matters, and norms that are not all one."""
    params = random_params(config, key=jax.random.key(seed), dtype=jnp.dtype("float32"), scale=0.3)
    keys = iter(jax.random.split(jax.random.key(seed + 1), 3))

    def perturbed(weight: jax.Array) -> jax.Array:
        return weight * (1 + 0.5 * jax.random.normal(next(keys), weight.shape))

    params["final_norm"] = perturbed(params["final_norm"])
    for name in ("attn_norm", "mlp_norm"):
        params["layers"][name] = perturbed(params["layers"][name])
    return params


@pytest.fixture(scope="session")
def tiny() -> Model:
    return Model(Decoder(TINY, tiny_params()))


@pytest.fixture(scope="session")
def real() -> Model:
    """SmolLM2-135M, as ``jstrace.load`` gives it by default."""
    return jstrace.load("smollm2")


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, TINY.vocab_size, 7).astype(np.int32)


@pytest.fixture(scope="session")
def hf_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """Makes a folder with a tiny random Llama of transformers, and the torch model itself."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(*, shards: int = 1, **changes: Any) -> tuple[Path, Any]:
        base: dict[str, Any] = {
            "vocab_size": 97,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,
            "tie_word_embeddings": False,
            "attn_implementation": "eager",
        }
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(base | changes))).eval()
        for name, weight in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(weight, mean=1.0, std=0.3)
        folder = tmp_path_factory.mktemp("llama")
        model.save_pretrained(folder, max_shard_size="20KB" if shards > 1 else "5GB")
        return folder, model

    return make
