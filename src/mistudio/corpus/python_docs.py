"""The built-in corpus ``python-docs``: text that every Python installation has, read offline.

Three tasks: *prose* (the language reference that ``help()`` shows), *docstring* and *code* (the standard
library). Files are parsed, never imported. What shaped it:

- Docstrings are cut out of the code, because a text found twice would leak across a held-out split. For
  the same reason a paragraph of prose is kept only where it first appears (topics quote each other at
  length), and so is a document.
- Documents have some hundreds to some thousands of characters: consecutive small pieces of a file are
  joined, long ones are cut between paragraphs, statements or methods. Tables of data are left out.
- The order follows from a hash of the names alone, so every prefix of the corpus mixes the three tasks;
  the rarer ones come earlier, so that a short prefix is not nearly all code.
"""

import ast
import hashlib
import io
import logging
import math
import os
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mistudio.corpus.documents import Document
from mistudio.errors import CorpusError

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same files would give other documents
MIN_CHARS = 200
_JOIN_CHARS = 1_000  # smaller neighbours are joined up to about this size
_MAX_CHARS = 4_000  # larger pieces are cut where that can be done between paragraphs or statements
_TABLE_CHARS = 1_500  # a statement that is no definition and longer than this is data, not code

# How much earlier than code a task comes, as weights of a random order without replacement.
_WEIGHTS = {"prose": 4, "docstring": 2, "code": 1}
TASKS = tuple(_WEIGHTS)

# Tests quote every kind of broken text, encodings are tables, the others are not part of the library.
_LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}
_LEFT_OUT_FILES = ("_sysconfigdata", "python-config")
_TOPICS = "pydoc_data/topics.py"

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class _Span(NamedTuple):
    """Lines of a file, counted from 0; ``end`` is not included."""

    start: int
    end: int


def documents(stdlib: Path | None = None) -> Iterator[Document]:
    """All documents, in an order that depends on their names alone and mixes the tasks.

    Args:
        stdlib: folder of a standard library; that of the running Python if None.

    Raises:
        CorpusError: the folder holds no Python files.
    """
    for _, document in _read(_folder(stdlib))[0]:
        yield document


def skipped(stdlib: Path | None = None) -> list[str]:
    """Files that are not in the corpus because they do not decode or parse, as paths in the library."""
    return list(_read(_folder(stdlib))[1])


def digest(stdlib: Path | None = None) -> str:
    """sha256 over the names and bytes of the files that the corpus is read from.

    Raises:
        CorpusError: the folder holds no Python files.
    """
    folder = _folder(stdlib)
    total = hashlib.sha256(f"python-docs/{VERSION}".encode())
    for path in _files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"\n{path.relative_to(folder).as_posix()} {content}".encode())
    return total.hexdigest()


def _folder(stdlib: Path | None) -> Path:
    return stdlib or Path(sysconfig.get_paths()["stdlib"])


def _files(folder: Path) -> list[Path]:
    """The files of the corpus, sorted by name."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT_FOLDERS]
        found += [Path(parent, name) for name in names if name.endswith(".py") and not name.startswith(_LEFT_OUT_FILES)]
    if not found:
        message = (
            f"The corpus python-docs needs the source of Python's standard library, and {folder} holds none. "
            "Install it (on Debian: apt install libpython3-stdlib), or choose another corpus."
        )
        raise CorpusError(message)
    return sorted(found)


@lru_cache(maxsize=1)
def _read(folder: Path) -> tuple[list[tuple[float, Document]], list[str]]:
    """Documents with their places in the order, and the files that had to be skipped."""
    placed: list[tuple[float, Document]] = []
    not_read: list[str] = []
    seen: set[str] = set()
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            texts = list(_texts(path.read_bytes(), name))
        except (SyntaxError, ValueError, RecursionError) as error:
            logger.info("python-docs: %s is skipped: %s", name, error)
            not_read.append(name)
            continue
        for number, (task, text) in enumerate(texts):
            if len(text) >= MIN_CHARS and text not in seen:
                seen.add(text)
                placed.append((_place(f"{name}#{number}", task), Document(text, task, None)))
    return sorted(placed), not_read


def _place(name: str, task: str) -> float:
    """Sort key of a weighted random order (Efraimidis and Spirakis, 2006), random by hash."""
    uniform = (int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) + 1) / 2**48
    return -math.log(uniform) / _WEIGHTS[task]


def _texts(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """Task and text of each document of one file."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    source = data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    tree = ast.parse(source)
    if name == _TOPICS:
        yield from (("prose", text) for text in _prose(tree))
        return
    lines = source.split("\n")
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    yield from (("docstring", text) for text in _join(_docstrings(tree, lines, module)))
    yield from (("code", text) for text in _join(_code(tree, lines)))


def _prose(tree: ast.Module) -> Iterator[str]:
    """The topics of ``help()``; what a longer topic has said already is left out."""
    topics: dict[str, str] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            topics = ast.literal_eval(statement.value)
    seen: set[str] = set()
    for text in sorted(topics.values(), key=lambda text: (-len(text), text)):
        fresh: list[str] = []
        for paragraph in text.strip("\n").split("\n\n"):
            if paragraph.strip() in seen:
                continue
            seen.add(paragraph.strip())
            if _is_heading(paragraph) and fresh and _is_heading(fresh[-1]):
                fresh.pop()  # what stood below it has been said already
            fresh.append(paragraph)
        yield from _cut("\n\n".join(fresh[:-1] if fresh and _is_heading(fresh[-1]) else fresh))


def _is_heading(paragraph: str) -> bool:
    """Whether a paragraph is a title above a line of one repeated sign."""
    lines = paragraph.strip("\n").split("\n")
    return len(lines) == 2 and len(set(lines[1])) == 1 and not lines[1][0].isalnum()


def _docstrings(tree: ast.Module, lines: Sequence[str], module: str) -> Iterator[str]:
    """Each docstring under its dotted name, in the order of the file."""
    for name, scope in _scopes(tree, module):
        if _docstring_span(scope, lines):
            yield from _cut(f"{name}\n\n{ast.get_docstring(scope) or ''}".strip())


def _scopes(scope: _Scope, name: str) -> Iterator[tuple[str, _Scope]]:
    """A module, class or function and the definitions in it, with their dotted names."""
    yield name, scope
    for inner in scope.body:
        if isinstance(inner, _DEFINITIONS):
            yield from _scopes(inner, f"{name}.{inner.name}")


def _docstring_span(scope: _Scope, lines: Sequence[str]) -> _Span | None:
    """The lines of a docstring that shares them with no other code."""
    first = scope.body[0] if scope.body else None
    if not (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    ):
        return None
    span = _Span(first.lineno - 1, first.end_lineno or first.lineno)
    before = lines[span.start].encode()[: first.col_offset]
    after = lines[span.end - 1].encode()[first.end_col_offset :]
    return None if before.strip() or after.strip() else span


def _code(tree: ast.Module, lines: Sequence[str]) -> Iterator[str]:
    """The source without docstrings, cut between statements."""
    kept: list[str | None] = list(lines)
    for _, scope in _scopes(tree, ""):
        span = _docstring_span(scope, lines)
        if span:
            alone = len(scope.body) == 1 and not isinstance(scope, ast.Module)
            indent = " " * (len(lines[span.start]) - len(lines[span.start].lstrip()))
            kept[span.start : span.end] = [f"{indent}pass" if alone else None] + [None] * (span.end - span.start - 1)
    for span in _pieces(tree, lines, _Span(0, len(lines))):
        yield "\n".join(line for line in kept[span.start : span.end] if line is not None)


def _pieces(scope: _Scope, lines: Sequence[str], whole: _Span) -> Iterator[_Span]:
    """Cut a file into its statements, and a long class into its methods; leave tables out."""
    starts = [_start(statement, lines) for statement in scope.body]
    edges = [whole.start, *starts[1:], whole.end]
    for statement, (start, end) in zip(scope.body, pairwise(edges), strict=False):
        span = _Span(start, end)
        size = sum(len(line) + 1 for line in lines[start:end])
        if isinstance(statement, ast.ClassDef) and size > _MAX_CHARS:
            yield from _pieces(statement, lines, span)
        elif isinstance(statement, _DEFINITIONS) or size <= _TABLE_CHARS:
            yield span


def _start(statement: ast.stmt, lines: Sequence[str]) -> int:
    """First line of a statement, with its decorators and the comment right above it."""
    decorators = statement.decorator_list if isinstance(statement, _DEFINITIONS) else []
    start = min([statement.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def _cut(text: str) -> Iterator[str]:
    """Cut a long text between paragraphs."""
    part = ""
    for paragraph in text.split("\n\n"):
        if part and len(part) + len(paragraph) > _MAX_CHARS:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}" if part else paragraph
    yield part


def _join(pieces: Iterable[str]) -> Iterator[str]:
    """Join neighbours until each text is long enough to be a document."""
    part = ""
    for piece in pieces:
        if part and len(part) + len(piece) > _MAX_CHARS:
            yield part.strip("\n")
            part = ""
        part = f"{part}\n{piece}" if part else piece
        if len(part) >= _JOIN_CHARS:
            yield part.strip("\n")
            part = ""
    yield part.strip("\n")
