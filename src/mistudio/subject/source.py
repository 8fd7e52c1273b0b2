"""Where a subject comes from: a folder, a GGUF file, the model hub or an artifact; found without loading weights.

A subject's digest names its content, so that a step over the same model is found published wherever the
model lies. The tokenizer has a digest of its own: models that share it share tokenised corpora.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from mistudio.artifacts import Artifact, canonical_json, hash_file
from mistudio.artifacts.hashing import file_state
from mistudio.errors import HubUnreachable, InputError, SubjectError
from mistudio.guarded_json import RefusedJSON, parse_json_file
from mistudio.plain_text import shortened, without_surrogates
from mistudio.progress import progress
from mistudio.subject.gguf_header import is_gguf_file, read_header

_CONFIG = "config.json"
_GGUF = ".gguf"
_MODEL_FILES = (_CONFIG, "*.safetensors", "*.safetensors.index.json", "*.py")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_HUB_TIMEOUT_S = 5.0
_PROGRESS_FROM_BYTES = 1 << 28
_MOST_NAMED = 6


@dataclass(frozen=True)
class SubjectSource:
    """A language model that was found, not loaded.

    Attributes:
        name: short name for people.
        uri: ``folder:NAME``, ``file:NAME``, ``hub:ORG/NAME@COMMIT`` or the prefix of an artifact.
        path: the folder, GGUF file or hub id to load from.
        revision: the commit on the hub, None for a folder.
        digest: names the content of config, weights and tokenizer.
        tokenizer_digest: names the content of the tokenizer alone.
        is_gguf: ``path`` is a file in GGUF format, which holds all three.
        file_sha256: of that file when it was found; None for a folder.
    """

    name: str
    uri: str
    path: str
    revision: str | None
    digest: str
    tokenizer_digest: str
    is_gguf: bool = False
    file_sha256: str | None = None


def resolve_source(model: str, revision: str | None = None) -> SubjectSource:
    """Find a model: a folder in Hugging Face format, a GGUF file or a folder with one, or an id on the model hub.

    Raises:
        SubjectError: there is no such folder, file or model, or it holds no model.
        HubUnreachable: it is an id on the hub, not in the local cache, and the hub does not answer.
    """
    folder = Path(os.path.expanduser(model))  # leaves "~" of an unknown user as it is
    if model and os.path.isdir(folder):
        return _folder_source(folder.absolute())
    if model and os.path.isfile(folder):
        return _gguf_source(folder.absolute())
    if model.startswith((".", "/", "~")) or not _HUB_ID.match(model):
        message = (
            f"No such model folder or file: {model or '(empty)'}. Give a folder in Hugging Face format (config.json, "
            "*.safetensors, tokenizer files), a GGUF file, an id on the model hub such as EleutherAI/pythia-70m, or "
            "demo."
        )
        raise SubjectError(message)
    return _hub_source(model, revision)


def artifact_source(artifact: Artifact) -> SubjectSource:
    """A subject that was published in a store; every file is checked against the manifest.

    Raises:
        InputError: the artifact is not a subject.
        DamagedArtifact: a file differs from what was published.
    """
    if artifact.manifest.short_kind != "subject":
        message = f"{artifact.uri} is a {artifact.manifest.short_kind}, not a subject."
        raise InputError(message)
    folder = artifact.folder()
    files = {name: folder / name for name in artifact.paths()}
    name = str(artifact.manifest.config.get("name", artifact.uri))
    if _CONFIG not in files:
        path = _only_gguf(list(files.values()), artifact.uri)
        if path is None:
            message = f"{artifact.uri} has neither {_CONFIG} nor a GGUF file, so it is not a language model."
            raise InputError(message)
        listed = next(entry for entry in artifact.manifest.files if files[entry.path] == path)
        return _gguf_subject(path, name, artifact.uri, artifact.digest, listed.sha256)
    hashes = {entry.path: entry.sha256 for entry in artifact.manifest.files}
    return SubjectSource(
        name=name,
        uri=artifact.uri,
        path=str(folder),
        revision=None,
        digest=artifact.digest,
        tokenizer_digest=_digest(_matching(hashes, _TOKENIZER_FILES)),
    )


def _folder_source(folder: Path) -> SubjectSource:
    if not (folder / _CONFIG).is_file():
        path = _only_gguf(sorted(each for each in folder.iterdir() if each.is_file()), str(folder))
        if path is not None:
            return _gguf_source(path)
        message = (
            f"{folder} holds no model: {_CONFIG} is missing. Give the folder that save_pretrained wrote, with "
            f"{_CONFIG}, *.safetensors and the tokenizer files in it, or a GGUF file."
        )
        raise SubjectError(message)
    hashes = _hash_folder(folder)
    return SubjectSource(
        name=without_surrogates(folder.name),
        uri=f"folder:{without_surrogates(folder.name)}",
        path=str(folder),
        revision=None,
        digest=_digest(hashes),
        tokenizer_digest=_digest(_matching(hashes, _TOKENIZER_FILES)),
    )


def _only_gguf(paths: list[Path], where: str) -> Path | None:
    """The one GGUF file among ``paths``; None if there is none.

    Raises:
        SubjectError: there are several.
    """
    found = [path for path in paths if path.suffix.lower() == _GGUF]
    if len(found) > 1:
        names = ", ".join(without_surrogates(path.name) for path in found[:_MOST_NAMED])
        message = (
            f"{where} holds {len(found)} GGUF files ({names}{', …' if len(found) > _MOST_NAMED else ''}): name the one "
            "to read as model."
        )
        raise SubjectError(message)
    return found[0] if found else None


def _gguf_source(path: Path) -> SubjectSource:
    if not is_gguf_file(path):
        message = (
            f"{without_surrogates(str(path))} is a file, and not in GGUF format. Give a folder in Hugging Face format, "
            "or a GGUF file."
        )
        raise SubjectError(message)
    read_header(path)  # what is no whole model is not hashed
    name = without_surrogates(path.name)
    sha256 = hash_files([path])[path]
    return _gguf_subject(path, name.removesuffix(_GGUF), f"file:{name}", sha256, sha256)


def _gguf_subject(path: Path, name: str, uri: str, digest: str, sha256: str) -> SubjectSource:
    tokenizer_digest = read_header(path).tokenizer_digest
    return SubjectSource(name, uri, str(path), None, digest, tokenizer_digest, is_gguf=True, file_sha256=sha256)


def _hub_source(model: str, revision: str | None) -> SubjectSource:
    """A model on the hub: from the local cache where it is there, else by asking the hub for its commit."""
    snapshot = _cached_snapshot(model, revision)
    if snapshot is None or not _matching(_names(snapshot), _TOKENIZER_FILES):
        snapshot = _fetch_small_files(model, snapshot.name if snapshot else revision)
    commit = snapshot.name
    # Weights that are already here are loaded from their folder: no question goes to the hub for optional files.
    has_weights = _has_all_weights(snapshot)
    return SubjectSource(
        name=model.rpartition("/")[2],
        uri=f"hub:{model}@{commit}",
        path=str(snapshot) if has_weights else model,
        revision=None if has_weights else commit,
        digest=hashlib.sha256(f"hub:{model}@{commit}".encode()).hexdigest(),
        tokenizer_digest=_digest(_matching(_hash_folder(snapshot), _TOKENIZER_FILES)),
    )


def _cached_snapshot(model: str, revision: str | None) -> Path | None:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.try_to_load_from_cache(model, _CONFIG, revision=revision)
    except errors.HFValidationError as error:
        message = f"{shortened(model)} is neither a folder nor an id on the model hub: {error}"
        raise SubjectError(message) from error
    return Path(found).parent if isinstance(found, str) else None


def _fetch_small_files(model: str, revision: str | None) -> Path:
    """Download config and tokenizer, not the weights; the folder's name is the commit."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        info = huggingface_hub.HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT_S)
        return Path(
            huggingface_hub.snapshot_download(
                model,
                revision=info.sha,
                allow_patterns=[_CONFIG, "*.py", *_TOKENIZER_FILES],
                etag_timeout=_HUB_TIMEOUT_S,
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        message = (
            f"There is no folder {model}, and the model hub has no public model {model}{at}. Check the spelling; "
            "a gated or private model needs HF_TOKEN in the environment."
        )
        raise SubjectError(message) from error
    except Exception as error:  # the hub's client raises errors of several libraries when a network fails
        message = (
            f"Cannot reach the model hub for {model}, which is neither a folder nor in the local cache "
            f"({_first_line(error)}). Offline, use a folder with the model in it, or the demo subject: demo."
        )
        raise HubUnreachable(message) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hash_folder(folder: Path) -> dict[str, str]:
    """sha256 of each file that makes up the model, by name."""
    names = sorted(_matching(_names(folder), _MODEL_FILES + _TOKENIZER_FILES))
    return {path.name: sha256 for path, sha256 in hash_files([folder / name for name in names]).items()}


def hash_files(paths: list[Path]) -> dict[Path, str]:
    """sha256 of files of a model, each hashed once in a process for as long as it stays the same.

    Raises:
        OSError: one cannot be read.
    """
    total = sum(path.stat().st_size for path in paths)
    if total < _PROGRESS_FROM_BYTES:
        return {path: _hash(path) for path in paths}
    with progress("Hash the model's files", total, "bytes") as bar:
        hashes = {}
        for path in paths:
            hashes[path] = _hash(path)
            bar.advance(path.stat().st_size, path.name)
        return hashes


def _names(folder: Path) -> dict[str, str]:
    return {path.name: "" for path in folder.iterdir() if path.is_file()}


def _has_all_weights(folder: Path) -> bool:
    for index in folder.glob("*.safetensors.index.json"):
        shards = _shards(index)
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors"))


def check_indexes(folder: Path) -> None:
    """Refuse a model whose index names weights that are not its own: its digest would not be that of its content.

    Raises:
        SubjectError: it does, or is no index.
    """
    for index in folder.glob("*.safetensors.index.json"):
        _shards(index)


def _shards(index: Path) -> set[str]:
    """The files that an index of weights names.

    Raises:
        SubjectError: it is no such index, or names files outside of its folder.
    """
    try:
        content = parse_json_file(index, finite=False)
    except RefusedJSON as error:
        message = f"{index} cannot be read as JSON: {error}. Download the model again."
        raise SubjectError(message) from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        message = f"{index} does not say which files hold the weights. Download the model again."
        raise SubjectError(message)
    outside = sorted(name for name in set(names.values()) if "/" in name or "\\" in name or name in ("", ".", ".."))
    if outside:
        message = (
            f"{index} names weights outside of the model's folder: {shortened(outside[0])}. What a model is lies in "
            "its folder: put the files there, and their names alone into the index."
        )
        raise SubjectError(message)
    return set(names.values())


def _hash(path: Path) -> str:
    return _hash_once(os.path.realpath(path), file_state(path))


@lru_cache(maxsize=4096)
def _hash_once(path: str, state: tuple[int, ...]) -> str:
    """Hash a file once in a process, as long as nothing tells that it was written or replaced."""
    return hash_file(Path(path))


def _matching(hashes: Mapping[str, str], patterns: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in hashes.items() if any(fnmatch(name, pattern) for pattern in patterns)}


def _digest(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(canonical_json(dict(hashes))).hexdigest()
