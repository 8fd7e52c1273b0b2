"""Local files and folders as the source of a corpus."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mistudio.artifacts import canonical_json, hash_file
from mistudio.corpus.documents import Columns, Document
from mistudio.corpus.formats import READERS, read_documents
from mistudio.corpus.lines import unreadable
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
        return digest_files(tuple((name, _hashed(name, path)) for name, path in self.files), self.columns)

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
        CorpusError: the format of the file is not read, or the folder holds no such file.
    """
    if not path.is_dir():
        path = path.absolute()
        _check_suffix(path)
        name = without_surrogates(path.name)
        return FileSource(f"file:{name}", ((name, path),), columns)
    path = path.resolve()
    files = sorted((without_surrogates(found.relative_to(path).as_posix()), found) for found in path.rglob("*"))
    readable = tuple((name, found) for name, found in files if _is_readable(name, found))
    if not readable:
        message = f"The folder {path} holds no file that can be read: put {', '.join(READERS)} files in it."
        raise CorpusError(message)
    return FileSource(f"folder:{without_surrogates(path.name)}", readable, columns)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in READERS:
        message = f"{path.name} is not of a format that can be read: use {', '.join(READERS)}."
        raise CorpusError(message)


def _is_readable(name: str, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and path.is_file() and path.suffix.lower() in READERS


def _hashed(name: str, path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise CorpusError(unreadable(name, error)) from error
