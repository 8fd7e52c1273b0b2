"""What the client asks of look-ups, and what it makes of replies."""

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mistudio.client import look_ups
from mistudio.client.look_ups import Found, look_up
from mistudio.correlate import replies
from mistudio.correlate.queries import QUERIES
from mistudio.directions.config import Figure
from mistudio.instrument.messages import Message

ASKED: dict[str, Any] = {
    "text": look_ups.TextLook,
    "concept": look_ups.ConceptLook,
    "token": look_ups.TokenLook,
    "feature": look_ups.FeatureLook,
    "examples": look_ups.ExamplesLook,
    "vector": look_ups.VectorLook,
}
FIRST = {
    "text": {"text"},
    "concept": {"concept"},
    "token": {"token"},
    "feature": {"feature"},
    "examples": {"positive", "negative"},
    "vector": {"vector"},
}


@pytest.mark.parametrize("name", QUERIES)
def test_the_client_asks_all_that_a_look_up_takes_and_nothing_else(name: str) -> None:
    assert ASKED[name].__annotations__.keys() <= QUERIES[name].model_fields.keys()
    inherited = {field for kind in (look_ups.Look, ASKED[name]) for field in kind.__annotations__}
    assert inherited | FIRST[name] == QUERIES[name].model_fields.keys()


@pytest.mark.parametrize(
    ("of_client", "of_server"),
    [
        (look_ups.Found, replies.Reply),
        (look_ups.Hit, replies.Hit),
        (look_ups.ReadToken, replies.ReadToken),
        (look_ups.TokenFeature, replies.TokenFeature),
        (look_ups.Separation, replies.Separation),
        (look_ups.SavedDirection, replies.SavedDirection),
        (look_ups.Origin, replies.Origin),
        (look_ups.Figure, Figure),
    ],
)
def test_the_client_gives_all_that_comes_back(of_client: type[BaseModel], of_server: type[BaseModel]) -> None:
    assert of_client.model_fields.keys() == of_server.model_fields.keys()


def test_choices_of_the_client_are_those_of_the_server() -> None:
    for name, asked in ASKED.items():
        properties = QUERIES[name].model_json_schema()["properties"]
        for field, kind in asked.__annotations__.items():
            choices = _choices(kind)
            assert not choices or choices == _enumerated(properties[field]), field


def _choices(kind: Any) -> set[str]:
    if all(isinstance(each, str) for each in get_args(kind)):
        return set(get_args(kind))
    return {choice for each in get_args(kind) for choice in _choices(each)}


def _enumerated(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {choice for each in schema for choice in _enumerated(each)}
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("enum", ())) | {choice for each in schema.values() for choice in _enumerated(each)}


def test_what_is_not_given_is_not_sent_and_messages_may_be_models() -> None:
    assert look_up("text", {"top": 3}, text="once").body == {"text": "once", "top": 3}
    call = look_up("text", {"messages": [Message(role="user", content="once")], "by_token": True}, text=None)
    assert call.path == "/v1/correlate/text"
    assert call.body == {"messages": [{"role": "user", "content": "once"}], "by_token": True}


def test_a_reply_of_a_newer_server_is_read() -> None:
    hit = {"feature": 1, "autoencoder": "a", "measure": "max", "value": 2.0, "decoder_norm": 1.0, "colour": "red"}
    found = Found.model_validate({"look_up": "text", "autoencoder": "a", "hook": "h", "hits": [hit], "mood": "good"})
    assert found.hits[0].value == 2.0
    assert found.warnings == ()
