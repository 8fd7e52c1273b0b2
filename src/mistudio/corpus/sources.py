"""From the name of a corpus to its documents: built in, a file, a folder, the hub, or an upload."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mistudio.artifacts import Store
from mistudio.corpus.documents import BUILTIN_NAMES, Columns, CorpusSource, Document
from mistudio.corpus.files import find_path, path_source
from mistudio.corpus.uploads import known_names, upload_source
from mistudio.errors import CorpusError
from mistudio.plain_text import shortened

_SHOWN_CHARACTERS = 200
_HUB = re.compile(r"^hf:(?P<name>[^@:]+)(:(?P<config>[^@:]+))?(@(?P<split>[^@:]+))?$")


@dataclass(frozen=True)
class BuiltinSource:
    """Text that every Python installation has."""

    name: str

    @property
    def uri(self) -> str:
        """``builtin:`` and the name."""
        return f"builtin:{self.name}"

    @cached_property
    def digest(self) -> str:
        """sha256 of the documents."""
        from mistudio.corpus import python_docs

        return python_docs.digest()

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """Stream the documents; none is left out."""
        from mistudio.corpus import python_docs

        return python_docs.documents()


def open_source(
    corpus: str,
    store: Store,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
) -> CorpusSource:
    """Find a corpus: a built-in name, a path, ``hf:NAME[:CONFIG][@SPLIT]``, or an uploaded corpus.

    Nothing is read yet but the names of files. Columns that are not named are found by their names
    (see ``documents.TEXT_NAMES``); without a label column there are no labels, and without a task
    column the task of a document is the stem of its file's name.

    Raises:
        CorpusError: there is no such corpus, or it is of a format that cannot be read.
        HubUnreachable: the dataset is on the hub, and the hub cannot be reached.
    """
    columns = Columns(text=text_column, label=label_column, task=task_column)
    if corpus in BUILTIN_NAMES:
        return _builtin(corpus, columns)
    if corpus.startswith("hf:"):
        return _hub(corpus, columns)
    path = find_path(corpus)
    if path is not None:
        return path_source(path, columns)
    return _uploaded(corpus, store, columns)


def _builtin(corpus: str, columns: Columns) -> BuiltinSource:
    if columns != Columns():
        message = f"The built-in corpus {shortened(corpus)} has no columns to choose: leave the column names out."
        raise CorpusError(message)
    return BuiltinSource(corpus)


def _hub(corpus: str, columns: Columns) -> CorpusSource:
    parts = _HUB.match(corpus)
    if parts is None:
        message = (
            f"{shortened(corpus)} names no dataset: write hf:NAME, hf:NAME:CONFIG, hf:NAME@SPLIT or "
            "hf:NAME:CONFIG@SPLIT."
        )
        raise CorpusError(message)
    from mistudio.corpus.hf import open_dataset

    return open_dataset(parts["name"], parts["config"], parts["split"] or "train", columns)


def _uploaded(corpus: str, store: Store, columns: Columns) -> CorpusSource:
    source = upload_source(store, corpus, columns)
    if source is None:
        place = shortened(str(Path(corpus).absolute()), _SHOWN_CHARACTERS).strip("'")
        message = (
            f"No corpus {shortened(corpus)}: it is no built-in corpus ({', '.join(BUILTIN_NAMES)}), no file or folder "
            f"({place}) and no uploaded corpus (those are: {known_names(store)}). "
            "A dataset of the Hugging Face hub is written hf:NAME."
        )
        raise CorpusError(message)
    return source
