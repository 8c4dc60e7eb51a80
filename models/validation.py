"""Configs that no model has are refused, whatever file they were read from, or whoever wrote them."""

from __future__ import annotations

import dataclasses

from jstrace.errors import InputError
from jstrace.models.config import CORRECTED, FAR, OF_ALL_LAYERS, ModelConfig
from jstrace.models.families import FLAGS

MOST_LAYERS = 10_000
WIDEST_HEAD = 2**16
_CHOICES = {
    "norm": ("rms", "layer", "none"),
    "mixer": ("softmax", "delta", "mamba", "none"),
    "qk_norm": ("none", "head", "full"),
    "activation": ("silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu"),
    "router": ("softmax", "chosen", "mixer", *CORRECTED),
    "family": tuple(FLAGS),
}


def validated(config: ModelConfig, where: str) -> ModelConfig:
    """Refuse shapes that no model has, in any layer."""
    _check_forms(config, where)
    _check(config, where)
    for form in config.layer_forms if config.forms else ():
        _check(form, where)
        if form.n_heads > config.n_heads:
            raise InputError(f"{where}: a layer has {form.n_heads} heads, expected at most {config.n_heads}")
    windows = config.windows  # made anew whenever it is asked for
    for number, form in enumerate(config.layer_forms):
        if form.mixer != "softmax" and any(windows[layer] < FAR for layer in config.layers_of(number)):
            raise InputError(f"{where}: layers without a softmax have no window")
    fixed = [name for form in config.forms for name, _ in form if name in OF_ALL_LAYERS]
    if fixed:
        raise InputError(f"{where}: {fixed[0]} differs between layers, expected one for all of them")
    return config


def _check_forms(config: ModelConfig, where: str) -> None:
    """That every layer has one of the forms, and that these differ in fields of a config."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    pairs = [pair for form in config.forms for pair in form]
    if not config.has_forms or any(name not in fields for name, _ in pairs):
        raise InputError(f"{where}: forms and form_of, expected fields of a config, and one form for each layer")


def _check(config: ModelConfig, where: str) -> None:
    """Of the model, or of one form of its layers."""
    _check_sizes(config, where)
    _check_mlp(config, where)
    _check_attention(config, where)
    _check_positions(config, where)


def _check_sizes(config: ModelConfig, where: str) -> None:
    shape = ("vocab_size", "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "max_positions")
    for name in (*shape, "norm_eps"):
        if not getattr(config, name) > 0:
            raise InputError(f"{where}: {name} = {getattr(config, name)!r}, expected a positive number")
    for name, most in (("n_layers", MOST_LAYERS), ("head_dim", WIDEST_HEAD)):
        if getattr(config, name) > most:
            raise InputError(f"{where}: {name} = {getattr(config, name)}, expected at most {most}")
    for name, known in _CHOICES.items():
        if getattr(config, name) not in known:
            raise InputError(f"{where}: {name} = {getattr(config, name)!r}, expected one of {', '.join(known)}")


def _check_mlp(config: ModelConfig, where: str) -> None:
    blocks = (config.mixer != "none") + (config.d_mlp > 0)
    if config.d_mlp < 0 or not blocks or (blocks == 1 and not config.parallel):
        raise InputError(f"{where}: d_mlp = {config.d_mlp}, expected attention, an MLP, or both; one needs parallel")
    if blocks == 1 and (config.norm != "rms" or config.post_norm or config.o_bias):
        raise InputError(f"{where}: layers of one block have an RMSNorm before it, and no bias or norm after it")
    if not config.d_mlp and (config.n_experts or config.mlp_bias):
        raise InputError(f"{where}: experts or biases of an MLP that is not there")
    if config.n_experts and not 1 <= config.n_chosen <= config.n_experts:
        raise InputError(f"{where}: {config.n_chosen} experts for each token, expected 1 to the {config.n_experts}")
    if config.n_experts and config.router == "mixer" and config.n_chosen != 2:
        raise InputError(f"{where}: {config.n_chosen} experts for each token, expected the 2 of SparseMixer")
    if config.n_experts and config.router_groups:
        _check_groups(config, where)
    if min(config.n_experts, config.d_shared) < 0 or (config.d_shared and not config.n_experts):
        raise InputError(f"{where}: an MLP of width {config.d_shared} beside {config.n_experts} experts")
    if config.own_norms and (not config.d_shared or config.router != "chosen" or config.norm != "rms"):
        raise InputError(f"{where}: norms of experts, expected an MLP beside them and a router over those chosen")
    if config.gate_clamp is not None and (len(config.gate_clamp) != 2 or not config.gated_mlp):
        raise InputError(f"{where}: gate_clamp = {config.gate_clamp}, expected alpha and limit of a gate")


def _check_attention(config: ModelConfig, where: str) -> None:
    if config.step_floor < 0:
        raise InputError(f"{where}: step_floor = {config.step_floor}, expected no negative number")
    for name in ("clip_qkv", "delta_eps", "delta_strength"):
        number = getattr(config, name)
        if number is not None and number <= 0:
            raise InputError(f"{where}: {name} = {number}, expected a positive number")
    if min(config.kv_rank, config.q_rank) < 0 or (config.value_dim is not None and config.value_dim < 1):
        raise InputError(f"{where}: widths of latent attention and of values are positive numbers")
    if config.layer_scale and config.parallel:
        raise InputError(f"{where}: a number of the layer beside parallel blocks is not supported")
    if config.q_rank and not config.kv_rank:
        raise InputError(f"{where}: q_rank = {config.q_rank} without kv_rank, expected both of latent attention")
    plain = config.n_kv_heads == config.n_heads and not (config.qkv_bias or config.qk_norm != "none")
    if config.kv_rank and not plain:
        raise InputError(f"{where}: latent attention has a key/value head for each head, no biases and no other norms")
    if config.qk_norm_last and config.qk_norm != "head":
        raise InputError(f"{where}: a norm after the rotation is one of every head here")
    if config.post_norm and (config.norm != "rms" or config.o_bias):
        raise InputError(f"{where}: norms after sub-layers are RMSNorms here, without a bias before them")
    gated = config.gated_attention or config.mixer != "softmax"
    if gated and (config.post_norm or config.qkv_bias or config.norm != "rms"):
        raise InputError(f"{where}: heads with gates stand behind RMSNorms, without biases or norms after them")
    bare = config.qk_norm == "none" and config.n_rotary == 0 and not config.gated_attention
    if config.mixer in ("delta", "mamba") and not (config.conv_width > 0 and bare):
        raise InputError(f"{where}: linear attention has a short convolution, and no positions or norms of its own")
    if config.n_heads % config.n_kv_heads:
        raise InputError(f"{where}: {config.n_heads} query heads do not divide into {config.n_kv_heads} groups")


def _check_positions(config: ModelConfig, where: str) -> None:
    if config.window is not None and config.window < 1:
        raise InputError(f"{where}: window = {config.window}, expected a positive number")
    windows = config.windows
    windowed = [layer for layer in config.unrotated_layers if layer >= config.n_layers or windows[layer] < FAR]
    if windowed:
        raise InputError(f"{where}: layer {windowed[0]} is without rotary positions; such layers see every token here")
    if config.alibi_slopes is not None and len(config.alibi_slopes) != config.n_heads:
        raise InputError(f"{where}: {len(config.alibi_slopes)} slopes of ALiBi, expected one for each head")
    if config.n_rotary % 2 or not 0 <= config.n_rotary <= config.head_dim:
        raise InputError(
            f"{where}: {config.n_rotary} of {config.head_dim} dimensions of a head are rotated, expected an even number"
        )
    for name in ("rope_divisors", "rope_long_divisors"):
        divisors = getattr(config, name)
        if divisors is not None and len(divisors) != config.n_rotary // 2:
            raise InputError(f"{where}: {len(divisors)} RoPE factors, expected {config.n_rotary // 2}")


def _check_groups(config: ModelConfig, where: str) -> None:
    groups, total = config.router_groups, config.n_experts
    fits = len(groups) == 3 and min(groups) > 0 and groups[1] <= groups[0] and total % groups[0] == 0
    if not (fits and groups[2] <= total // groups[0] and config.n_chosen <= groups[1] * (total // groups[0])):
        raise InputError(
            f"{where}: {config.n_chosen} of {total} experts in groups (number, kept, best) {groups}: expected groups of"
            " one size that hold as many experts as are chosen"
        )
