"""Labels of Python source, character by character."""

import tokenize

import numpy as np
import pytest

from mistudio.verify.python_labels import CLASSES, character_labels, token_labels

SOURCE = '''import os.path as p, sys
from a import b as c
@deco(1)
class Foo(Bar):
    """doc"""
    def méth(self, x: int = 3) -> None:  # hé
        é = "ü"; y = 4
        if x:
            for i in y:
                return f"{x}a"
'''


def pieces(name: str) -> list[str]:
    """The stretches of the source that belong to a class."""
    is_S = character_labels(SOURCE)[:, CLASSES.index(name)]
    text = "".join(char if is_in else "\0" for char, is_in in zip(SOURCE, is_S, strict=True))
    return [piece.strip() for piece in text.split("\0") if piece.strip()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("string", ['"""doc"""', '"ü"', 'f"{x}a"']),
        ("comment", ["# hé"]),
        ("number", ["1", "3", "4"]),
        ("definition name", ["Foo", "méth"]),
        ("imported name", ["os", "path", "p", "sys", "b", "c"]),
        ("argument", ["self", "x"]),
        ("decorator", ["@deco(1)"]),
    ],
)
def test_classes_are_where_they_stand(name: str, expected: list[str]) -> None:
    assert pieces(name) == expected


def test_keywords_and_operators_are_told_from_names() -> None:
    assert pieces("keyword").count("def") == 1
    assert {"import", "as", "from", "class", "None", "if", "for", "in", "return"} <= set(pieces("keyword"))
    assert "->" in pieces("operator")
    assert not any(piece.isalpha() for piece in pieces("operator"))


def test_depth_counts_blocks() -> None:
    deep = pieces("depth of three or more")
    assert deep[0].startswith("for i in y:")  # inside of class, def and if


def test_a_token_is_what_its_first_character_that_is_no_space_is() -> None:
    start = SOURCE.index(" méth")
    labels_TC = token_labels(SOURCE, [(start, start + 5), (start - 3, start), (0, 6)])
    names = [[name for name, is_in in zip(CLASSES, row, strict=True) if is_in] for row in labels_TC]
    assert names == [["definition name"], ["keyword"], ["keyword"]]


@pytest.mark.parametrize("broken", ["def f(:\n", 'x = "\n', "f(\n"])
def test_what_is_no_python_is_refused(broken: str) -> None:
    with pytest.raises((SyntaxError, tokenize.TokenError)):
        character_labels(broken)


def test_an_empty_file_has_no_labels() -> None:
    assert character_labels("").shape == (0, len(CLASSES))
    assert not np.any(character_labels("x\n"))
