"""What a corpus is: a stream of documents, each with its task and, where there is one, its label.

Sources are read as streams, again and again if need be; nothing here holds a corpus in memory.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from mistudio.errors import CorpusError
from mistudio.plain_text import has_surrogates, shortened

BUILTIN_NAMES = ("python-docs",)

# A text column that no flag names is the first of these that a file has, letter case aside.
TEXT_NAMES = (
    "text",
    "content",
    "story",
    "document",
    "sentence",
    "body",
    "article",
    "passage",
    "paragraph",
    "review",
    "comment",
    "code",
    "prompt",
)
# What answers a text column called by the first name, and is read after it as the same document.
PROMPT_NAME = "prompt"
ANSWER_NAMES = ("completion", "response", "answer", "output")
LABEL_NAMES = ("label",)
TASK_NAMES = ("task",)

# Why a document is left out; the keys of the counts that go with a corpus.
EMPTY = "empty text"
MISSING = "no text"
BROKEN = "broken Unicode"
TOO_LONG = "more than 16 MiB"

MAX_RECORD_BYTES = 16 * 1024 * 1024  # of one record as it is read, and of a document's text

RECORDS_SEEN = 256  # of a file without a schema, before it is decided which column is the text
_SHOWN_COLUMNS = 20
_SHOWN_CHARACTERS = 40  # of each


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus."""

    text: str
    task: str
    label: str | None = None
    column: str | None = field(default=None, compare=False)  # where the text comes from, if there are columns


class CorpusSource(Protocol):
    """Documents that can be read any number of times, always in the same order."""

    @property
    def uri(self) -> str:
        """Where the documents come from, for example ``file:stories.jsonl``."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of everything that determines the documents, in hex."""
        ...

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """Stream the documents; what is left out is counted in ``dropped``, by reason.

        Raises:
            CorpusError: the source cannot be read.
        """
        ...


class Columns(BaseModel):
    """Which columns hold what; None finds the column by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = Field(default=None, description="name of the text column")
    label: str | None = Field(default=None, description="name of the label column")
    task: str | None = Field(default=None, description="name of the task column")

    def resolve(self, names: Iterable[str], string_names: Iterable[str], origin: str) -> "FoundColumns":
        """Choose among the columns ``names`` of ``origin``; ``string_names`` are those that hold text.

        Raises:
            CorpusError: a named column is missing, or no column is the text.
        """
        names, strings = list(names), list(string_names)
        label = _chosen("label", self.label, names, LABEL_NAMES, origin)
        task = _chosen("task", self.task, names, TASK_NAMES, origin)
        text = _chosen("text", self.text, names, TEXT_NAMES, origin)
        if text is None:
            others = [name for name in strings if name not in (label, task)]
            if len(others) != 1:
                message = (
                    f"{origin} has no usable text column. Its columns are {_listed(names)}: "
                    f"name the one with the text (--text-column), or call it {TEXT_NAMES[0]!r}."
                )
                raise CorpusError(message)
            text = others[0]
        answer = None
        if self.text is None and text.casefold() == PROMPT_NAME:
            others = [name for name in names if name not in (label, task)]
            answer = _chosen("answer", None, others, ANSWER_NAMES, origin)
        return FoundColumns(text, label, task, answer)


class FoundColumns(NamedTuple):
    """The columns of one file."""

    text: str
    label: str | None
    task: str | None
    answer: str | None = None  # holds the rest of the text

    @property
    def text_names(self) -> str:
        """The names of the columns that the text comes from, for people."""
        return self.text if self.answer is None else f"{self.text} + {self.answer}"

    @property
    def used(self) -> list[str]:
        """The names of the columns to read, each once."""
        return list(dict.fromkeys(name for name in self if name is not None))


class Row(NamedTuple):
    """One record of a file, and where in it the record stands."""

    where: str
    values: Mapping[str, object]


def columns_of(records: Iterable[Mapping[str, object]], asked: Columns) -> tuple[list[str], list[str]]:
    """The columns of records without a schema: all names in the order of their coming, and those that hold text.

    A name of text that is much rarer than another is left out, unless it is asked for.
    """
    num_records, num_texts = Counter[str](), Counter[str]()
    for record in records:
        num_records.update(list(record))
        num_texts.update(name for name, value in record.items() if isinstance(value, str))
    known = {name: num_texts[name] for name in num_records if name.casefold() in TEXT_NAMES}
    most = max(known.values(), default=0)
    rare = {name for name, num in known.items() if 2 * num <= most} - {asked.text, asked.label, asked.task}
    names = [name for name in num_records if name not in rare]
    return names, [name for name in names if num_texts[name]]


def documents_of(
    rows: Iterable[Row], columns: FoundColumns, origin: str, task: str, dropped: "Counter[str] | None"
) -> Iterator[Document]:
    """Turn rows into documents; ``task`` is the task of rows that state none.

    Raises:
        CorpusError: the text column holds something that is not text.
    """
    for row in rows:
        parts = [_text_in(row, name, origin) for name in (columns.text, columns.answer) if name is not None]
        given = [part for part in parts if part is not None]
        text = "\n".join(given) if given else None
        reason = why_dropped(text)
        if text is None or reason is not None:
            if dropped is not None and reason is not None:
                dropped[reason] += 1
            continue
        own_task, label = _as_str(row.values, columns.task), _as_str(row.values, columns.label)
        if has_surrogates(own_task or "") or has_surrogates(label or ""):
            if dropped is not None:
                dropped[BROKEN] += 1
            continue
        yield Document(text, own_task or task, label, columns.text_names)


def _text_in(row: Row, name: str, origin: str) -> str | None:
    """The text in a column of a record; None where there is none, which pandas writes as NaN.

    Raises:
        CorpusError: there is something else than text.
    """
    value = row.values.get(name)
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    message = (
        f"{origin}, {row.where}: column {shortened(name)} holds {type(value).__name__}, not text. "
        "Correct the record, or name another text column (--text-column)."
    )
    raise CorpusError(message)


def why_dropped(text: str | None) -> str | None:
    """Why a document with this text is left out; None where it is kept."""
    if text is None:
        return MISSING
    if not text or text.isspace():
        return EMPTY
    if len(text) > MAX_RECORD_BYTES:
        return TOO_LONG
    return BROKEN if has_surrogates(text) else None


def _as_str(values: Mapping[str, object], name: str | None) -> str | None:
    value = None if name is None else values.get(name)
    return None if value is None else str(value)


def _chosen(what: str, asked: str | None, names: list[str], known: tuple[str, ...], origin: str) -> str | None:
    """The column that was asked for, else the first with a known name."""
    if asked is not None:
        if asked not in names:
            message = f"{origin} has no {what} column {shortened(asked)}; its columns are {_listed(names)}."
            raise CorpusError(message)
        return _only(what, [name for name in names if name == asked], origin)
    by_folded: dict[str, list[str]] = {}
    for name in names:
        by_folded.setdefault(name.casefold(), []).append(name)
    return next((_only(what, by_folded[name], origin) for name in known if name in by_folded), None)


def _only(what: str, names: list[str], origin: str) -> str:
    """The one column of several that could be meant.

    Raises:
        CorpusError: there are several.
    """
    if len(names) > 1:
        message = (
            f"{origin} has {len(names)} columns that could be the {what}: {_listed(names)}. "
            f"Rename all but one, or name it (--{what}-column) where their names differ."
        )
        raise CorpusError(message)
    return names[0]


def _listed(names: list[str]) -> str:
    shown = ", ".join(shortened(name, _SHOWN_CHARACTERS) for name in names[:_SHOWN_COLUMNS])
    return f"{shown} and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else shown or "none"
