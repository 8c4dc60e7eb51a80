"""What the hub refuses, and revisions."""

from __future__ import annotations

import errno
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

import jstrace
from jstrace.loading import describe
from jstrace.models import InputError
from tests import hf_models

pytestmark = pytest.mark.quick


def hub_error(kind: type[Exception], status: int) -> Exception:
    response = types.SimpleNamespace(status_code=status, headers={}, request=None, url="https://hub.invalid", text="")
    return kind("refused", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: hub_error(errors.GatedRepoError, 403), "gated; accept its terms"),
        (lambda: hub_error(errors.RepositoryNotFoundError, 404), "no such repository, or it is private"),
        (lambda: hub_error(errors.RevisionNotFoundError, 404), "no revision 'step1000'"),
        (lambda: errors.LocalEntryNotFoundError("offline"), "not in the cache"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "disk is full; set HF_HOME"),
        (lambda: OSError("Consistency check failed: file should be of size 9"), "Consistency check failed"),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, error: Any, message: str) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=message):
        jstrace.load("EleutherAI/pythia-70m", revision="step1000", say=lambda _: None)
    with pytest.raises(InputError) as refused:
        jstrace.load("Qwen/Qwen3-8B-Bse", say=lambda _: None)
    assert ("did you mean 'Qwen/Qwen3-8B-Base'?" in str(refused.value)) == ("no such repository" in message)


def test_revisions_reach_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hf_models.make(hf_models.VARIANTS["gpt_neox"], tmp_path)
    asked = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"], options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    jstrace.load("EleutherAI/pythia-70m", revision="step1000", say=lambda _: None)
    describe("allenai/OLMo-2-1124-7B", revision="stage1-step1000")
    assert [call[:2] for call in asked] == [
        ("EleutherAI/pythia-70m", "step1000"),
        ("allenai/OLMo-2-1124-7B", "stage1-step1000"),
    ]
    assert asked[1][2] == ["config.json"]
    with pytest.raises(InputError, match="only a hub id has revisions"):
        jstrace.load(str(tmp_path), revision="main")
    with pytest.raises(InputError, match="revision '': expected a branch, a tag or a commit"):
        jstrace.load("EleutherAI/pythia-70m", revision="", say=lambda _: None)
