"""What programs look at: neighbours, brackets, strings, comments, lines, repeats."""

import numpy as np
import pytest

from mistudio.explain.programs.classes import CLASSES, class_table
from mistudio.explain.programs.columns import COLUMNS, Context
from mistudio.explain.programs.scanner import PARTS, scan
from tests.support.texts import tokens_of

CODE = 'def f(a, [1]):\n    # a note (open\n    x = "a # b"\n    y = {z}\n'


def inside(text: str, part: str) -> list[str]:
    """The tokens that the scanner puts inside a part."""
    tokens = tokens_of([text])
    strings = [tokens.strings[each] for each in tokens.id_N.tolist()]
    bit = PARTS.index(part)
    return [piece for piece, bits in zip(strings, scan(strings).inside_N.tolist(), strict=True) if bits >> bit & 1]


def test_brackets_strings_and_comments_of_code() -> None:
    assert inside(CODE, "(") == ["a", ",", " [", "1", "]", ")"]
    assert inside(CODE, "[") == ["1", "]"]
    assert inside(CODE, "{") == ["z", "}"]
    assert inside(CODE, "comment") == [" a", " note", " (", "open", "\n"]
    assert inside(CODE, "string") == ["a", " #", " b", '"']


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("don't stop 'here now'", "string", ["here", " now", "'"]),
        ("an 'open string\nends here", "string", ["open", " string", "\n"]),
        ("a ) b ] c", "(", []),
        ("( open\n\nnot any more", "(", [" open", "\n", "\n"]),
        ("( a [ b ) c", "[", [" b", " )"]),
        ('"""long\nstring""" not', "long string", ["long", "\n", "string", '"', '"', '"']),
        (r'"a \" b" c', "string", ["a", " \\", '"', " b", '"']),
        ("", "(", []),
    ],
)
def test_any_text_can_be_scanned(text: str, part: str, expected: list[str]) -> None:
    assert inside(text, part) == expected


def test_lines_their_first_words_and_indentation() -> None:
    tokens = tokens_of(["a b\n    c d\n\ne"])
    context = Context(tokens)
    pieces = np.array([tokens.strings[each] for each in tokens.id_N.tolist()])
    assert pieces[context.flag("as the first word of a line")].tolist() == ["a", "c", "e"]
    assert pieces[context.flag("at the start of a line")].tolist() == ["a", "    ", "\n", "e"]
    assert pieces[context.flag("on a line indented by 1 to 4")].tolist() == ["    ", "c", " d", "\n"]
    heads = [tokens.strings[each] if each >= 0 else None for each in context.column("line").tolist()]
    assert heads == ["a", "a", "a", None, "c", "c", "c", None, "e"]


def test_neighbours_end_with_the_sequence() -> None:
    tokens = tokens_of(["a b c d", "e f"], length=3)
    context = Context(tokens)

    def strings(column: str) -> list[str]:
        return ["-" if each < 0 else tokens.strings[each].strip() for each in context.column(column).tolist()]

    assert strings("previous") == ["-", "a", "b", "-", "-", "e"]
    assert strings("second to last") == ["-", "-", "a", "-", "-", "-"]
    assert strings("next") == ["b", "c", "-", "-", "f", "-"]


def test_repeats_and_what_followed_last_time() -> None:
    tokens = tokens_of([" a b a c a b"], length=100)
    context = Context(tokens)
    assert context.flag("that occurred before in its sequence").tolist() == [False, False, True, False, True, True]
    induced = ["-" if each < 0 else tokens.strings[each].strip() for each in context.column("induced").tolist()]
    assert induced == ["-", "-", "b", "-", "c", "a"]
    pair = "where the previous and this token occurred together before"
    assert context.flag(pair).tolist() == [False, False, False, False, False, True]


def test_every_document_is_scanned_on_its_own() -> None:
    together = Context(tokens_of(["( a", "b c"]))
    assert together.flag("inside parentheses").tolist() == [False, True, False, False]


def test_what_a_context_knows_of_a_token_does_not_depend_on_other_documents() -> None:
    texts = [CODE, "Some prose, with (brackets) and 'quotes'.\n", CODE + "\n\nx = 1\n"]
    whole = tokens_of(texts)
    alone = whole.take(np.array([1]))
    rows = np.flatnonzero(whole.document_N == 1)
    np.testing.assert_array_equal(Context(alone).flags_NQ, Context(whole).flags_NQ[rows])
    for column in COLUMNS:
        np.testing.assert_array_equal(Context(alone).column(column), Context(whole).column(column)[rows])


def test_a_flag_of_a_task_that_is_not_there_holds_of_nothing() -> None:
    assert not Context(tokens_of(["a b"])).flag("in poetry text").any()


def test_classes_tell_tokens_by_how_they_read() -> None:
    strings = (" def", "12", " x", "\n", ")", '"', "None", "foo_bar", "é", " +=")
    table = class_table(strings)
    names = list(CLASSES)
    assert not table[:, -1].any()
    found = {string: {names[row] for row in np.flatnonzero(table[:, place])} for place, string in enumerate(strings)}
    assert "a Python keyword" in found[" def"]
    assert "a number" in found["12"]
    assert "a single letter" in found[" x"]
    assert found["\n"] == {"a line break"}
    assert found[")"] == {"punctuation", "a closing bracket"}
    assert "a quotation mark" in found['"']
    assert "True, False or None" in found["None"]
    assert found["foo_bar"] == {"a name with an underscore"}
    assert "a character outside ASCII" in found["é"]
    assert "an operator" in found[" +="]
