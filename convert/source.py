"""What a user names, resolved: the alias ``smollm2``, a ``.gguf`` file, a Hugging Face folder, or a hub id."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jstrace.convert import default_model
from jstrace.convert.gguf_file import GgufFile
from jstrace.convert.hf_config import read_hf_config
from jstrace.convert.hf_folder import open_safetensors
from jstrace.convert.tokenizer import GgufTokenizer, HfTokenizer, Tokenizer, tokenizer_or_reason
from jstrace.convert.weights import build_params
from jstrace.models import InputError, ModelConfig

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as read: its config, its parameters (nested dict of arrays) and its tokenizer, if it has one."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer | None


def say_on_stderr(message: str) -> None:
    """The default way of telling the user what takes time."""
    sys.stderr.write(f"jstrace: {message}\n")


def read_config(source: str, *, say: Callable[[str], None] = say_on_stderr) -> ModelConfig:
    """The config of a source, without its weights."""
    with _refusing(source):
        path = _resolve(source, say, only=["config.json"])
        return GgufFile(path).config if path.is_file() else read_hf_config(path)


def read_checkpoint(source: str, *, dtype: jnp.dtype, say: Callable[[str], None] = say_on_stderr) -> Checkpoint:
    """Read a model from an alias, a GGUF file, a Hugging Face folder or a hub id.

    Raises:
      InputError: nothing of that name, or contents that jstrace cannot compute with.
    """
    with _refusing(source):
        path = _resolve(source, say)
        return _from_gguf(path, dtype) if path.is_file() else _from_folder(path, dtype)


@contextlib.contextmanager
def _refusing(source: str) -> Iterator[None]:
    """Turn what damaged files and odd paths raise in the libraries that read them into an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, RuntimeError) as error:
        raise InputError(f"{source}: cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    except MemoryError as error:
        raise InputError(f"{source}: its weights do not fit into memory") from error


def _resolve(source: str, say: Callable[[str], None], only: list[str] | None = None) -> Path:
    if source == default_model.ALIAS:
        return default_model.default_model(say)
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise InputError(f"{source}: not a model; expected a folder with config.json and safetensors, or a .gguf file")
    if _HUB_ID.fullmatch(source):
        return _from_hub(source, say, only or _HUB_PATTERNS)
    raise InputError(
        f"unknown model {source!r}; expected {default_model.ALIAS!r}, a Hugging Face folder, a .gguf file or a hub id"
        " such as org/name"
    )


def _from_hub(repository: str, say: Callable[[str], None], patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    say(f"fetching {repository} from the Hugging Face hub (kept in its cache)")
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{repository}: not in the cache, and the hub cannot be reached; pass a local folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(f"{repository}: could not be fetched from the hub ({reason})") from error


def _from_folder(folder: Path, dtype: jnp.dtype) -> Checkpoint:
    config = read_hf_config(folder)
    names, read = open_safetensors(folder)
    params = build_params(config, names, read, dtype=dtype, where=str(folder))
    tokenizer = None
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        tokenizer = tokenizer_or_reason(lambda: HfTokenizer(folder))
    return Checkpoint(config, params, tokenizer)


def _from_gguf(path: Path, dtype: jnp.dtype) -> Checkpoint:
    file = GgufFile(path)
    params = build_params(file.config, file.names, file.reader(), dtype=dtype, where=str(path))
    tokenizer = None
    if "tokenizer.ggml.model" in file.metadata:
        tokenizer = tokenizer_or_reason(lambda: GgufTokenizer(file.metadata, str(path)))
    return Checkpoint(file.config, params, tokenizer)
