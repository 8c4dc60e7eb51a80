"""The paper's ten models by name: configs that are known offline, to count and to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jstrace.models.config import ModelConfig
from jstrace.models.families import FLAGS, llama3_divisors


def _model(family: str, **shape: Any) -> ModelConfig:
    """All ten have heads of 128 and an output head of their own."""
    shared: dict[str, Any] = {"head_dim": 128, "rope_divisors": None, "tied_head": False}
    return ModelConfig(family=family, **({**shared, **FLAGS[family], **shape}))


def _qwen25(**shape: Any) -> ModelConfig:
    shared = {"vocab_size": 152064, "rope_theta": 1e6, "max_positions": 131072}
    return _model("qwen2", **shared, **shape)


def _qwen3(**shape: Any) -> ModelConfig:
    shared = {"vocab_size": 151936, "norm_eps": 1e-6, "rope_theta": 1e6, "max_positions": 32768}
    return _model("qwen3", **shared, **shape)


def _olmo2(**shape: Any) -> ModelConfig:
    shared = {"vocab_size": 100352, "norm_eps": 1e-6, "rope_theta": 500000.0, "max_positions": 4096}
    return _model("olmo2", **shared, **shape)


PRESETS: Mapping[str, ModelConfig] = {
    "allenai/OLMo-2-1124-7B": _olmo2(n_layers=32, d_model=4096, n_heads=32, n_kv_heads=32, d_mlp=11008),
    "allenai/OLMo-2-1124-13B": _olmo2(n_layers=40, d_model=5120, n_heads=40, n_kv_heads=40, d_mlp=13824),
    "Qwen/Qwen3-8B-Base": _qwen3(n_layers=36, d_model=4096, n_heads=32, n_kv_heads=8, d_mlp=12288),
    "Qwen/Qwen3-14B-Base": _qwen3(n_layers=40, d_model=5120, n_heads=40, n_kv_heads=8, d_mlp=17408),
    "Qwen/Qwen2.5-7B": _qwen25(n_layers=28, d_model=3584, n_heads=28, n_kv_heads=4, d_mlp=18944, norm_eps=1e-6),
    "Qwen/Qwen2.5-14B": _qwen25(n_layers=48, d_model=5120, n_heads=40, n_kv_heads=8, d_mlp=13824, norm_eps=1e-5),
    "meta-llama/Llama-3.1-8B": _model(
        "llama", vocab_size=128256, n_layers=32, d_model=4096, n_heads=32, n_kv_heads=8, d_mlp=14336, norm_eps=1e-5,
        rope_theta=500000.0, rope_divisors=llama3_divisors(500000.0, 128, 8.0, 1.0, 4.0, 8192), max_positions=131072,
    ),
    "mistralai/Mistral-7B-v0.1": _model(
        "mistral", vocab_size=32000, n_layers=32, d_model=4096, n_heads=32, n_kv_heads=8, d_mlp=14336, norm_eps=1e-5,
        rope_theta=10000.0, max_positions=32768, window=4096,
    ),
    "deepseek-ai/deepseek-llm-7b-base": _model(
        "llama", vocab_size=102400, n_layers=30, d_model=4096, n_heads=32, n_kv_heads=32, d_mlp=11008, norm_eps=1e-6,
        rope_theta=10000.0, max_positions=4096,
    ),
    "microsoft/phi-4": _model(
        "phi3", vocab_size=100352, n_layers=40, d_model=5120, n_heads=40, n_kv_heads=10, d_mlp=17920, norm_eps=1e-5,
        rope_theta=250000.0, max_positions=16384,
    ),
}  # fmt: skip
"""The ten models of the paper, by the id of their repository on the Hugging Face hub; offline, to count and to draw."""


def preset(name: str) -> ModelConfig | None:
    """The config of that id, or of its last part in any case, such as ``llama-3.1-8b``; None if there is none."""
    wanted = name.lower()
    for known, config in PRESETS.items():
        if wanted in (known.lower(), known.lower().split("/")[1]):
            return config
    return None
