"""Bodies: objects of JSON in UTF-8, within bounds, and nothing else."""

import pytest

from model_servers.base.bodies import check_content_type, json_object
from model_servers.base.problems import Refused


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": [[{"b": "\\ud800x"}]]}',
        b'{"a": "\xff"}',
        '{"a": "b"}'.encode("utf-16"),
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' * 100_000,
        b"{'a': 1}",
    ],
)
def test_what_is_no_object_of_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        json_object(body)
    assert caught.value.problem.status == 400
    assert caught.value.problem.code == "invalid_json"
    assert len(caught.value.problem.message) < 300


def test_an_object_is_read_with_all_characters() -> None:
    body = '{"a": "\\ud83d\\ude00 é 猫 \\u0000", "b": [1, -2.5e3, null, true]}'.encode()
    assert json_object(body) == {"a": "😀 é 猫 \0", "b": [1, -2500.0, None, True]}


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_in_utf8_is_read(kind: str) -> None:
    check_content_type(kind)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ("", ""),
        ("text/plain", ""),
        ("application/x-www-form-urlencoded", ""),
        ("multipart/form-data; boundary=x", ""),
        ("application/json; charset=latin-1", ""),
        ("application/json", "gzip"),
    ],
)
def test_other_types_are_refused(kind: str, encoding: str) -> None:
    with pytest.raises(Refused) as caught:
        check_content_type(kind, encoding)
    assert caught.value.problem.status == 415
