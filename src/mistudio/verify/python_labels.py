"""Exact labels of Python source: what each character is, as ``tokenize`` and ``ast`` have it.

``tokenize`` tells strings, comments, keywords, operators and numbers; ``ast`` the names that are defined, imported,
taken as arguments, and what stands in a decorator or deep inside of blocks. A subject's token belongs to a class if its
first character that is no space does (its first character, where all are spaces).

Shape legend: S characters of a file, T tokens, C classes.
"""

import ast
import io
import keyword
import tokenize
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

ASKED = ("string", "comment", "keyword", "operator", "number", "definition name", "imported name")
CLASSES = (*ASKED, "decorator", "argument", "depth of three or more")
_DEEP = 3
_COLUMN = {name: number for number, name in enumerate(CLASSES)}
_BY_TYPE = {
    tokenize.STRING: "string",
    tokenize.COMMENT: "comment",
    tokenize.OP: "operator",
    tokenize.NUMBER: "number",
}
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_BLOCKS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While),
    *(ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match),
)
_Span = tuple[int, int]


def character_labels(source: str) -> NDArray[np.bool_]:
    """The classes of every character of a file [S, C].

    Raises:
        SyntaxError: the source is not Python of this version.
        tokenize.TokenError: it ends inside a statement.
    """
    is_SC = np.zeros((len(source), len(CLASSES)), dtype=np.bool_)
    places = _Places(source)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for name, (start, stop) in (*_token_spans(tokens, places), *_tree_spans(ast.parse(source), tokens, places)):
        is_SC[start:stop, _COLUMN[name]] = True
    for other in ("keyword", "operator"):  # as and the dots between the names of an import
        is_SC[:, _COLUMN["imported name"]] &= ~is_SC[:, _COLUMN[other]]
    return is_SC


def token_labels(source: str, offsets: Sequence[_Span]) -> NDArray[np.bool_]:
    """The classes of every token [T, C], given where each starts and ends in ``source``."""
    is_SC = character_labels(source)
    return np.stack([is_SC[_deciding(source, start, stop)] for start, stop in offsets])


def _deciding(source: str, start: int, stop: int) -> int:
    """The character that decides what a token is."""
    piece = source[start:stop]
    return start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)


class _Places:
    """From line and column to the place in the text; ``ast`` counts columns in bytes of UTF-8."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._starts = np.concatenate(([0], np.cumsum([len(line) + 1 for line in self._lines]))).tolist()

    def of(self, line: int, column: int) -> int:
        """The place of a line, from 1, and a column in characters."""
        return int(self._starts[line - 1]) + column

    def of_bytes(self, line: int, column: int) -> int:
        """The place of a line, from 1, and a column in bytes."""
        text = self._lines[line - 1]
        return self.of(line, column if text.isascii() else len(text.encode()[:column].decode()))

    def node(self, node: ast.expr | ast.stmt | ast.arg | ast.alias) -> _Span:
        """Where a node starts and ends."""
        end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
        return self.of_bytes(node.lineno, node.col_offset), self.of_bytes(*end)


def _token_spans(tokens: Sequence[tokenize.TokenInfo], places: _Places) -> Iterator[tuple[str, _Span]]:
    for token in tokens:
        name = _BY_TYPE.get(token.type)
        if token.type == tokenize.NAME and keyword.iskeyword(token.string):
            name = "keyword"
        if name:
            yield name, (places.of(*token.start), places.of(*token.end))


def _tree_spans(tree: ast.Module, tokens: Sequence[tokenize.TokenInfo], places: _Places) -> Iterator[tuple[str, _Span]]:
    yield from _definition_names(tokens, places)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield "imported name", places.node(alias)
        elif isinstance(node, ast.arg):
            start, _ = places.node(node)
            yield "argument", (start, start + len(node.arg))
        elif isinstance(node, _Definition):
            for decorator in node.decorator_list:
                start, stop = places.node(decorator)
                yield "decorator", (start - 1, stop)
    for statement in _deep_statements(tree, 0):
        yield "depth of three or more", places.node(statement)


def _definition_names(tokens: Sequence[tokenize.TokenInfo], places: _Places) -> Iterator[tuple[str, _Span]]:
    """The name after each ``def`` and ``class``: ``ast`` does not say where it stands."""
    for before, token in zip(tokens, tokens[1:], strict=False):
        if before.type == tokenize.NAME and before.string in ("def", "class"):
            yield "definition name", (places.of(*token.start), places.of(*token.end))


def _deep_statements(node: ast.AST, depth: int) -> Iterator[ast.stmt]:
    """Statements inside of so many blocks; what is in them is inside too."""
    inside = depth + isinstance(node, _BLOCKS)
    for child in ast.iter_child_nodes(node):
        if inside >= _DEEP and isinstance(child, ast.stmt):
            yield child
        else:
            yield from _deep_statements(child, inside)
