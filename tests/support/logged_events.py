"""Events as KServe's payload logger makes them, whose client encodes nothing in headers."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import LoggedEvent, read_events
from mistudio.monitor.traffic.joining import Joined
from mistudio.monitor.traffic.payloads import ExchangeRead, read_exchange

NOW = 1_796_000_000.0
Half = Literal["request", "response"]


def agent_headers(kind: Half, id_: str = "6ba7b810-9dad", **changed: str) -> dict[str, str]:
    """The headers of an event, as an HTTP server has them: in small letters."""
    return {
        "ce-specversion": "1.0",
        "ce-id": id_,
        "ce-source": "http://localhost:9081/",
        "ce-type": f"org.kubeflow.serving.inference.{kind}",
        "ce-time": "2026-11-30T00:53:20.123456789Z",
        "ce-inferenceservicename": "tinyllama",
        "ce-namespace": "default",
        "ce-component": "predictor",
        "ce-endpoint": "",
        "ce-metadata": "{}",
        "content-type": "application/json",
        "user-agent": "Go-http-client/1.1",
        **changed,
    }


def event(kind: Half, body: Any = b"{}", id_: str = "6ba7b810-9dad", **changed: str) -> LoggedEvent:
    """An event; a body that is no bytes is written as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    (found,) = read_events(agent_headers(kind, id_, **changed), content, TrafficSettings(), NOW).events
    return found


def exchange(
    request: Any = None, response: Any = None, settings: Mapping[str, Any] | None = None, **headers: str
) -> ExchangeRead:
    """What is read of a request and a reply."""
    halves = {
        kind: None if body is None else event(kind, body, **headers)
        for kind, body in (("request", request), ("response", response))
    }
    return read_exchange(Joined(**halves), TrafficSettings.model_validate(settings or {}))


def stream(*chunks: Any, done: bool = True) -> bytes:
    """A reply that was streamed, as the agent collects it."""
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + (["data: [DONE]\n\n"] if done else [])
    return "".join(lines).encode()
