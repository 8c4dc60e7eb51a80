"""The literal s-Trace pipeline in PyTorch: the baseline of ``bench_pipeline.py``.

Written as a careful PyTorch user would: transformers' own modules, factorised L1 norms, one heap of plain floats in
Python, and one masked forward after another, all under ``torch.inference_mode``.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from jstrace.models import ModelConfig

Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""residual_attn[L,T], attn[L,H,T,T], residual_mlp[L,T], mlp[L,T]."""


def build_model(config: ModelConfig, params: dict[str, Any]) -> LlamaForCausalLM:
    """The same weights in transformers' own Llama."""
    with torch.device("meta"):
        model = LlamaForCausalLM(_hf_config(config))
    model = model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    model.load_state_dict(_state_dict(config, params), strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama of that shape with random weights on a device; other families' flags are left out."""
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            return LlamaForCausalLM(_hf_config(config)).eval()
        finally:
            torch.set_default_dtype(torch.float32)


def _hf_config(config: ModelConfig) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=config.tied_head,
    )


def _state_dict(config: ModelConfig, params: dict[str, Any]) -> dict[str, torch.Tensor]:
    def tensor(value: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(value))

    state = {"model.embed_tokens.weight": tensor(params["embed"]), "model.norm.weight": tensor(params["final_norm"])}
    state["lm_head.weight"] = tensor(params.get("head", params["embed"]))
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
    names |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    names |= {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    for name, module in names.items():
        for layer, value in enumerate(np.asarray(params["layers"][name])):
            if name == "o":
                value = value.reshape(-1, config.d_model)
            if name in ("q", "k", "v"):
                value = value.reshape(config.d_model, -1)
            weight = tensor(value if value.ndim == 1 else np.ascontiguousarray(value.T))
            state[f"model.layers.{layer}.{module}.weight"] = weight
    return state


def _attention(layer: Any, x: torch.Tensor, rotary: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention probabilities [H,T,T] and values [H,T,d] of one layer."""
    attn = layer.self_attn
    shape = (1, x.shape[0], -1, attn.head_dim)
    x = x[None]
    q = attn.q_proj(x).view(shape).transpose(1, 2)
    k = attn.k_proj(x).view(shape).transpose(1, 2)
    v = attn.v_proj(x).view(shape).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    groups = attn.num_key_value_groups
    k, v = k.repeat_interleave(groups, 1)[0], v.repeat_interleave(groups, 1)[0]
    logits = torch.matmul(q[0], k.transpose(1, 2)) * attn.scaling
    return torch.softmax(logits.masked_fill_(hidden, -torch.inf), -1), v


def clean_scores(model: LlamaForCausalLM, tokens: torch.Tensor) -> tuple[torch.Tensor, Scores]:
    """Next-token logits and the L1 score of every edge."""
    n_tokens = len(tokens)
    hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=tokens.device).triu_(1)
    x = model.model.embed_tokens(tokens)
    rotary = model.model.rotary_emb(x[None], torch.arange(n_tokens, device=tokens.device)[None])
    rows: list[tuple[torch.Tensor, ...]] = []
    n_layers = len(model.model.layers)
    for index, layer in enumerate(model.model.layers):
        probs, v = _attention(layer, layer.input_layernorm(x), rotary, hidden)
        w_o = layer.self_attn.o_proj.weight.view(x.shape[1], v.shape[0], v.shape[2])
        middle = x + layer.self_attn.o_proj(torch.matmul(probs, v).transpose(0, 1).reshape(n_tokens, -1))
        norms = torch.einsum("hsd,Dhd->hsD", v, w_o).abs_().sum(-1)
        edge = layer.mlp(layer.post_attention_layernorm(middle))
        gain = model.model.norm.weight.abs() if index == n_layers - 1 else torch.ones(())
        residual, attn = x.abs().sum(-1), probs * norms[:, None, :]
        total = residual + attn.sum((0, 2))
        kept, new = (middle.abs() * gain).sum(-1), (edge.abs() * gain).sum(-1)
        rows.append((residual / total, attn / total[:, None], kept / (kept + new), new / (kept + new)))
        x = middle + edge
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    return model.lm_head(model.model.norm(x[-1])), (stacked[0], stacked[1], stacked[2], stacked[3])


def extract(scores: Scores, sizes: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Strata of every edge by best-first search with a heap of plain Python floats and integers."""
    residual_attn, attn, residual_mlp, mlp = (family.float().cpu().numpy() for family in scores)
    n_layers, n_heads, n_tokens, _ = attn.shape
    base_attn = n_layers * n_tokens
    base_residual = base_attn + attn.size
    base_mlp = base_residual + n_layers * n_tokens
    n_edges = (n_layers - 1) * (3 * n_tokens + n_heads * n_tokens * (n_tokens + 1) // 2) + 3 + n_heads * n_tokens
    cuts = [math.floor(size * n_edges) for size in sizes]
    strata = np.full(base_mlp + n_layers * n_tokens, 255, np.uint8)
    taken = _best_first(residual_attn, attn, residual_mlp, mlp, (base_attn, base_residual, base_mlp), cuts[-1])
    _mark_edges(strata, (n_layers, n_heads, n_tokens), (base_attn, base_residual, base_mlp), len(sizes))
    order = np.asarray(taken)
    strata[order] = np.searchsorted(np.asarray(cuts), np.arange(len(order)), side="right")
    parts = np.split(strata, [base_attn, base_residual, base_mlp])
    return (
        parts[0].reshape(n_layers, n_tokens),
        parts[1].reshape(attn.shape),
        *(part.reshape(n_layers, n_tokens) for part in parts[2:]),
    )


def _best_first(
    residual_attn: Any, attn: Any, residual_mlp: Any, mlp: Any, bases: tuple[int, ...], budget: int
) -> list[int]:
    """Indices of the first ``budget`` edges, in the order taken."""
    n_layers, n_heads, n_tokens, _ = attn.shape
    base_attn, base_residual, base_mlp = bases
    block = n_tokens * n_tokens
    low, high, skip = residual_attn.tolist(), residual_mlp.tolist(), mlp.tolist()
    # The in-edges of a node in one list, (head, source) fastest in head; only the causal ones.
    by_node = np.negative(attn.transpose(0, 2, 1, 3))
    seen = [bytearray(n_tokens) for _ in range(2 * n_layers + 1)]
    heap: list[tuple[float, int]] = []
    push, pop = heapq.heappush, heapq.heappop
    taken: list[int] = []

    def open_node(level: int, token: int) -> None:
        seen[level][token] = 1
        layer = (level - 1) // 2
        if level == 0:
            return
        if level % 2 == 0:
            push(heap, (-high[layer][token], base_residual + layer * n_tokens + token))
            push(heap, (-skip[layer][token], base_mlp + layer * n_tokens + token))
            return
        push(heap, (-low[layer][token], layer * n_tokens + token))
        start = base_attn + layer * n_heads * block + token * n_tokens
        for head, values in enumerate(by_node[layer, token, :, : token + 1].tolist()):
            first = start + head * block
            for source, value in enumerate(values):
                push(heap, (value, first + source))

    open_node(2 * n_layers, n_tokens - 1)
    while heap and len(taken) < budget:
        index = pop(heap)[1]
        taken.append(index)
        if index < base_attn:
            level, token = 2 * (index // n_tokens), index % n_tokens
        elif index < base_residual:
            rest = index - base_attn
            level, token = 2 * (rest // (n_heads * block)), rest % n_tokens
        else:
            rest = (index - base_residual) % (n_layers * n_tokens)
            level, token = 2 * (rest // n_tokens) + 1, rest % n_tokens
        if not seen[level][token]:
            open_node(level, token)
    return taken


def _mark_edges(strata: np.ndarray, shape: tuple[int, int, int], bases: tuple[int, ...], n_sizes: int) -> None:
    """Write the stratum of the full graph into every slot that is an edge."""
    n_layers, n_heads, n_tokens = shape
    residual, attn, residual_mlp, mlp = np.split(strata, bases)
    causal = np.tril(np.ones((n_tokens, n_tokens), bool))
    for flat in (residual, residual_mlp, mlp):
        rows = flat.reshape(n_layers, n_tokens)
        rows[:-1] = n_sizes
        rows[-1, -1] = n_sizes
    maps = attn.reshape(n_layers, n_heads, n_tokens, n_tokens)
    maps[:-1, :, causal] = n_sizes
    maps[-1, :, -1] = n_sizes


def masked_logits(model: LlamaForCausalLM, tokens: torch.Tensor, masks: Scores) -> torch.Tensor:
    """Next-token logits with every edge multiplied by its mask."""
    n_tokens = len(tokens)
    hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=tokens.device).triu_(1)
    x = model.model.embed_tokens(tokens)
    rotary = model.model.rotary_emb(x[None], torch.arange(n_tokens, device=tokens.device)[None])
    for layer, residual_attn, attn, residual_mlp, mlp in zip(model.model.layers, *masks, strict=True):
        probs, v = _attention(layer, layer.input_layernorm(x), rotary, hidden)
        mixed = torch.matmul(probs.mul_(attn), v).transpose(0, 1).reshape(n_tokens, -1)
        x = x * residual_attn[:, None] + layer.self_attn.o_proj(mixed)
        x = x * residual_mlp[:, None] + layer.mlp(layer.post_attention_layernorm(x)) * mlp[:, None]
    return model.lm_head(model.model.norm(x[-1]))


def evaluate(
    model: LlamaForCausalLM, tokens: torch.Tensor, strata: tuple[np.ndarray, ...], n_sizes: int
) -> torch.Tensor:
    """TV of every size and of the full graph, one masked forward after another."""
    families, dtype = [torch.from_numpy(family).to(tokens.device) for family in strata], model.dtype

    def predict(size: int) -> torch.Tensor:
        masks = [(family <= size).to(dtype) for family in families]
        return torch.softmax(masked_logits(model, tokens, (masks[0], masks[1], masks[2], masks[3])).float(), -1)

    full = predict(n_sizes)
    return torch.stack([0.5 * (full - predict(size)).abs().sum() for size in range(n_sizes)] + [full.new_zeros(())])
