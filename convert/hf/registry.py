"""Which types of Hugging Face configs are read, and of the others what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jstrace.convert.fields import Fields
from jstrace.convert.hf import (
    experts,
    families,
    gemma4,
    gpt_like,
    hybrid,
    latent,
    layer_norms,
    llama_like,
    mamba,
    mixed,
    nemotron_h,
)
from jstrace.convert.hf.common import Read

FAMILIES: dict[str, Callable[[Fields], Read]] = {
    **families.READERS,
    **llama_like.READERS,
    **layer_norms.READERS,
    **gpt_like.READERS,
    **experts.READERS,
    **mixed.READERS,
    **hybrid.READERS,
    **mamba.READERS,
    **nemotron_h.READERS,
    **latent.READERS,
    **gemma4.READERS,
}
"""From ``model_type`` to what reads the config."""

_CLASSES = {
    "codegen": "CodeGen",
    "deepseek_v2": "DeepseekV2",
    "deepseek_v3": "DeepseekV3",
    "deepseek_v32": "DeepseekV32",
    "glm4_moe_lite": "Glm4MoeLite",
    "glm_moe_dsa": "GlmMoeDsa",
    "ernie4_5_moe": "Ernie4_5_Moe",
    "exaone4": "Exaone4",
    "exaone_moe": "ExaoneMoe",
    "glm4_moe": "Glm4Moe",
    "flex_olmo": "FlexOlmo",
    "granitemoe": "GraniteMoe",
    "gpt_oss": "GptOss",
    "hunyuan_v1_dense": "HunYuanDenseV1",
    "minimax_m2": "MiniMaxM2",
    "qwen2_moe": "Qwen2Moe",
    "qwen3_moe": "Qwen3Moe",
    "granitemoehybrid": "GraniteMoeHybrid",
    "nemotron_h": "NemotronH",
    "olmo_hybrid": "OlmoHybrid",
    "qwen3_next": "Qwen3Next",
    "qwen3_5_text": "Qwen3_5",
    "qwen3_5_moe_text": "Qwen3_5Moe",
    "ernie4_5": "Ernie4_5",
    "gemma3": "Gemma3",
    "gemma3_text": "Gemma3",
    "gemma4_text": "Gemma4",
    "gemma4_unified_text": "Gemma4Unified",
    "gpt2": "GPT2",
    "gpt_bigcode": "GPTBigCode",
    "gpt_neo": "GPTNeo",
    "gpt_neox": "GPTNeoX",
    "gptj": "GPTJ",
    "internlm3": "Llama",
    "llama4_text": "Llama4",
    "opt": "OPT",
    "seed_oss": "SeedOss",
    "smollm3": "SmolLM3",
    "stablelm": "StableLm",
    "vaultgemma": "VaultGemma",
    "xglm": "XGLM",
}
_OTHER_HEADS = {
    "idefics3": "Idefics3ForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "gpt2": "GPT2LMHeadModel",
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
    "gemma4": "Gemma4ForConditionalGeneration",
    "kimi_k25": "Kimi_K25ForConditionalGeneration",
    "llama4": "Llama4ForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
CLASSES: Mapping[str, str] = {
    **{name: f"{_CLASSES.get(name, name.capitalize())}ForCausalLM" for name in FAMILIES},
    **_OTHER_HEADS,
}
"""The language model of each ``model_type`` in transformers, which is what is computed here."""

_EXPERTS, _STATE = "its mixture of experts", "layers of a state-space model or of linear attention"
_PER_LAYER = "an embedding for each layer"
UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(("qwen3_vl_moe_text", "dbrx"), _EXPERTS),
    "deepseek_v4": "latent attention with compressed sources",
    "longcat_flash": "two attentions in a layer",
    **dict.fromkeys(("mamba", "mamba2", "jamba", "zamba2", "falcon_h1", "lfm2"), _STATE),
    **dict.fromkeys(("kimi_linear", "minimax", "rwkv", "falcon_mamba"), _STATE),
    **dict.fromkeys(("gemma3n_text", "gemma3n"), _PER_LAYER),
    "bitnet": "norms inside attention and MLP",
    "nanochat": "an RMSNorm of the embeddings",
    "openai-gpt": "norms on the residual stream itself",
    "diffllama": "differential attention",
}
"""Of types that people ask for and that are not read: what is missing."""
