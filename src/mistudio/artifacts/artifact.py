"""Artifacts as they are read: a manifest, and files whose every byte is checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mistudio.artifacts.hashing import hash_file, hash_once
from mistudio.artifacts.kinds import check_version
from mistudio.artifacts.manifest import MANIFEST_NAME, FileEntry, InputRef, Manifest
from mistudio.artifacts.names import check_name
from mistudio.artifacts.signing import signing_key
from mistudio.artifacts.store import Store
from mistudio.errors import DamagedArtifact, InputError, NotFound, StorageError
from mistudio.plain_text import shortened
from mistudio.progress import byte_progress


@dataclass(frozen=True)
class Artifact:
    """A published artifact: its manifest, and its files behind a check of size and hash."""

    store: Store
    uri: str
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return self.manifest.digest

    @property
    def ref(self) -> InputRef:
        """How another artifact names this one as its input."""
        return InputRef(uri=self.uri, digest=self.digest)

    def paths(self, prefix: str = "") -> list[str]:
        """Names of the files that start with ``prefix``, in order."""
        return [entry.path for entry in self.manifest.files if entry.path.startswith(prefix)]

    def file(self, path: str) -> Path:
        """A local file with the checked content of ``path``; each is hashed once per process.

        Raises:
            NotFound: the manifest lists no such file.
            DamagedArtifact: the file is missing, or its size or hash differs.
        """
        entry = self._entries.get(path)
        if entry is None:
            message = f"{self.uri} has no file {shortened(path)}; it has {', '.join(self.paths()[:10])}."
            raise NotFound(message)
        problem = self._problem(entry)
        if problem:
            raise DamagedArtifact(_damage(self.uri, problem))
        return self.store.fetch(f"{self.uri}/{path}")

    def folder(self) -> Path:
        """A local folder with all files, checked as :meth:`file` does; it stays while this process lives.

        Raises:
            DamagedArtifact: a file is missing, or its size or hash differs.
        """
        names = self.paths()
        try:
            folder = self.store.fetch_folder(self.uri, names)
            if any(_differs(folder, entry) for entry in self.manifest.files):
                folder = self.store.fetch_folder(self.uri, names, anew=True)
        except NotFound as error:
            raise DamagedArtifact(_damage(self.uri, str(error).rstrip("."))) from error
        problem = next((each for each in (_differs(folder, entry) for entry in self.manifest.files) if each), None)
        if problem:
            raise DamagedArtifact(_damage(self.uri, f"{self.uri}/{problem}"))
        return folder

    def problems(self) -> Iterator[str]:
        """One line for each file that is missing or differs from what was published."""
        with byte_progress(f"Verify {self.uri}", self.manifest.num_bytes) as bar:
            for entry in self.manifest.files:
                problem = self._problem(entry, again=True)
                bar.advance(entry.bytes, entry.path)
                if problem:
                    yield problem

    @cached_property
    def _entries(self) -> dict[str, FileEntry]:
        return {entry.path: entry for entry in self.manifest.files}

    def _problem(self, entry: FileEntry, *, again: bool = False) -> str | None:
        name = f"{self.uri}/{entry.path}"
        size = self.store.size(name)
        if size is None:
            return _missing(self.store, name)
        if size != entry.bytes:
            return f"{name} has {size:,} bytes instead of {entry.bytes:,}"
        try:
            found = _hashed(self.store.fetch(name, anew=again), size, again=again)
            if found != entry.sha256 and self.store.copies_bytes is not None:  # it may be the copy that is damaged
                found = _hashed(self.store.fetch(name, anew=True), size, again=again)
        except (FileNotFoundError, NotFound):  # since it was looked for
            return f"{name} is missing"
        except OSError as error:
            message = f"Cannot read {name} in the store {self.store.url}: {error.strerror}."
            raise StorageError(message) from error
        return None if found == entry.sha256 else f"{name} has other content than was published (sha256 differs)"


def open_artifact(store: Store, uri: str, kind: str | None = None) -> Artifact:
    """Open the artifact under the prefix ``uri``; ``kind`` states what it has to be.

    Raises:
        NotFound: the prefix has no manifest.
        InputError: it is of another kind, or of another version of it than this library reads.
        DamagedArtifact: its manifest cannot be read, or its signature is not that of this process's key.
        ConfigError: this process's key is too short.
    """
    uri = check_name(uri.strip("/"))
    name = f"{uri}/{MANIFEST_NAME}"
    try:
        content = store.read(name)
    except NotFound as error:
        raise NotFound(_not_there(store, uri)) from error
    manifest = Manifest.from_json(content, name)
    key = signing_key()
    if key is not None and key.finds(store, uri, content) == "wrong":
        raise DamagedArtifact(_damage(uri, "its signature is not that of its manifest"))
    if kind is not None and manifest.short_kind != kind:
        message = f"{uri} is of kind {manifest.kind}, but kind {kind} is needed here."
        raise InputError(message)
    if kind is not None:
        check_version(uri, manifest.kind)
    return Artifact(store, uri, manifest)


def open_input(store: Store, ref: InputRef, kind: str) -> Artifact:
    """Open an artifact that another one names as its input.

    Raises:
        DamagedArtifact: the store holds something else under that prefix by now.
    """
    artifact = open_artifact(store, ref.uri, kind)
    check_digest(artifact, ref)
    return artifact


def check_digest(artifact: Artifact, ref: InputRef) -> None:
    """Refuse an artifact that is not the one that another names as its input.

    Raises:
        DamagedArtifact: the store holds something else under that prefix by now.
    """
    if artifact.digest != ref.digest:
        message = _damage(ref.uri, f"its manifest has digest {artifact.digest[:12]} instead of {ref.digest[:12]}")
        raise DamagedArtifact(message)


def checked_uri(store: Store, uri: str) -> str:
    """The prefix of an artifact as the store writes it.

    Raises:
        NotFound: there is no manifest under it.
        InputError: it is no name in the store.
    """
    plain = check_name(uri.strip("/"))
    if store.size(f"{plain}/{MANIFEST_NAME}") is None:
        raise NotFound(_not_there(store, plain))
    return plain


def _hashed(path: Path, size: int, *, again: bool) -> str:
    return hash_file(path) if again else hash_once(path, size, path.stat().st_mtime_ns)


def _differs(folder: Path, entry: FileEntry) -> str | None:
    """What is wrong with a file in a local folder."""
    path = folder / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{entry.path} has {size:,} bytes instead of {entry.bytes:,}"
        found = _hashed(path, size, again=False)
    except FileNotFoundError:
        return f"{entry.path} is missing"
    return None if found == entry.sha256 else f"{entry.path} has other content than was published (sha256 differs)"


def _not_there(store: Store, uri: str) -> str:
    why = store.absence(f"{uri}/{MANIFEST_NAME}") or f"it has no {MANIFEST_NAME}. See mistudio artifacts list."
    return f"{uri} is not an artifact in the store {store.url}: {why}"


def _missing(store: Store, name: str) -> str:
    """That a file is missing, and why, where the store knows more."""
    why = store.absence(name)
    return f"{name} is missing" + (f" ({why.rstrip('.')})" if why else "")


def _damage(uri: str, problem: str) -> str:
    return f"Artifact {uri} is damaged: {problem}. Run mistudio artifacts remove {uri}, then run the step again."
