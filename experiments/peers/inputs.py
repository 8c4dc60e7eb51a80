"""Texts with another of as many tokens: pairs of prompts and passages; and the weights for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.inputs import texts_of
from experiments.pairs import PROMPTS, Prompts
from jstrace.models import Model

MORE = (
    Prompts(
        "indirect object",
        "When Laura and David opened the shop, David handed the keys to",
        "When Laura and David opened the shop, Laura handed the keys to",
    ),
    Prompts(
        "indirect object",
        "Since Emma and Jack were in the garden, Emma threw the ball to",
        "Since Emma and Jack were in the garden, Jack threw the ball to",
    ),
    Prompts("agreement", "The drivers that the farmer meets", "The driver that the farmer meets"),
    Prompts("agreement", "The keys to the old wooden door", "The key to the old wooden door"),
    Prompts("capital", "The capital of Japan is the city of", "The capital of China is the city of"),
    Prompts("capital", "She was born in Greece, whose capital is", "She was born in Egypt, whose capital is"),
    Prompts(
        "year",
        "The siege lasted from the year 1733 to the year 17",
        "The siege lasted from the year 1783 to the year 17",
    ),
    Prompts("year", "The war began in 1642 and ended in 16", "The war began in 1692 and ended in 16"),
    Prompts("opposite", "The opposite of hot is", "The opposite of rich is"),
    Prompts(
        "opposite",
        "Wet is the opposite of dry, and fast is the opposite of",
        "Wet is the opposite of dry, and strong is the opposite of",
    ),
    Prompts(
        "colour",
        "The tiles were black, white, black, white, black and",
        "The tiles were black, green, black, green, black and",
    ),
    Prompts("colour", "A ripe banana is yellow, and fresh grass is", "A ripe banana is yellow, and fresh milk is"),
)
"""Twelve pairs beside those of ``pairs.py``, of the same kinds; chosen before any score had seen them."""
FIRST, BETWEEN, WIDTHS = 400, 100, {"pair": 17, "passage": 64, "swapped": 64}


class Item(NamedTuple):
    """A text, and another of as many tokens."""

    name: str
    kind: str
    """"pair", "passage" or "swapped","""
    tokens: np.ndarray
    """int32 ``[T]``,"""
    other: np.ndarray
    """as many."""


def items(model: Model, data: Path, n_passages: int = 24) -> Iterator[Item]:
    """The pairs, and passages of at most 64 tokens from row 400 on, each with what stands a hundred rows further on.

    A passage comes twice: judged under means, and, "swapped", while ablated edges carry the other's states.
    """
    assert model.tokenizer is not None
    encode = model.tokenizer.encode
    for number, prompts in enumerate((*PROMPTS, *MORE)):
        ids = [np.asarray(encode(text), np.int32) for text in prompts[1:]]
        yield Item(f"pair-{number:02}", "pair", *ids)
    texts, row, found = texts_of(data), FIRST, 0
    while found < n_passages:
        tokens = np.asarray(encode(texts[row]), np.int32)
        if len(tokens) <= WIDTHS["passage"]:
            other = encode(" ".join(texts[row + BETWEEN : row + BETWEEN + 4]))[: len(tokens)]
            for kind in ("passage", "swapped"):
                yield Item(f"{kind}-{row}", kind, tokens, np.asarray(other, np.int32))
            found += 1
        row += 1


def prepare(model: Model, data: Path, folder: Path, n_passages: int) -> None:
    """Write the weights and, of each input, tokens, logits and a foreign prediction, for other tools."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    write_weights(model, folder / "model")
    every = [one for one in items(model, data, n_passages) if one.kind != "swapped"]
    logits = {one.name: np.asarray(model(one.tokens)) for one in every}
    for at, one in enumerate(every):
        alike = [each for each in (*every[at + 1 :], *every) if each.kind == one.kind]
        told = next(each for each in alike if logits[each.name].argmax() != logits[one.name].argmax())
        exponents = np.exp(logits[told.name].astype(np.float64) - logits[told.name].max())
        np.savez(
            folder / "inputs" / f"{one.name}.npz",
            tokens=one.tokens, other=one.other, logits=logits[one.name], other_logits=np.asarray(model(one.other)),
            foreign=(exponents / exponents.sum()).astype(np.float32),
        )  # fmt: skip


def write_weights(model: Model, folder: Path) -> None:
    """A folder of a Llama model whose head is its embeddings, with its names, that transformers reads; float32."""
    from safetensors.numpy import save_file

    c, weights = model.config, model.decoder.params()
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32",
        "vocab_size": c.vocab_size, "hidden_size": c.d_model, "intermediate_size": c.d_mlp,
        "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads,
        "rms_norm_eps": c.norm_eps, "rope_theta": c.rope_theta, "tie_word_embeddings": c.tied_head,
        "max_position_embeddings": c.max_positions,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    stacks = {name: np.asarray(stack, np.float32) for name, stack in weights["layers"].items()}
    tensors = {"model.embed_tokens.weight": weights["embed"], "model.norm.weight": weights["final_norm"]}
    norms = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    for layer in range(c.n_layers):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.{theirs}.weight": stacks[ours][layer] for ours, theirs in norms.items()}
        tensors |= {f"{at}.self_attn.{x}_proj.weight": stacks[x][layer].reshape(c.d_model, -1).T for x in "qkv"}
        tensors[f"{at}.self_attn.o_proj.weight"] = stacks["o"][layer].reshape(-1, c.d_model).T
        tensors |= {f"{at}.mlp.{x}_proj.weight": stacks[x][layer].T for x in ("gate", "up", "down")}
    save_file({name: np.array(x, np.float32, order="C") for name, x in tensors.items()}, folder / "model.safetensors")
