"""Fields of configs that no forward pass depends on, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

_TRAINING = "only training reads it"
_GENERATION = "only sampling and its caches read it"
_BOOKKEEPING = "describes the file, not the computation"
_DROPOUT = "dropout is off outside training"
_KERNEL = "chooses between ways of computing the same"
_NO_ENCODER = "belongs to models with an encoder"
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
    "_pad_token_id": "padding is masked by length",
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
    **dict.fromkeys(("unsloth_fixed", "unsloth_version", "model_name", "tokenizer_name"), _BOOKKEEPING),
    "custom_pipelines": _BOOKKEEPING,
    "_pre_quantization_dtype": "the caller chooses the dtype",
    "max_sequence_length": "of the training's batches; max_position_embeddings counts",
    "chunk_size_feed_forward": "splits products that are computed whole here",
    **dict.fromkeys(("_attn_implementation", "attn_implementation", "_attn_implementation_internal"), _KERNEL),
    **dict.fromkeys(("use_flash_attn", "use_flash_attention", "use_flash_attention_2", "flash_attn"), _KERNEL),
    **dict.fromkeys(("tie_encoder_decoder", "cross_attention_hidden_size", "decoder_start_token_id"), _NO_ENCODER),
    "encoder_no_repeat_ngram_size": _NO_ENCODER,
    **dict.fromkeys(("exponential_decay_length_penalty", "tf_legacy_loss", "is_composition"), _GENERATION),
    **dict.fromkeys(("residual_dropout", "embedding_dropout", "resid_dropout", "embed_dropout"), _DROPOUT),
    **dict.fromkeys(("dropout", "activation_dropout", "layerdrop", "attention_dropout_prob", "emb_pdrop"), _DROPOUT),
    **dict.fromkeys(("init_std", "embedding_fraction", "router_aux_loss_coef", "router_z_loss_coef"), _TRAINING),
    **dict.fromkeys(("aux_loss_alpha", "seq_aux", "ep_size"), _TRAINING),
    **dict.fromkeys(("input_jitter_noise", "output_router_logits"), _TRAINING),
}
"""Fields that no forward pass depends on, each with the reason."""
