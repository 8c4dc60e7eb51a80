"""Outside formats to ``jstrace.models``: Hugging Face, GGUF, the default model; and jstrace's own checkpoints.

What every format shares lies here (layouts, weights), with a folder for each of the two that others made.
Imports ``jstrace.models`` and ``files``; only ``jstrace.loading``, the loading facade, imports it.
"""

from jstrace.convert.default_model import cache_folder
from jstrace.convert.kept import entries as kept_weights
from jstrace.convert.native import Header, check_target, narrowed, write_native
from jstrace.convert.source import Checkpoint, read_checkpoint, read_config
from jstrace.models import Tokenizer

__all__ = [
    "Checkpoint",
    "Header",
    "Tokenizer",
    "cache_folder",
    "check_target",
    "kept_weights",
    "narrowed",
    "read_checkpoint",
    "read_config",
    "write_native",
]
