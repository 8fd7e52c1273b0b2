"""Local files and folders as the source of a corpus."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mistudio.artifacts import canonical_json
from mistudio.corpus.changes import HashedFiles
from mistudio.corpus.documents import Columns, Document
from mistudio.corpus.formats import READERS, read_documents
from mistudio.errors import CorpusError
from mistudio.plain_text import without_surrogates


@dataclass(frozen=True)
class FileSource:
    """One file or several, in a fixed order."""

    uri: str
    files: tuple[tuple[str, Path], ...]  # name in errors and in the digest, path
    columns: Columns

    @cached_property
    def digest(self) -> str:
        """sha256 over names, contents and chosen columns: all that determines the documents."""
        return digest_files(self._hashed.hashes, self.columns)

    @cached_property
    def _hashed(self) -> HashedFiles:
        return HashedFiles(self.files)

    def check_unchanged(self, *, to_the_end: bool) -> None:
        """Refuse files that have changed since the digest was taken."""
        self._hashed.check(to_the_end=to_the_end)

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """Stream the documents of all files."""
        for name, path in self.files:
            yield from read_documents(path, name, self.columns, dropped)


def digest_files(hashes: tuple[tuple[str, str], ...], columns: Columns) -> str:
    """The digest of files of these names and sha256 hashes, read by these columns."""
    content = {"files": [list(pair) for pair in hashes], "columns": columns.model_dump()}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def path_source(path: Path, columns: Columns) -> FileSource:
    """A local file, or all files of a folder whose format can be read, in order of their names.

    Raises:
        CorpusError: the format of the file is not read, or the folder holds no such file, or a link that leads out of
            it.
    """
    if not path.is_dir():
        path = path.absolute()
        _check_plain(path)
        _check_suffix(path)
        name = without_surrogates(path.name)
        return FileSource(f"file:{name}", ((name, path),), columns)
    path = path.resolve()
    check_links(path, READERS)
    files = sorted((without_surrogates(found.relative_to(path).as_posix()), found) for found in path.rglob("*"))
    readable = tuple((name, found) for name, found in files if _is_readable(name, found))
    if not readable:
        message = f"The folder {path} holds no file that can be read: put {', '.join(READERS)} files in it."
        raise CorpusError(message)
    return FileSource(f"folder:{without_surrogates(path.name)}", readable, columns)


def find_path(text: str) -> Path | None:
    """The local file or folder of this name, "~" being a home; None where there is none, or can be none."""
    path = os.path.expanduser(text)  # leaves "~" of an unknown user as it is
    return Path(path) if text and os.path.exists(path) else None


def check_links(folder: Path, suffixes: Collection[str] = ()) -> None:
    """Refuse a folder with links that lead out of it: its content is what lies in it.

    Args:
        folder: without links in its own path.
        suffixes: of files that matter; by default all do. Hidden files do not.

    Raises:
        CorpusError: there is such a link.
    """
    for found in sorted(folder.rglob("*")):
        name = found.relative_to(folder).as_posix()
        if not found.is_symlink() or _is_hidden(name) or Path(os.path.realpath(found)).is_relative_to(folder):
            continue
        if not suffixes or found.suffix.lower() in suffixes or found.is_dir():
            message = (
                f"The folder {folder} holds a link that leads out of it: {without_surrogates(name)}. Put the file or "
                "folder itself in its place, or remove the link."
            )
            raise CorpusError(message)


def _check_plain(path: Path) -> None:
    if not path.is_file():
        message = (
            f"{without_surrogates(path.name)} is no plain file but a pipe, device or socket, which cannot be read "
            "twice. Write what it holds to a file."
        )
        raise CorpusError(message)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in READERS:
        message = f"{path.name} is not of a format that can be read: use {', '.join(READERS)}."
        raise CorpusError(message)


def _is_readable(name: str, path: Path) -> bool:
    return not _is_hidden(name) and path.is_file() and path.suffix.lower() in READERS


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
