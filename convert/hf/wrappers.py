"""Models that read images or sound beside text: of each, where its language model stands, which is all that is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf.irrelevant import IRRELEVANT
from jstrace.models import InputError

_VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_TOKENS = (
    *("image_token_id", "image_token_index", "video_token_id", "boi_token_index", "eoi_token_index", "boi_token_id"),
    *("eoi_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"),
)
_PROJECTOR = ("projector_hidden_act", "multimodal_projector_bias", "vision_feature_layer", "spatial_merge_size")


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """Where the language model stands in the config and the files of a model with other parts."""

    inner: tuple[str, ...]
    """Types that ``text_config`` may name; the first where it names none."""
    fields: tuple[str, ...]
    """Of the whole, beside ``text_config``, that are about other parts."""
    weights: tuple[str, ...] = _VISION
    """What names of weights begin with that belong to other parts."""
    inner_tie: bool = False
    """Whether ``text_config`` alone may tie the head, too; of the others the whole decides, if it says anything."""
    flat: bool = False
    """Whether older files have the fields of the language model beside those of the whole."""


_QWEN_VL = Wrapper(
    ("qwen2_5_vl_text",), ("vision_config", *_TOKENS), ("visual.", "model.visual."), inner_tie=True, flat=True
)
WRAPPERS: Mapping[str, Wrapper] = {
    "gemma3": Wrapper(("gemma3_text",), ("vision_config", "mm_tokens_per_image", *_TOKENS)),
    "gemma4": Wrapper(("gemma4_text",), ("vision_config", "audio_config", *_TOKENS)),
    "llama4": Wrapper(("llama4_text",), ("vision_config", *_TOKENS)),
    "mistral3": Wrapper(("mistral", "ministral3"), ("vision_config", *_PROJECTOR, *_TOKENS)),
    "qwen2_vl": dataclasses.replace(_QWEN_VL, inner=("qwen2_vl_text",)),
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": Wrapper(("qwen3_vl_text",), ("vision_config", *_TOKENS), ("model.visual.", "visual.")),
}
"""By ``model_type`` of the whole."""


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
    whole.fixed("quantization_config", None)
    text = {"model_type": wrapper.inner[0]} | whole.object("text_config")
    for name, value in text.items():
        if whole.peek(name) == value and name != "tie_word_embeddings":
            whole.take(name)  # said twice
    if text["model_type"] not in list(wrapper.inner):
        known = " or ".join(map(repr, wrapper.inner))
        raise InputError(f"{where}: text_config has model_type {text['model_type']!r}, expected {known}")
    tied = whole.take("tie_word_embeddings")
    ignored = whole.refuse_unread({*IRRELEVANT, *wrapper.fields}, ignorable=True)
    if tied is not None and not (wrapper.inner_tie and text.get("tie_word_embeddings")):
        text["tie_word_embeddings"] = tied  # the whole's is read, as its is the head
    return text, ignored, wrapper.weights
