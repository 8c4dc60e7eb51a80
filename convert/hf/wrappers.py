"""Models that read images or sound beside text: of each, where its language model stands, which is all that is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf.common import check_decoder
from jstrace.convert.hf.irrelevant import IRRELEVANT
from jstrace.models import InputError

_VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_TOKENS = (
    *("image_token_id", "image_token_index", "video_token_id", "video_token_index", "vision_start_token_id"),
    *("vision_end_token_id", "vision_token_id"),
    *(f"{end}_token_{kind}" for end in ("boi", "eoi", "boa", "eoa") for kind in ("id", "index")),
)
_PROJECTOR = (
    *("projector_hidden_act", "multimodal_projector_bias", "vision_feature_layer", "spatial_merge_size"),
    *("image_seq_length", "vision_feature_select_strategy", "ignore_index", "downsample_ratio"),
    *("image_grid_pinpoints", "use_image_newline_parameter", "vision_aspect_ratio"),
)


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """Where the language model stands in the config and the files of a model with other parts."""

    inner: tuple[str, ...]
    """Types that ``text_config`` may name; the first where it names none."""
    fields: tuple[str, ...]
    """Of the whole, beside ``text_config``, that are about other parts."""
    weights: tuple[str, ...] = _VISION
    """What names of weights begin with that belong to other parts."""
    inner_fields: tuple[str, ...] = ()
    """Of ``text_config`` that are about other parts."""
    inner_tie: bool = False
    """Whether ``text_config`` alone may tie the head, too; of the others the whole decides, if it says anything."""
    flat: bool = False
    """Whether older files have the fields of the language model beside those of the whole."""


_QWEN_VL = Wrapper(
    ("qwen2_5_vl_text",), ("vision_config", *_TOKENS), ("visual.", "model.visual."), inner_tie=True, flat=True
)
_QWEN3_VL = Wrapper(("qwen3_vl_text",), ("vision_config", *_TOKENS), ("model.visual.", "visual."))
_SHAPE_7B = {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_DEFAULTS = {
    "llama": {**_SHAPE_7B, "intermediate_size": 11008},
    "mistral": {**_SHAPE_7B, "intermediate_size": 14336},
}
"""Of language models whose ``text_config`` may have what differs from them alone."""
_LLAVA = Wrapper(
    ("llama", "mistral", "qwen2", "qwen3"),
    ("vision_config", *_PROJECTOR, *_TOKENS),
    (*_VISION, "image_newline", "model.image_newline"),
    inner_tie=True,
)
_SMOLVLM = Wrapper(
    ("llama", "mistral"),
    ("vision_config", "scale_factor", *_TOKENS),
    ("model.vision_model.", "model.connector."),
    (
        *("_flash_attn_2_enabled", "neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor", "qk_layer_norms"),
        "use_resampler",
    ),
)
_GEMMA4_FIELDS = ("vision_config", "audio_config", "audio_token_id", "vision_soft_tokens_per_image", *_TOKENS)
_GEMMA4_WEIGHTS = (*_VISION, "model.embed_vision.", "model.embed_audio.", "model.audio_tower.")
WRAPPERS: Mapping[str, Wrapper] = {
    "gemma3": Wrapper(("gemma3_text",), ("vision_config", "mm_tokens_per_image", *_TOKENS)),
    "gemma4": Wrapper(("gemma4_text",), _GEMMA4_FIELDS, _GEMMA4_WEIGHTS),
    "gemma4_unified": Wrapper(("gemma4_unified_text",), _GEMMA4_FIELDS, _GEMMA4_WEIGHTS),
    "idefics3": _SMOLVLM,
    "internvl": Wrapper(("qwen2", "qwen3", "llama"), ("vision_config", *_PROJECTOR, *_TOKENS)),
    "kimi_k25": Wrapper(
        ("deepseek_v3",),
        (
            *("vision_config", "projection_hidden_size", "projection_layer_norm_eps", *_TOKENS, "ignore_index"),
            *("media_placeholder_token_id", "use_unified_vision_chunk", "video_placeholder"),
        ),
        ("vision_tower.", "mm_projector.", "model.vision_tower.", "model.mm_projector."),
    ),
    "llama4": Wrapper(
        ("llama4_text",), ("vision_config", *_TOKENS), (*_VISION, "vision_model.", "model.vision_model.")
    ),
    "llava": _LLAVA,
    "llava_next": _LLAVA,
    "llava_onevision": dataclasses.replace(_LLAVA, inner=("qwen2",)),
    "mistral3": Wrapper(("mistral", "ministral3"), ("vision_config", *_PROJECTOR, *_TOKENS)),
    "qwen2_vl": dataclasses.replace(_QWEN_VL, inner=("qwen2_vl_text",)),
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_5": dataclasses.replace(_QWEN3_VL, inner=("qwen3_5_text",)),
    "qwen3_5_moe": dataclasses.replace(_QWEN3_VL, inner=("qwen3_5_moe_text",)),
    "qwen3_vl": _QWEN3_VL,
    "smolvlm": _SMOLVLM,
}
"""By ``model_type`` of the whole."""


_ALIASES = {"kimi_k2": "deepseek_v3"}
"""Types of language models that are others by another name."""


def text_part(
    fields: Mapping[str, Any], where: str, ignore: Collection[str]
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Of a model with other parts: the fields of its language model, those that are ignored, and names to leave out.

    Raises:
      InputError: a language model of another type, or a field of the whole that is not known.
    """
    rest = dict(fields)
    wrapper = WRAPPERS[rest.pop("model_type")]
    if wrapper.flat and rest.get("text_config") is None:
        text = {name: value for name, value in rest.items() if name not in wrapper.fields and name != "text_config"}
        return {"model_type": wrapper.inner[0]} | text, (), wrapper.weights
    whole = Fields(rest, where, ignore)
    check_decoder(whole)
    quantised = {"quantization_config": whole.take("quantization_config")}
    text = {"model_type": wrapper.inner[0], **quantised} | whole.object("text_config")
    text = {name: value for name, value in text.items() if name not in wrapper.inner_fields}
    text["model_type"] = _ALIASES.get(str(text["model_type"]), text["model_type"])
    for name, value in text.items():
        if whole.peek(name) == value and name != "tie_word_embeddings":
            whole.take(name)  # said twice
    if text["model_type"] not in list(wrapper.inner):
        known = " or ".join(map(repr, wrapper.inner))
        raise InputError(f"{where}: text_config has model_type {text['model_type']!r}, expected {known}")
    text = {**_DEFAULTS.get(text["model_type"], {}), **text}
    tied = whole.take("tie_word_embeddings")
    ignored = whole.refuse_unread({*IRRELEVANT, *wrapper.fields}, ignorable=True)
    if tied is not None and not (wrapper.inner_tie and text.get("tie_word_embeddings")):
        text["tie_word_embeddings"] = tied  # the whole's is read, as its is the head
    return text, ignored, wrapper.weights
