"""Making an artifact once, and reading it back with every byte checked.

``produce`` is the only way to publish: it returns the artifact at once if its recipe is published, and
otherwise calls ``build`` with a :class:`Draft` that knows which files a killed run has left finished.
"""

import datetime
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import mistudio
from mistudio.artifacts.kinds import check_version, qualified_kind
from mistudio.artifacts.manifest import (
    MANIFEST_NAME,
    FileEntry,
    InputRef,
    JsonScalar,
    Manifest,
    Producer,
    Recipe,
)
from mistudio.artifacts.store import Store, check_name
from mistudio.errors import ConfigError, DamagedArtifact, InputError, NotFound, StorageError
from mistudio.progress import byte_progress

_WORK = "work"
_HASH_BLOCK_BYTES = 1 << 22

Summary = Mapping[str, JsonScalar]


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
            message = f"{self.uri} has no file {path!r}; it has {', '.join(self.paths()[:10])}."
            raise NotFound(message)
        problem = self._problem(entry)
        if problem:
            raise DamagedArtifact(_damage(self.uri, problem))
        return self.store.fetch(f"{self.uri}/{path}")

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
            return f"{name} is missing"
        if size != entry.bytes:
            return f"{name} has {size:,} bytes instead of {entry.bytes:,}"
        local = self.store.fetch(name)
        changed_ns = local.stat().st_mtime_ns
        found = hash_file(local) if again else _hash_once(local, size, changed_ns)
        return None if found == entry.sha256 else f"{name} has other content than was published (sha256 differs)"


class Draft:
    """A prefix being written: files appear whole, and those of an earlier, killed run are kept."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def has(self, path: str) -> bool:
        """Whether ``path`` is already finished, by this run or by one that was killed."""
        return self.store.size(f"{self.prefix}/{path}") is not None

    def stage(self, path: str) -> AbstractContextManager[Path]:
        """Give a local path to write to; on a clean exit it becomes the artifact's file ``path``.

        Raises:
            InputError: no file of an artifact can have this name.
            StorageFull: the disk is full.
            StorageError: the store cannot be written.
        """
        if path == MANIFEST_NAME or path.startswith(f"{_WORK}/"):
            message = f"An artifact's file cannot be called {path!r}: {MANIFEST_NAME} and {_WORK}/ have other uses."
            raise InputError(message)
        return self.store.stage(f"{self.prefix}/{path}")

    def file(self, path: str) -> Path:
        """A finished file of this draft."""
        return self.store.fetch(f"{self.prefix}/{path}")

    def write(self, path: str, data: bytes) -> None:
        """Write one small file of the artifact."""
        with self.stage(path) as staged:
            staged.write_bytes(data)

    def work_names(self) -> list[str]:
        """Names of the working files: checkpoints and the like, dropped when the artifact is published."""
        prefix = f"{self.prefix}/{_WORK}/"
        return [name.removeprefix(prefix) for name in self.store.list(f"{self.prefix}/{_WORK}")]

    def stage_work(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path for a working file; it appears whole, or not at all."""
        return self.store.stage(f"{self.prefix}/{_WORK}/{name}")

    def work_file(self, name: str) -> Path:
        """A working file that this run or an earlier one wrote."""
        return self.store.fetch(f"{self.prefix}/{_WORK}/{name}")

    def remove_work(self, name: str) -> None:
        """Drop one working file."""
        self.store.remove(f"{self.prefix}/{_WORK}/{name}")

    def entries(self) -> tuple[FileEntry, ...]:
        """Size and hash of every finished file."""
        not_content = (f"{self.prefix}/{MANIFEST_NAME}", f"{self.prefix}/{_WORK}/")
        names = [name for name in self.store.list(self.prefix) if not name.startswith(not_content)]
        sizes = {name: self.store.size(name) or 0 for name in names}
        entries = []
        with byte_progress(f"Hash {self.prefix}", sum(sizes.values())) as bar:
            for name, size in sizes.items():
                path = name.removeprefix(f"{self.prefix}/")
                entries.append(FileEntry(path=path, bytes=size, sha256=hash_file(self.store.fetch(name))))
                bar.advance(size, path)
        return tuple(entries)


class Produced(NamedTuple):
    """What ``produce`` returns."""

    artifact: Artifact
    found: bool  # published before: nothing was computed


def produce(store: Store, recipe: Recipe, step: str, build: Callable[[Draft], Summary]) -> Produced:
    """Return the artifact of ``recipe``; build and publish it if it is not there yet.

    ``build`` writes the files through the draft and returns the summary. A killed run is gone on with:
    ``build`` asks ``draft.has`` and the working files what is already done.

    Raises:
        StorageError: the store cannot be written.
    """
    found = find(store, recipe)
    if found:
        return Produced(found, found=True)
    with store.lock(recipe.prefix):
        found = find(store, recipe)  # another process may have published it while we waited
        if found:
            return Produced(found, found=True)
        started = time.monotonic()
        draft = Draft(store, recipe.prefix)
        summary = build(draft)
        manifest = Manifest(
            kind=qualified_kind(recipe.kind, recipe.schema_version),
            config=recipe.config,
            seed=recipe.seed,
            inputs=recipe.inputs,
            files=draft.entries(),
            summary=dict(summary),
            producer=_producer(step, time.monotonic() - started),
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        if not store.create(f"{recipe.prefix}/{MANIFEST_NAME}", manifest.to_json()):
            message = f"{recipe.prefix} was published by something that does not hold its lock."
            raise StorageError(message)
        for name in draft.work_names():
            draft.remove_work(name)
    return Produced(Artifact(store, recipe.prefix, manifest), found=False)


def produce_together(
    store: Store, recipes: Sequence[Recipe], step: str, build: Callable[[dict[int, Draft]], dict[int, Summary]]
) -> list[Produced]:
    """Return the artifacts of ``recipes``; build all that are not there yet in one go, and publish them.

    ``build`` gets the drafts of those that are not there, by their place in ``recipes``, and returns their
    summaries.

    Raises:
        ConfigError: two recipes are the same.
        StorageError: the store cannot be written.
    """
    prefixes = [recipe.prefix for recipe in recipes]
    if len(set(prefixes)) < len(prefixes):
        message = f"The same {recipes[0].kind} is asked for twice. Leave out one of the two."
        raise ConfigError(message)
    drafts: dict[int, Draft] = {}
    summaries: dict[int, Summary] = {}
    produced: dict[int, Produced] = {}

    def go_on(numbers: list[int]) -> None:
        """Hold the locks of all that are missing, one within the other, around the one build."""
        if not numbers:
            summaries.update(build(drafts) if drafts else {})
            return
        number, others = numbers[0], numbers[1:]

        def hold(draft: Draft) -> Summary:
            drafts[number] = draft
            go_on(others)
            return summaries[number]

        produced[number] = produce(store, recipes[number], step, hold)
        if produced[number].found:
            go_on(others)

    go_on(sorted(range(len(recipes)), key=prefixes.__getitem__))  # one order for all, or two could wait for each other
    return [produced[number] for number in range(len(recipes))]


def find(store: Store, recipe: Recipe) -> Artifact | None:
    """The published artifact of ``recipe``, if there is one."""
    if store.size(f"{recipe.prefix}/{MANIFEST_NAME}") is None:
        return None
    return open_artifact(store, recipe.prefix)


def open_artifact(store: Store, uri: str, kind: str | None = None) -> Artifact:
    """Open the artifact under the prefix ``uri``; ``kind`` states what it has to be.

    Raises:
        NotFound: the prefix has no manifest.
        InputError: it is of another kind, or of another version of it than this library reads.
        DamagedArtifact: its manifest cannot be read.
    """
    uri = checked_uri(store, uri)
    name = f"{uri}/{MANIFEST_NAME}"
    manifest = Manifest.from_json(store.fetch(name).read_bytes(), name)
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
    if artifact.digest != ref.digest:
        message = _damage(ref.uri, f"its manifest has digest {artifact.digest[:12]} instead of {ref.digest[:12]}")
        raise DamagedArtifact(message)
    return artifact


def checked_uri(store: Store, uri: str) -> str:
    """The prefix of an artifact as the store writes it.

    Raises:
        NotFound: there is no manifest under it.
        InputError: it is no name in the store.
    """
    plain = check_name(uri.strip("/"))
    if store.size(f"{plain}/{MANIFEST_NAME}") is None:
        message = (
            f"{uri} is not an artifact in the store {store.url}: it has no {MANIFEST_NAME}. "
            "See mistudio artifacts list."
        )
        raise NotFound(message)
    return plain


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=65_536)
def _hash_once(path: Path, size: int, changed_ns: int) -> str:
    """The hash of a file, remembered for as long as its size and time of change stay the same."""
    return hash_file(path)


def _damage(uri: str, problem: str) -> str:
    return f"Artifact {uri} is damaged: {problem}. Run mistudio artifacts remove {uri}, then run the step again."


def _producer(step: str, seconds: float) -> Producer:
    return Producer(
        step=step,
        version=mistudio.__version__,
        git_commit=os.environ.get("MISTUDIO_GIT_COMMIT") or _git_commit(),
        image=os.environ.get("MISTUDIO_IMAGE"),
        seconds=round(seconds, 3),
    )


@lru_cache(maxsize=1)
def _git_commit() -> str | None:
    """The commit of the checkout that this library runs from, if it runs from one."""
    root = Path(__file__).parents[3]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- no shell, no input
    return done.stdout.strip() or None
