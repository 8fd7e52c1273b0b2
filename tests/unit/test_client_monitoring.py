"""What the client asks of the monitor."""

from typing import get_type_hints

import pytest
from pydantic import BaseModel

from mistudio.client import monitoring
from mistudio.client.monitoring import observation, stream_of
from mistudio.monitor.direct_requests import Asked
from mistudio.monitor.history.queries import AlertQuery, SampleQuery
from mistudio.monitor.live import Wanted
from model_servers.monitor.parsing import Acknowledged


@pytest.mark.parametrize(
    ("asked", "of_server", "more"),
    [
        (monitoring.AlertsAsked, AlertQuery, set()),
        (monitoring.HistoryAsked, SampleQuery, set()),
        (monitoring.StreamAsked, Wanted, {"last_event_id"}),
        (monitoring.AcknowledgeAsked, Acknowledged, set()),
    ],
)
def test_the_client_asks_all_that_there_is_and_nothing_else(
    asked: type, of_server: type[BaseModel], more: set[str]
) -> None:
    assert get_type_hints(asked).keys() == of_server.model_fields.keys() | more


def test_what_is_to_be_read_is_an_instance_of_v1() -> None:
    assert get_type_hints(monitoring.ObserveAsked).keys() | {"text"} == Asked.model_fields.keys()
    assert observation("a cat", {"tokens": True}).body == {"instances": [{"text": "a cat", "tokens": True}]}
    assert observation(None, {"ids": (1, 2)}).body == {"instances": [{"ids": [1, 2]}]}


def test_parameters_of_a_stream_are_texts_as_an_address_has_them() -> None:
    found = stream_of({"kinds": ["sample", "token"], "tokens": False, "min_value": 0.5})
    assert found.parameters == {"kinds": "sample,token", "tokens": "false", "min_value": 0.5}
