"""Files of examples: JSON Lines with texts or chats and labels, or one file for each class.

A line is an object with a ``text``, or with ``messages`` of a chat, and with a ``label``. Where each class has a file,
lines need no label and may be plain strings.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from mistudio.artifacts import InputRef, Store
from mistudio.corpus.documents import Columns
from mistudio.corpus.uploads import UploadSource, upload_source
from mistudio.errors import ConfigError, InputError
from mistudio.guarded_json import MAX_FILE_BYTES, RefusedJSON, parse_json
from mistudio.instrument.messages import Message
from mistudio.paths import given_path
from mistudio.plain_text import shortened, without_surrogates

Chat = tuple[Mapping[str, str], ...]

_MESSAGES = TypeAdapter(tuple[Message, ...])


class Line(NamedTuple):
    """One line as it is written."""

    text: str | Chat | None
    label: str | None


@dataclass(frozen=True)
class File:
    """A file of examples, read whole."""

    origin: str
    content: bytes
    uri: str

    @classmethod
    def read(cls, path: str, store: Store | None = None) -> "File":
        """Read a file, or the one file of a corpus that was added to the store under this name.

        Raises:
            InputError: there is none, or it is too large.
        """
        found = given_path(path, "a file of examples")
        if found.is_file():
            name = without_surrogates(found.name)
            return cls(name, _content(found, name), f"file:{name}")
        added = None if store is None else upload_source(store, path, Columns())
        if added is not None:
            return cls(path, _content(_only_file(added), path), added.uri)
        message = (
            f"There is no file {shortened(str(path))}, and no corpus of that name was added to the store. Give a JSON "
            "Lines file with texts and labels."
        )
        raise InputError(message)

    @property
    def ref(self) -> InputRef:
        """How an artifact names it as its input."""
        return InputRef(uri=self.uri, digest=hashlib.sha256(self.content).hexdigest())

    def lines(self) -> Iterator[Line]:
        """What stands in each line that is not blank.

        Raises:
            InputError: one is no line of examples.
        """
        for number, content in enumerate(self.content.split(b"\n"), start=1):
            where = f"{self.origin}, line {number}"
            if content.strip():
                yield _line(_parsed(content, where), where)


@dataclass(frozen=True)
class Files:
    """The files of one set of examples: one whose lines have labels, or one for each class."""

    labelled: File | None = None
    positive: File | None = None
    negative: File | None = None

    @classmethod
    def read(cls, labelled: str = "", positive: str = "", negative: str = "", store: Store | None = None) -> "Files":
        """Read what is given: paths of files, or names of corpora that were added to ``store``.

        Raises:
            ConfigError: it is neither one file nor one for each class.
            InputError: a file cannot be read.
        """
        given = [name for name, path in (("positive", positive), ("negative", negative)) if path]
        if labelled and not given:
            return cls(labelled=File.read(labelled, store))
        if not labelled and len(given) == 2:
            return cls(positive=File.read(positive, store), negative=File.read(negative, store))
        named = ", ".join([*(["examples"] if labelled else []), *given]) or "none"
        message = f"Give examples (one file with labels), or both positive and negative; given: {named}."
        raise ConfigError(message)

    @property
    def refs(self) -> dict[str, InputRef]:
        """The files as inputs of an artifact, by their parts."""
        parts = {"examples": self.labelled, "positive": self.positive, "negative": self.negative}
        return {name: file.ref for name, file in parts.items() if file is not None}


def _only_file(added: UploadSource) -> Path:
    paths = added.artifact.paths("files/")
    if len(paths) != 1 or not paths[0].endswith(".jsonl"):
        message = f"{added.uri} holds {len(paths)} files: examples have to be in one, in JSON Lines (.jsonl)."
        raise InputError(message)
    return added.artifact.file(paths[0])


def _content(path: Path, origin: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        message = f"Cannot read {origin}: {error.strerror}."
        raise InputError(message) from error
    if len(content) > MAX_FILE_BYTES:
        message = f"{origin} has more than {MAX_FILE_BYTES:,} bytes. Some hundred examples of a class are plenty."
        raise InputError(message)
    return content.removeprefix(b"\xef\xbb\xbf")


def _parsed(content: bytes, where: str) -> Any:
    try:
        return parse_json(content.decode(), finite=False)
    except UnicodeDecodeError as error:
        message = f"{where}: this is not UTF-8 text. Convert the file, for example with iconv -t UTF-8."
        raise InputError(message) from error
    except RefusedJSON as error:
        message = f"{where}: broken JSON ({error}). Each line has to be one JSON object, with text and label."
        raise InputError(message) from error


def _line(value: Any, where: str) -> Line:
    if isinstance(value, str):
        return Line(value, None)
    if not isinstance(value, dict):
        message = f"{where}: a line has to be an object with text and label, not {shortened(value)}."
        raise InputError(message)
    if value.get("text") is not None and value.get("messages") is not None:
        message = f"{where} has text and messages: leave one of them out."
        raise InputError(message)
    text = value.get("text")
    if text is not None and not isinstance(text, str):
        message = f"{where}: text has to be a text, not {shortened(text)}. A chat stands under messages."
        raise InputError(message)
    if value.get("messages") is not None:
        text = _chat(value["messages"], where)
    return Line(text, _label(value.get("label"), where))


def _chat(messages: Any, where: str) -> Chat:
    try:
        found = _MESSAGES.validate_python(messages)
    except ValidationError as error:
        message = f"{where}: messages has to be a list of objects with role and content, not {shortened(messages)}."
        raise InputError(message) from error
    return tuple(each.model_dump() for each in found)


def _label(value: Any, where: str) -> str | None:
    """A label as a text; what is of another kind than its fellows may be the same label all the same."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int):
        return str(value)
    message = f"{where}: label has to be a text, a number or true or false, not {shortened(value)}."
    raise InputError(message)
