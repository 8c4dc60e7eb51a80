"""The default model against transformers, whose weights are read from the file another way."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jstrace.models import Model


def raw_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Hugging Face's weights straight from the GGUF file, the rotary rows picked one by one."""
    import gguf

    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    names |= {"attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj"}
    names |= {"ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[parts[0]]
        else:
            name = f"model.layers.{parts[1]}.{names[parts[2]]}"
        if parts[0] == "blk" and parts[2] in ("attn_q", "attn_k"):
            # llama.cpp stores pair (i, i + 32) of each head of 64 in rows 2 i and 2 i + 1.
            rows = [64 * (r // 64) + 2 * (r % 32) + (r % 64) // 32 for r in range(len(value))]
            value = value[rows]
        state[f"{name}.weight"] = torch.from_numpy(np.array(value))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


@pytest.mark.real
def test_real_model_equals_transformers(real: Model) -> None:
    """The torch model is built from the raw file, without this project's conversion."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from jstrace.convert.default_model import default_model

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, rms_norm_eps=1e-5, rope_theta=100000.0, max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch_model = LlamaForCausalLM(config).eval()
    torch_model.load_state_dict(raw_state_dict(default_model(print)))
    assert real.tokenizer is not None
    tokens = real.tokenizer.encode("Computation in language models is denser than it has to be, and")
    with torch.no_grad():
        expected = torch_model(torch.tensor(tokens)[None]).logits[0, -1].numpy()
    full = real.full_mask(len(tokens))
    got = jax.jit(lambda model, tokens, mask: model(tokens, mask))(real, jnp.asarray(tokens), full)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
