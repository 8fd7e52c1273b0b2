"""Servers of tests: on a free port of the loopback interface, in a thread."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from model_servers.base.keys import Keys
from model_servers.base.predictor import Predictor
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings


@contextmanager
def serving(
    predictors: Sequence[Predictor],
    keys: Keys | None = None,
    *,
    loaded: bool = True,
    on_loaded: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Iterator[ModelServer]:
    """A server that listens and, unless told otherwise, has loaded; it is drained at the end."""
    server = ModelServer(predictors, ServerSettings(port=0, **settings), keys or Keys(), on_loaded)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with httpx.Client(base_url=url_of(server), timeout=60) as client:
            wait_for(client, "/v2/health/ready" if loaded else "/v2/health/live")
        yield server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def url_of(server: ModelServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def wait_for(client: httpx.Client, path: str) -> None:
    for _ in range(600):
        if client.get(path).status_code == 200:
            return
        threading.Event().wait(0.05)
    raise TimeoutError(path)
