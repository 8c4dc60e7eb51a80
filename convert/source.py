"""What a user names, resolved: an alias, a file, a folder, a hub id, or random weights of any of these."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jstrace.convert import default_model, kept, names, native
from jstrace.convert.gguf.file import GgufFile
from jstrace.convert.gguf.parts import is_part
from jstrace.convert.gguf.tokenizer import GgufTokenizer
from jstrace.convert.hf import hub
from jstrace.convert.hf.config import read_hf_config
from jstrace.convert.hf.folder import check_whole, open_safetensors
from jstrace.convert.hf.tokenizer import HfTokenizer
from jstrace.convert.refusals import check_room, check_way, refusing
from jstrace.convert.weights import build_params
from jstrace.errors import checked_revision
from jstrace.models import (
    Decoder,
    InputError,
    ModelConfig,
    Tokenizer,
    fingerprint,
    param_shardings,
    preset,
    random_params,
)
from jstrace.models.narrow import STORED, is_narrow
from jstrace.models.params import narrow_params
from jstrace.models.platforms import seeded
from jstrace.models.streamed import STREAMED

_RANDOM = "random:"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model as read: its config, its parameters (nested dict of arrays) and its tokenizer, if it has one."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer | None
    stored: native.Header | None = None
    """Of a folder of ``jstrace convert``: what its parameters must hash to, and in which dtype."""
    fingerprint: str | None = None
    """Where it is known already."""


@dataclasses.dataclass(frozen=True)
class Request:
    """How to load: the dtype, the mesh to load onto, a revision of a hub id, and whom to tell what takes time."""

    dtype: jnp.dtype
    mesh: jax.sharding.Mesh | None
    revision: str | None
    say: Callable[[str], None]
    ignore: tuple[str, ...] = ()
    """Unknown fields of a ``config.json`` that are to be ignored."""
    narrow: str = ""
    """How matrices are stored, if not in the dtype: as ``jstrace.load`` has it."""

    def shardings(self, config: ModelConfig) -> Any:
        """Of every parameter, or None without a mesh."""
        return None if self.mesh is None else param_shardings(config, self.mesh)


def say_on_stderr(message: str) -> None:
    """The default way of telling the user what takes time."""
    sys.stderr.write(f"jstrace: {message}\n")


def read_config(
    source: str,
    *,
    revision: str | None = None,
    say: Callable[[str], None] = say_on_stderr,
    ignore: tuple[str, ...] = (),
) -> ModelConfig:
    """The config of a source, without its weights; those of the paper's models are known offline.

    Raises:
      InputError: nothing of that name, contents that jstrace cannot compute with, or a local folder of safetensors that
        are not whole, unless random weights are asked for.
    """
    with refusing(source):
        return _described(source, Request(jnp.dtype("float32"), None, revision, say, ignore), hub.CONFIG_ONLY)[0]


def _described(source: str, request: Request, only: tuple[str, ...]) -> tuple[ModelConfig, Path | None]:
    """The config of a source, and where it is, of a hub id with the files ``only``; of the paper's models nowhere."""
    name = source.removeprefix(_RANDOM)
    known = preset(name)
    if known is not None and request.revision is None and not Path(name).exists():
        _check_nothing_ignored(name, request.ignore)
        return known, None
    path = _resolve(name, request.say, request.revision, only=only)
    if path.is_file() or (path / native.HEADER).is_file():
        _check_nothing_ignored(name, request.ignore)
        return GgufFile(path).config if path.is_file() else native.read_header(path).config, path
    description = read_hf_config(path, ignore=request.ignore)
    if source == name and Path(name).expanduser() == path:  # what is fetched of a hub id here is the config alone
        check_whole(path, left_out=description.left_out)
    return description.config, path


def _check_nothing_ignored(source: str, ignore: tuple[str, ...]) -> None:
    if ignore:
        raise InputError(f"{source}: has no config.json, of which alone fields are ignored, such as {ignore[0]!r}")


def read_checkpoint(
    source: str,
    *,
    dtype: jnp.dtype,
    mesh: jax.sharding.Mesh | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = say_on_stderr,
    ignore: tuple[str, ...] = (),
    narrow: str = "",
) -> Checkpoint:
    """Read a model from an alias, a GGUF file, a folder of Hugging Face or of ``jstrace convert``, or a hub id.

    ``random:`` before any of these, or before the name of one of the paper's models, makes random weights instead; the
    tokenizer is that of the source, where there is one. With ``narrow`` matrices are ``Narrow``, but for folders of
    ``jstrace convert``, whose fingerprint is of wide ones.

    Raises:
      InputError: nothing of that name, or contents that jstrace cannot compute with.
    """
    request = Request(dtype, mesh, revision, say, ignore, narrow)
    with refusing(source):
        if source.startswith(_RANDOM):
            check_way(source, narrow, blocks=False, safetensors=False)
            config, path = _described(source, request, hub.NO_WEIGHTS)
            key, places = seeded(0), request.shardings(config)
            check_room(config, dtype, narrow=narrow)
            params = random_params(config, key=key, dtype=dtype, shardings=places, narrow=narrow)
            checkpoint = Checkpoint(config, params, None if path is None else _tokenizer(path))
        else:
            path = _resolve(source, say, revision)
            is_own = path.is_file() or (path / native.HEADER).is_file()
            check_way(source, narrow, blocks=path.is_file(), safetensors=not is_own)
            if is_own:
                _check_nothing_ignored(source, ignore)
                checkpoint = (_from_gguf if path.is_file() else _from_native)(path, request)
            else:
                checkpoint = _from_folder(path, request)
        jax.block_until_ready(checkpoint.params)  # what does not fit is said here
        return checkpoint


def _resolve(
    source: str, say: Callable[[str], None], revision: str | None, only: tuple[str, ...] | None = None
) -> Path:
    checked_revision(revision)
    if hub.HUB_ID.fullmatch(source) and not Path(source).exists():
        return hub.fetch(source, say, revision=revision, **({} if only is None else {"only": only}))
    if revision is not None:
        raise InputError(f"{source}: only a hub id has revisions, and this is none")
    if source == default_model.ALIAS:
        return default_model.default_model(say)
    if not source:
        raise InputError(f"no model named; expected {default_model.ALIAS!r}, a folder, a .gguf file or a hub id")
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise InputError(f"{source}: cannot be read ({error})") from error
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise InputError(f"{source}: not a model; expected a folder with config.json and safetensors, or a .gguf file")
    if preset(source) is not None:
        raise InputError(f"{source}: pass the hub id or a local folder, or random:{source} for random weights")
    raise names.unknown(source)


def _from_folder(folder: Path, request: Request) -> Checkpoint:
    described = read_hf_config(folder, warn=True, ignore=request.ignore)
    mapped = request.narrow == STREAMED
    config, tensors = described.config, open_safetensors(folder, left_out=described.left_out, mapped=mapped)
    if described.quantised is not None:
        tensors = described.quantised.dequantised(tensors, str(folder))
    params = build_params(
        config,
        tensors,
        described.layouts,
        dtype=request.dtype,
        shardings=request.shardings(config),
        narrow=request.narrow,
        where=str(folder),
    )
    return Checkpoint(config, params, _tokenizer(folder))


def _tokenizer(path: Path) -> Tokenizer | None:
    """Of a file or a folder, where it has one."""
    if path.is_file():
        return _gguf_tokenizer(GgufFile(path), path)
    words = path / native.TOKENIZER if (path / native.HEADER).is_file() else path
    there = words.is_dir() if words != path else any((path / name).is_file() for name in _TOKENIZER_FILES)
    return _tokenizer_or_reason(lambda: HfTokenizer(words)) if there else None


def _gguf_tokenizer(file: GgufFile, path: Path) -> Tokenizer | None:
    known = "tokenizer.ggml.model" in file.metadata
    return _tokenizer_or_reason(lambda: GgufTokenizer(file.metadata, str(path))) if known else None


def _from_gguf(path: Path, request: Request) -> Checkpoint:
    """From what an earlier start kept of the file, or from the file; nothing is kept of one in parts, or narrow."""
    own = request.mesh is not None or is_part(path) or request.narrow == STORED
    content = None if own else kept.digest(path)
    there = kept.find(path, content, jnp.dtype(jnp.float32) if request.narrow else request.dtype, request.say)
    if there is not None and request.narrow:
        params = narrow_params(there.config, there.params, request.dtype, request.narrow)
        params = native.narrowed(params, request.dtype, str(path))
        return Checkpoint(there.config, params, there.tokenizer)
    if there is not None:
        return Checkpoint(there.config, there.params, there.tokenizer, fingerprint=there.fingerprint)
    made = _dequantised(path, request)
    if request.mesh is not None or request.narrow:
        return made
    mark = fingerprint(Decoder(made.config, made.params))
    if isinstance(made.tokenizer, GgufTokenizer | None):
        kept.keep(path, content, kept.Kept(made.config, made.params, mark, made.tokenizer), request.say)
    return dataclasses.replace(made, fingerprint=mark)


def _dequantised(path: Path, request: Request) -> Checkpoint:
    file = GgufFile(path)
    params = build_params(
        file.config,
        file.tensors,
        file.layouts,
        dtype=request.dtype,
        shardings=request.shardings(file.config),
        narrow=request.narrow,
        where=str(path),
    )
    leaves = jax.tree.leaves(params, is_leaf=is_narrow)
    check_way(str(path), request.narrow, blocks=any(map(is_narrow, leaves)), safetensors=False)
    return Checkpoint(file.config, params, _gguf_tokenizer(file, path))


def _from_native(folder: Path, request: Request) -> Checkpoint:
    header = native.read_header(folder)
    stored = jnp.dtype(header.dtype)
    dtype = stored if request.narrow else native.reading_dtype(stored, request.dtype)
    params = native.read_params(folder, header.config, dtype, request.shardings(header.config))
    return Checkpoint(header.config, params, _tokenizer(folder), header)


class _NoTokenizer:
    """Stands in for a tokenizer that cannot be read, so that the model still takes token ids."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def encode(self, text: str) -> list[int]:
        """Refuse, with the reason and the remedy."""
        raise InputError(f"{self.reason}; pass token ids instead of text")

    def token(self, token_id: int) -> str:
        """The id itself."""
        return f"<{token_id}>"

    def save(self, folder: Path) -> None:
        """Nothing."""


def _tokenizer_or_reason(make: Callable[[], Tokenizer]) -> Tokenizer:
    """The tokenizer, or a stand-in that refuses text with the reason."""
    try:
        return make()
    except InputError as error:
        return _NoTokenizer(str(error))
