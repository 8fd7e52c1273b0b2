"""Datasets of the Hugging Face hub, streamed, at a commit that is pinned when the source is opened.

The path of a local folder works in place of a name: ``datasets`` reads it as it reads the hub.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from mistudio.artifacts import canonical_json, hash_file
from mistudio.corpus.changes import changed
from mistudio.corpus.dataset_cards import CARDS, check_folder_card, check_hub_card
from mistudio.corpus.documents import RECORDS_SEEN, Columns, Document, Row, columns_of, documents_of
from mistudio.corpus.files import check_links, find_path
from mistudio.errors import CorpusError, HubUnreachable
from mistudio.plain_text import shortened, without_surrogates

_TIMEOUT_S = 15.0
_TEXT_TYPES = ("string", "large_string", "string_view")


@dataclass(frozen=True)
class HubSource:
    """One split of one dataset, at one commit."""

    name: str
    config: str | None
    split: str
    revision: str  # commit of the hub's repository, or the hash of a local folder
    columns: Columns

    @property
    def uri(self) -> str:
        """``hf:NAME:CONFIG@SPLIT``, as it is asked for; a local folder by its own name alone."""
        name = without_surrogates(Path(self.name).name) if Path(self.name).is_dir() else self.name
        return f"hf:{name}{f':{self.config}' if self.config else ''}@{self.split}"

    @property
    def digest(self) -> str:
        """sha256 over the commit and what is chosen of it."""
        content = {
            "revision": self.revision,
            "config": self.config,
            "split": self.split,
            "task": self._task,
            "columns": self.columns.model_dump(),
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """Stream the documents; at no time is the dataset on this machine as a whole."""
        with _explained(self.name):
            stream = self._open()
            names, strings = _columns(stream, self.columns)
            if not names:
                return
            found = self.columns.resolve(names, strings, self.uri)
            chosen = stream.select_columns(found.used)
            rows = (Row(f"row {number}", values) for number, values in enumerate(chosen, start=1))
            named = _name_labels(rows, found.label, stream.features)
            yield from documents_of(named, found, self.uri, self._task, dropped)

    def check_unchanged(self, *, to_the_end: bool) -> None:
        """Refuse a local folder that has changed; a dataset of the hub is read at its commit."""
        folder = Path(self.name)
        if to_the_end and folder.is_dir() and _hash_folder(folder) != self.revision:
            raise CorpusError(changed(self.uri))

    @property
    def _task(self) -> str:
        return without_surrogates(self.name.rstrip("/").rpartition("/")[2])

    def _open(self) -> Any:
        revision = None if Path(self.name).is_dir() else self.revision
        return datasets.load_dataset(self.name, self.config, split=self.split, revision=revision, streaming=True)


def open_dataset(name: str, config: str | None, split: str, columns: Columns) -> HubSource:
    """Pin a dataset of the hub, or a local folder, to its present content.

    Raises:
        CorpusError: there is no such dataset.
        HubUnreachable: the hub does not answer.
    """
    folder = find_path(name)
    if folder is not None and folder.is_dir():
        check_folder_card(folder)
        return HubSource(str(folder.absolute()), config, split, _hash_folder(folder), columns)
    try:
        info = HfApi().dataset_info(name, timeout=_TIMEOUT_S)
        check_hub_card(name, str(info.sha))
    except CorpusError:
        raise
    except (RepositoryNotFoundError, HFValidationError) as error:
        message = (
            f"There is no dataset {shortened(name)} on the Hugging Face hub, or it is not public (log in with hf auth "
            f"login): {_first_line(error)}"
        )
        raise CorpusError(message) from error
    except Exception as error:  # the HTTP library below the hub's client, and with it the type, depends on its version
        raise HubUnreachable(_unreachable(name, error)) from error
    return HubSource(name, config, split, str(info.sha), columns)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what ``datasets`` raises into errors of ours."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise HubUnreachable(_unreachable(name, error)) from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        message = f"The dataset {shortened(name)} cannot be read: {_first_line(error)}"
        raise CorpusError(message) from error


def _unreachable(name: str, error: Exception) -> str:
    return (
        f"The Hugging Face hub cannot be reached to read the dataset {shortened(name)} ({_first_line(error)}). "
        "What works offline: a local file or folder, an uploaded corpus, or the built-in corpus python-docs."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _columns(stream: Any, asked: Columns) -> tuple[list[str], list[str]]:
    """All columns, and those of text: by the dataset's schema, or by its first rows where it has none."""
    if stream.features is not None:
        texts = [name for name, feature in stream.features.items() if getattr(feature, "dtype", None) in _TEXT_TYPES]
        return list(stream.features), texts
    return columns_of(stream.take(RECORDS_SEEN), asked)


def _name_labels(rows: Iterator[Row], label: str | None, features: Any) -> Iterator[Row]:
    """Spell out class labels, which a dataset keeps as numbers beside a list of names."""
    feature = features.get(label) if features is not None and label is not None else None
    if label is None or not isinstance(feature, datasets.ClassLabel):
        yield from rows
        return
    for row in rows:
        value: Any = row.values[label]
        named = feature.int2str(value) if isinstance(value, int) and value >= 0 else None
        yield Row(row.where, {**row.values, label: named})


def _hash_folder(folder: Path) -> str:
    check_links(folder.resolve())
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    content = [[name, hash_file(path)] for name, path in files if not name.startswith(".") or name in CARDS]
    return hashlib.sha256(canonical_json(content)).hexdigest()
