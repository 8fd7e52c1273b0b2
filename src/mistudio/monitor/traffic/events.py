"""CloudEvents 1.0 over HTTP, as KServe's payload logger and other senders post them.

KServe's agent posts one event for a request and one for its response, with one id, in binary mode: attributes as
``ce-*`` headers, the payload as it was as the body, and *the request's* content type on both. The id is the caller's
``Ce-Id`` header where there was one: so it need not be unique. The source is the pod's, ``ce-metadata`` a JSON object
of the headers that the logger was told to keep, with lists of values. Attributes are sent without percent-encoding,
which the standard asks for; where there is any it is taken away.
(kserve/kserve pkg/logger/handler.go and worker.go; cloudevents/spec, HTTP protocol binding 1.0.2.)

Structured events and batches are read too. Events of other types are ignored, with a count.
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from mistudio.errors import InputError
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.plain_text import shortened, without_surrogates

REQUEST_TYPE = "org.kubeflow.serving.inference.request"
RESPONSE_TYPE = "org.kubeflow.serving.inference.response"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

KINDS: dict[str, Literal["request", "response"]] = {REQUEST_TYPE: "request", RESPONSE_TYPE: "response"}
_PREFIX = "ce-"
_READ = frozenset(("id", "source", "inferenceservicename", "namespace", "component", "endpoint", "metadata"))
_MAX_ATTRIBUTE_CHARACTERS = 1024
_MAX_METADATA_CHARACTERS = 16_384
_OVERHEAD_BYTES = 1024  # of an event in memory, beside its body and metadata
_PERCENT = re.compile("%[0-9A-Fa-f]{2}")
_QUOTED_PAIR = re.compile(r"\\(.)")


class EventRefused(InputError):
    """What came is no CloudEvent, or passes a bound."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """Half of an exchange with a watched model.

    Attributes:
        id: of the exchange, as far as its sender knows.
        kind: which half.
        source: who logged it: a pod.
        time: when it was logged, or came; seconds since 1970.
        content_type: of the request, for both halves.
        body: as it went over the wire.
        service: name of the InferenceService.
        namespace: of the service.
        component: predictor, transformer or explainer.
        endpoint: which revision of it, such as canary; often empty.
        metadata: a JSON object with the headers that the logger kept; empty: none.
    """

    id: str
    kind: Literal["request", "response"]
    source: str
    time: float
    content_type: str
    body: bytes
    service: str = ""
    namespace: str = ""
    component: str = ""
    endpoint: str = ""
    metadata: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What both halves of an exchange have in common, and no other service's."""
        return self.id, self.source, self.namespace, self.service, self.component, self.endpoint

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, about."""
        return len(self.body) + len(self.metadata) + _OVERHEAD_BYTES


class EventsRead(NamedTuple):
    """What a request to the sink held.

    Attributes:
        events: halves of exchanges.
        num_ignored: events of other types.
        refused: why others of a batch could not be read.
    """

    events: tuple[LoggedEvent, ...]
    num_ignored: int = 0
    refused: tuple[str, ...] = ()


def read_events(headers: Mapping[str, str], body: bytes, settings: TrafficSettings, now: float) -> EventsRead:
    """The events of an HTTP request.

    Args:
        headers: by name in small letters.
        body: all of it.
        settings: bounds.
        now: seconds since 1970.

    Raises:
        EventRefused: it holds no event, or one that cannot be read.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == BATCH:
        return _batch(_parsed(body, settings), settings, now)
    if kind == STRUCTURED:
        return _one(structured_event(_parsed(body, settings), settings, now))
    if not any(f"{_PREFIX}{name}" in headers for name in ("type", "id", "specversion")):
        message = (
            f"This is no CloudEvent: it has no ce-* headers, and its Content-Type is {shortened(kind)}. Send ce-id, "
            f"ce-source, ce-type and ce-specversion with the payload as body, or {STRUCTURED}, or {BATCH}."
        )
        raise EventRefused(message)
    return _one(_binary(headers, body, settings, now))


def header_value(value: str) -> str:
    """A header as an attribute: without quotes and percent-encoding, and as UTF-8 where it is that."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
    if not value.isascii():
        try:
            value = value.encode("latin-1").decode()
        except (UnicodeEncodeError, UnicodeDecodeError):
            value = without_surrogates(value)
    return without_surrogates(unquote(value)) if _PERCENT.search(value) else value


def _one(event: LoggedEvent | None) -> EventsRead:
    return EventsRead(() if event is None else (event,), int(event is None))


def _batch(content: Any, settings: TrafficSettings, now: float) -> EventsRead:
    if not isinstance(content, list):
        message = f"A batch is a list of events, not {shortened(content)}."
        raise EventRefused(message)
    if len(content) > settings.max_batch_events:
        message = f"The batch has {len(content):,} events, and max_batch_events is {settings.max_batch_events:,}."
        raise EventRefused(message)
    events: list[LoggedEvent] = []
    refused: list[str] = []
    for each in content:
        try:
            event = structured_event(each, settings, now)
        except EventRefused as error:
            refused.append(str(error))
            continue
        if event is not None:
            events.append(event)
    if refused and len(refused) == len(content):
        raise EventRefused(refused[0])
    return EventsRead(tuple(events), len(content) - len(events) - len(refused), tuple(refused))


def _binary(headers: Mapping[str, str], body: bytes, settings: TrafficSettings, now: float) -> LoggedEvent | None:
    kind = _kind(header_value(headers.get("ce-type", "")), header_value(headers.get("ce-specversion", "")))
    if kind is None:
        return None
    values = {
        name: header_value(headers.get(f"{_PREFIX}{name}", ""))
        for name in ("id", "source", "time", "inferenceservicename", "namespace", "component", "endpoint", "metadata")
    }
    return logged_event(kind, values, headers.get("content-type", ""), body, settings, now)


def structured_event(content: Any, settings: TrafficSettings, now: float) -> LoggedEvent | None:
    """The event that an object of JSON is; None: it is of another type.

    Raises:
        EventRefused: it is no event, or passes a bound.
    """
    if not isinstance(content, dict):
        message = f"An event is an object, not {shortened(content)}."
        raise EventRefused(message)
    kind = _kind(content.get("type"), content.get("specversion"))
    if kind is None:
        return None
    values = {name: _text(value) for name, value in content.items() if name not in ("data", "data_base64")}
    content_type = values.get("datacontenttype") or "application/json"
    return logged_event(kind, values, content_type, _data(content), settings, now)


def _kind(type_: Any, version: Any) -> Literal["request", "response"] | None:
    """Which half an event is; None: it is of another type.

    Raises:
        EventRefused: it is no event of CloudEvents 1.
    """
    if not isinstance(type_, str) or not type_:
        message = "The event has no type (ce-type)."
        raise EventRefused(message)
    if not isinstance(version, str) or version.partition(".")[0] != "1":
        message = f"The event's specversion (ce-specversion) is {shortened(version)}: CloudEvents 1.0 are read."
        raise EventRefused(message)
    return KINDS.get(type_)


def logged_event(
    kind: Literal["request", "response"],
    values: Mapping[str, str],
    content_type: str,
    body: bytes,
    settings: TrafficSettings,
    now: float,
) -> LoggedEvent:
    """The event of these attributes, by the names of CloudEvents.

    Raises:
        EventRefused: one is missing, or passes a bound.
    """
    for name in ("id", "source"):
        if not values.get(name):
            message = f"The event has no {name} (ce-{name})."
            raise EventRefused(message)
    for name, value in values.items():
        most = _MAX_METADATA_CHARACTERS if name == "metadata" else _MAX_ATTRIBUTE_CHARACTERS
        if name in _READ and len(value) > most:
            message = f"The event's {name} has {len(value):,} characters, and at most {most:,} are read."
            raise EventRefused(message)
    if len(body) > settings.max_event_bytes:
        message = f"The event has {len(body):,} bytes, and max_event_bytes is {settings.max_event_bytes:,}."
        raise EventRefused(message)
    return LoggedEvent(
        id=values["id"],
        kind=kind,
        source=values["source"],
        time=_time(values.get("time", ""), settings, now),
        content_type=content_type[:_MAX_ATTRIBUTE_CHARACTERS],
        body=body,
        service=values.get("inferenceservicename", ""),
        namespace=values.get("namespace", ""),
        component=values.get("component", ""),
        endpoint=values.get("endpoint", ""),
        metadata=values.get("metadata", ""),
    )


def _time(value: str, settings: TrafficSettings, now: float) -> float:
    """When an event was logged; when it came where its time is none, or far from that."""
    try:
        moment = datetime.fromisoformat(value)
        told = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return now
    return told if abs(told - now) <= settings.max_clock_skew_s else now


def _parsed(body: bytes, settings: TrafficSettings) -> Any:
    if len(body) > settings.max_event_bytes:
        message = f"The body has {len(body):,} bytes, and max_event_bytes is {settings.max_event_bytes:,}."
        raise EventRefused(message)
    try:
        return parse_json(body, finite=False)
    except RefusedJSON as error:
        message = f"The body is not JSON that is read here: {error}."
        raise EventRefused(message) from error


def _text(value: Any) -> str:
    """An attribute of a structured event; an extension may have been written as an object."""
    return without_surrogates(value if isinstance(value, str) else "" if value is None else json.dumps(value))


def _data(content: Mapping[str, Any]) -> bytes:
    """The payload of a structured event, as the watched model had it."""
    if "data_base64" in content:
        try:
            return b64decode(content["data_base64"], validate=True)
        except (ValueError, TypeError) as error:
            message = f"The event's data_base64 is no base64: {shortened(content['data_base64'])}."
            raise EventRefused(message) from error
    data = content.get("data")
    if data is None:
        return b""
    # Also with a JSON content type: senders that hold a body as text put it here as it is.
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return without_surrogates(text).encode()
