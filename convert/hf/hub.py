"""Repositories of the Hugging Face hub, through its own client and cache; only safetensors, configs and tokenizers."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

from jstrace.convert import names
from jstrace.models import InputError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONFIG_ONLY = ("config.json",)
NO_WEIGHTS = ("*.json", "tokenizer*", "*.model", "*.txt")
_WANTED = ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt")
_UNWANTED = ("*/*", "consolidated*")
"""Folders with other formats, and a second copy of the weights under the authors' own names."""


def fetch(
    repository: str, say: Callable[[str], None], *, revision: str | None, only: tuple[str, ...] = _WANTED
) -> Path:
    """The local folder of a repository at a revision: a branch, a tag (of a training checkpoint, say) or a commit.

    Raises:
      InputError: no such repository or revision, no access to it, no network, or no room.
    """
    import huggingface_hub
    from huggingface_hub import errors

    at = f"{repository} at revision {revision!r}" if revision else repository
    say(f"fetching {at} from the Hugging Face hub (kept in its cache)")
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(only), ignore_patterns=list(_UNWANTED)
        )
    except errors.GatedRepoError as error:
        raise InputError(f"{repository}: gated; accept its terms on the hub and log in with 'hf auth login'") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{repository}: the hub has no such repository, or it is private; check the name or 'hf auth login'"
            f"{names.did_you_mean(repository)}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{repository}: the hub has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        near = names.did_you_mean(repository, of_hub=False)
        raise InputError(f"{at}: not in the cache, and the hub cannot be reached; pass a local folder{near}") from error
    except Exception as error:  # besides the client's own errors those of httpx and hf_xet, which share no class
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise InputError(f"{at}: the disk is full; set HF_HOME to a folder with room") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(f"{at}: could not be fetched from the hub ({reason})") from error
    return Path(folder)
