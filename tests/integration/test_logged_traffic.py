"""Traffic of real servers, asked by the official client and logged as KServe's agent logs it, becomes what was said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mistudio.instrument.messages import Message
from mistudio.monitor.records import Exchange
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import read_events
from mistudio.monitor.traffic.intake import Intake
from mistudio.monitor.traffic.payloads import read_exchange
from model_servers.steer.predictor import SteerPredictor
from tests.support.logged_events import NOW
from tests.support.payload_logger import payload_logger
from tests.support.plain_openai import plain_openai
from tests.support.served import CHAT_TEMPLATE, TinyStore, tiny_store
from tests.support.serving import serving, url_of
from tests.support.sinks import EventSink

SETTINGS = TrafficSettings(tenant_header="X-Tenant")
CHAT: Any = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture
def sink() -> Iterator[EventSink]:
    with EventSink() as opened:
        yield opened


@pytest.fixture(scope="module", params=["plain", "steer"])
def model(request: pytest.FixtureRequest, tiny: TinyStore) -> Iterator[str]:
    """A server that knows nothing of miStudio, and our own."""
    if request.param == "plain":
        with plain_openai(Path(tiny.source.path), "model") as url:
            yield f"{url}/v1"
    else:
        with serving([SteerPredictor(tiny.shared(), chat_template=CHAT_TEMPLATE)]) as server:
            yield f"{url_of(server)}/openai/v1"


@pytest.fixture
def client(model: str, sink: EventSink) -> Iterator[openai.OpenAI]:
    url = httpx.URL(model)
    behind = f"{url.scheme}://{url.host}:{url.port}"
    with (
        payload_logger(behind, sink.url, metadata_headers=["X-Tenant"]) as before,
        openai.OpenAI(base_url=f"{before}{url.path}", api_key="unused", max_retries=0) as made,
    ):
        yield made


def watched(sink: EventSink, num_events: int) -> list[Exchange]:
    """What the sink's events hold, none of which may be unread."""
    intake = Intake(SETTINGS)
    for received in sink.wait_for(num_events):
        for event in read_events(received.headers, received.body, SETTINGS, NOW).events:
            intake.offer(event)
    intake.close()
    found = [read_exchange(joined, SETTINGS) for joined in intake.take_many(100, 0)]
    assert not any(each.problems for each in found)
    return [each.exchange for each in found if each.exchange is not None]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_completions_with_several_answers(client: openai.OpenAI, sink: EventSink, is_streamed: bool) -> None:
    prompts = ["the cat sat", "once"]
    settings: dict[str, Any] = {"model": "model", "prompt": prompts, "n": 2, "max_tokens": 6, "temperature": 1}
    if is_streamed:
        said = [""] * 4
        for chunk in client.completions.create(**settings, stream=True):
            for choice in chunk.choices:
                said[choice.index] += choice.text
    else:
        said = [choice.text for choice in client.completions.create(**settings).choices]
    (exchange,) = watched(sink, 2)
    expected = {(prompts[number // 2] + text, len(prompts[number // 2])) for number, text in enumerate(said) if text}
    assert len(expected) > 1
    assert {(each.content, each.reply_from) for each in exchange.samples if each.reply_from} == expected
    assert exchange.is_whole
    assert all(each.headers["content-type"] == "application/json" for each in sink.received)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_chats(client: openai.OpenAI, sink: EventSink, is_streamed: bool) -> None:
    settings: dict[str, Any] = {"model": "model", "messages": CHAT, "max_completion_tokens": 6, "temperature": 0}
    headers = {"x-tenant": "acme"}
    if is_streamed:
        chunks = client.chat.completions.create(**settings, stream=True, extra_headers=headers)
        said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    else:
        said = client.chat.completions.create(**settings, extra_headers=headers).choices[0].message.content
    (exchange,) = watched(sink, 2)
    (sample,) = exchange.samples
    assert sample.content == tuple(Message(**each) for each in [*CHAT, {"role": "assistant", "content": said}])
    assert sample.reply_from == 2
    assert (exchange.origin.model, exchange.origin.endpoint, exchange.origin.tenant) == ("tinyllama", "default", "acme")


def test_a_request_that_was_refused_is_logged_without_its_answer(client: openai.OpenAI, sink: EventSink) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="model", prompt=[])
    sink.wait_for(1)
    client.completions.create(model="model", prompt="once", max_tokens=1)
    found = sink.wait_for(3)
    kinds = [each.headers["ce-type"].rpartition(".")[2] for each in found]
    assert sorted(kinds) == ["request", "request", "response"]


def test_a_sink_that_hangs_holds_up_no_answer(client: openai.OpenAI, sink: EventSink) -> None:
    sink.go.clear()
    texts = [client.completions.create(model="model", prompt="once", max_tokens=2, temperature=0) for _ in range(3)]
    assert len({each.choices[0].text for each in texts}) == 1
    sink.go.set()
    assert len(watched(sink, 6)) == 3
