"""Outside formats to ``jstrace.models``: Hugging Face, GGUF, the default model; and jstrace's own checkpoints."""

from jstrace.convert.default_model import cache_folder
from jstrace.convert.native import Header, check_target, narrowed, write_native
from jstrace.convert.source import Checkpoint, read_checkpoint, read_config
from jstrace.convert.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "Header",
    "Tokenizer",
    "cache_folder",
    "check_target",
    "narrowed",
    "read_checkpoint",
    "read_config",
    "write_native",
]
