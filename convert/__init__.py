"""Outside formats to ``jstrace.models``: Hugging Face folders and hub ids, GGUF files, the default model."""

from jstrace.convert.source import Checkpoint, read_checkpoint, read_config
from jstrace.convert.tokenizer import Tokenizer

__all__ = ["Checkpoint", "Tokenizer", "read_checkpoint", "read_config"]
