"""Logs: a line of JSON each, and nothing in it that a client wrote."""

import io
import json
import logging

import pytest

from model_servers.base.logs import JSONFormatter, with_fields

PROMPT = "a secret diary"


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, stream


def test_a_line_has_time_level_and_fields(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.warning("request", extra=with_fields(status=200, route="/describe"))
    (line,) = stream.getvalue().splitlines()
    content = json.loads(line)
    assert content.pop("time").endswith("+00:00")
    assert content == {
        "level": "warning",
        "logger": "test",
        "message": "request",
        "status": 200,
        "route": "/describe",
    }


def test_an_exception_is_named_with_its_places_but_not_its_message(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    try:
        raise KeyError(PROMPT)
    except KeyError:
        logger.exception("failed")
    content = json.loads(stream.getvalue())
    assert content["exception"] == "KeyError"
    assert "test_logs.py" in content["frames"][0]
    assert PROMPT not in stream.getvalue()


def test_line_breaks_and_halves_of_characters_make_no_other_line(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.info("one\n{two}\ud800")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"].startswith("one\n{two}")
