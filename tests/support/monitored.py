"""A server that watches traffic, and traffic for it: for tests over the network."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mistudio.instrument.listening import Relay
from mistudio.monitor.config import MonitorConfig
from mistudio.settings import validated
from mistudio.steer.config import ServiceConfig
from model_servers.base.keys import Keys
from model_servers.base.predictor import Predictor
from model_servers.base.server import ModelServer
from model_servers.monitor.predictor import MonitorPredictor
from model_servers.steer.predictor import SteerPredictor
from tests.support.logged_events import Half, agent_headers
from tests.support.served import CHAT_TEMPLATE, TinyStore
from tests.support.serving import serving, url_of

EVENTS = "/v1/monitor/events"
WATCHED = (3, 17, 40)
LOW = 0.01  # that many tokens are above


def watch_file(folder: Path, features: Sequence[int] = WATCHED, threshold: float = LOW) -> Path:
    """A watch list of some features."""
    path = folder / "watch.json"
    watched = [{"name": f"f{number}", "feature": number, "threshold": threshold} for number in features]
    path.write_text(json.dumps({"watched": watched}))
    return path


def rules_file(folder: Path, *rules: dict[str, Any], **more: Any) -> Path:
    """A file of rules."""
    path = folder / "rules.json"
    path.write_text(json.dumps({"rules": list(rules), **more}))
    return path


@contextmanager
def watching(
    tiny: TinyStore, folder: Path, *, steers: bool = False, keys: Keys | None = None, settings: Any = None, **given: Any
) -> Iterator[tuple[ModelServer, MonitorPredictor]]:
    """A server with the predictor monitor, and with steer where that is wanted."""
    content = {"folder": folder / "monitor", "watch_list": watch_file(folder), "tell_words": True, **given}
    relay, shared = Relay(), tiny.shared()
    monitor = MonitorPredictor(shared, validated(MonitorConfig, content), relay if steers else None, CHAT_TEMPLATE)
    predictors: list[Predictor] = [monitor]
    if steers:
        predictors.append(SteerPredictor(shared, ServiceConfig(rows=4), CHAT_TEMPLATE, listener=relay))
    with serving(predictors, keys, **(settings or {})) as server:
        yield server, monitor


@contextmanager
def client_of(server: ModelServer, **more: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(server), timeout=60, **more) as client:
        yield client


def post(client: httpx.Client, kind: Half, body: Any, id_: str, **headers: str) -> httpx.Response:
    """An event, as the payload logger posts it."""
    content = json.dumps(body).encode()
    found = agent_headers(kind, id_, **headers)
    return client.post(EVENTS, content=content, headers={name: value for name, value in found.items() if value})


def exchange(client: httpx.Client, id_: str, prompt: str = "the cat", answer: str = " sat", **headers: str) -> None:
    """A request and its reply, both logged."""
    for kind, body in (("request", {"prompt": prompt}), ("response", {"choices": [{"index": 0, "text": answer}]})):
        assert post(client, kind, body, id_, **headers).status_code == 202  # type: ignore[arg-type]


def until(found: Callable[[], Any], what: str = "") -> Any:
    """What is found, once it is something."""
    for _ in range(1200):
        value = found()
        if value:
            return value
        threading.Event().wait(0.025)
    raise TimeoutError(what or found)


def samples(client: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    return list(client.get("/v1/monitor/history", params=asked).raise_for_status().json()["samples"])


def counts(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/v1/monitor/status").raise_for_status().json()["counts"])
