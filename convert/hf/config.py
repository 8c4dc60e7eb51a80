"""Hugging Face ``config.json`` to ``ModelConfig``: every field is used, irrelevant for a stated reason, or refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf.families import FAMILIES
from jstrace.convert.validation import validated
from jstrace.models import InputError, ModelConfig

_TRAINING = "only training reads it"
_GENERATION = "only sampling and its caches read it"
_BOOKKEEPING = "describes the file, not the computation"
_DROPOUT = "dropout is off outside training"
_OTHER_HEADS = "belongs to heads other than the language model's"

IRRELEVANT: Mapping[str, str] = {
    "attention_dropout": _DROPOUT,
    "attn_pdrop": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "resid_pdrop": _DROPOUT,
    "hidden_dropout": _DROPOUT,
    "initializer_range": _TRAINING,
    "use_cache": _GENERATION,
    "cache_implementation": _GENERATION,
    "task_specific_params": _GENERATION,
    "bos_token_id": "the tokenizer says which special tokens it adds",
    "eos_token_id": _GENERATION,
    "pad_token_id": "padding is masked by length",
    "architectures": _BOOKKEEPING,
    "torch_dtype": "the caller chooses the dtype",
    "dtype": "the caller chooses the dtype",
    "transformers_version": _BOOKKEEPING,
    "_name_or_path": _BOOKKEEPING,
    "transformers.js_config": _BOOKKEEPING,
    "is_llama_config": _BOOKKEEPING,
    "_attn_implementation_autoset": _BOOKKEEPING,
    "auto_map": "names code in the repository, which is never run",
    "is_decoder": "decoders are all that is read here",
    "pretraining_tp": "splits products that are computed whole here",
    "predict_special_tokens": _OTHER_HEADS,
    "n_special": "names rows that the vocabulary counts already",
    "output_past": _GENERATION,
    "attention_probs_dropout_prob": _DROPOUT,
    "hidden_dropout_prob": _DROPOUT,
    "gradient_checkpointing": _TRAINING,
    "tokenizer_class": "the tokenizer's own files say so",
    "return_dict": "chooses the form of transformers' answers",
    "output_attentions": "chooses the form of transformers' answers",
    "output_hidden_states": "chooses the form of transformers' answers",
    "torchscript": "chooses the form of transformers' answers",
    "use_bfloat16": "the caller chooses the dtype",
    "n_ctx": "an older name of n_positions",
    "reorder_and_upcast_attn": "attention is computed in float32 always",
    "classifier_dropout": _OTHER_HEADS,
    "summary_type": _OTHER_HEADS,
    "summary_use_proj": _OTHER_HEADS,
    "summary_activation": _OTHER_HEADS,
    "summary_proj_to_labels": _OTHER_HEADS,
    "summary_first_dropout": _OTHER_HEADS,
    **dict.fromkeys(("num_labels", "_num_labels", "id2label", "label2id", "problem_type"), _OTHER_HEADS),
    **dict.fromkeys(("max_length", "min_length", "do_sample", "early_stopping", "num_beams"), _GENERATION),
    **dict.fromkeys(("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"), _GENERATION),
    **dict.fromkeys(("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"), _GENERATION),
    **dict.fromkeys(("num_return_sequences", "return_dict_in_generate", "output_scores"), _GENERATION),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"), _GENERATION),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"), _GENERATION),
    **dict.fromkeys(("sep_token_id", "unk_token_id", "prefix", "finetuning_task"), _BOOKKEEPING),
}
"""Fields that no forward pass depends on, each with the reason."""


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
}
"""The language model of each ``model_type`` in transformers, which is what is computed here."""


def read_hf_config(folder: Path, *, warn: bool = False) -> ModelConfig:
    """Read ``config.json`` of a Hugging Face folder; with ``warn``, warn where it names a model of its own.

    Raises:
      InputError: no readable file, an unsupported architecture, or a field whose effect is not implemented.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json; a Hugging Face model folder holds config.json and *.safetensors")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(fields).__name__}")
    config = from_hf_fields(fields, where=str(path))
    if warn:
        _warn_of_code(fields, str(path))
    return config


def _warn_of_code(fields: Mapping[str, Any], where: str) -> None:
    """Warn where a file names another model than the family's: its fields and weights may be the same."""
    own, named = _CLASSES[fields["model_type"]], fields.get("architectures")
    others = [name for name in (named if isinstance(named, list) else [named]) if name not in (own, None)]
    reasons = ["auto_map names code in the repository, which is never run"] if fields.get("auto_map") else []
    reasons += [f"architectures names {str(others[0])[:80]!r}"] if others else []
    if reasons:
        message = f"{where}: {', and '.join(reasons)}; it is read as a plain {own}, which may compute something else"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def from_hf_fields(fields: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Map the fields of a Hugging Face config; ``where`` names the file in errors."""
    rest = dict(fields)
    model_type = rest.pop("model_type", None)
    if model_type == "gemma3" and isinstance(rest.get("text_config"), dict):
        return from_hf_fields(_text_part(rest, where), where=where)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"{where}: architecture {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    source = Fields(rest, where)
    source.fixed("quantization_config", None)
    source.fixed("is_encoder_decoder", False)
    source.fixed("pruned_heads", {}, None)
    config = FAMILIES[model_type](source)
    source.refuse_unread(IRRELEVANT)
    return validated(config, where)


_IMAGE_FIELDS = (
    "vision_config",
    "mm_tokens_per_image",
    "boi_token_index",
    "eoi_token_index",
    "image_token_index",
    "boi_token_id",
    "eoi_token_id",
    "image_token_id",
)


def _text_part(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The language model of a Gemma 3 that also reads images: what the whole says beside it is about the images."""
    whole = Fields(fields, where)
    whole.fixed("quantization_config", None)
    text = {"model_type": "gemma3_text"} | whole.object("text_config")
    if text["model_type"] != "gemma3_text":
        raise InputError(f"{where}: text_config has model_type {text['model_type']!r}, expected 'gemma3_text'")
    tied = whole.take("tie_word_embeddings")
    whole.refuse_unread({*IRRELEVANT, *_IMAGE_FIELDS})
    return text if tied is None else text | {"tie_word_embeddings": tied}  # the whole's is read, as its is the head
