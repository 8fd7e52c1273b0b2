"""JSON that others wrote: whatever it is, it is a value or a ValueError that says why not."""

import json
from pathlib import Path

import pytest

from mistudio import guarded_json
from mistudio.guarded_json import MAX_DEPTH, MAX_DIGITS, RefusedJSON, parse_json, parse_json_file, whole_number
from mistudio.plain_text import has_surrogates, shortened, without_surrogates

REFUSED = {
    "deep list": ("[" * 100_000, "deeper than 200"),
    "deep object": ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper than 200"),
    "a little too deep": ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper than 200"),
    "long integer": ("9" * 5000, "more than 100 digits"),
    "long negative integer": ("-" + "9" * (MAX_DIGITS + 1), "more than 100 digits"),
    "integer in an object": ('{"k": ' + "1" * 5000 + "}", "more than 100 digits"),
    "NaN": ('{"k": NaN}', "NaN is no number"),
    "Infinity": ("[-Infinity]", "-Infinity is no number"),
    "1e999": ('{"k": 1e999}', "too large"),
    "long fraction": ("1" * 400 + ".5", "too large"),
    "a name twice": ('{"text": "a", "text": "b"}', "the name 'text' twice"),
    "nothing": ("", "Expecting value"),
    "no UTF-8": (b'{"a": "\xff"}', "decode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_a_short_message(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(RefusedJSON, match=reason) as refused:
        parse_json(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5e3, True, None, "é 🦊"], "b": {}},
        "9" * 5000,
        "1e999",
        int("9" * MAX_DIGITS),
        ["[" * 1000, "{" * 1000],
        "\ud800",
        [[1]] * 1000,
    ],
)
def test_what_json_holds_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode("utf-16")) == value


def test_the_deepest_that_is_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_numbers_beyond_the_standard_are_read_on_request() -> None:
    assert parse_json("[1e999, Infinity]", finite=False) == [float("inf")] * 2
    with pytest.raises(RefusedJSON, match="digits"):
        parse_json("9" * 5000, finite=False)


def test_values_and_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    assert parse_json_file(path) == [1, 2, 3]
    monkeypatch.setattr(guarded_json, "MAX_VALUES", 2)
    with pytest.raises(RefusedJSON, match="more than 2 values"):
        parse_json_file(path)
    monkeypatch.setattr(guarded_json, "MAX_FILE_BYTES", 5)
    with pytest.raises(RefusedJSON, match="more than 5 bytes"):
        parse_json_file(path)


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (0, 0), ("12", 12), (" 3 ", 3), ("\x1f3", 3), (7.0, 7)]
    + [(value, None) for value in (1.9, -1, True, None, "1.9", "-1", "1_0", "٧", "", float("nan"), float("inf"), [1])]
    + [("9" * 5000, None), ("nan", None), (10**18, None), (1e30, None), (10**18 - 1, 10**18 - 1)],
)
def test_whole_numbers_are_told_from_everything_else(value: object, number: int | None) -> None:
    assert whole_number(value) == number


def test_lone_surrogates_are_seen_and_replaced() -> None:
    assert [has_surrogates(text) for text in ("a", "é 🦊", "a\ud800", "\udcff")] == [False, False, True, True]
    assert without_surrogates("a\ud800é\udcff") == "a\ufffdé\ufffd"


def test_values_in_messages_are_short() -> None:
    assert shortened("a") == "'a'"
    assert all(len(shortened(value)) < 100 for value in ("x" * 5000, ["y" * 5000], "\n" * 5000))
