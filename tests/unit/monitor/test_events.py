import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import BATCH, STRUCTURED, EventRefused, header_value, read_events
from tests.support.logged_events import NOW, agent_headers, event

SETTINGS = TrafficSettings()


def structured(**changed: Any) -> dict[str, Any]:
    content = {
        "specversion": "1.0",
        "id": "1",
        "source": "pod",
        "type": "org.kubeflow.serving.inference.request",
        "inferenceservicename": "tinyllama",
        "endpoint": "canary",
        "data": {"prompt": "Once"},
    }
    return {name: value for name, value in {**content, **changed}.items() if value is not None}


def read(content: Any, kind: str = STRUCTURED, settings: TrafficSettings = SETTINGS) -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_events({"content-type": kind}, body, settings, NOW)


def test_an_event_of_kserves_agent_is_read_with_all_that_it_says() -> None:
    found = event(
        "response", b'{"predictions":["a"]}', **{"ce-endpoint": "canary", "ce-metadata": '{"X-User":["ann"]}'}
    )
    assert (found.id, found.kind, found.source) == ("6ba7b810-9dad", "response", "http://localhost:9081/")
    assert (found.service, found.namespace, found.component) == ("tinyllama", "default", "predictor")
    assert (found.endpoint, found.metadata) == ("canary", '{"X-User":["ann"]}')
    assert found.time == pytest.approx(1_796_000_000.123456)
    assert (found.content_type, found.body) == ("application/json", b'{"predictions":["a"]}')


def test_request_and_response_have_the_same_key_and_another_services_do_not() -> None:
    assert event("request").key == event("response").key
    for name in ("ce-source", "ce-inferenceservicename", "ce-namespace", "ce-component", "ce-endpoint"):
        assert event("request").key != event("request", **{name: "other"}).key


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", "plain"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the example of the standard
        ("100%", "100%"),
        ('"quoted \\"words\\""', 'quoted "words"'),
        ("Müller".encode().decode("latin-1"), "Müller"),  # UTF-8 as it stands, which Go sends
        ("M\xfcller", "Müller"),
        ('{"X":["a%2Cb"]}', '{"X":["a,b"]}'),
        ("%ED%A0%80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_header_values_are_decoded(written: str, meant: str) -> None:
    assert header_value(written) == meant


def test_a_time_that_is_none_or_far_off_is_when_the_event_came() -> None:
    for told in ("", "yesterday", "2019-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:00"):
        assert event("request", **{"ce-time": told}).time == NOW
    assert event("request", **{"ce-time": "2026-11-30T00:53:10"}).time == NOW - 10  # without a zone: UTC


def test_structured_events_hold_objects_texts_and_bytes() -> None:
    assert json.loads(read(structured()).events[0].body) == {"prompt": "Once"}
    assert read(structured()).events[0].endpoint == "canary"
    assert read(structured(data='{"prompt": "Once"}')).events[0].body == b'{"prompt": "Once"}'
    raw = bytes(range(256))
    found = read(structured(data=None, data_base64=b64encode(raw).decode(), datacontenttype="application/octet-stream"))
    assert (found.events[0].body, found.events[0].content_type) == (raw, "application/octet-stream")
    assert read(structured(data=None)).events[0].body == b""
    assert read(structured(metadata={"X-User": ["ann"]})).events[0].metadata == '{"X-User": ["ann"]}'


def test_events_of_other_types_are_ignored_and_counted() -> None:
    found = read_events(agent_headers("request", **{"ce-type": "dev.knative.apiserver"}), b"", SETTINGS, NOW)
    assert (found.events, found.num_ignored) == ((), 1)
    assert read(structured(type="other")).num_ignored == 1


def test_of_a_batch_what_can_be_read_is_taken_and_the_rest_told() -> None:
    found = read([structured(), structured(id="2", type="other"), structured(id=None), structured(id="3")], BATCH)
    assert [each.id for each in found.events] == ["1", "3"]
    assert found.num_ignored == 1
    assert found.refused == ("The event has no id (ce-id).",)
    assert read([], BATCH).events == ()
    with pytest.raises(EventRefused, match="no id"):
        read([structured(id=None)], BATCH)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"{", STRUCTURED, "not JSON"),
        (b"[" * 100_000, BATCH, "nest deeper"),
        ([], STRUCTURED, "An event is an object"),
        ({}, BATCH, "A batch is a list"),
        (structured(type=None), STRUCTURED, "no type"),
        (structured(source=""), STRUCTURED, "no source"),
        (structured(specversion="0.3"), STRUCTURED, "specversion"),
        (structured(specversion=1), STRUCTURED, "specversion"),
        (structured(id="x" * 2000), STRUCTURED, "id has 2,000 characters"),
        (structured(data=None, data_base64="no base64!"), STRUCTURED, "data_base64"),
        (structured(data=None, data_base64=7), STRUCTURED, "data_base64"),
        ([structured()] * 1001, BATCH, "max_batch_events"),
        (b"{}", "application/json", "no CloudEvent"),
        (b"", "", "no CloudEvent"),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(content: Any, kind: str, said: str) -> None:
    with pytest.raises(EventRefused, match=said):
        read(content, kind)


def test_an_event_above_the_bound_is_refused() -> None:
    small = TrafficSettings(max_event_bytes=1024)
    with pytest.raises(EventRefused, match="max_event_bytes is 1,024"):
        read_events(agent_headers("request"), b"x" * 1025, small, NOW)
    with pytest.raises(EventRefused, match="max_event_bytes is 1,024"):
        read(structured(data="x" * 1025), settings=small)


@given(st.dictionaries(st.sampled_from(sorted(agent_headers("request"))), st.text(max_size=40)), st.binary(max_size=40))
def test_any_headers_and_body_are_read_or_refused(changed: dict[str, str], body: bytes) -> None:
    try:
        found = read_events(agent_headers("request") | changed, body, SETTINGS, NOW)
    except EventRefused:
        return
    assert len(found.events) + found.num_ignored == 1
    assert all(each.id and each.source for each in found.events)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from([*structured(), "data_base64", "time", "metadata"]), JSON), max_size=3))
def test_any_batch_is_read_or_refused(batch: list[dict[str, Any]]) -> None:
    content = [structured(**each) for each in batch]
    try:
        found = read(content, BATCH)
    except EventRefused:
        return
    assert len(found.events) + found.num_ignored + len(found.refused) == len(content)
