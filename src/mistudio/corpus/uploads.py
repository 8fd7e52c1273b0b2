"""Uploaded corpora: files kept in the store under a name, so that every machine finds them by it."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mistudio.artifacts import (
    Artifact,
    Draft,
    Produced,
    Recipe,
    Store,
    Summary,
    artifact_uris,
    check_name,
    hash_file,
    open_artifact,
    produce,
    remove_artifact,
)
from mistudio.corpus.documents import BUILTIN_NAMES, Columns, Document
from mistudio.corpus.files import FileSource, digest_files, path_source
from mistudio.corpus.formats import read_documents
from mistudio.corpus.lines import unreadable
from mistudio.errors import CorpusError, InputError, NotFound
from mistudio.plain_text import shortened
from mistudio.progress import progress

KIND = "upload"
_FOLDER = "uploads"
_FILES = "files/"  # a corpus may well hold a file called manifest.json
_ODD_CHARS = re.compile(r"[^A-Za-z0-9._-]+")
_REPORT_EVERY_DOCUMENTS = 1000
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class UploadSource:
    """An uploaded corpus as a source."""

    artifact: Artifact
    columns: Columns

    @property
    def name(self) -> str:
        """The name that it was added under."""
        return upload_name(self.artifact)

    @property
    def uri(self) -> str:
        """``upload:`` and the name."""
        return f"upload:{self.name}"

    @cached_property
    def digest(self) -> str:
        """sha256 over names, contents and chosen columns, as for local files."""
        hashes = tuple((entry.path.removeprefix(_FILES), entry.sha256) for entry in self.artifact.manifest.files)
        return digest_files(hashes, self.columns)

    def check_unchanged(self, *, to_the_end: bool) -> None:
        """Refuse files that have changed since they were first opened."""
        for path in self.artifact.paths(_FILES):
            self.artifact.file(path)

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """Stream the documents of all files; each file is checked against its hash first."""
        for path in self.artifact.paths(_FILES):
            yield from read_documents(self.artifact.file(path), path.removeprefix(_FILES), self.columns, dropped)


def add_corpus(store: Store, path: Path, name: str | None = None, columns: Columns | None = None) -> Produced:
    """Copy a file or a folder into the store, after reading it to its end.

    Args:
        store: where it is kept.
        path: a file, or a folder whose readable files are kept.
        name: what to call it; by default the name of the file or folder, without its suffix.
        columns: the columns to read where their names do not tell.

    Raises:
        InputError: the name is no name in the store.
        CorpusError: the corpus cannot be read, is empty, or the name stands for another corpus.
    """
    if not os.path.exists(path):
        message = f"There is no file or folder {shortened(str(path))}."
        raise CorpusError(message)
    columns = columns or Columns()
    prefix = _prefix(name if name is not None else _stored_name(path.absolute().stem))
    source = path_source(path, columns)
    files = _stored_files(source)

    def build(draft: Draft) -> Summary:
        draft.clear()  # what a killed run left may be of other content
        for stored, local in files.items():
            _copy(draft, stored, local)
        # The copies are read, since the files could change between one reading and the next.
        names = {stored: name for (name, _), stored in zip(source.files, files, strict=True)}
        try:
            return _read_through(source.uri, lambda dropped: _documents(draft, names, columns, dropped))
        except CorpusError:
            draft.clear()
            raise

    recipe = Recipe(kind=KIND, config={"columns": columns.model_dump()})
    produced = produce(store, recipe, "corpus add", build, prefix)
    if produced.found:
        _check_same(open_artifact(store, prefix, KIND), files, columns)
    return produced


def list_corpora(store: Store) -> Iterator[Artifact]:
    """The uploaded corpora, by name."""
    for prefix in artifact_uris(store, _FOLDER):
        yield open_artifact(store, prefix, KIND)


def remove_corpus(store: Store, name: str) -> None:
    """Remove an uploaded corpus; what was made from it stays.

    Raises:
        InputError: the name is no name in the store.
        NotFound: there is no such corpus.
    """
    try:
        remove_artifact(store, _prefix(name))
    except NotFound as error:
        message = f"There is no uploaded corpus {shortened(name)}; there are {known_names(store)}."
        raise NotFound(message) from error


def upload_source(store: Store, name: str, columns: Columns) -> UploadSource | None:
    """The uploaded corpus of this name, if there is one; columns not named are those it was added with."""
    try:
        prefix = _prefix(name)
    except InputError:
        return None
    try:
        artifact = open_artifact(store, prefix, KIND)
    except NotFound:
        return None
    chosen = {**artifact.manifest.config["columns"], **columns.model_dump(exclude_none=True)}
    return UploadSource(artifact, Columns(**chosen))


def upload_name(artifact: Artifact) -> str:
    """The name of an uploaded corpus."""
    return artifact.uri.removeprefix(f"{_FOLDER}/")


def known_names(store: Store) -> str:
    """The names of the uploaded corpora, for a message."""
    return ", ".join(upload_name(artifact) for artifact in list_corpora(store)) or "none"


def _prefix(name: str) -> str:
    if "/" in name:
        message = f"{shortened(name)} is not a name for a corpus: it must not have '/' in it."
        raise InputError(message)
    if name in BUILTIN_NAMES:
        message = f"{shortened(name)} is the name of a built-in corpus; choose another."
        raise InputError(message)
    return f"{_FOLDER}/{check_name(name)}"


def _stored_name(name: str) -> str:
    """A file's name with the characters that a store does not take replaced."""
    plain = _ODD_CHARS.sub("_", name)
    return plain if plain[:1].isalnum() else f"_{plain}"


def _stored_files(source: FileSource) -> dict[str, Path]:
    """Name in the store -> local file."""
    files: dict[str, Path] = {}
    for name, path in source.files:
        stored = "/".join(_stored_name(part) for part in name.split("/"))
        if stored in files:
            message = f"Two files of {source.uri} would both be kept as {stored}; rename {name}."
            raise CorpusError(message)
        files[stored] = path
    return files


def _copy(draft: Draft, stored: str, local: Path) -> None:
    with draft.open(_FILES + stored) as copy:
        try:
            with local.open("rb") as original:
                shutil.copyfileobj(original, copy, _COPY_BYTES)
        except OSError as error:
            if error.filename != str(local):  # the store's own
                raise
            raise CorpusError(unreadable(local.name, error)) from error


def _check_same(published: Artifact, files: dict[str, Path], columns: Columns) -> None:
    """Refuse a name that stands for a corpus of other content.

    Raises:
        CorpusError: it does.
    """
    there = {entry.path.removeprefix(_FILES): entry.sha256 for entry in published.manifest.files}
    same_files = there == {name: hash_file(path) for name, path in files.items()}
    if same_files and published.manifest.config["columns"] == columns.model_dump():
        return
    name = upload_name(published)
    message = (
        f"There is already a corpus {shortened(name)} with other content. Choose another --name, "
        f"or remove it first: mistudio corpus remove {name}."
    )
    raise CorpusError(message)


def _documents(draft: Draft, names: Mapping[str, str], columns: Columns, dropped: "Counter[str]") -> Iterator[Document]:
    """The documents of the files that were copied, each fetched when its turn comes; ``names`` are those for errors."""
    for stored, name in names.items():
        yield from read_documents(draft.file(_FILES + stored), name, columns, dropped)


def _read_through(uri: str, documents_of: "Callable[[Counter[str]], Iterator[Document]]") -> Summary:
    """Read every document, so that a broken file is found now, and count them."""
    documents = text_bytes = 0
    tasks: set[str] = set()
    dropped: Counter[str] = Counter()
    with progress("Read corpus", total=None, unit="documents") as bar:
        for document in documents_of(dropped):
            documents += 1
            text_bytes += len(document.text.encode())
            tasks.add(document.task)
            if documents % _REPORT_EVERY_DOCUMENTS == 0:
                bar.advance(_REPORT_EVERY_DOCUMENTS, f"{documents:,} documents")
    if not documents:
        message = f"{uri} holds no document with text ({dropped.total():,} records without)."
        raise CorpusError(message)
    return {
        "documents": documents,
        "text_bytes": text_bytes,
        "tasks": len(tasks),
        "dropped": dropped.total(),
    }
