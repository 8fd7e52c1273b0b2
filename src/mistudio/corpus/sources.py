"""From the name of a corpus to its documents: built in, a file, a folder, the hub, or an upload."""

import hashlib
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
_BUILTIN = re.compile(rf"^(?P<name>{'|'.join(BUILTIN_NAMES)})(:(?P<tasks>.*))?$", re.DOTALL)
_HUB = re.compile(r"^hf:(?P<name>[^@:]+)(:(?P<config>[^@:/][^@:]*))?(@(?P<split>[^@:]+))?$")


@dataclass(frozen=True)
class BuiltinSource:
    """Text that every Python installation has.

    Attributes:
        name: of the corpus.
        tasks: which of its tasks are read, in the order of the alphabet; none: all.
    """

    name: str
    tasks: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """``builtin:``, the name, and the tasks if not all are read."""
        return f"builtin:{self.name}" + (f":{','.join(self.tasks)}" if self.tasks else "")

    @cached_property
    def digest(self) -> str:
        """sha256 of the documents."""
        from mistudio.corpus import python_docs

        whole = python_docs.digest()
        return hashlib.sha256(f"{whole}/{','.join(self.tasks)}".encode()).hexdigest() if self.tasks else whole

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """Stream the documents of the tasks; none of these is left out."""
        from mistudio.corpus import python_docs

        return (each for each in python_docs.documents() if not self.tasks or each.task in self.tasks)


def open_source(
    corpus: str,
    store: Store,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
) -> CorpusSource:
    """Find a corpus: a built-in ``NAME[:TASK,TASK]``, a path, ``hf:NAME[:CONFIG][@SPLIT]``, or an uploaded corpus.

    Nothing is read yet but the names of files. Columns that are not named are found by their names
    (see ``documents.TEXT_NAMES``); without a label column there are no labels, and without a task
    column the task of a document is the stem of its file's name.

    Raises:
        CorpusError: there is no such corpus, or it is of a format that cannot be read.
        HubUnreachable: the dataset is on the hub, and the hub cannot be reached.
    """
    columns = Columns(text=text_column, label=label_column, task=task_column)
    if builtin := _BUILTIN.match(corpus):
        return _builtin(builtin["name"], builtin["tasks"], columns)
    if corpus.startswith("hf:"):
        return _hub(corpus, columns)
    path = find_path(corpus)
    if path is not None:
        return path_source(path, columns)
    return _uploaded(corpus, store, columns)


def _builtin(name: str, tasks: str | None, columns: Columns) -> BuiltinSource:
    if columns != Columns():
        message = f"The built-in corpus {name} has no columns to choose: leave the column names out."
        raise CorpusError(message)
    if tasks is None:
        return BuiltinSource(name)
    from mistudio.corpus import python_docs

    chosen = [task.strip() for task in tasks.split(",")]
    unknown = [task for task in chosen if task not in python_docs.TASKS]
    if unknown:
        message = (
            f"{shortened(unknown[0])} is no task of the built-in corpus {name}: write {name} for all of it, or name "
            f"some of {', '.join(python_docs.TASKS)} as in {name}:prose,docstring."
        )
        raise CorpusError(message)
    # All of them, in whatever order, are the corpus itself.
    return BuiltinSource(name, () if set(chosen) == set(python_docs.TASKS) else tuple(sorted(set(chosen))))


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
