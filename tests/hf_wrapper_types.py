"""Tiny random models with other parts beside the language model, and Gemma 4: their configs."""

from __future__ import annotations

from typing import Any

from tests.hf_bases import LINEAR, LLAMA, NO_HEAD_DIM, ROPE, YARN, Type
from tests.hf_expert_types import LINEAR_NEEDS, MIXTURE

_LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]
_MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 4,
    "image_size": 16,
}
_CLIP = _VISION | {"model_type": "clip_vision_model"}
_QWEN_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}
_IMAGE_TOKENS = {"image_token_id": 50, "video_token_id": 51, "vision_start_token_id": 52, "vision_end_token_id": 53}


def _wrapped(fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"text_config": fields, "tie_word_embeddings": False, **more}


_GEMMA4 = LLAMA | {
    "num_key_value_heads": 4,
    "sliding_window": 5,
    "layer_types": _LAYERS,
    "attention_k_eq_v": True,
    "global_head_dim": 12,
    "num_global_key_value_heads": 1,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1000000.0},
        "sliding_attention": ROPE["rope_parameters"],
    },
}
_GEMMA4_NEEDS = (
    "heads of other numbers and widths in layers without a window, whose values may be their keys; a norm of values"
    "; a number for each layer; half of the rotary pairs"
)

WRAPPER_TYPES: dict[str, Type] = {
    "qwen3_vl": Type(
        "qwen3_vl",
        _wrapped(LLAMA | {"rope_parameters": _MROPE}, vision_config=_QWEN_VISION, **_IMAGE_TOKENS),
        "the text part",
        whole="Qwen3VLForConditionalGeneration",
    ),
    "qwen3_5": Type(
        "qwen3_5",
        _wrapped(LLAMA | LINEAR | {"rope_parameters": _MROPE | LINEAR["rope_parameters"]}, vision_config=_QWEN_VISION)
        | _IMAGE_TOKENS,
        f"the text part; {LINEAR_NEEDS}",
        whole="Qwen3_5ForConditionalGeneration",
        flagged=True,
    ),
    "qwen3_5_moe": Type(
        "qwen3_5_moe",
        _wrapped(
            {name: value for name, value in LLAMA.items() if name != "intermediate_size"} | LINEAR | MIXTURE,
            vision_config=_QWEN_VISION,
            **_IMAGE_TOKENS,
        ),
        f"the text part; {LINEAR_NEEDS}; experts in every layer, with an MLP beside it that has a gate",
        whole="Qwen3_5MoeForConditionalGeneration",
    ),
    "qwen2_5_vl": Type(
        "qwen2_5_vl",
        _wrapped(NO_HEAD_DIM | {"rope_parameters": _MROPE}, vision_config=_QWEN_VISION, **_IMAGE_TOKENS),
        "the text part",
        whole="Qwen2_5_VLForConditionalGeneration",
    ),
    "qwen2_vl": Type(
        "qwen2_vl",
        _wrapped(
            NO_HEAD_DIM | {"rope_parameters": _MROPE},
            vision_config={
                "depth": 1,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 2,
                "mlp_ratio": 1,
                "patch_size": 4,
            },
            **_IMAGE_TOKENS,
        ),
        "the text part",
        whole="Qwen2VLForConditionalGeneration",
    ),
    "llava": Type(
        "llava",
        _wrapped(LLAMA | {"model_type": "llama"}, vision_config=_CLIP, image_token_index=50),
        "the text part",
        whole="LlavaForConditionalGeneration",
    ),
    "llava_next": Type(
        "llava_next",
        _wrapped(LLAMA | {"model_type": "mistral", "sliding_window": None}, vision_config=_CLIP, image_token_index=50),
        "the text part",
        whole="LlavaNextForConditionalGeneration",
    ),
    "llava_onevision": Type(
        "llava_onevision",
        _wrapped(NO_HEAD_DIM | {"model_type": "qwen2"}, vision_config=_CLIP | {"model_type": "siglip_vision_model"})
        | {"image_token_id": 50, "video_token_id": 51},
        "the text part",
        whole="LlavaOnevisionForConditionalGeneration",
    ),
    "smolvlm": Type(
        "smolvlm",
        _wrapped(LLAMA | {"model_type": "llama"}, vision_config=_VISION, image_token_id=50),
        "the text part",
        whole="SmolVLMForConditionalGeneration",
    ),
    "idefics3": Type(
        "idefics3",
        _wrapped(LLAMA | {"model_type": "llama"}, vision_config=_VISION, image_token_id=50),
        "the text part",
        whole="Idefics3ForConditionalGeneration",
    ),
    "internvl": Type(
        "internvl",
        _wrapped(
            LLAMA | {"model_type": "qwen3"}, vision_config=_VISION | {"image_size": [16, 16], "patch_size": [4, 4]}
        )
        | {"image_token_id": 50},
        "the text part",
        whole="InternVLForConditionalGeneration",
    ),
    "gemma3": Type(
        "gemma3",
        {
            "text_config": LLAMA
            | {"sliding_window": 5, "query_pre_attn_scalar": 12, "tie_word_embeddings": True}
            | {
                "rope_parameters": {
                    "full_attention": ROPE["rope_parameters"],
                    "sliding_attention": ROPE["rope_parameters"],
                }
            },
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
        },
        "the text part",
        whole="Gemma3ForConditionalGeneration",
    ),
    "gemma4_text": Type("gemma4_text", _GEMMA4 | {"hidden_size_per_layer_input": 0}, _GEMMA4_NEEDS, flagged=True),
    "gemma4_text-experts": Type(
        "gemma4_text",
        _GEMMA4
        | {"hidden_size_per_layer_input": 0, "enable_moe_block": True}
        | {"num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 20},
        _GEMMA4_NEEDS + "; experts beside the MLP, each and the router with norms of their own",
        flagged=True,
    ),
    "gemma4_unified_text": Type(
        "gemma4_unified_text", _GEMMA4 | {"attention_k_eq_v": False, "final_logit_softcapping": None}, _GEMMA4_NEEDS
    ),
    "gemma4": Type(
        "gemma4",
        {
            "text_config": _GEMMA4 | {"hidden_size_per_layer_input": 0},
            "vision_config": _VISION | {"num_key_value_heads": 2, "head_dim": 16},
            "audio_config": None,
        },
        "the text part",
        whole="Gemma4ForConditionalGeneration",
    ),
    "gemma4_unified": Type(
        "gemma4_unified",
        {"text_config": _GEMMA4, "vision_config": None, "audio_config": None},
        "the text part",
        whole="Gemma4UnifiedForConditionalGeneration",
    ),
    "mistral3-mistral": Type(
        "mistral3",
        _wrapped(
            LLAMA | {"model_type": "mistral", "sliding_window": None},
            vision_config=_VISION | {"model_type": "pixtral"},
        ),
        "the text part",
        whole="Mistral3ForConditionalGeneration",
    ),
    "mistral3-ministral3": Type(
        "mistral3",
        _wrapped(
            LLAMA
            | {
                "model_type": "ministral3",
                "rope_parameters": YARN | {"original_max_position_embeddings": 48, "llama_4_scaling_beta": 0.1},
            },
            vision_config=_VISION | {"model_type": "pixtral"},
        ),
        "the text part; YaRN; inputs up to the first training's length",
        whole="Mistral3ForConditionalGeneration",
    ),
}
"""By name: the type, or the type and what is odd."""
