"""Fixtures: tiny models made on the spot, and the real default model. Shape strings are enforced by beartype."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

import tests.type_checks
from tests import compiling

# Eight devices for meshes.
FLAGS = f"--xla_force_host_platform_device_count=8 {compiling.QUICK}"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
os.environ |= compiling.kept_programs()

# Shape strings are enforced in every room. EdgeTree's own module stays out, as pytrees also hold specs, axes and single
# layers, and so do those of meshes and of what users call, which refuse other types themselves.
ROOT = Path(__file__).parent.parent
CHECKED = ("method", "pipeline", "analysis", "scale", "show", "runs", "reports")
UNHOOKED = ("__init__", "edges", "narrow", "params", "sharding", "streamed", "model")
MODELS = sorted(path.stem for path in (ROOT / "models").glob("*.py") if path.stem not in UNHOOKED)
HOOKED = [f"jstrace.{name}" for name in (*CHECKED, "files", *(f"models.{name}" for name in MODELS))]
if "JSTRACE_FUZZ" not in os.environ:  # whose cases want the errors that users get
    install_import_hook(HOOKED, f"{tests.type_checks.__name__}.checked")

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, Model, ModelConfig, random_params
from jstrace.models.declared import Weight, declare

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


SIZES = (0.01, 0.05, 0.3, 0.7)
"""Of tests that want some traces: programs are compiled for a number of sizes, whatever the sizes are."""

_NORMED_TWICE: dict[str, Any] = {"norm_offset": 1.0, "post_norm": True, "activation": "gelu_tanh", "embed_scale": 4.0}
_BIASED: dict[str, Any] = {"norm": "layer", "qkv_bias": True, "o_bias": True, "mlp_bias": True, "gated_mlp": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": 3},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "olmo2": {"pre_norm": False, "post_norm": True, "qk_norm": "full"},
    "phi3": {
        "rotary_dim": 4,
        "rope_divisors": (1.0, 1.5),
        "rope_long_divisors": (2.0, 8.0),
        "rope_switch": 4,
        "rope_magnitude": 1.2,
    },
    "gemma2": _NORMED_TWICE
    | {"window": 3, "global_layers": (1,), "attn_softcap": 5.0, "logit_softcap": 3.0, "query_scale": 0.3},
    "gemma3": _NORMED_TWICE | {"window": 2, "global_layers": (2,), "local_rope_theta": 100.0, "qk_norm": "head"},
    "gpt2": _BIASED | {"learned_positions": True, "rotary_dim": 0, "activation": "gelu_tanh", "n_kv_heads": 4},
    "gpt_neox": _BIASED | {"parallel": True, "rotary_dim": 2, "activation": "gelu", "n_kv_heads": 4},
    "smollm3": {
        "window": 3,
        "global_layers": (0, 1),
        "unrotated_layers": (1,),
        "gated_mlp": False,
        "activation": "relu2",
    },
    "bloom": _BIASED
    | {
        "rotary_dim": 0,
        "alibi_slopes": (0.5, 0.25, 0.125, 0.06),
        "activation": "relu",
        "head_bias": True,
        "n_kv_heads": 4,
    },
    "qwen2_moe": {"qkv_bias": True, "n_experts": 5, "n_chosen": 2, "d_shared": 20, "shared_gate": True}
    | {"qk_norm": "head", "qk_norm_last": True},
    "gpt_oss": {"n_experts": 4, "n_chosen": 3, "router": "chosen", "router_bias": True, "gate_clamp": (1.702, 0.8)}
    | {"sinks": True, "qkv_bias": True, "o_bias": True, "mlp_bias": True, "window": 3, "global_layers": (1,)},
    "glm4_moe": {"n_experts": 4, "n_chosen": 2, "router": "sigmoids", "router_scale": 1.5, "router_groups": (2, 1, 2)}
    | {"d_shared": 12, "value_dim": 10, "form_of": (0, 1, 0)}
    | {
        "forms": (
            (("d_mlp", 20), ("d_shared", 0), ("n_experts", 0)),
            (
                *(("head_dim", 8), ("n_heads", 2), ("n_kv_heads", 1), ("value_dim", 5)),
                *(("pre_norm", False), ("post_norm", True)),
            ),
        )
    },
    "qwen3_next": {"norm_offset": 1.0, "n_experts": 3, "n_chosen": 2, "router": "chosen", "form_of": (0, 1, 2)}
    | {
        "forms": (
            (
                *(("conv_width", 3), ("mixer", "delta"), ("rotary_dim", 0), ("value_dim", 5)),
                *(("delta_strength", 2.0), ("delta_eps", 0.01)),
            ),
            (("gated_attention", True), ("n_heads", 2), ("n_kv_heads", 1), ("qk_norm", "head"), ("rotary_dim", 4)),
            (("conv_width", 2), ("mixer", "mamba"), ("rotary_dim", 0), ("value_dim", 6)),
        )
    },
    "nemotron_h": {"parallel": True, "gated_mlp": False, "activation": "relu2", "rotary_dim": 0, "form_of": (0, 1, 2)}
    | {
        "forms": (
            (
                *(("conv_width", 2), ("d_mlp", 0), ("mixer", "mamba"), ("n_heads", 2), ("n_kv_heads", 1)),
                *(("step_floor", 0.7), ("value_dim", 6)),
            ),
            (("d_mlp", 0),),
            (("mixer", "none"), ("n_heads", 1), ("n_kv_heads", 1)),
        )
    },
    "deepseek_v3": {"n_kv_heads": 4, "head_dim": 8, "rotary_dim": 4, "value_dim": 5, "q_rank": 7, "kv_rank": 9}
    | {"value_norm": True, "layer_scale": True},
    "program": {
        "norm": "none",
        "learned_positions": True,
        "rotary_dim": 0,
        "mlp_bias": True,
        "gated_mlp": False,
        "activation": "relu",
    },
}
"""What each family changes in ``TINY``; smollm3, bloom, qwen2_moe, gpt_oss, glm4_moe and deepseek_v3 have what several
of the others add."""
SHAPES = ("llama", "olmo2", "gemma2", "gpt2", "gpt_neox")
"""Families that have, all together, every kind of weight and of block, for tests in which nothing else matters."""


def family_config(family: str) -> ModelConfig:
    """A tiny config with every flag of a family."""
    return dataclasses.replace(TINY, family=family, **FAMILIES[family])


def tiny_params(config: ModelConfig = TINY, seed: int = 0) -> dict[str, Any]:
    """Weights large enough that every edge matters, norms that are not all one and biases that are not zero."""
    leaves, tree = _drawn(config, seed)
    return jax.tree.unflatten(tree, leaves)


@functools.cache  # drawing them compiles a program for every shape
def _drawn(config: ModelConfig, seed: int) -> tuple[list[jax.Array], Any]:
    params = random_params(config, key=jax.random.key(seed), dtype=jnp.dtype("float32"), scale=0.3)
    base = jax.random.key(seed + 1)

    def moved(number: int, declared: Weight, weight: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.fold_in(base, number), weight.shape)
        return weight if declared.init == "normal" else weight + 0.5 * noise

    wanted, tree = jax.tree.flatten(declare(config), is_leaf=lambda node: isinstance(node, Weight))
    return [moved(i, *pair) for i, pair in enumerate(zip(wanted, jax.tree.leaves(params), strict=True))], tree


ARITHMETIC = tuple(name for name in FAMILIES if name not in ("llama", "mistral", "qwen2", "qwen3"))
"""Families for tests that compile much. What the others compute is in these, too: Llama's layer in phi3, windows in
gemma2, biases and norms of heads in qwen2_moe."""

KINDS = tuple(name for name in ARITHMETIC if name not in ("phi3", "gemma3", "gpt2", "smollm3"))
"""Every kind of block, of norm, of attention and of feed-forward layer, for tests of what is done with a layer: the
other four have other positions, or what two of these have."""

LONGEST = (
    "scale/test_meshes.py",
    "pipeline/test_learning.py",
    "runs/test_hosts.py",
    "pipeline/test_fitting.py",
    "test_readme.py",
    "runs/test_stops.py",
    "method/test_extraction.py",
    "pipeline/test_platforms.py",
    "method/test_gradients.py",
    "pipeline/test_replacing.py",
    "method/test_families.py",
    "reports/test_report.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of quick tests first, as what fails should fail early; then the longest, so that none comes last."""
    place = {str(ROOT / "tests" / name): number for number, name in enumerate(LONGEST)}
    slow = {item.path for item in items if not item.get_closest_marker("quick")}
    items.sort(key=lambda item: place.get(str(item.path), len(LONGEST)) if item.path in slow else -1)


MOST_MAPPINGS = 40_000
"""At the end of a module: more than the largest adds to it are left below the 65,530 that a process may have."""


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Every compiled program holds mappings of memory; others that need it find it in the process until then."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


_plain = jax.jit(lambda model, tokens: model(tokens))


def top_token(model: Model, text: str) -> int:
    """The most probable token after a text."""
    assert model.tokenizer is not None
    return int(_plain(model, np.asarray(model.tokenizer.encode(text))).argmax())


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
def hf_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder with a tiny random Llama of transformers."""
    from tests import hf_models

    def make(*, shards: int = 1) -> Path:
        folder = tmp_path_factory.mktemp("llama")
        hf_models.make(dataclasses.replace(hf_models.VARIANTS["llama-gqa"], shards=shards), folder)
        return folder

    return make


@pytest.fixture
def four_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to four inputs in a call, as accelerators take more of them, where a CPU takes one."""
    monkeypatch.setattr("jstrace.scale.memory.ON_A_CPU", 4)
