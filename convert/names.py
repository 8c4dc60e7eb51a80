"""Names of models that are none: who may publish one, and what it may be a slip of."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from jstrace.convert.default_model import ALIAS
from jstrace.convert.native import HEADER
from jstrace.errors import InputError, nearest
from jstrace.models import PRESETS

_OWNERS = {
    "openai-community": ("gpt2",),
    "EleutherAI": ("pythia-",),
    "google": ("gemma-",),
    "Qwen": ("Qwen",),
    "meta-llama": ("Llama-", "Meta-Llama-"),
    "mistralai": ("Mistral-",),
    "allenai": ("OLMo-",),
    "microsoft": ("phi-", "Phi-"),
    "HuggingFaceTB": ("SmolLM",),
    "deepseek-ai": ("deepseek-llm-",),
}
"""Who publishes models that people name without their owner."""
_LOOKED_AT = 1000
"""Files and folders, at most, beside the place that a name stands for."""


def unknown(source: str) -> InputError:
    """The refusal of a name that is no model, with what it may stand for."""
    owned = [f"{owner}/{source}" for owner, names in _OWNERS.items() if source.startswith(names)]
    if owned and source.lower() != ALIAS:
        return InputError(f"unknown model {source!r}; on the hub it may be {owned[0]}")
    return InputError(
        f"unknown model {source!r}; expected {ALIAS!r}, a Hugging Face folder, a folder of jstrace convert, a .gguf"
        f" file, a hub id such as org/name, or random:NAME{did_you_mean(source)}"
    )


def did_you_mean(source: str, *, of_hub: bool = True) -> str:
    """For the end of a refusal: the known model, or the model on this disk, that a name is a slip of, or nothing.

    ``of_hub`` says whether models of the hub are meant: where it cannot be reached, a name that is near may be another
    model's.
    """
    known = {ALIAS: ALIAS} | {shown: name for name in PRESETS for shown in (name, name.split("/")[1]) if of_hub}
    known |= {place: place for place in _beside(source)}
    guess = nearest(source, known)
    return "" if guess is None or guess == source else f"; did you mean {known[guess]!r}?"


def _beside(source: str) -> list[str]:
    """Folders and .gguf files in the folder where the one that is named would be."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no such folder, or no name of one
        entries = itertools.islice(Path(source).expanduser().parent.iterdir(), _LOOKED_AT)
        return [str(path) for path in entries if path.suffix == ".gguf" or _is_model(path)]
    return []


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", HEADER))
