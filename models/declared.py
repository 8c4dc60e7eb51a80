"""Every weight of a decoder, declared once: its axes, how random ones are drawn, what products sum over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jstrace.models.config import CORRECTED, ModelConfig
from jstrace.models.experts import OWN_NORMS
from jstrace.models.narrow import INT8


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declaration of one weight; ``axes`` name its dimensions with the letters of ``models.edges``."""

    axes: tuple[str, ...]
    init: str = "normal"
    """``normal``, ``zeros`` for biases and shifts, ``norm`` for what makes a norm the identity, or ``ones``."""
    sums: str = ""
    """Axes that a product with the weight sums over; empty for what is never ``Narrow``."""
    shape: tuple[int, ...] = ()
    """Length of each axis, as ``declare`` gives it."""

    @property
    def summed(self) -> tuple[int, ...]:
        """The numbers of these axes."""
        return tuple(self.axes.index(axis) for axis in self.sums)

    def way(self, narrow: str) -> str:
        """How it is stored where weights are narrow: vocabularies are never int4, of which logits would tell most."""
        return INT8 if self.axes[0] == "V" else narrow


def declare(config: ModelConfig) -> dict[str, Any]:
    """Every weight that ``config`` calls for, as a nested dict of ``Weight``."""
    counts = [len(config.layers_of(number)) for number in range(len(config.layer_forms))]
    stacks = [_layers(*each) for each in zip(config.layer_forms, counts, strict=True)]
    weights: dict[str, Any] = {"embed": Weight(("V", "D"), sums="D")}
    weights |= {"positions": Weight(("P", "D"))} if config.learned_positions else {}
    weights |= _norm(config, "final_norm", ("D",))
    weights |= {} if config.tied_head else {"head": Weight(("V", "D"), sums="D")}
    weights |= {"head_bias": Weight(("V",), "zeros")} if config.head_bias else {}
    sized = _sized(weights, axis_sizes(config))
    return sized | {
        "layers": {str(number): stack for number, stack in enumerate(stacks)} if config.forms else stacks[0]
    }


def _layers(config: ModelConfig, n_layers: int) -> dict[str, Weight]:
    """Of the layers of one form."""
    layers = _attention(config) | _mlps(config) | _norms(config) | _biases(config)
    layers |= {"sink": Weight(("L", "H"))} if config.sinks else {}
    layers |= {"layer_scale": Weight(("L",), "norm")} if config.layer_scale else {}
    if config.activation == "xielu":
        layers |= {name: Weight(("L",), "zeros") for name in ("alpha_p", "alpha_n", "beta", "eps")}
    return _sized(layers, axis_sizes(config) | {"L": n_layers})


def _projections(config: ModelConfig) -> dict[str, Weight]:
    """Of attention; where it is latent, those into what queries, keys and values are made of, with their norms."""
    value = "d" if config.value_dim is None else "e"
    q, kv = "a" if config.q_rank else "D", "c" if config.kv_rank else "D"
    axes: dict[str, tuple[str, ...]] = {
        "q": (q, "H", "d"),
        "k": (kv, "K", "n" if config.kv_rank else "d"),
        "v": (kv, "K", value),
    }
    axes |= {"q_down": ("D", "a")} if config.q_rank else {}
    axes |= {"kv_down": ("D", "c"), "k_turned": ("D", "r")} if config.kv_rank else {}
    weights = {name: Weight(("L", *own), sums=own[0]) for name, own in axes.items()}
    weights |= {f"{name}_norm": Weight(("L", axes[name][1]), "norm") for name in ("q_down", "kv_down") if name in axes}
    return weights | {"o": Weight(("L", "H", value, "D"), sums=f"H{value}")}


def _sized(weights: Mapping[str, Weight], sizes: Mapping[str, int]) -> dict[str, Any]:
    def sized(weight: Weight) -> Weight:
        return dataclasses.replace(weight, shape=tuple(sizes[axis] for axis in weight.axes))

    return {name: sized(weight) for name, weight in weights.items()}


def _attention(config: ModelConfig) -> dict[str, Weight]:
    """Of queries, keys, values and what heads give, without norms and biases."""
    if config.mixer == "none":
        return {}
    if config.mixer != "softmax":
        return _linear(mamba=config.mixer == "mamba")
    value = "d" if config.value_dim is None else "e"
    gate = {"o_gate": Weight(("L", "D", "H", value), sums="D")} if config.gated_attention else {}
    return _projections(config) | gate


def _linear(*, mamba: bool) -> dict[str, Weight]:
    """Of attention without a softmax."""
    heads = {"q": ("K", "d"), "k": ("K", "d"), "v": ("H", "e")}
    weights = {name: Weight(("L", "D", *axes), sums="D") for name, axes in {**heads, "o_gate": ("H", "e")}.items()}
    weights |= {f"{name}_conv": Weight(("L", *axes, "W")) for name, axes in heads.items()}
    weights |= {name: Weight(("L", "H"), "zeros") for name in ("decay_bias", "decay_rate")}
    weights |= {"decay": Weight(("L", "D", "H")), "o": Weight(("L", "H", "e", "D"), sums="He")}
    if not mamba:
        return weights | {"strength": Weight(("L", "D", "H")), "o_norm": Weight(("L", "e"), "ones")}
    weights |= {f"{name}_conv_bias": Weight(("L", *axes), "zeros") for name, axes in heads.items()}
    return weights | {"skip": Weight(("L", "H"), "ones"), "o_norm": Weight(("L", "H", "e"), "ones")}


def _mlps(config: ModelConfig) -> dict[str, Weight]:
    """Of the MLP, or of the experts, their router, and the MLP beside them."""
    if not config.d_mlp:
        return {}
    lead, into = _into_mlp(config)
    matrices: dict[str, tuple[str, ...]] = {**dict.fromkeys(into, (*lead, "D", "F")), "down": (*lead, "F", "D")}
    if config.d_shared:
        matrices |= {f"shared_{name}": ("L", "D", "U") for name in into} | {"shared_down": ("L", "U", "D")}
    weights = {name: Weight(axes, sums=axes[-2]) for name, axes in matrices.items()}
    weights |= {"router": Weight(("L", "D", "X"))} if config.n_experts else {}
    return weights | ({"shared_scale": Weight(("L", "D"))} if config.d_shared and config.shared_gate else {})


def _into_mlp(config: ModelConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Leading axes of the weights of MLPs, and the names of those that read the state."""
    return ("L", "X") if config.n_experts else ("L",), ("up", "gate") if config.gated_mlp else ("up",)


def _norms(config: ModelConfig) -> dict[str, Weight]:
    weights: dict[str, Weight] = {}
    for sub_layer in ("attn",) * (config.mixer != "none") + ("mlp",) * (config.d_mlp > 0):
        if config.pre_norm:
            weights |= _norm(config, f"{sub_layer}_norm", ("L", "D"))
        if config.post_norm:
            weights |= _norm(config, f"{sub_layer}_post_norm", ("L", "D"))
    if config.own_norms:
        weights |= {name: Weight(("L", "D"), "norm") for name in OWN_NORMS}
        weights["router_factors"] = Weight(("L", "X"), "ones")
    if config.qk_norm != "none":
        whole = config.qk_norm == "full"
        weights["q_norm"] = Weight(("L", "H", "d") if whole else ("L", "d"), "norm")
        weights["k_norm"] = Weight(("L", "K", "d") if whole else ("L", "d"), "norm")
    return weights


def _norm(config: ModelConfig, name: str, axes: tuple[str, ...]) -> dict[str, Weight]:
    if config.norm == "none":
        return {}
    shift = {f"{name}_shift": Weight(axes, "zeros")} if config.norm == "layer" else {}
    return {name: Weight(axes, "norm"), **shift}


def _biases(config: ModelConfig) -> dict[str, Weight]:
    biases: dict[str, tuple[str, ...]] = {}
    if config.qkv_bias:
        biases |= {"q_bias": ("L", "H", "d"), "k_bias": ("L", "K", "d"), "v_bias": ("L", "K", "d")}
    if config.o_bias:
        biases["o_bias"] = ("L", "D")
    if config.mlp_bias:
        lead, into = _into_mlp(config)
        biases |= {f"{name}_bias": (*lead, "F") for name in into} | {"down_bias": (*lead, "D")}
    if config.n_experts and (config.router_bias or config.router in CORRECTED):
        biases["router_bias"] = ("L", "X")
    return {name: Weight(axes, "zeros") for name, axes in biases.items()}


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """Length of every axis letter that a weight can have."""
    return {
        "L": config.n_layers,
        "D": config.d_model,
        "H": config.n_heads,
        "K": config.n_kv_heads,
        "d": config.head_dim,
        "e": config.value_width,
        "W": config.conv_width,
        "a": config.q_rank,
        "c": config.kv_rank,
        "r": config.n_rotary,
        "n": config.head_dim - config.n_rotary,
        "F": config.d_mlp,
        "X": config.n_experts,
        "U": config.d_shared,
        "V": config.vocab_size,
        "P": config.max_positions,
    }
