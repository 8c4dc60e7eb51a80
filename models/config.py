"""The frozen description of a decoder, all that its forward pass reads beside weights; families, and models by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

FAR = 2**30
"""Stands for a reach without bound; more tokens than any input has."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and flags of one decoder; hashable, passed whole, varied with ``dataclasses.replace``.

    The defaults of the flags are Llama's: RMSNorm before each sub-layer, rotary positions, a gated MLP, no biases.

    Examples:
      >>> dataclasses.replace(model.config, window=4).windows
      (4, 4, 4)
    """

    family: str
    """Name of the weight and field mapping that it was read with, such as ``llama``."""
    vocab_size: int
    n_layers: int
    d_model: int
    n_heads: int
    """Query heads, H."""
    n_kv_heads: int
    """Key/value heads, K; divides ``n_heads``."""
    head_dim: int
    """Width of one head; need not be ``d_model / n_heads``."""
    d_mlp: int
    """Width of the MLP, or of each expert; 0 in layers without one."""
    norm_eps: float
    rope_theta: float
    rope_divisors: tuple[float, ...] | None
    """What each rotary frequency is divided by, ``n_rotary / 2`` numbers; None for plain rotary positions."""
    tied_head: bool
    """Whether the output head is the embedding matrix."""
    max_positions: int
    """Longest context that the model was trained for, in tokens."""

    value_dim: int | None = None
    """Width of a head's values, where it is not ``head_dim``."""
    kv_rank: int = 0
    """Latent attention: width of what keys and values are made of, but for the rotary part of keys; 0 without it."""
    q_rank: int = 0
    """The same of queries."""
    norm: str = "rms"
    """``rms``, ``layer`` for LayerNorm with its mean and shift, or ``none``: no norm anywhere but in ``qk_norm``."""
    norm_offset: float = 0.0
    """Added to every norm's weight; 1 for Gemma."""
    pre_norm: bool = True
    """Whether a norm stands before attention and MLP."""
    post_norm: bool = False
    """Whether a norm stands after attention and MLP, before they join the residual stream (OLMo-2, Gemma)."""
    qk_norm: str = "none"
    """``head`` normalises each query and key on its own (Qwen3, Gemma 3), ``full`` all heads together (OLMo-2)."""
    qk_norm_last: bool = False
    """Whether that norm comes after the rotation, not before it (Hunyuan)."""
    mixer: str = "softmax"
    """``softmax``; ``delta`` (Gated DeltaNet) or ``mamba`` (Mamba-2), whose H are heads of values, K those of keys; or
    ``none`` in layers without attention."""
    conv_width: int = 0
    """Of ``delta`` and ``mamba``: tokens that a query, key or value is made of, the last of them its own."""
    delta_strength: float = 1.0
    """Of ``delta``: that strengths are multiplied by; with 2, a token can turn the sign of a state (OLMo Hybrid)."""
    delta_eps: float | None = None
    """Of ``delta``: the epsilon of the norm of what a head mixes; None for ``norm_eps``."""
    step_floor: float = 0.0
    """Of ``mamba``: the least step of a token."""
    gated_attention: bool = False
    """Whether what a head mixes is multiplied by a sigmoid that depends on the target's state (Qwen3-Next)."""
    sinks: bool = False
    """Whether every head has a number whose exponential stands in the softmax's denominator (gpt-oss)."""
    qkv_bias: bool = False
    value_norm: bool = False
    """Whether every value is normalised on its own, without weights (Gemma 4)."""
    layer_scale: bool = False
    """Whether a number of the layer multiplies what leaves it: both edges into its last node (Gemma 4)."""
    clip_qkv: float | None = None
    """Queries, keys and values are kept within plus and minus this (OLMo 1); None for no such bound."""
    o_bias: bool = False
    """Whether attention's output has a bias: a constant of the node, not an edge."""
    mlp_bias: bool = False
    gated_mlp: bool = True
    """``down(act(gate x) * up x)``; otherwise ``down(act(up x))``."""
    gate_clamp: tuple[float, ...] | None = None
    """(alpha, limit): ``down((up x + 1) * g sigmoid(alpha g))`` with the gate g, at most the limit, and ``up x`` within
    plus and minus the limit (gpt-oss)."""
    n_experts: int = 0
    """Experts of every layer's MLP, each ``d_mlp`` wide; 0 for one MLP."""
    n_chosen: int = 0
    """Experts that the router chooses for a token."""
    router: str = "softmax"
    """What its factors are: ``softmax`` over all experts, ``chosen`` over those chosen, ``mixer`` (SparseMixer,
    Phi-3.5-MoE); or, with a correction that the choice alone depends on, ``sigmoids``, ``sigmoid`` for these divided by
    the sum of those chosen (MiniMax M2), or ``corrected`` for a softmax that is divided so (ERNIE 4.5)."""
    router_bias: bool = False
    """Whether its logits have a bias; the correction is no such one."""
    router_scale: float = 1.0
    """That the factors are multiplied by."""
    router_groups: tuple[int, ...] = ()
    """(groups, kept, best): experts are chosen in the kept groups with the largest sums of their best (DeepSeek)."""
    scaled_inputs: bool = False
    """Whether a factor multiplies what its expert reads, not what it gives (Llama 4)."""
    mixer_noise: float = 0.01
    """Of ``mixer``: half of how far a logit may lie below the best, as a share of the larger, to be in its softmax."""
    d_shared: int = 0
    """Width of an MLP beside the experts that every token goes through (Qwen2-MoE); 0 for none."""
    shared_gate: bool = False
    """Whether that MLP is multiplied by the sigmoid of a number that depends on the token."""
    own_norms: bool = False
    """Whether the experts, the MLP beside them and the router have norms of their own (Gemma 4)."""
    activation: str = "silu"
    """``silu``, ``gelu``, ``gelu_tanh``, ``relu``, ``relu2`` (its square), or ``xielu``, with four numbers a layer."""
    parallel: bool = False
    """Whether attention and MLP, or the only one of them, read and add to the layer's one node (GPT-NeoX)."""
    learned_positions: bool = False
    """Whether a learned vector per position is added to the embeddings (GPT-2)."""
    rotary_dim: int | None = None
    """Leading dimensions of a head that are rotated; None for all, 0 for none."""
    rope_magnitude: float = 1.0
    """Factor on cosines and sines (longrope's attention factor)."""
    rope_long_divisors: tuple[float, ...] | None = None
    """Divisors in place of ``rope_divisors`` for inputs longer than ``rope_switch`` tokens (longrope)."""
    rope_switch: int = FAR
    window: int | None = None
    """Width of sliding-window attention: only sources with target - source < window are seen."""
    global_layers: tuple[int, ...] = ()
    """Layers that see every earlier token although ``window`` is set."""
    local_rope_theta: float | None = None
    """Rotary base of the windowed layers, without divisors or magnitude; None for the same positions everywhere."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers without a window whose queries and keys are not rotated (NoPE: SmolLM3, Cohere 2, EXAONE 4)."""
    alibi_slopes: tuple[float, ...] | None = None
    """Of every head: its logits grow by so much with each position of the source (ALiBi); None for no such bias."""
    embed_scale: float = 1.0
    query_scale: float | None = None
    """Factor on query-key products; None for ``head_dim ** -0.5``."""
    attn_softcap: float | None = None
    """Attention logits become ``c tanh(logit / c)``."""
    logit_softcap: float | None = None
    """The same for the output logits."""
    head_bias: bool = False
    """Whether the output head has a bias: a constant of the logits, not an edge (Phi, GPT-J)."""
    bounded: bool = False
    """Whether inputs longer than ``max_positions`` are refused, because their positions would follow another rule."""
    ignored_fields: tuple[str, ...] = ()
    """Fields of the checkpoint's config that nobody knew and the caller chose to ignore."""
    forms: tuple[tuple[Any, ...], ...] = ()
    """Where layers are unlike: of each form of layer the (field, value) pairs that differ from this config,
    which has the most query heads among them. Empty where all layers are alike; ``unlike`` makes both."""
    form_of: tuple[int, ...] = ()
    """Of each layer its form; empty where all layers are alike."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ModelConfig:
        """The config that ``dataclasses.asdict`` and JSON made ``fields`` of.

        Raises:
          TypeError: a field of another type, or one that there is none of.
        """
        config, hints = cls(**{name: _tuples(value) for name, value in fields.items()}), get_type_hints(cls)
        for name, value in [*vars(config).items(), *_pairs(config.forms)]:
            if name not in hints or not _is_of(value, hints[name]):
                raise TypeError(f"{name} = {value!r} is no {hints.get(name, 'field')}")
        if not config.has_forms:
            raise TypeError(f"form_of = {config.form_of!r} is no form of each layer")
        return config

    @property
    def has_forms(self) -> bool:
        """Whether every layer has one of the forms, and every form a layer."""
        return len(self.form_of) == bool(self.forms) * self.n_layers and {*self.form_of} == {*range(len(self.forms))}

    @property
    def layer_forms(self) -> tuple[ModelConfig, ...]:
        """The config of each form of layer, itself without ``forms``; where all layers are alike, this one."""
        return tuple(dataclasses.replace(self, forms=(), form_of=(), **dict(form)) for form in self.forms) or (self,)

    def layers_of(self, form: int) -> tuple[int, ...]:
        """The layers of a form, in order."""
        return tuple(layer for layer in range(self.n_layers) if not self.form_of or self.form_of[layer] == form)

    @property
    def heads(self) -> tuple[int, ...]:
        """Query heads of each layer: those beyond them, up to ``n_heads``, have no edges."""
        numbers = [0 if form.mixer == "none" else form.n_heads for form in self.layer_forms]
        return tuple(numbers[form] for form in self.form_of) or tuple(numbers) * self.n_layers

    @property
    def widest(self) -> tuple[int, int, int]:
        """The most heads of values in a layer, and the largest widths of a key and of a value."""
        forms = self.layer_forms
        return max(f.n_value_heads for f in forms), max(f.head_dim for f in forms), max(f.value_width for f in forms)

    @property
    def value_width(self) -> int:
        """Width of a head's values."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def n_groups(self) -> int:
        """Query heads that share one key/value head, G."""
        return self.n_heads // self.n_kv_heads

    @property
    def mlp_width(self) -> int:
        """Hidden numbers that a token's MLP computes: those of the chosen experts, and of the one beside them."""
        return self.n_chosen * self.d_mlp + self.d_shared if self.n_experts else self.d_mlp

    @property
    def n_rotary(self) -> int:
        """Dimensions of a head that are rotated."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def n_value_heads(self) -> int:
        """Heads that have values of their own."""
        return self.n_kv_heads if self.mixer == "softmax" else self.n_heads

    @property
    def has_linear(self) -> bool:
        """Whether there is attention without a softmax."""
        return any(form.mixer in ("delta", "mamba") for form in self.layer_forms)

    @property
    def scale(self) -> float:
        """Factor on query-key products."""
        return 1 / math.sqrt(self.head_dim) if self.query_scale is None else self.query_scale

    @property
    def windows(self) -> tuple[int, ...]:
        """How many sources each layer's targets see at most; a number beyond any input where all are seen."""
        local = FAR if self.window is None else min(self.window, FAR)
        everywhere = frozenset(self.global_layers)
        return tuple(FAR if layer in everywhere else local for layer in range(self.n_layers))

    @property
    def most_tokens(self) -> int:
        """The longest input that it has positions for; a number beyond any input where there is no such bound."""
        return self.max_positions if self.learned_positions or self.bounded else FAR

    @property
    def kinds(self) -> tuple[int, ...]:
        """Of each layer its place in what ``layers.sights`` makes: plain, with a window, or not rotated."""
        unrotated = 1 if self.window is None else 2
        return tuple(unrotated if i in self.unrotated_layers else int(w < FAR) for i, w in enumerate(self.windows))


CORRECTED = ("sigmoid", "sigmoids", "corrected")
"""Routers with a correction of the choice."""

OF_ALL_LAYERS = (
    *("family", "vocab_size", "n_layers", "d_model", "norm_eps", "tied_head", "max_positions", "norm", "norm_offset"),
    *("parallel", "learned_positions", "window", "global_layers", "unrotated_layers", "embed_scale", "logit_softcap"),
    *("head_bias", "bounded", "ignored_fields", "forms", "form_of"),
)
"""Fields in which forms of layers cannot differ."""


def unlike(config: ModelConfig, forms: Sequence[Mapping[str, Any]], form_of: Sequence[int]) -> ModelConfig:
    """The config of unlike layers: of each form what differs from ``config``, and of each layer its form.

    Forms without a layer are left out; where all layers have one form the config is a plain one.
    """
    used = sorted(set(form_of))
    if len(used) == 1:
        return dataclasses.replace(config, **forms[used[0]])
    own = tuple(tuple(sorted(forms[form].items())) for form in used)
    return dataclasses.replace(config, forms=own, form_of=tuple(map(used.index, form_of)))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _pairs(forms: Any) -> list[tuple[str, Any]]:
    """The fields of all forms with their values."""
    pairs = [pair for form in forms for pair in form] if _is_of(forms, tuple[tuple[Any, ...], ...]) else []
    if any(not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str) for pair in pairs):
        raise TypeError("forms are no pairs of a field and its value")
    return pairs


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field; integers are numbers too, and numbers are finite."""
    if hint is Any:
        return True
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool) and abs(value) < math.inf
    options = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, options[0]) for item in value)
    return any(_is_of(value, option) for option in options) if options else isinstance(value, hint)
