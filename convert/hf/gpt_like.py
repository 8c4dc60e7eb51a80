"""Families of the shape of GPT-2, with names of their own for it: their Hugging Face fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import layouts
from jstrace.convert.hf.common import ACTIVATIONS, Read
from jstrace.convert.hf.irrelevant import IRRELEVANT
from jstrace.convert.rope import take_rope
from jstrace.models import InputError, ModelConfig
from jstrace.models.families import FLAGS

_MOST_HEADS = 2**16
"""Of models with a slope for each."""
_MOST_POSITIONS = 2**20
"""Of models whose positions are computed while they are read."""
_NO_ROPE = {"rope_theta": 10000.0, "rope_divisors": None}


def _gpt(f: Fields, family: str, names: Mapping[str, str], *, most_heads: int = 2**31 - 1) -> dict[str, Any]:
    """The shape of families with names of their own for it: heads divide the width, and all have keys and values."""
    n_heads, d_model = f.integer(names["heads"], most=most_heads), f.integer(names["width"])
    if d_model % n_heads:
        raise InputError(f"{f.where}: {names['width']} = {d_model} does not divide into {n_heads} heads")
    return {
        "family": family,
        **FLAGS[family],
        **_NO_ROPE,
        "vocab_size": f.integer("vocab_size"),
        "n_layers": f.layers(names["layers"]),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": d_model // n_heads,
    }


_GPT2_NAMES = {"heads": "n_head", "width": "n_embd", "layers": "n_layer"}
_USUAL_NAMES = {"heads": "num_attention_heads", "width": "hidden_size", "layers": "num_hidden_layers"}


def _gptj(f: Fields) -> Read:
    config = _any_gptj(f, "gptj")
    return config, layouts.interleaved(layouts.GPTJ, config)


def _codegen(f: Fields) -> Read:
    config = _any_gptj(f, "codegen")
    if config.n_heads % 4:
        raise InputError(f"{f.where}: {config.n_heads} heads do not divide into the four groups of codegen's files")
    return config, layouts.interleaved(layouts.codegen(config), config)


def _any_gptj(f: Fields, family: str) -> ModelConfig:
    base = _gpt(f, family, _GPT2_NAMES)
    f.fixed("rotary", True)
    f.fixed("scale_attn_weights", True)
    return ModelConfig(
        **base,
        d_mlp=f.integer("n_inner", 4 * base["d_model"]),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=f.flag("tie_word_embeddings", False),
        max_positions=f.integer("n_positions", 2048),
        rotary_dim=f.integer("rotary_dim", 64),
        activation=f.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )


def _gpt_neo(f: Fields) -> Read:
    base = _gpt(f, "gpt_neo", {"heads": "num_heads", "width": "hidden_size", "layers": "num_layers"})
    kinds, window = _gpt_neo_kinds(f, base["n_layers"]), f.integer("window_size", 256)
    everywhere = tuple(layer for layer, kind in enumerate(kinds) if kind == "global")
    config = ModelConfig(
        **base,
        d_mlp=f.integer("intermediate_size", 4 * base["d_model"]),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=f.integer("max_position_embeddings", 2048),
        window=None if len(everywhere) == base["n_layers"] else window,
        global_layers=() if len(everywhere) == base["n_layers"] else everywhere,
        activation=f.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )
    return config, layouts.GPT_NEO


def _gpt_neo_kinds(f: Fields, n_layers: int) -> list[str]:
    """``attention_types`` is a list of patterns and how often each is repeated; ``attention_layers`` is the outcome."""
    given, outcome = f.take("attention_types", [[["global", "local"], n_layers // 2]]), f.take("attention_layers")
    try:
        fits = sum(len(pattern) * times for pattern, times in given) == n_layers and all(t > 0 for _, t in given)
        kinds = [kind for pattern, times in given for kind in list(pattern) * times] if fits else []
        right = len(kinds) == n_layers and set(kinds) <= {"global", "local"} and outcome in (None, kinds)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise InputError(f"{f.where}: attention_types does not give {n_layers} layers, global or local")
    return kinds


def _gpt_bigcode(f: Fields) -> Read:
    base, one_head = _gpt(f, "gpt_bigcode", _GPT2_NAMES), f.flag("multi_query", True)
    f.fixed("scale_attn_weights", True)
    f.fixed("num_key_value_heads", 1 if one_head else base["n_heads"], None)
    for name in ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner"):
        f.take(name)  # the softmax is computed in float32 always
    for name in ("max_sequence_length", "max_batch_size", "pre_allocate_kv_cache", "validate_runner_input"):
        f.take(name)
    config = ModelConfig(
        **base | {"n_kv_heads": 1 if one_head else base["n_heads"]},
        d_mlp=f.integer("n_inner", 4 * base["d_model"]),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=f.integer("n_positions", 1024),
        activation=f.choice("activation_function", ACTIVATIONS, "gelu_pytorch_tanh"),
    )
    return config, layouts.gpt_bigcode(one_head=one_head)


def _opt(f: Fields) -> Read:
    base = _gpt(f, "opt", _USUAL_NAMES)
    for name, only in (("do_layer_norm_before", True), ("_remove_final_layer_norm", False), ("enable_bias", True)):
        f.fixed(name, only)
    f.fixed("word_embed_proj_dim", base["d_model"])
    f.fixed("layer_norm_elementwise_affine", True)
    config = ModelConfig(
        **base,
        d_mlp=f.integer("ffn_dim"),
        norm_eps=1e-5,
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=f.integer("max_position_embeddings", 2048),
        activation=f.choice("activation_function", ACTIVATIONS, "relu"),
    )
    return config, layouts.opt(layouts.OPT, config.max_positions)


def _xglm(f: Fields) -> Read:
    base = _gpt(f, "xglm", {"heads": "attention_heads", "width": "d_model", "layers": "num_layers"})
    scale = f.flag("scale_embedding", True)
    config = ModelConfig(
        **base,
        d_mlp=f.integer("ffn_dim"),
        norm_eps=1e-5,
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=f.integer("max_position_embeddings", 2048, most=_MOST_POSITIONS),
        embed_scale=math.sqrt(base["d_model"]) if scale else 1.0,
        activation=f.choice("activation_function", ACTIVATIONS, "gelu"),
    )
    return config, layouts.xglm(config.max_positions, config.d_model)


def _bloom(f: Fields) -> Read:
    if f.peek("hidden_size") is None:
        width = "n_embed" if f.peek("n_embed") is not None else "n_embd"
    else:
        width = "hidden_size"
        f.take("n_embed")
    heads = "n_head" if f.peek("num_attention_heads") is None else "num_attention_heads"
    base = _gpt(f, "bloom", {"heads": heads, "width": width, "layers": "n_layer"}, most_heads=_MOST_HEADS)
    f.fixed("apply_residual_connection_post_layernorm", False)
    f.fixed("n_inner", None, 4 * base["d_model"])
    f.fixed("tie_word_embeddings", True)
    for name in ("slow_but_exact", "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion"):
        f.take(name)  # ways of computing the same
    for name in ("seq_length", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id"):
        f.take(name)  # of the training
    config = ModelConfig(
        **base,
        d_mlp=4 * base["d_model"],
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=False,
        max_positions=2048,
        alibi_slopes=_slopes(base["n_heads"]),
        activation="gelu_tanh",
    )
    return config, layouts.bloom(config.norm_eps)


def _slopes(n_heads: int) -> tuple[float, ...]:
    """ALiBi's, a geometric series; of a number of heads that is no power of two those in between come last."""
    power = 2 ** int(math.log2(n_heads))
    first = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4 * (2 * i + 1) / power) for i in range(n_heads - power)]
    return tuple(first + between)


def _mpt(f: Fields) -> Read:
    base = _gpt(f, "mpt", {"heads": "n_heads", "width": "d_model", "layers": "n_layers"}, most_heads=_MOST_HEADS)
    attention = Fields(f.object("attn_config"), f"{f.where}: attn_config")
    for name, only in (("alibi", True), ("qk_ln", False), ("prefix_lm", False), ("softmax_scale", None)):
        attention.fixed(name, only)
    attention.fixed("attn_type", "multihead_attention")
    clip, most = attention.number("clip_qkv", None), attention.number("alibi_bias_max", 8.0)
    attention.fixed("is_encoder_decoder", False)
    attention.refuse_unread({*IRRELEVANT, "attn_impl", "attn_uses_sequence_id", "model_type"})
    f.fixed("logit_scale", None)
    f.fixed("no_bias", True)
    f.fixed("expansion_ratio", 4)
    for name in ("learned_pos_emb", "init_device", "norm_type", "verbose", "init_config", "fc_type", "ffn_config"):
        f.take(name)  # transformers reads none of them
    config = ModelConfig(
        **base,
        d_mlp=4 * base["d_model"],
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=f.integer("max_seq_len", 2048),
        clip_qkv=clip,
        alibi_slopes=_mpt_slopes(base["n_heads"], most),
        activation="gelu",
    )
    return config, layouts.MPT


def _mpt_slopes(n_heads: int, most: float) -> tuple[float, ...]:
    power = 2 ** math.ceil(math.log2(n_heads))
    series = [2.0 ** (-(i + 1) * most / power) for i in range(power)]
    return tuple(series if power == n_heads else (series[1::2] + series[::2])[:n_heads])


def _falcon(f: Fields) -> Read:
    base = _gpt(f, "falcon", _falcon_names(f), most_heads=_MOST_HEADS)
    f.fixed("apply_residual_connection_post_layernorm", False)
    new, several = f.flag("new_decoder_architecture", False), not f.flag("multi_query", True)
    parallel = f.flag("parallel_attn", True) or new
    n_heads, alibi, bias = base["n_heads"], f.flag("alibi", False), f.flag("bias", False)
    n_kv = f.integer("num_kv_heads", f.integer("n_head_kv", n_heads))
    n_norms = f.integer("num_ln_in_parallel_attn", 2 if new else 1)
    base |= {"n_kv_heads": n_kv if new else n_heads if several else 1}
    rope = {"rotary_dim": 0, **_NO_ROPE} if alibi else {}
    positions = f.integer("max_position_embeddings", 2048)
    rope_fields = take_rope(f, base | {"max_positions": positions})
    config = ModelConfig(
        **base | rope_fields | rope,
        d_mlp=f.integer("ffn_hidden_size", 4 * base["d_model"]),
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        tied_head=f.flag("tie_word_embeddings", True),
        max_positions=positions,
        parallel=parallel,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        alibi_slopes=tuple(x / math.sqrt(base["head_dim"]) for x in _slopes(n_heads)) if alibi else None,
        activation=f.choice("activation", ACTIVATIONS, "gelu"),
    )
    return config, layouts.falcon(config, n_norms=n_norms, head_by_head=several and not new)


def _falcon_names(f: Fields) -> dict[str, str]:
    """The first releases have names of their own."""
    old = f.peek("num_attention_heads") is None
    return {"heads": "n_head", "width": "hidden_size", "layers": "n_layer"} if old else _USUAL_NAMES


READERS: Mapping[str, Callable[[Fields], Read]] = {
    "gptj": _gptj,
    "codegen": _codegen,
    "gpt_neo": _gpt_neo,
    "gpt_bigcode": _gpt_bigcode,
    "opt": _opt,
    "xglm": _xglm,
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
}
"""From Hugging Face's ``model_type`` to what reads the config."""
